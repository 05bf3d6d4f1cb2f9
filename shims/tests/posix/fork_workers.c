// A parent that listens, and children that accept: every connection is served, by some child; a child that ends leaves
// the others their work.
// catnip: share = 4
#include "t.h"

#define CHILDREN 3
#define CONNECTIONS 60

static void work(int listener, int use_epoll, int until) {
    t_nonblock(listener);
    int epoll = OK(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    struct epoll_event stop = {.events = EPOLLIN, .data.fd = until};
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event));
    OK(epoll_ctl(epoll, EPOLL_CTL_ADD, until, &stop));
    for (;;) {
        if (use_epoll) {
            EQ(epoll_wait(epoll, &event, 1, 20000), 1);
            if (event.data.fd == until) _exit(0);
        } else {
            struct pollfd set[2] = {{.fd = until, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
            CHECK(OK(poll(set, 2, 20000)) > 0);
            if (set[0].revents != 0) _exit(0);
        }
        int fd = accept4(listener, NULL, NULL, 0);
        if (fd < 0) {
            CHECK(errno == EAGAIN || errno == ECONNABORTED);
            continue;
        }
        pid_t self = getpid();
        t_await(fd, 'w');
        t_send(fd, &self, sizeof self);
        t_await_end(fd);
        OK(close(fd));
    }
}

static void server(void) {
    int listener = t_bind(SOCK_STREAM), pipes[2];
    OK(listen(listener, 128));
    OK(pipe(pipes));
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        children[i] = OK(fork());
        if (children[i] == 0) {
            OK(close(pipes[1]));
            work(listener, i % 2, pipes[0]);
        }
    }
    t_ready();
    // The parent never touches it, and knows by another way when all is done: a connection of its own.
    int done = t_bind(SOCK_DGRAM);
    char byte;
    EQ(recv(done, &byte, 1, 0), 1);
    OK(close(pipes[1]));
    for (int i = 0; i < CHILDREN; i++) t_reap(children[i]);
    OK(close(listener));
}

static void client(void) {
    for (int i = 0; i < CONNECTIONS; i++) {
        pid_t pid = 0;
        int fd = t_connect();
        t_tell(fd, 'w');
        t_receive(fd, &pid, sizeof pid);
        CHECK(pid > 0);
        OK(close(fd));
    }
    int fd = OK(socket(t_family(), SOCK_DGRAM, 0));
    EQ(sendto(fd, "d", 1, 0, (struct sockaddr *)&t_addr, t_addr_len), 1);
}
