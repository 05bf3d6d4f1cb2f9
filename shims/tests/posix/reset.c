// A connection that its peer resets: ECONNRESET once, then an end, EPIPE, and no more of the error.
#include "t.h"

static void reset(int fd) {
    struct linger now = {1, 0};
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
    OK(close(fd));
}

static int error_of(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
    return error;
}

/* In turn: a read that waits, one that comes later, SO_ERROR, epoll. */
static void suffer(int (*next)(int), int source) {
    char byte;
    int fd = next(source);
    t_tell(fd, 'w');
    FAILS(read(fd, &byte, 1), ECONNRESET);
    t_await_end(fd);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(shutdown(fd, SHUT_WR), ENOTCONN);
    OK(close(fd));

    fd = next(source);
    t_tell(fd, 'w');
    EQ(t_poll(fd, 0, 10000), POLLERR | POLLHUP);
    EQ(t_poll(fd, POLLIN | POLLOUT | POLLRDHUP, 0), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
    EQ(error_of(fd), ECONNRESET);
    EQ(error_of(fd), 0);
    t_await_end(fd);
    OK(close(fd));

    fd = next(source);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 0x123456789abcdef};
    int epoll = OK(epoll_create1(0));
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    t_tell(fd, 'w');
    EQ(epoll_wait(epoll, &event, 1, 10000), 1);
    EQ(event.data.u64, 0x123456789abcdef);
    EQ(event.events, EPOLLIN | EPOLLERR | EPOLLHUP);
    FAILS(recv(fd, &byte, 1, 0), ECONNRESET);
    OK(close(fd));
    EQ(epoll_wait(epoll, &event, 1, 0), 0);
    OK(close(epoll));

    // The error is a write's as well.
    fd = next(source);
    t_tell(fd, 'w');
    EQ(t_poll(fd, 0, 10000), POLLERR | POLLHUP);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), ECONNRESET);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    OK(close(fd));
}

static void inflict(int (*next)(int), int source) {
    for (int i = 0; i < 4; i++) {
        int fd = next(source);
        t_await(fd, 'w');
        t_sleep(50);
        reset(fd);
    }
    // Closing with something unread resets as well; the peer has not been told otherwise.
    int fd = next(source);
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    OK(close(fd));
}

static void suffer_unread(int fd) {
    char byte;
    t_tell(fd, 'u');
    FAILS(read(fd, &byte, 1), ECONNRESET);
    OK(close(fd));
}

static int connecting(int unused) {
    (void)unused;
    return t_connect();
}

static void server(void) {
    int listener = t_listen();
    suffer(t_accept, listener);
    suffer_unread(t_accept(listener));
    inflict(t_accept, listener);
    t_await_end(t_accept(listener));
}

static void client(void) {
    inflict(connecting, 0);
    suffer(connecting, 0);
    suffer_unread(t_connect());
    OK(close(t_connect()));
}
