// Connections that are made while the program does something else.
// also: ipv6
#include "t.h"

static int error_of(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
    return error;
}

static void server(void) {
    int listener = t_listen();
    for (int i = 0; i < 3; i++) {
        int fd = t_accept(listener);
        t_await(fd, 'c');
        t_tell(fd, 's');
        t_await_end(fd);
        OK(close(fd));
    }
}

static void talk(int fd) {
    EQ(error_of(fd), 0);
    // The first that asks in this way hears that it is done, later ones that it is so already.
    int again = connect(fd, (struct sockaddr *)&t_addr, t_addr_len);
    if (again != 0) EQ(errno, EISCONN);
    FAILS(connect(fd, (struct sockaddr *)&t_addr, t_addr_len), EISCONN);
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    OK(getpeername(fd, (struct sockaddr *)&peer, &length));
    EQ(t_port(&peer), t_port(&t_addr));
    t_tell(fd, 'c');
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    t_await(fd, 's');
    OK(close(fd));
}

static void begin(int fd) {
    int result = connect(fd, (struct sockaddr *)&t_addr, t_addr_len);
    if (result != 0) EQ(errno, EINPROGRESS);
}

static void client(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    EQ(t_poll(fd, POLLIN | POLLOUT, 0), POLLOUT | POLLHUP);
    begin(fd);
    EQ(t_poll(fd, POLLOUT, 10000), POLLOUT);
    talk(fd);

    fd = OK(socket(t_family(), SOCK_STREAM, 0));
    int on = 1, epoll = OK(epoll_create1(0));
    OK(ioctl(fd, FIONBIO, &on));
    begin(fd);
    // Edges: one when it is connected, none without anything new.
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    EQ(epoll_wait(epoll, &event, 1, 10000), 1);
    EQ(event.events, EPOLLOUT);
    EQ(event.data.fd, fd);
    EQ(epoll_wait(epoll, &event, 1, 20), 0);
    talk(fd);
    OK(close(epoll));

    fd = OK(socket(t_family(), SOCK_STREAM | SOCK_NONBLOCK, 0));
    begin(fd);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    struct timeval time = {10, 0};
    EQ(select(fd + 1, NULL, &set, NULL, &time), 1);
    CHECK(FD_ISSET(fd, &set));
    talk(fd);
}
