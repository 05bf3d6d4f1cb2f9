// Connections to where nobody listens.
#include "t.h"

static int error_of(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    OK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
    return error;
}

static void server(void) {
    // A port that is taken, and does not listen.
    int bound = t_bind(SOCK_STREAM), listener = OK(socket(t_family(), SOCK_STREAM, 0));
    struct sockaddr_storage addr = t_addr;
    t_set_port(&addr, 0);
    OK(bind(listener, (struct sockaddr *)&addr, t_addr_len));
    OK(listen(listener, 1));
    int done = OK(socket(t_family(), SOCK_DGRAM, 0));
    OK(bind(done, (struct sockaddr *)&t_addr, t_addr_len));
    EQ(t_poll(done, POLLIN, 0), 0);
    t_ready();
    // Until the client is done with it.
    EQ(t_poll(listener, POLLIN, 0), 0);
    socklen_t length = sizeof addr;
    OK(getsockname(listener, (struct sockaddr *)&addr, &length));
    CHECK(t_port(&addr) != 0 && t_port(&addr) != t_port(&t_addr));
    char byte;
    EQ(recv(done, &byte, 1, 0), 1);
    FAILS(accept(bound, NULL, NULL), EINVAL);
}

/* It is refused in time to say so at once, or later. */
static int begin(int fd) {
    EQ(connect(fd, (struct sockaddr *)&t_addr, t_addr_len), -1);
    CHECK(errno == EINPROGRESS || errno == ECONNREFUSED);
    return errno == EINPROGRESS;
}

static void client(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM, 0));
    FAILS(connect(fd, (struct sockaddr *)&t_addr, t_addr_len), ECONNREFUSED);
    // It may be tried again, and has no error left.
    EQ(error_of(fd), 0);
    FAILS(connect(fd, (struct sockaddr *)&t_addr, t_addr_len), ECONNREFUSED);
    OK(close(fd));

    fd = OK(socket(t_family(), SOCK_STREAM | SOCK_NONBLOCK, 0));
    int later = begin(fd);
    EQ(t_poll(fd, POLLOUT, 10000), POLLOUT | POLLHUP | (later ? POLLERR : 0));
    EQ(error_of(fd), later ? ECONNREFUSED : 0);
    EQ(error_of(fd), 0);
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    FAILS(getpeername(fd, (struct sockaddr *)&peer, &length), ENOTCONN);
    OK(close(fd));

    // The error is the next call's if nobody asks for it.
    fd = OK(socket(t_family(), SOCK_STREAM | SOCK_NONBLOCK, 0));
    char byte;
    if (begin(fd)) {
        EQ(t_poll(fd, POLLIN, 10000), POLLIN | POLLERR | POLLHUP);
        FAILS(read(fd, &byte, 1), ECONNREFUSED);
    }
    OK(close(fd));

    fd = OK(socket(t_family(), SOCK_STREAM | SOCK_NONBLOCK, 0));
    int epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLOUT, .data.fd = fd};
    later = begin(fd);
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    EQ(epoll_wait(epoll, &event, 1, 10000), 1);
    EQ(event.events, EPOLLOUT | EPOLLHUP | (later ? EPOLLERR : 0));
    FAILS(connect(fd, (struct sockaddr *)&t_addr, t_addr_len), ECONNREFUSED);
    OK(close(epoll));
    OK(close(fd));
    fd = OK(socket(t_family(), SOCK_DGRAM, 0));
    EQ(sendto(fd, "d", 1, 0, (struct sockaddr *)&t_addr, t_addr_len), 1);
}
