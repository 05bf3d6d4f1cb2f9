// EPOLLEXCLUSIVE: a listener in the sets of several threads; every connection is taken, by one of them.
#include "t.h"

#define THREADS 4
#define CONNECTIONS 40

static int listener, taken;

static void *take(void *unused) {
    int epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.u32 = 3};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    FAILS(epoll_ctl(epoll, EPOLL_CTL_MOD, listener, &event), EINVAL);
    while (__atomic_load_n(&taken, __ATOMIC_SEQ_CST) < CONNECTIONS) {
        if (OK(epoll_wait(epoll, &event, 1, 50)) == 0) continue;
        EQ(event.events, EPOLLIN);
        EQ(event.data.u32, 3);
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) {
            EQ(errno, EAGAIN);
            continue;
        }
        t_await(fd, 'x');
        t_tell(fd, 'y');
        OK(close(fd));
        __atomic_add_fetch(&taken, 1, __ATOMIC_SEQ_CST);
    }
    OK(close(epoll));
    return unused;
}

static void server(void) {
    pthread_t threads[THREADS];
    listener = t_bind(SOCK_STREAM);
    OK(listen(listener, 64));
    t_nonblock(listener);
    struct epoll_event wrong = {.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT};
    int epoll = OK(epoll_create1(0));
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wrong), EINVAL);
    t_ready();
    for (int i = 0; i < THREADS; i++) EQ(pthread_create(&threads[i], NULL, take, NULL), 0);
    for (int i = 0; i < THREADS; i++) t_join(threads[i]);
    EQ(taken, CONNECTIONS);
}

static void *visit(void *unused) {
    for (int i = 0; i < CONNECTIONS / 2; i++) {
        int fd = t_connect();
        t_tell(fd, 'x');
        t_await(fd, 'y');
        t_await_end(fd);
        OK(close(fd));
    }
    return unused;
}

static void client(void) {
    pthread_t other;
    EQ(pthread_create(&other, NULL, visit, NULL), 0);
    visit(NULL);
    t_join(other);
}
