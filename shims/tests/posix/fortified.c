// The checked forms that a compiler puts in when it is asked to: __read_chk, __recv_chk, __recvfrom_chk, __poll_chk, …
// flags: -O2 -D_FORTIFY_SOURCE=2
#include "t.h"

static void look(int fd) {
    char bytes[32];
    struct pollfd set[2] = {{.fd = fd, .events = POLLIN}};
    struct sockaddr_storage from;
    socklen_t length = sizeof from;
    struct timespec time = {10, 0};
    // Lengths that the compiler cannot see, into arrays that it can.
    EQ(poll(set, t_opaque(1), 0), 0);
    t_tell(fd, 'g');
    EQ(poll(set, t_opaque(1), 10000), 1);
    EQ(ppoll(set, t_opaque(1), &time, NULL), 1);
    EQ(recv(fd, bytes, t_opaque(4), MSG_WAITALL), 4);
    EQ(memcmp(bytes, "0123", 4), 0);
    EQ(recvfrom(fd, bytes, t_opaque(4), MSG_WAITALL, (struct sockaddr *)&from, &length), 4);
    EQ(memcmp(bytes, "4567", 4), 0);
    EQ(read(fd, bytes, t_opaque(2)), 2);
    EQ(memcmp(bytes, "89", 2), 0);
    FAILS(recv(fd, bytes, t_opaque(1), MSG_DONTWAIT), EAGAIN);
    fd_set fds;
    FD_ZERO(&fds);
    FD_SET(t_opaque(fd), &fds);
    CHECK(FD_ISSET(t_opaque(fd), &fds));
    t_tell(fd, 'h');
    EQ(select(fd + 1, &fds, NULL, NULL, NULL), 1);
    EQ(read(fd, bytes, t_opaque(1)), 1);
    FD_CLR(t_opaque(fd), &fds);
}

static void answer(int fd) {
    char bytes[1];
    EQ(read(fd, bytes, t_opaque(1)), 1);
    t_send(fd, "0123456789", 10);
    EQ(recv(fd, bytes, t_opaque(1), 0), 1);
    t_send(fd, "i", 1);
}

static void server(void) {
    int listener = t_listen();
    look(t_accept(listener));
    answer(t_accept(listener));
}

static void client(void) {
    answer(t_connect());
    look(t_connect());
}
