// Duplicates: the connection lives as long as one of them does, and any of them carries it.
#include "t.h"

static void holder(int fd) {
    int a = OK(dup(fd)), b = OK(fcntl(fd, F_DUPFD, 200)), c = OK(fcntl(fd, F_DUPFD_CLOEXEC, 300));
    CHECK(b >= 200 && c >= 300);
    EQ(OK(fcntl(c, F_GETFD)), FD_CLOEXEC);
    EQ(OK(fcntl(b, F_GETFD)), 0);
    EQ(dup2(fd, 150), 150);
    EQ(dup3(fd, 151, O_CLOEXEC), 151);
    EQ(dup2(fd, fd), fd);
    FAILS(dup3(fd, fd, 0), EINVAL);
    FAILS(dup2(9999, 5), EBADF);
    OK(close(fd));
    FAILS(write(fd, "x", 1), EBADF);
    int all[] = {a, b, c, 150, 151};
    for (int i = 0; i < 5; i++) {
        char byte = 0;
        t_tell(all[i], (char)('0' + i));
        EQ(read(all[(i + 1) % 5], &byte, 1), 1);
        EQ(byte, '0' + i);
        if (i < 4) OK(close(all[i]));
        if (i == 0) a = OK(dup(b)), all[0] = a;
    }
    // Of the last, over which something else is put: the peer sees the end then.
    OK(close(a));
    EQ(t_poll(151, POLLIN, 50), 0);
    int pipes[2];
    OK(pipe(pipes));
    EQ(dup2(pipes[1], 151), 151);
    EQ(write(151, "p", 1), 1);
    t_await(pipes[0], 'p');
    OK(close(151));
    OK(close(pipes[0]));
    OK(close(pipes[1]));
}

static void echo_to_end(int fd) {
    char byte;
    while (OK(read(fd, &byte, 1)) == 1) t_tell(fd, byte);
    OK(close(fd));
}

/* A socket put over another: the one below goes, the one above is reached by both numbers. */
static void over(int one, int other) {
    int epoll = OK(epoll_create1(0)), twin = OK(dup(other));
    struct epoll_event event = {.events = EPOLLIN};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event));
    EQ(dup2(one, other), other);
    // The one below is watched still, as it has another number; that is nothing to the one above.
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event));
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event), EEXIST);
    OK(close(twin));
    OK(close(epoll));
    t_tell(other, 'o');
    t_await(one, 'o');
    OK(close(one));
    t_tell(other, 'p');
    t_await(other, 'p');
    OK(close(other));
}

/* Standard input and output as inetd makes them. */
static void standard(int fd) {
    int in = OK(dup(0));
    EQ(dup2(fd, 0), 0);
    OK(close(fd));
    t_tell(0, 's');
    t_await(0, 's');
    EQ(dup2(in, 0), 0);
    OK(close(in));
}

static void server(void) {
    int listener = t_listen();
    holder(t_accept(listener));
    int one = t_accept(listener), other = t_accept(listener);
    over(one, other);
    standard(t_accept(listener));
    // A listener's duplicate accepts.
    int second = OK(dup(listener));
    OK(close(listener));
    for (int i = 0; i < 4; i++) echo_to_end(t_accept(second));
}

static void client(void) {
    echo_to_end(t_connect());
    int one = t_connect(), other = t_connect();
    t_await_end(other);
    OK(close(other));
    echo_to_end(one);
    echo_to_end(t_connect());
    holder(t_connect());
    one = t_connect();
    other = t_connect();
    OK(shutdown(other, SHUT_WR));
    over(one, other);
    standard(t_connect());
}
