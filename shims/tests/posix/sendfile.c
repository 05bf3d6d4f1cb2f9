// sendfile from a file to a socket: with and without an offset, in parts when the socket is full, to the file's end.
#include "t.h"

#define BYTES (8u << 20)

static int file(void) {
    char name[] = "/tmp/demi-posix-XXXXXX";
    int fd = OK(mkstemp(name));
    OK(unlink(name));
    t_send_stream(fd, BYTES, 0);
    return fd;
}

static void give(int fd) {
    int from = file();
    // At an offset, which moves; the file's own does not.
    off_t offset = 1000;
    EQ(lseek(from, 17, SEEK_SET), 17);
    size_t left = 50000;
    while (left > 0) left -= OK(sendfile(fd, from, &offset, left));
    EQ(offset, 51000);
    EQ(lseek(from, 0, SEEK_CUR), 17);
    // At the file's own, which moves.
    left = 1000;
    while (left > 0) left -= OK(sendfile(fd, from, NULL, left));
    EQ(lseek(from, 0, SEEK_CUR), 1017);
    // All of it, without waiting.
    t_nonblock(fd);
    offset = 0;
    int refused = 0;
    for (;;) {
        ssize_t sent = sendfile(fd, from, &offset, BYTES);
        if (sent == 0) break;
        if (sent < 0) {
            EQ(errno, EAGAIN);
            refused++;
            EQ(t_poll(fd, POLLOUT, 20000), POLLOUT);
        }
    }
    EQ(offset, BYTES);
    CHECK(refused > 0);
    OK(fcntl(fd, F_SETFL, 0));
    // Asked for more than there is: what there is, then nothing.
    offset = BYTES - 5;
    EQ(sendfile(fd, from, &offset, 100), 5);
    EQ(sendfile(fd, from, &offset, 100), 0);
    EQ(sendfile(fd, from, &offset, 0), 0);
    FAILS(sendfile(fd, fd, NULL, 1), EINVAL);
    offset = -1;
    FAILS(sendfile(fd, from, &offset, 1), EINVAL);
    FAILS(sendfile(fd, 9999, NULL, 1), EBADF);
    OK(shutdown(fd, SHUT_WR));
    signal(SIGPIPE, SIG_IGN);
    offset = 0;
    FAILS(sendfile(fd, from, &offset, 1), EPIPE);
    OK(close(from));
    t_await_end(fd);
}

static void take(int fd) {
    t_receive_stream(fd, 50000, 1000);
    t_receive_stream(fd, 1000, 17);
    t_sleep(200);
    t_receive_stream(fd, BYTES, 0);
    t_receive_stream(fd, 5, BYTES - 5);
    t_await_end(fd);
    OK(close(fd));
}

static void server(void) {
    int listener = t_listen();
    give(t_accept(listener));
    take(t_accept(listener));
}

static void client(void) {
    take(t_connect());
    give(t_connect());
}
