// Edge-triggered epoll: what is new is said once; a full buffer that has room again is new.
#include "t.h"

static int epoll;
static struct epoll_event events[8];

static int wait_for(int ms) { return OK(epoll_wait(epoll, events, 8, ms)); }

static void look(int fd) {
    epoll = OK(epoll_create1(0));
    t_nonblock(fd);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    EQ(wait_for(1000), 1);
    EQ(events[0].events, EPOLLOUT);
    EQ(wait_for(30), 0);
    t_tell(fd, 'g');
    EQ(wait_for(10000), 1);
    EQ(events[0].events, EPOLLIN | EPOLLOUT);
    EQ(wait_for(30), 0);
    // Not read, and more comes: new again.
    t_tell(fd, 'g');
    EQ(wait_for(10000), 1);
    EQ(events[0].events & EPOLLIN, EPOLLIN);
    t_await(fd, 'h');
    // Some is left; nothing is new.
    EQ(wait_for(30), 0);
    t_await(fd, 'h');
    // MOD asks anew.
    EQ(wait_for(0), 0);
    OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
    EQ(wait_for(1000), 1);
    EQ(events[0].events, EPOLLOUT);
    // Filled up, and drained by the peer once it is told to.
    unsigned char chunk[65536];
    size_t total = 0;
    for (ssize_t sent; (sent = write(fd, chunk, sizeof chunk)) > 0; total += sent) {
        CHECK(total < (256u << 20));
    }
    EQ(errno, EAGAIN);
    // What was sent before may have gone on its way meanwhile; the peer sleeps, so there comes a time without news.
    int edges = 0;
    for (long end = t_ms() + 20000; t_ms() < end;) {
        if (wait_for(10000) == 1 && (events[0].events & EPOLLOUT) != 0) {
            edges++;
            ssize_t sent = write(fd, chunk, sizeof chunk);
            if (sent > 0) {
                total += sent;
                // Room for more than that once the peer reads.
                if (write(fd, chunk, 1) == 1) {
                    total += 1;
                    break;
                }
            }
        }
    }
    CHECK(edges > 0);
    OK(shutdown(fd, SHUT_WR));
    uint64_t got = 0;
    unsigned char *to = (unsigned char *)&got;
    for (size_t done = 0; done < sizeof got;) {
        ssize_t part = read(fd, to + done, sizeof got - done);
        if (part < 0) {
            EQ(errno, EAGAIN);
            CHECK(wait_for(20000) >= 1);
            continue;
        }
        CHECK(part > 0);
        done += part;
    }
    EQ(got, total);
    for (;;) {
        char byte;
        ssize_t part = read(fd, &byte, 1);
        if (part == 0) break;
        EQ(part, -1);
        EQ(errno, EAGAIN);
        CHECK(wait_for(20000) >= 1);
    }
    OK(close(fd));
    OK(close(epoll));
}

static void answer(int fd) {
    t_await(fd, 'g');
    t_tell(fd, 'h');
    t_await(fd, 'g');
    t_tell(fd, 'h');
    t_sleep(400);
    uint64_t total = 0;
    static unsigned char chunk[1 << 17];
    for (ssize_t got; (got = OK(read(fd, chunk, sizeof chunk))) > 0;) total += got;
    t_send(fd, &total, sizeof total);
    OK(close(fd));
}

/* Several connections are one edge of the listener, or more; all of them are there. */
static void accept_all(int listener) {
    epoll = OK(epoll_create1(0));
    t_nonblock(listener);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    for (int count = 0; count < 30;) {
        EQ(wait_for(10000), 1);
        for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0; count++) OK(close(fd));
        EQ(errno, EAGAIN);
    }
    EQ(wait_for(0), 0);
    OK(close(epoll));
    OK(fcntl(listener, F_SETFL, 0));
}

static void server(void) {
    int listener = t_listen();
    int fd = t_accept(listener);
    look(fd);
    answer(t_accept(listener));
    accept_all(listener);
}

static void client(void) {
    answer(t_connect());
    look(t_connect());
    for (int i = 0; i < 30; i++) OK(close(t_connect()));
}
