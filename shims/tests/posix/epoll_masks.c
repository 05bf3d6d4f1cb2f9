// epoll_pwait and epoll_pwait2: limits below a millisecond, and signals that come only while it waits.
#include "t.h"

static long long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void look(int fd) {
    int epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 1};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    struct timespec time = {0, 300000};
    long long begin = nanoseconds();
    EQ(epoll_pwait2(epoll, &event, 1, &time, NULL), 0);
    long long took = nanoseconds() - begin;
    CHECK(took >= 300000 && took < 2000000000);
    time.tv_nsec = 0;
    EQ(epoll_pwait2(epoll, &event, 1, &time, NULL), 0);
    time.tv_nsec = 1000000000;
    FAILS(epoll_pwait2(epoll, &event, 1, &time, NULL), EINVAL);
    time = (struct timespec){10, 0};
    t_tell(fd, 'g');
    EQ(epoll_pwait2(epoll, &event, 1, &time, NULL), 1);
    EQ(event.data.u32, 1);
    t_await(fd, 'h');
    t_tell(fd, 'g');
    EQ(epoll_pwait2(epoll, &event, 1, NULL, NULL), 1);
    t_await(fd, 'h');

    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    EQ(pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
    t_handle(SIGALRM, SA_RESTART);
    OK(raise(SIGALRM));
    EQ(epoll_wait(epoll, &event, 1, 10), 0);
    TAKES(0, 5000, FAILS(epoll_pwait(epoll, &event, 1, -1, &before), EINTR));
    t_alarm(20);
    TAKES(10, 5000, FAILS(epoll_pwait(epoll, &event, 1, 20000, &before), EINTR));
    t_alarm(20);
    TAKES(10, 5000, FAILS(epoll_pwait2(epoll, &event, 1, &time, &before), EINTR));
    // The mask is what it was.
    sigset_t now;
    EQ(pthread_sigmask(SIG_SETMASK, NULL, &now), 0);
    EQ(sigismember(&now, SIGALRM), 1);
    EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
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
