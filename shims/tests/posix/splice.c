// splice between a socket and a pipe, both ways, as a proxy does.
#include "t.h"

#define BYTES (1u << 20)

/* Everything from one socket to another, through a pipe. */
static void relay(int from, int to) {
    int pipes[2];
    OK(pipe(pipes));
    for (;;) {
        ssize_t got = OK(splice(from, NULL, pipes[1], NULL, 65536, SPLICE_F_MOVE));
        if (got == 0) break;
        while (got > 0) got -= OK(splice(pipes[0], NULL, to, NULL, got, SPLICE_F_MOVE | SPLICE_F_MORE));
    }
    t_nonblock(to);
    FAILS(splice(pipes[0], NULL, to, NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
    off_t offset = 0;
    FAILS(splice(pipes[0], NULL, to, &offset, 100, 0), EINVAL);
    FAILS(splice(to, NULL, to, NULL, 100, 0), EINVAL);
    FAILS(splice(to, NULL, pipes[1], NULL, 100, SPLICE_F_NONBLOCK), EAGAIN);
    OK(fcntl(to, F_SETFL, 0));
    OK(shutdown(to, SHUT_WR));
    OK(close(pipes[0]));
    OK(close(pipes[1]));
}

static void *write_all(void *fd) {
    t_send_stream((int)(intptr_t)fd, BYTES, 0);
    OK(shutdown((int)(intptr_t)fd, SHUT_WR));
    return NULL;
}

static void around(int to, int from) {
    pthread_t writer;
    EQ(pthread_create(&writer, NULL, write_all, (void *)(intptr_t)to), 0);
    t_receive_stream(from, BYTES, 0);
    t_await_end(from);
    t_join(writer);
}

static void server(void) {
    int listener = t_listen(), one = t_accept(listener), other = t_accept(listener);
    relay(one, other);
    t_tell(one, 'n');
    t_await_end(other);
    one = t_accept(listener);
    other = t_accept(listener);
    around(one, other);
}

static void client(void) {
    int one = t_connect(), other = t_connect();
    around(one, other);
    // The relay's answer to the first, whose other side still waits.
    t_await(one, 'n');
    OK(close(other));
    OK(close(one));
    one = t_connect();
    other = t_connect();
    relay(one, other);
    t_await_end(other);
}
