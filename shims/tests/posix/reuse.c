// Numbers that are used again at once: a new socket has nothing of what its number stood for before.
#include "t.h"

#define TIMES 200

static void server(void) {
    int listener = t_listen(), epoll = OK(epoll_create1(0)), number = -1, last = 0;
    for (int i = 0; i < TIMES; i++) {
        int fd = t_accept(listener);
        // The lowest that is free, each time.
        if (number < 0) number = fd;
        EQ(fd, number);
        struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT * (i % 2), .data.u32 = i}, got;
        OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
        EQ(epoll_wait(epoll, &got, 1, 20000), 1);
        EQ(got.data.u32, i);
        char bytes[64];
        // Some is left unread, now and then, when it is closed.
        int all = i % 3 != 0;
        t_receive(fd, bytes, all ? 10 : 5);
        EQ(bytes[0], i % 100);
        if (all) t_tell(fd, (char)(i % 100));
        OK(close(fd));
        EQ(epoll_wait(epoll, &got, 1, 0), 0);
        // Something else has the number for a moment.
        if (i % 5 == 0) {
            int pipes[2];
            OK(pipe(pipes));
            EQ(pipes[0], number);
            EQ(t_poll(pipes[0], POLLIN, 0), 0);
            FAILS(send(pipes[1], "x", 1, 0), ENOTSOCK);
            FAILS(recv(number, bytes, 1, 0), ENOTSOCK);
            t_tell(pipes[1], 'p');
            t_await(number, 'p');
            OK(close(pipes[0]));
            OK(close(pipes[1]));
        }
        last = i;
    }
    EQ(last, TIMES - 1);
}

static void client(void) {
    int number = -1;
    for (int i = 0; i < TIMES; i++) {
        char bytes[10];
        int fd = t_connect();
        if (number < 0) number = fd;
        EQ(fd, number);
        memset(bytes, i % 100, sizeof bytes);
        t_send(fd, bytes, sizeof bytes);
        char byte = -1;
        ssize_t got = read(fd, &byte, 1);
        if (i % 3 != 0) {
            EQ(got, 1);
            EQ(byte, i % 100);
        } else if (got != 0) {
            EQ(got, -1);
            EQ(errno, ECONNRESET);
        }
        OK(close(fd));
    }
}
