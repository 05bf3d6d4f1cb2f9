// Many threads in one set, connections one-shot: each request is served once, by whichever thread.
#include "t.h"

#define THREADS 6
#define CONNECTIONS 24
#define REQUESTS 50

static int epoll, listener, stop, ended;

static void watch(int fd, int operation) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT | EPOLLRDHUP, .data.fd = fd};
    OK(epoll_ctl(epoll, operation, fd, &event));
}

static void *serve(void *unused) {
    struct epoll_event event;
    for (;;) {
        EQ(OK(epoll_wait(epoll, &event, 1, 20000)), 1);
        int fd = event.data.fd;
        if (fd == stop) return unused;
        if (fd == listener) {
            for (int one; (one = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) watch(one, EPOLL_CTL_ADD);
            EQ(errno, EAGAIN);
            watch(listener, EPOLL_CTL_MOD);
            continue;
        }
        uint32_t number;
        ssize_t got = read(fd, &number, sizeof number);
        if (got == 0) {
            OK(close(fd));
            if (__atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST) == CONNECTIONS) {
                uint64_t one = 1;
                EQ(write(stop, &one, sizeof one), sizeof one);
            }
            continue;
        }
        EQ(got, sizeof number);
        number++;
        EQ(write(fd, &number, sizeof number), sizeof number);
        watch(fd, EPOLL_CTL_MOD);
    }
}

static void server(void) {
    pthread_t threads[THREADS];
    listener = t_bind(SOCK_STREAM);
    OK(listen(listener, 64));
    t_nonblock(listener);
    epoll = OK(epoll_create1(0));
    stop = OK(eventfd(0, 0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = stop};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, stop, &event));
    watch(listener, EPOLL_CTL_ADD);
    t_ready();
    for (int i = 0; i < THREADS; i++) EQ(pthread_create(&threads[i], NULL, serve, NULL), 0);
    for (int i = 0; i < THREADS; i++) t_join(threads[i]);
    EQ(ended, CONNECTIONS);
}

static void *ask(void *unused) {
    int fds[CONNECTIONS / 2];
    for (int i = 0; i < CONNECTIONS / 2; i++) fds[i] = t_connect();
    for (uint32_t round = 0; round < REQUESTS; round++) {
        for (int i = 0; i < CONNECTIONS / 2; i++) {
            uint32_t number = round * 1000 + i;
            t_send(fds[i], &number, sizeof number);
        }
        for (int i = 0; i < CONNECTIONS / 2; i++) {
            uint32_t number;
            t_receive(fds[i], &number, sizeof number);
            EQ(number, round * 1000 + i + 1);
        }
    }
    for (int i = 0; i < CONNECTIONS / 2; i++) OK(close(fds[i]));
    return unused;
}

static void client(void) {
    pthread_t other;
    EQ(pthread_create(&other, NULL, ask, NULL), 0);
    ask(NULL);
    t_join(other);
}
