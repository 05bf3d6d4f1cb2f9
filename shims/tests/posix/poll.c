// poll and ppoll: what is asked, what is said unasked, entries that are skipped, and descriptors of every kind.
#include "t.h"

static void look(int fd) {
    EQ(t_poll(fd, POLLIN | POLLOUT, 0), POLLOUT);
    EQ(t_poll(fd, POLLOUT | POLLWRNORM, 0), POLLOUT | POLLWRNORM);
    EQ(t_poll(fd, POLLIN | POLLPRI | POLLRDHUP, 0), 0);
    TAKES(25, 5000, EQ(t_poll(fd, POLLIN, 30), 0));
    TAKES(0, 20, EQ(t_poll(fd, 0, 0), 0));
    struct timespec time = {0, 30000000};
    struct pollfd set[8] = {{.fd = fd, .events = POLLIN}};
    TAKES(25, 5000, EQ(ppoll(set, 1, &time, NULL), 0));
    EQ(time.tv_nsec, 30000000);

    int pipes[2], event = OK(eventfd(0, 0)), closed = OK(dup(0));
    OK(pipe(pipes));
    OK(close(closed));
    set[0] = (struct pollfd){.fd = -1, .events = POLLIN, .revents = 77};
    set[1] = (struct pollfd){.fd = fd, .events = POLLIN | POLLOUT};
    set[2] = (struct pollfd){.fd = pipes[0], .events = POLLIN};
    set[3] = (struct pollfd){.fd = pipes[1], .events = POLLOUT};
    set[4] = (struct pollfd){.fd = event, .events = POLLIN};
    set[5] = (struct pollfd){.fd = closed, .events = POLLIN};
    set[6] = (struct pollfd){.fd = fd, .events = POLLIN};
    EQ(poll(set, 7, -1), 3);
    EQ(set[0].revents, 0);
    EQ(set[1].revents, POLLOUT);
    EQ(set[2].revents, 0);
    EQ(set[3].revents, POLLOUT);
    EQ(set[4].revents, 0);
    EQ(set[5].revents, POLLNVAL);
    EQ(set[6].revents, 0);
    // What the kernel has to say wakes one that waits for a socket, and the other way round.
    set[0] = (struct pollfd){.fd = fd, .events = POLLIN};
    set[1] = (struct pollfd){.fd = pipes[0], .events = POLLIN};
    pid_t pid = OK(fork());
    if (pid == 0) {
        t_sleep(50);
        _exit(write(pipes[1], "x", 1) == 1 ? 0 : 1);
    }
    TAKES(30, 5000, EQ(poll(set, 2, 20000), 1));
    EQ(set[0].revents, 0);
    EQ(set[1].revents, POLLIN);
    t_reap(pid);
    t_await(pipes[0], 'x');
    t_tell(fd, 'g');
    TAKES(30, 5000, EQ(poll(set, 2, 20000), 1));
    EQ(set[0].revents, POLLIN);
    EQ(set[1].revents, 0);
    EQ(t_poll(fd, POLLIN | POLLRDNORM, 0), POLLIN | POLLRDNORM);
    EQ(t_poll(fd, POLLOUT, 0), POLLOUT);
    t_await(fd, 'h');
    EQ(t_poll(fd, POLLIN, 0), 0);
    FAILS(poll(set, t_opaque(1 << 30), 0), EINVAL);
    EQ(poll(NULL, 0, 10), 0);
    time.tv_nsec = 2000000000;
    FAILS(ppoll(set, 1, &time, NULL), EINVAL);

    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    EQ(pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
    t_handle(SIGALRM, 0);
    OK(raise(SIGALRM));
    TAKES(0, 5000, FAILS(ppoll(set, 1, NULL, &before), EINTR));
    t_alarm(30);
    TAKES(20, 5000, FAILS(ppoll(set, 1, NULL, &before), EINTR));
    // Blocked, it does not come.
    t_alarm(10);
    EQ(t_poll(fd, POLLIN, 40), 0);
    EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);

    // The peer's end, then ours.
    t_tell(fd, 'e');
    EQ(t_poll(fd, POLLRDHUP, 10000), POLLRDHUP);
    EQ(t_poll(fd, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
    OK(shutdown(fd, SHUT_WR));
    EQ(t_poll(fd, 0, 10000), POLLHUP);
    EQ(t_poll(fd, POLLIN | POLLRDHUP | POLLOUT, 0), POLLIN | POLLRDHUP | POLLOUT | POLLHUP);
}

static void answer(int fd) {
    t_await(fd, 'g');
    t_sleep(60);
    t_tell(fd, 'h');
    t_await(fd, 'e');
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
}

static void server(void) {
    int listener = t_listen();
    EQ(t_poll(listener, POLLIN | POLLOUT, 10000), POLLIN);
    look(t_accept(listener));
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    look(t_connect());
}
