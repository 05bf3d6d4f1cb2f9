// Datagram sockets with a peer: only its datagrams are heard, and its absence is.
#include "t.h"

static struct sockaddr_storage name;

static int bound(void) {
    int fd = OK(socket(t_family(), SOCK_DGRAM, 0));
    struct sockaddr_storage any;
    memset(&any, 0, sizeof any);
    any.ss_family = t_family();
    OK(bind(fd, (struct sockaddr *)&any, t_addr_len));
    return fd;
}

static void server(void) {
    char bytes[64];
    int fd = t_bind(SOCK_DGRAM), other = OK(socket(t_family(), SOCK_DGRAM, 0));
    t_ready();
    socklen_t length = sizeof name;
    EQ(recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&name, &length), 5);
    // From a stranger first, then from the one it is connected to.
    EQ(sendto(other, "stranger", 8, 0, (struct sockaddr *)&name, length), 8);
    EQ(sendto(fd, "friend", 6, 0, (struct sockaddr *)&name, length), 6);
    // This side connects as well, with a datagram already here.
    OK(connect(fd, (struct sockaddr *)&name, length));
    EQ(recv(fd, bytes, sizeof bytes, 0), 4);
    EQ(memcmp(bytes, "next", 4), 0);
    EQ(write(fd, "back", 4), 4);
    struct sockaddr_storage peer;
    length = sizeof peer;
    OK(getpeername(fd, (struct sockaddr *)&peer, &length));
    EQ(t_port(&peer), t_port(&name));
    // Until the client goes: then nobody is there.
    EQ(read(fd, bytes, sizeof bytes), 3);
    t_sleep(100);
    ssize_t result = 1;
    for (int i = 0; i < 100 && result >= 0; i++) {
        result = send(fd, "x", 1, 0);
        t_sleep(5);
    }
    EQ(result, -1);
    EQ(errno, ECONNREFUSED);
}

static void client(void) {
    char bytes[64];
    int fd = bound();
    socklen_t length = sizeof name;
    FAILS(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN);
    OK(connect(fd, (struct sockaddr *)&t_addr, t_addr_len));
    OK(getpeername(fd, (struct sockaddr *)&name, &length));
    EQ(t_port(&name), t_port(&t_addr));
    length = sizeof name;
    OK(getsockname(fd, (struct sockaddr *)&name, &length));
    CHECK(t_port(&name) != 0);
    EQ(send(fd, "hello", 5, 0), 5);
    EQ(recv(fd, bytes, sizeof bytes, 0), 6);
    EQ(memcmp(bytes, "friend", 6), 0);
    EQ(t_poll(fd, POLLIN, 20), 0);
    struct iovec parts[2] = {{"ne", 2}, {"xt", 2}};
    EQ(writev(fd, parts, 2), 4);
    struct sockaddr_storage from;
    length = sizeof from;
    EQ(recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &length), 4);
    EQ(t_port(&from), t_port(&t_addr));
    // Elsewhere once, although it is connected; then to no peer at all.
    EQ(sendto(fd, "end", 3, 0, (struct sockaddr *)&t_addr, t_addr_len), 3);
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    OK(connect(fd, &none, sizeof none));
    FAILS(send(fd, "x", 1, 0), EDESTADDRREQ);
    length = sizeof name;
    FAILS(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN);
    OK(close(fd));
    // Who owns the address is still there, to say that nobody has the port.
    t_sleep(700);
}
