// An epoll descriptor is itself something to wait for: in epoll, poll and select.
#include "t.h"

static void look(int fd) {
    int inner = OK(epoll_create1(0)), outer = OK(epoll_create1(0)), outermost = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 1}, got[4];
    OK(epoll_ctl(inner, EPOLL_CTL_ADD, fd, &event));
    event.data.u32 = 2;
    OK(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
    event.data.u32 = 3;
    OK(epoll_ctl(outermost, EPOLL_CTL_ADD, outer, &event));
    FAILS(epoll_ctl(inner, EPOLL_CTL_ADD, outermost, &event), ELOOP);
    EQ(epoll_wait(outermost, got, 4, 0), 0);
    EQ(t_poll(outer, POLLIN, 0), 0);
    TAKES(15, 5000, EQ(t_poll(inner, POLLIN, 20), 0));
    t_tell(fd, 'g');
    EQ(epoll_wait(outermost, got, 4, 10000), 1);
    EQ(got[0].data.u32, 3);
    EQ(got[0].events, EPOLLIN);
    EQ(epoll_wait(outer, got, 4, 1000), 1);
    EQ(got[0].data.u32, 2);
    EQ(epoll_wait(inner, got, 4, 1000), 1);
    EQ(got[0].data.u32, 1);
    EQ(t_poll(inner, POLLIN, 0), POLLIN);
    EQ(t_poll(outermost, POLLIN, 0), POLLIN);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(inner, &set);
    EQ(select(inner + 1, &set, NULL, NULL, NULL), 1);
    t_await(fd, 'h');
    EQ(epoll_wait(outermost, got, 4, 0), 0);
    EQ(t_poll(inner, POLLIN, 0), 0);
    // The inner one has a kernel's descriptor as well.
    int pipes[2];
    OK(pipe(pipes));
    event.data.u32 = 4;
    OK(epoll_ctl(inner, EPOLL_CTL_ADD, pipes[0], &event));
    EQ(write(pipes[1], "x", 1), 1);
    EQ(epoll_wait(outermost, got, 4, 1000), 1);
    EQ(epoll_wait(inner, got, 4, 0), 1);
    EQ(got[0].data.u32, 4);
    t_await(pipes[0], 'x');
    // Edges go through.
    event = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.u32 = 2};
    OK(epoll_ctl(outer, EPOLL_CTL_MOD, inner, &event));
    t_tell(fd, 'g');
    EQ(epoll_wait(outer, got, 4, 10000), 1);
    EQ(epoll_wait(outer, got, 4, 20), 0);
    t_await(fd, 'h');
    OK(close(inner));
    EQ(epoll_wait(outer, got, 4, 0), 0);
    t_tell(fd, 'e');
}

static void answer(int fd) {
    for (int i = 0; i < 2; i++) {
        t_await(fd, 'g');
        t_sleep(20);
        t_tell(fd, 'h');
    }
    t_await(fd, 'e');
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
