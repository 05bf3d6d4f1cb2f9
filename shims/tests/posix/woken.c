// What one thread does to a descriptor that another waits for: shutdown wakes it, new entries are heard.
#include "t.h"

static int shared, epoll;

static void *shut_soon(void *how) {
    t_sleep(50);
    int result = shutdown(shared, (int)(intptr_t)how);
    // The kernel says that a listener has no peer, and wakes all the same.
    if (result != 0) EQ(errno, ENOTCONN);
    return NULL;
}

static void *add_soon(void *unused) {
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = 8};
    t_sleep(50);
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, shared, &event));
    return unused;
}

static void *write_soon(void *unused) {
    t_sleep(50);
    t_tell(shared, 'g');
    return unused;
}

static void *drain_soon(void *unused) {
    t_sleep(50);
    t_await(shared, 'a');
    return unused;
}

/* What another thread takes is gone, and who waits for it goes on waiting. */
static void look(int fd) {
    pthread_t other;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 7};
    epoll = OK(epoll_create1(0));
    shared = fd;
    EQ(pthread_create(&other, NULL, add_soon, NULL), 0);
    TAKES(30, 5000, EQ(epoll_wait(epoll, &event, 1, 20000), 1));
    EQ(event.data.u32, 8);
    t_join(other);
    event = (struct epoll_event){.events = EPOLLIN, .data.u32 = 7};
    OK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
    // One thread writes what this one waits for an answer to.
    EQ(pthread_create(&other, NULL, write_soon, NULL), 0);
    EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    EQ(event.data.u32, 7);
    t_join(other);
    EQ(pthread_create(&other, NULL, drain_soon, NULL), 0);
    t_join(other);
    EQ(epoll_wait(epoll, &event, 1, 0), 0);
    // A reader that waits sees an end when another thread makes one.
    EQ(pthread_create(&other, NULL, shut_soon, (void *)(intptr_t)SHUT_RD), 0);
    TAKES(30, 5000, t_await_end(fd));
    t_join(other);
    EQ(pthread_create(&other, NULL, shut_soon, (void *)(intptr_t)SHUT_RDWR), 0);
    TAKES(0, 5000, EQ(t_poll(fd, 0, 20000), POLLHUP));
    t_join(other);
    // Closed in the middle of somebody's epoll_wait, it is just no longer there.
    int pipes[2];
    OK(pipe(pipes));
    OK(close(fd));
    TAKES(25, 5000, EQ(epoll_wait(epoll, &event, 1, 30), 0));
    OK(close(epoll));
}

static void answer(int fd) {
    t_await(fd, 'g');
    t_tell(fd, 'a');
    t_await_end(fd);
    OK(close(fd));
}

static void *close_soon(void *fd) {
    t_sleep(50);
    OK(close((int)(intptr_t)fd));
    return NULL;
}

static void *poke_later(void *fd) {
    t_sleep(100);
    t_tell((int)(intptr_t)fd, 'p');
    return NULL;
}

static void server(void) {
    pthread_t other, another;
    int listener = t_listen();
    int fd = t_accept(listener);
    look(fd);
    answer(t_accept(listener));
    // Closing by another thread leaves an epoll_wait to its other descriptors.
    fd = t_accept(listener);
    int pipes[2];
    OK(pipe(pipes));
    epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 1};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    event.data.u32 = 2;
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event));
    EQ(pthread_create(&other, NULL, close_soon, (void *)(intptr_t)fd), 0);
    EQ(pthread_create(&another, NULL, poke_later, (void *)(intptr_t)pipes[1]), 0);
    EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    EQ(event.data.u32, 2);
    t_join(other);
    t_join(another);
    // A listener's shutdown ends an accept that waits.
    shared = listener;
    EQ(pthread_create(&other, NULL, shut_soon, (void *)(intptr_t)SHUT_RD), 0);
    TAKES(30, 5000, FAILS(accept(listener, NULL, NULL), EINVAL));
    t_join(other);
}

static void client(void) {
    answer(t_connect());
    look(t_connect());
    t_await_end(t_connect());
}
