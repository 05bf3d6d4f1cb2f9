// A thousand connections in one set, each with requests of its own, in several rounds, and all closed at once.
#include "t.h"

#define CONNECTIONS 1000
#define ROUNDS 3

static int fds[CONNECTIONS];

static void server(void) {
    int listener = t_bind(SOCK_STREAM), open = 0, accepted = 0, requests = 0;
    OK(listen(listener, 1024));
    t_nonblock(listener);
    int epoll = OK(epoll_create1(0));
    struct epoll_event events[64], event = {.events = EPOLLIN, .data.fd = listener};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    t_ready();
    while (accepted < CONNECTIONS || open > 0) {
        int count = OK(epoll_wait(epoll, events, 64, 20000));
        CHECK(count > 0);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                for (int one; (one = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0; accepted++, open++) {
                    event = (struct epoll_event){.events = EPOLLIN | EPOLLET | EPOLLRDHUP, .data.fd = one};
                    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, one, &event));
                }
                EQ(errno, EAGAIN);
                continue;
            }
            uint32_t numbers[16];
            for (;;) {
                ssize_t got = read(fd, numbers, sizeof numbers);
                if (got == 0) {
                    OK(close(fd));
                    open--;
                    break;
                }
                if (got < 0) {
                    EQ(errno, EAGAIN);
                    break;
                }
                EQ(got, 4);
                numbers[0] ^= 0xffff;
                EQ(write(fd, numbers, 4), 4);
                requests++;
            }
        }
    }
    EQ(requests, CONNECTIONS * ROUNDS);
}

static void client(void) {
    for (int i = 0; i < CONNECTIONS; i++) fds[i] = t_connect();
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < CONNECTIONS; i++) {
            uint32_t number = i * 7 + round;
            t_send(fds[i], &number, 4);
        }
        for (uint32_t i = 0; i < CONNECTIONS; i++) {
            uint32_t number;
            t_receive(fds[i], &number, 4);
            EQ(number, (i * 7 + round) ^ 0xffff);
        }
    }
    for (int i = 0; i < CONNECTIONS; i++) OK(close(fds[i]));
}
