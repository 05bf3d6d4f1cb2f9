// Calls that would have to wait, on sockets and with flags that forbid it.
#include "t.h"

static void would_wait(int fd) {
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    FAILS(read(fd, &byte, 1), EAGAIN);
    FAILS(readv(fd, &part, 1), EAGAIN);
    FAILS(recv(fd, &byte, 1, 0), EAGAIN);
    FAILS(recv(fd, &byte, 1, MSG_PEEK), EAGAIN);
    FAILS(recv(fd, &byte, 1, MSG_WAITALL), EAGAIN);
    FAILS(recvfrom(fd, &byte, 1, 0, NULL, NULL), EAGAIN);
    FAILS(recvmsg(fd, &message, 0), EAGAIN);
    // Nothing asked for is nothing waited for.
    EQ(read(fd, &byte, 0), 0);
}

static void ready(int fd, short events) {
    EQ(t_poll(fd, events, 10000), events);
}

/* Of two sides, one looks while the other says nothing before it is told to. */
static void look(int fd) {
    char byte;
    FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
    t_nonblock(fd);
    would_wait(fd);
    t_tell(fd, 'g');
    ready(fd, POLLIN);
    EQ(read(fd, &byte, 1), 1);
    EQ(byte, '1');
    would_wait(fd);
    // Back to one that waits.
    OK(fcntl(fd, F_SETFL, OK(fcntl(fd, F_GETFL)) & ~O_NONBLOCK));
    FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
    t_tell(fd, 'g');
    t_await(fd, '2');
}

static void obey(int fd) {
    t_await(fd, 'g');
    t_tell(fd, '1');
    t_await(fd, 'g');
    t_sleep(20);
    t_tell(fd, '2');
}

static void server(void) {
    int listener = t_bind(SOCK_STREAM);
    OK(listen(listener, 8));
    t_nonblock(listener);
    FAILS(accept(listener, NULL, NULL), EAGAIN);
    FAILS(accept4(listener, NULL, NULL, SOCK_NONBLOCK), EAGAIN);
    EQ(t_poll(listener, POLLIN, 0), 0);
    t_ready();
    ready(listener, POLLIN);
    int fd = t_accept(listener);
    FAILS(accept(listener, NULL, NULL), EAGAIN);
    look(fd);
    obey(fd);
    t_await_end(fd);
}

static void client(void) {
    int fd = t_connect();
    obey(fd);
    look(fd);
}
