// accept4 and its flags, what is inherited and what is not, several in a row, and what was waiting at close.
#include "t.h"

static int flags(int fd) { return OK(fcntl(fd, F_GETFL)) & O_NONBLOCK; }
static int cloexec(int fd) { return OK(fcntl(fd, F_GETFD)) & FD_CLOEXEC; }

static void server(void) {
    int listener = t_listen(), fd;
    FAILS(accept4(listener, NULL, NULL, 0x40000000), EINVAL);
    // A non-blocking listener's connections wait, unless they are asked not to.
    t_nonblock(listener);
    OK(fcntl(listener, F_SETFD, FD_CLOEXEC));
    EQ(t_poll(listener, POLLIN, 10000), POLLIN);
    fd = OK(accept(listener, NULL, NULL));
    EQ(flags(fd), 0);
    EQ(cloexec(fd), 0);
    t_await(fd, '0');
    EQ(t_poll(listener, POLLIN, 10000), POLLIN);
    fd = OK(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
    EQ(flags(fd), O_NONBLOCK);
    EQ(cloexec(fd), 0);
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    t_await(fd, '1');
    EQ(t_poll(listener, POLLIN, 10000), POLLIN);
    fd = OK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    EQ(flags(fd), 0);
    EQ(cloexec(fd), FD_CLOEXEC);
    t_await(fd, '2');
    OK(fcntl(listener, F_SETFL, 0));
    fd = OK(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
    EQ(flags(fd), O_NONBLOCK);
    EQ(cloexec(fd), FD_CLOEXEC);
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    t_await(fd, '3');

    // Twenty that have come, written and gone before they are accepted.
    t_tell(fd, 'g');
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    t_await(fd, 'd');
    for (int i = 0; i < 20; i++) {
        int one = t_accept(listener);
        char bytes[2];
        t_receive(one, bytes, 2);
        EQ(bytes[0], 'a' + i);
        t_await_end(one);
        OK(close(one));
    }
    // Those that wait when the listener goes are reset.
    t_tell(fd, 'w');
    EQ(t_poll(listener, POLLIN, 10000), POLLIN);
    OK(close(listener));
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    t_await(fd, 'r');
}

static void client(void) {
    int first = -1;
    for (int i = 0; i < 4; i++) {
        first = t_connect();
        t_tell(first, (char)('0' + i));
    }
    t_await(first, 'g');
    for (int i = 0; i < 20; i++) {
        int fd = t_connect();
        char bytes[2] = {(char)('a' + i), '!'};
        t_send(fd, bytes, 2);
        OK(close(fd));
    }
    t_tell(first, 'd');
    t_await(first, 'w');
    // It may be reset before this side has noticed that it is there.
    int fd = OK(socket(t_family(), SOCK_STREAM, 0));
    char byte;
    if (connect(fd, (struct sockaddr *)&t_addr, t_addr_len) == 0) FAILS(read(fd, &byte, 1), ECONNRESET);
    else EQ(errno, ECONNRESET);
    t_tell(first, 'r');
}
