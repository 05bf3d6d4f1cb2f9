// Signals while a call waits: EINTR without SA_RESTART, and with it for those calls that are never restarted.
#include "t.h"

/* Each way to wait is interrupted after a while. */
static void interrupted(int fd, int flags) {
    char byte;
    fd_set set;
    struct pollfd one = {.fd = fd, .events = POLLIN};
    struct epoll_event event = {.events = EPOLLIN};
    int epoll = OK(epoll_create1(EPOLL_CLOEXEC));
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    t_handle(SIGALRM, flags);
    t_alarm(25);
    TAKES(15, 5000, FAILS(poll(&one, 1, -1), EINTR));
    t_alarm(25);
    TAKES(15, 5000, FAILS(poll(&one, 1, 30000), EINTR));
    t_alarm(25);
    TAKES(15, 5000, FAILS(ppoll(&one, 1, NULL, NULL), EINTR));
    t_alarm(25);
    TAKES(15, 5000, FAILS(epoll_wait(epoll, &event, 1, -1), EINTR));
    t_alarm(25);
    TAKES(15, 5000, FAILS(epoll_pwait(epoll, &event, 1, 30000, NULL), EINTR));
    FD_ZERO(&set);
    FD_SET(fd, &set);
    t_alarm(25);
    TAKES(15, 5000, FAILS(select(fd + 1, &set, NULL, NULL, NULL), EINTR));
    if ((flags & SA_RESTART) == 0) {
        t_alarm(25);
        TAKES(15, 5000, FAILS(read(fd, &byte, 1), EINTR));
        t_alarm(25);
        TAKES(15, 5000, FAILS(recv(fd, &byte, 1, MSG_PEEK), EINTR));
        struct iovec part = {&byte, 1};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        t_alarm(25);
        TAKES(15, 5000, FAILS(recvmsg(fd, &message, 0), EINTR));
    }
    OK(close(epoll));
}

/* Calls that are restarted, until the peer answers after 100 ms. */
static void restarted(int fd) {
    t_handle(SIGALRM, SA_RESTART);
    t_tell(fd, 'r');
    t_alarm(30);
    TAKES(60, 5000, t_await(fd, 'a'));
}

static void answer(int fd) {
    t_await(fd, 'r');
    t_sleep(100);
    t_tell(fd, 'a');
}

static void server(void) {
    int listener = t_bind(SOCK_STREAM);
    OK(listen(listener, 8));
    t_handle(SIGALRM, 0);
    EQ(t_poll(listener, POLLIN, 0), 0);
    t_alarm(25);
    TAKES(15, 5000, FAILS(accept(listener, NULL, NULL), EINTR));
    interrupted(listener, 0 | SA_RESTART);
    t_ready();
    int fd = t_accept(listener);
    interrupted(fd, 0);
    interrupted(fd, SA_RESTART);
    restarted(fd);
    answer(fd);
    t_await_end(fd);
}

static void client(void) {
    int fd = t_connect();
    answer(fd);
    restarted(fd);
    // The server says nothing any more.
    interrupted(fd, 0);
    interrupted(fd, SA_RESTART);
}
