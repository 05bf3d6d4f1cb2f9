// A child that has nothing to do with its parent's connections, as one that saves a snapshot: whatever it does, the
// parent's go on, and end only when the parent ends them.
#include "t.h"

static void hold(int fd, int listener) {
    t_tell(fd, '1');
    t_await(fd, '1');
    pid_t pid = OK(fork());
    if (pid == 0) {
        // Closes all that it does not need, and takes its time.
        OK(close(fd));
        if (listener >= 0) OK(close(listener));
        t_sleep(100);
        exit(0);
    }
    for (int i = 0; i < 20; i++) {
        t_tell(fd, '2');
        t_await(fd, '2');
        t_sleep(2);
    }
    t_reap(pid);
    t_tell(fd, '3');
    t_await(fd, '3');
    // One that ends without a word, holding them.
    pid = OK(fork());
    if (pid == 0) _exit(0);
    t_reap(pid);
    t_tell(fd, '4');
    t_await(fd, '4');
    // One that is killed.
    pid = OK(fork());
    if (pid == 0) {
        pause();
        _exit(1);
    }
    OK(kill(pid, SIGKILL));
    int status;
    EQ(waitpid(pid, &status, 0), pid);
    t_tell(fd, '5');
    t_await(fd, '5');
    // And one that talks to its parent by what the kernel has, in a set that it made before.
    int pair[2], epoll = OK(epoll_create1(0));
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = pair[0]};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event));
    event.data.fd = fd;
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    pid = OK(fork());
    if (pid == 0) {
        t_tell(pair[1], 'c');
        t_await(pair[1], 'p');
        _exit(0);
    }
    EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    EQ(event.data.fd, pair[0]);
    t_await(pair[0], 'c');
    t_tell(pair[0], 'p');
    t_reap(pid);
    t_tell(fd, '6');
    EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    EQ(event.data.fd, fd);
    t_await(fd, '6');
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
}

static void answer(int fd) {
    char byte;
    while (OK(read(fd, &byte, 1)) == 1) t_tell(fd, byte);
    OK(close(fd));
}

static void server(void) {
    int listener = t_listen();
    hold(t_accept(listener), listener);
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    hold(t_connect(), -1);
}
