// close and what was sent before it: all of it arrives; at once with SO_LINGER of nothing it is a reset.
#include "t.h"

#define BYTES (2u << 20)

static void leave(int fd, int on, int seconds, int waits) {
    struct linger linger = {on, seconds};
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    t_send_stream(fd, waits ? 150000 : BYTES, 0);
    OK(close(fd));
}

static void server(void) {
    int listener = t_listen();
    // Closed while most of it is still here.
    leave(t_accept(listener), 0, 0, 0);
    leave(t_accept(listener), 1, 20, 1);
    int fd = t_accept(listener);
    t_receive_stream(fd, BYTES, 0);
    t_await_end(fd);
    fd = t_accept(listener);
    t_receive_stream(fd, 150000, 0);
    t_await_end(fd);
    fd = t_accept(listener);
    t_await(fd, 'r');
    char byte;
    FAILS(read(fd, &byte, 1), ECONNRESET);
    // A process that just ends has closed in order.
    fd = t_accept(listener);
    t_receive_stream(fd, 150000, 0);
    t_await_end(fd);
    fd = t_accept(listener);
    t_send_stream(fd, 150000, 0);
}

static void client(void) {
    int fd = t_connect();
    t_sleep(50);
    t_receive_stream(fd, BYTES, 0);
    t_await_end(fd);
    OK(close(fd));
    fd = t_connect();
    t_sleep(50);
    t_receive_stream(fd, 150000, 0);
    t_await_end(fd);
    OK(close(fd));
    leave(t_connect(), 0, 0, 0);
    leave(t_connect(), 1, 20, 1);
    fd = t_connect();
    t_tell(fd, 'r');
    t_sleep(50);
    struct linger now = {1, 0};
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    OK(close(fd));
    fd = t_connect();
    t_send_stream(fd, 150000, 0);
    OK(close(fd));
    fd = t_connect();
    t_receive_stream(fd, 150000, 0);
    t_await_end(fd);
}
