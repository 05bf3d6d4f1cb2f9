// select and pselect: each set, timeouts, what is left of them, and what is no descriptor.
#include "t.h"

static fd_set in, out, odd;

static void only(int fd) {
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&odd);
    FD_SET(fd, &in);
}

static void waiting(int fd) {
    struct timeval time = {0, 30000};
    only(fd);
    TAKES(25, 5000, EQ(select(fd + 1, &in, NULL, NULL, &time), 0));
    CHECK(!FD_ISSET(fd, &in));
    EQ(time.tv_sec * 1000000 + time.tv_usec, 0);
    struct timespec precise = {0, 30000000};
    only(fd);
    TAKES(25, 5000, EQ(pselect(fd + 1, &in, NULL, NULL, &precise, NULL), 0));
    EQ(precise.tv_nsec, 30000000);

    // Writable at once, readable when something comes.
    only(fd);
    FD_SET(fd, &out);
    FD_SET(fd, &odd);
    time = (struct timeval){5, 0};
    EQ(select(fd + 1, &in, &out, &odd, &time), 1);
    CHECK(!FD_ISSET(fd, &in) && FD_ISSET(fd, &out) && !FD_ISSET(fd, &odd));
    CHECK(time.tv_sec * 1000 + time.tv_usec / 1000 > 3000);
    t_tell(fd, 'g');
    only(fd);
    time = (struct timeval){10, 0};
    EQ(select(fd + 1, &in, NULL, NULL, &time), 1);
    CHECK(FD_ISSET(fd, &in));
    FD_SET(fd, &out);
    EQ(select(fd + 1, &in, &out, NULL, NULL), 2);
    t_await(fd, 'h');

    // Together with a pipe, whose number is lower; a negative time and a foreign number are refused.
    int pipes[2];
    OK(pipe(pipes));
    EQ(dup2(fd, 900), 900);
    only(900);
    FD_SET(pipes[0], &in);
    EQ(write(pipes[1], "x", 1), 1);
    EQ(select(901, &in, NULL, NULL, NULL), 1);
    CHECK(!FD_ISSET(900, &in) && FD_ISSET(pipes[0], &in));
    t_tell(fd, 'g');
    EQ(t_poll(900, POLLIN, 10000), POLLIN);
    only(900);
    FD_SET(pipes[0], &in);
    EQ(select(901, &in, NULL, NULL, NULL), 2);
    // Numbers that are not asked about are not looked at.
    only(900);
    FD_SET(pipes[0], &in);
    EQ(select(900, &in, NULL, NULL, NULL), 1);
    t_await(900, 'h');
    OK(close(900));
    only(900);
    FAILS(select(901, &in, NULL, NULL, NULL), EBADF);
    time = (struct timeval){-1, 0};
    only(fd);
    FAILS(select(fd + 1, &in, NULL, NULL, &time), EINVAL);
    FAILS(select(-1, &in, NULL, NULL, NULL), EINVAL);

    // A signal that comes only while it waits.
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGALRM);
    EQ(pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);
    t_handle(SIGALRM, 0);
    OK(raise(SIGALRM));
    only(fd);
    precise = (struct timespec){20, 0};
    TAKES(0, 5000, FAILS(pselect(fd + 1, &in, NULL, NULL, &precise, &before), EINTR));
    EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);

    t_tell(fd, 'e');
    only(fd);
    EQ(select(fd + 1, &in, NULL, NULL, NULL), 1);
    t_await_end(fd);
    // As a mere sleep.
    time = (struct timeval){0, 20000};
    TAKES(15, 5000, EQ(select(0, NULL, NULL, NULL, &time), 0));
}

static void answer(int fd) {
    for (int i = 0; i < 2; i++) {
        t_await(fd, 'g');
        t_sleep(20);
        t_tell(fd, 'h');
    }
    t_await(fd, 'e');
    OK(shutdown(fd, SHUT_WR));
}

static void server(void) {
    int listener = t_listen();
    only(listener);
    EQ(select(listener + 1, &in, NULL, NULL, NULL), 1);
    waiting(t_accept(listener));
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    waiting(t_connect());
}
