// A connection that is readable all the time and is not read: others are heard nevertheless, by every way to ask.
#include "t.h"

enum { POLL, SELECT, EPOLL, WAYS };

/* Whether there is something on the second, though the first is always ready. */
static int heard(int way, int epoll, int full, int other) {
    if (way == POLL) {
        struct pollfd set[2] = {{.fd = full, .events = POLLIN}, {.fd = other, .events = POLLIN}};
        CHECK(OK(poll(set, 2, 10000)) > 0);
        EQ(set[0].revents, POLLIN);
        return set[1].revents != 0;
    }
    if (way == SELECT) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(full, &set);
        FD_SET(other, &set);
        CHECK(OK(select((full > other ? full : other) + 1, &set, NULL, NULL, NULL)) > 0);
        CHECK(FD_ISSET(full, &set));
        return FD_ISSET(other, &set);
    }
    struct epoll_event events[2];
    int count = OK(epoll_wait(epoll, events, 2, 10000)), found = 0;
    CHECK(count > 0);
    for (int i = 0; i < count; i++) found |= events[i].data.fd == other;
    return found;
}

static void look(int full, int other) {
    int epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = full};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, full, &event));
    event.data.fd = other;
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event));
    t_tell(other, 'f');
    EQ(t_poll(full, POLLIN, 10000), POLLIN);
    for (int i = 0; i < 4 * WAYS; i++) {
        t_tell(other, 'g');
        long end = t_ms() + 2000;
        while (!heard(i % WAYS, epoll, full, other)) CHECK(t_ms() < end);
        t_await(other, 'h');
    }
    t_await(full, 'x');
    OK(close(epoll));
}

static void answer(int full, int other) {
    t_await(other, 'f');
    t_tell(full, 'x');
    for (int i = 0; i < 4 * WAYS; i++) {
        t_await(other, 'g');
        t_sleep(3);
        t_tell(other, 'h');
    }
}

static void server(void) {
    int listener = t_listen(), one = t_accept(listener), other = t_accept(listener);
    look(one, other);
    answer(one, other);
}

static void client(void) {
    int one = t_connect(), other = t_connect();
    answer(one, other);
    look(one, other);
}
