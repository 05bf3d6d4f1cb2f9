// One set with a socket and everything else that epoll takes: all are heard, none starves another.
#include "t.h"

enum { SOCKET, PIPE, EVENT, TIMER, SIGNAL, PAIR, KINDS };

static void look(int fd) {
    int epoll = OK(epoll_create1(0)), pipes[2], pair[2], event = OK(eventfd(0, EFD_NONBLOCK));
    OK(pipe2(pipes, O_NONBLOCK));
    OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    int timer = OK(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    int signals = OK(signalfd(-1, &set, SFD_NONBLOCK));
    int all[KINDS] = {fd, pipes[0], event, timer, signals, pair[0]};
    t_nonblock(fd);
    for (int i = 0; i < KINDS; i++) {
        struct epoll_event add = {.events = EPOLLIN, .data.u32 = i};
        OK(epoll_ctl(epoll, EPOLL_CTL_ADD, all[i], &add));
    }
    struct epoll_event events[KINDS];
    EQ(epoll_wait(epoll, events, KINDS, 20), 0);
    // Each alone.
    for (int i = 0; i < KINDS; i++) {
        struct itimerspec soon = {.it_value = {0, 20000000}};
        uint64_t one = 1;
        switch (i) {
        case SOCKET: t_tell(fd, 'g'); break;
        case PIPE: EQ(write(pipes[1], "x", 1), 1); break;
        case EVENT: EQ(write(event, &one, sizeof one), sizeof one); break;
        case TIMER: OK(timerfd_settime(timer, 0, &soon, NULL)); break;
        case SIGNAL: OK(kill(getpid(), SIGUSR1)); break;
        case PAIR: EQ(write(pair[1], "x", 1), 1); break;
        }
        EQ(epoll_wait(epoll, events, KINDS, 10000), 1);
        EQ(events[0].data.u32, i);
        EQ(events[0].events, EPOLLIN);
        char bytes[sizeof(struct signalfd_siginfo)];
        CHECK(OK(read(all[i], bytes, sizeof bytes)) > 0);
        EQ(epoll_wait(epoll, events, KINDS, 0), 0);
    }
    // All that are there: the socket is ready all the time, and so are the others; with room for one, each has its turn.
    uint64_t one = 1;
    t_tell(fd, 'g');
    EQ(write(pipes[1], "x", 1), 1);
    EQ(write(event, &one, sizeof one), sizeof one);
    EQ(write(pair[1], "x", 1), 1);
    OK(kill(getpid(), SIGUSR1));
    struct itimerspec now = {.it_value = {0, 1}};
    OK(timerfd_settime(timer, 0, &now, NULL));
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    t_sleep(5);
    int seen[KINDS] = {0};
    for (int i = 0; i < 10 * KINDS; i++) {
        EQ(epoll_wait(epoll, events, 1, 1000), 1);
        seen[events[0].data.u32]++;
    }
    for (int i = 0; i < KINDS; i++) {
        if (seen[i] == 0) t_fail(__FILE__, __LINE__, "kind %d starved", i);
    }
    // With room for all, all are heard soon, if not at once.
    memset(seen, 0, sizeof seen);
    for (int rounds = 0; rounds < 4; rounds++) {
        int count = OK(epoll_wait(epoll, events, KINDS, 1000));
        for (int i = 0; i < count; i++) seen[events[i].data.u32]++;
    }
    for (int i = 0; i < KINDS; i++) CHECK(seen[i] > 0);
    t_await(fd, 'h');
    t_tell(fd, 'e');
}

static void answer(int fd) {
    for (int i = 0; i < 2; i++) {
        t_await(fd, 'g');
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
