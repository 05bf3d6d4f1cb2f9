// Level-triggered epoll: what is so is said until it is no longer so; and what epoll_ctl refuses.
#include "t.h"

static int epoll;
static struct epoll_event events[8];

static int wait_for(int ms) { return OK(epoll_wait(epoll, events, 8, ms)); }

static void control(int operation, int fd, uint32_t what, uint64_t data) {
    struct epoll_event event = {.events = what, .data.u64 = data};
    OK(epoll_ctl(epoll, operation, fd, &event));
}

static void refused(int fd) {
    struct epoll_event event = {.events = EPOLLIN};
    int file = OK(open("/proc/self/exe", O_RDONLY));
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event), EPERM);
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event), EINVAL);
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, 9999, &event), EBADF);
    FAILS(epoll_ctl(9999, EPOLL_CTL_ADD, fd, &event), EBADF);
    FAILS(epoll_ctl(fd, EPOLL_CTL_ADD, epoll, &event), EINVAL);
    FAILS(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event), ENOENT);
    FAILS(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), ENOENT);
    FAILS(epoll_ctl(epoll, 77, fd, &event), EINVAL);
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EEXIST);
    OK(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
    FAILS(epoll_wait(epoll, events, 0, 0), EINVAL);
    FAILS(epoll_wait(epoll, events, t_opaque(-1), 0), EINVAL);
    FAILS(epoll_wait(fd, events, 1, 0), EINVAL);
    FAILS(epoll_wait(9999, events, 1, 0), EBADF);
    FAILS(epoll_create(0), EINVAL);
    FAILS(epoll_create1(1), EINVAL);
    OK(close(file));
}

static void look(int fd) {
    epoll = OK(epoll_create1(EPOLL_CLOEXEC));
    EQ(OK(fcntl(epoll, F_GETFD)), FD_CLOEXEC);
    refused(fd);
    control(EPOLL_CTL_ADD, fd, EPOLLIN, 0xfedcba9876543210);
    EQ(wait_for(0), 0);
    TAKES(25, 5000, EQ(wait_for(30), 0));
    control(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT, 7);
    for (int i = 0; i < 3; i++) {
        EQ(wait_for(1000), 1);
        EQ(events[0].events, EPOLLOUT);
        EQ(events[0].data.u64, 7);
    }
    control(EPOLL_CTL_MOD, fd, EPOLLIN, 0xfedcba9876543210);
    t_tell(fd, 'g');
    for (int i = 0; i < 3; i++) {
        EQ(wait_for(10000), 1);
        EQ(events[0].events, EPOLLIN);
        EQ(events[0].data.u64, (long long)0xfedcba9876543210);
    }
    // A part of it taken, the rest is still there.
    t_await(fd, 'a');
    EQ(wait_for(1000), 1);
    t_await(fd, 'b');
    EQ(wait_for(0), 0);
    // What lay there before it was added is said as well.
    OK(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
    t_tell(fd, 'g');
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    EQ(wait_for(0), 0);
    control(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, 9);
    EQ(wait_for(0), 1);
    EQ(events[0].events, EPOLLIN);
    // A duplicate is another entry, which outlives its number.
    int other = OK(dup(fd));
    control(EPOLL_CTL_ADD, other, EPOLLIN, 10);
    EQ(wait_for(1000), 2);
    CHECK(events[0].data.u64 + events[1].data.u64 == 19);
    // One at a time: both have their turn.
    uint64_t seen = 0;
    for (int i = 0; i < 2; i++) {
        EQ(epoll_wait(epoll, events, 1, 1000), 1);
        seen += events[0].data.u64;
    }
    EQ(seen, 19);
    OK(epoll_ctl(epoll, EPOLL_CTL_DEL, other, NULL));
    OK(close(other));
    t_await(fd, 'a');
    t_await(fd, 'b');
    // Nothing asked for: an end on both sides is said unasked.
    t_tell(fd, 'e');
    EQ(wait_for(10000), 1);
    EQ(events[0].events & (EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP);
    control(EPOLL_CTL_MOD, fd, 0, 11);
    EQ(wait_for(0), 0);
    OK(shutdown(fd, SHUT_WR));
    EQ(wait_for(10000), 1);
    EQ(events[0].events, EPOLLHUP);
    EQ(events[0].data.u64, 11);
    // Closed, it is gone from the set.
    OK(close(fd));
    EQ(wait_for(0), 0);
    OK(close(epoll));
}

static void answer(int fd) {
    for (int i = 0; i < 2; i++) {
        t_await(fd, 'g');
        t_send(fd, "ab", 2);
    }
    t_await(fd, 'e');
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
}

static void server(void) {
    int listener = t_listen();
    epoll = OK(epoll_create(1));
    control(EPOLL_CTL_ADD, listener, EPOLLIN, 1);
    EQ(wait_for(10000), 1);
    EQ(wait_for(0), 1);
    int fd = t_accept(listener);
    EQ(wait_for(0), 0);
    OK(close(epoll));
    look(fd);
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    look(t_connect());
}
