// EPOLLONESHOT: said once, then silent until it is asked for again; whatever comes meanwhile is not lost.
#include "t.h"

static void look(int fd) {
    int epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u32 = 5}, got;
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    EQ(epoll_wait(epoll, &got, 1, 0), 0);
    for (int i = 0; i < 3; i++) {
        t_tell(fd, 'g');
        EQ(epoll_wait(epoll, &got, 1, 10000), 1);
        EQ(got.events, EPOLLIN);
        EQ(got.data.u32, 5);
        EQ(epoll_wait(epoll, &got, 1, 10), 0);
        t_await(fd, 'h');
        // Something comes while it is silent.
        t_tell(fd, 'g');
        EQ(t_poll(fd, POLLIN, 10000), POLLIN);
        EQ(epoll_wait(epoll, &got, 1, 10), 0);
        event.events = EPOLLIN | EPOLLONESHOT | (i == 1 ? EPOLLET : 0);
        OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
        EQ(epoll_wait(epoll, &got, 1, 1000), 1);
        t_await(fd, 'h');
        OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
        EQ(epoll_wait(epoll, &got, 1, 10), 0);
    }
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLONESHOT;
    OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
    EQ(epoll_wait(epoll, &got, 1, 1000), 1);
    EQ(got.events, EPOLLOUT);
    // Silent even about ends.
    t_tell(fd, 'e');
    EQ(t_poll(fd, POLLRDHUP, 10000), POLLRDHUP);
    EQ(epoll_wait(epoll, &got, 1, 10), 0);
    OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
    EQ(epoll_wait(epoll, &got, 1, 1000), 1);
    EQ(got.events, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    OK(close(epoll));
    OK(close(fd));
}

static void answer(int fd) {
    for (int i = 0; i < 6; i++) {
        t_await(fd, 'g');
        t_tell(fd, 'h');
    }
    t_await(fd, 'e');
    OK(close(fd));
}

static void server(void) {
    int listener = t_listen();
    look(t_accept(listener));
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    look(t_connect());
}
