// Writing where nobody reads any more: EPIPE, and SIGPIPE unless it is declined, ignored or blocked.
#include "t.h"

static volatile sig_atomic_t pipes;

static void count(int signal) {
    (void)signal;
    pipes++;
}

static void break_it(int fd) {
    pipes = 0;
    struct sigaction action = {.sa_handler = count};
    OK(sigaction(SIGPIPE, &action, NULL));
    OK(shutdown(fd, SHUT_WR));
    FAILS(write(fd, "x", 1), EPIPE);
    EQ(pipes, 1);
    FAILS(send(fd, "x", 1, 0), EPIPE);
    EQ(pipes, 2);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    EQ(pipes, 2);
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    FAILS(writev(fd, &part, 1), EPIPE);
    EQ(pipes, 3);
    FAILS(sendmsg(fd, &message, MSG_NOSIGNAL), EPIPE);
    FAILS(sendmsg(fd, &message, 0), EPIPE);
    EQ(pipes, 4);
    FAILS(sendto(fd, "x", 1, 0, NULL, 0), EPIPE);
    EQ(pipes, 5);

    // It is this thread's.
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    FAILS(write(fd, "x", 1), EPIPE);
    EQ(pipes, 5);
    OK(sigpending(&pending));
    EQ(sigismember(&pending, SIGPIPE), 1);
    int number;
    EQ(sigwait(&set, &number), 0);
    EQ(number, SIGPIPE);
    EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(fd, "x", 1), EPIPE);
    EQ(pipes, 5);

    // Untouched, it ends a process.
    pid_t pid = OK(fork());
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        int pair[2];
        OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        OK(close(pair[1]));
        (void)!write(pair[0], "x", 1);
        _exit(0);
    }
    int status;
    EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
}

/* The peer has gone: what is sent is answered with a reset; the next finds the pipe broken. */
static void gone(int fd) {
    pipes = 0;
    struct sigaction action = {.sa_handler = count};
    OK(sigaction(SIGPIPE, &action, NULL));
    t_tell(fd, 'g');
    t_await_end(fd);
    ssize_t sent = 1;
    for (int i = 0; i < 200 && sent == 1; i++) {
        sent = write(fd, "x", 1);
        t_sleep(5);
    }
    EQ(sent, -1);
    CHECK(errno == EPIPE || errno == ECONNRESET);
    FAILS(write(fd, "x", 1), EPIPE);
    CHECK(pipes >= 1);
}

static void go(int fd) {
    t_await(fd, 'g');
    OK(close(fd));
    /* A process takes its stack along: there would be nobody to answer what comes. */
    t_sleep(300);
}

static void server(void) {
    int listener = t_listen();
    break_it(t_accept(listener));
    gone(t_accept(listener));
    go(t_accept(listener));
}

static void client(void) {
    int fd = t_connect();
    t_await_end(fd);
    go(t_connect());
    gone(t_connect());
    break_it(fd);
}
