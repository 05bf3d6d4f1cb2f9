// shutdown: each direction ends by itself, and what is left of a connection still carries.
#include "t.h"

static void not_connected(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM, 0));
    char byte;
    FAILS(recv(fd, &byte, 1, 0), ENOTCONN);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(shutdown(fd, 17), EINVAL);
    FAILS(shutdown(fd, SHUT_RDWR), ENOTCONN);
    OK(close(fd));
}

static void first(int fd) {
    t_send_stream(fd, 100000, 0);
    OK(shutdown(fd, SHUT_WR));
    OK(shutdown(fd, SHUT_WR));
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    // The other direction goes on.
    t_receive_stream(fd, 200000, 5);
    EQ(t_poll(fd, POLLIN | POLLRDHUP, 10000) & (POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
    t_await_end(fd);
    t_await_end(fd);
    // Both have ended.
    EQ(t_poll(fd, POLLIN, 10000) & POLLHUP, POLLHUP);
}

static void second(int fd) {
    t_receive_stream(fd, 100000, 0);
    t_await_end(fd);
    EQ(t_poll(fd, POLLIN | POLLRDHUP | POLLOUT, 10000), POLLIN | POLLRDHUP | POLLOUT);
    t_send_stream(fd, 200000, 5);
    OK(shutdown(fd, SHUT_WR));
}

/* Who reads no more sees an end. */
static void no_reading(int fd) {
    OK(shutdown(fd, SHUT_RD));
    t_await_end(fd);
    t_send(fd, "still", 5);
    t_tell(fd, 'e');
}

static void server(void) {
    not_connected();
    int listener = t_listen(), fd = t_accept(listener);
    first(fd);
    OK(close(fd));
    fd = t_accept(listener);
    second(fd);
    t_await_end(fd);
    OK(close(fd));
    fd = t_accept(listener);
    no_reading(fd);
    OK(close(fd));
    fd = t_accept(listener);
    char bytes[6];
    t_receive(fd, bytes, 6);
    EQ(memcmp(bytes, "stille", 6), 0);
}

static void client(void) {
    not_connected();
    int fd = t_connect();
    second(fd);
    OK(close(fd));
    fd = t_connect();
    first(fd);
    OK(close(fd));
    fd = t_connect();
    char bytes[6];
    t_receive(fd, bytes, 6);
    EQ(memcmp(bytes, "stille", 6), 0);
    OK(close(fd));
    no_reading(t_connect());
}
