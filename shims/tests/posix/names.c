// getsockname and getpeername before, during and after a connection.
// also: ipv6
#include "t.h"

static struct sockaddr_storage name, peer;

static void name_of(int fd) {
    socklen_t length = sizeof name;
    memset(&name, 0xee, sizeof name);
    OK(getsockname(fd, (struct sockaddr *)&name, &length));
    EQ(length, t_addr_len);
    EQ(name.ss_family, t_family());
}

static void peer_of(int fd) {
    socklen_t length = sizeof peer;
    memset(&peer, 0xee, sizeof peer);
    OK(getpeername(fd, (struct sockaddr *)&peer, &length));
    EQ(length, t_addr_len);
}

static void fresh(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM, 0));
    socklen_t length = sizeof peer;
    name_of(fd);
    EQ(t_port(&name), 0);
    FAILS(getpeername(fd, (struct sockaddr *)&peer, &length), ENOTCONN);
    OK(close(fd));
    FAILS(getsockname(fd, (struct sockaddr *)&peer, &length), EBADF);
    int pipes[2];
    OK(pipe(pipes));
    FAILS(getsockname(pipes[0], (struct sockaddr *)&peer, &length), ENOTSOCK);
}

/* Names are sent to the other side, which knows them as well. */
static void exchange(int fd) {
    struct {
        struct sockaddr_storage name, peer;
    } mine, its;
    memset(&mine, 0, sizeof mine);
    name_of(fd);
    peer_of(fd);
    memcpy(&mine.name, &name, t_addr_len);
    memcpy(&mine.peer, &peer, t_addr_len);
    t_send(fd, &mine, sizeof mine);
    t_receive(fd, &its, sizeof its);
    CHECK(t_same_host(&its.name, &mine.peer) && t_port(&its.name) == t_port(&mine.peer));
    CHECK(t_same_host(&its.peer, &mine.name) && t_port(&its.peer) == t_port(&mine.name));

    // As much as there is room for, and how much there would be.
    socklen_t length = 4;
    unsigned char bytes[8];
    memset(bytes, 0xee, sizeof bytes);
    OK(getpeername(fd, (struct sockaddr *)bytes, &length));
    EQ(length, t_addr_len);
    EQ(memcmp(bytes, &peer, 4), 0);
    EQ(bytes[4], 0xee);
    length = (socklen_t)-1;
    FAILS(getpeername(fd, (struct sockaddr *)bytes, &length), EINVAL);
    // After the end of both sides the own name is still there.
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
    name_of(fd);
    CHECK(t_port(&name) == t_port(&mine.name));
}

static void server(void) {
    fresh();
    int listener = t_listen();
    name_of(listener);
    CHECK(t_same_host(&name, &t_addr));
    socklen_t length = sizeof peer;
    FAILS(getpeername(listener, (struct sockaddr *)&peer, &length), ENOTCONN);
    int fd = OK(accept(listener, (struct sockaddr *)&peer, &length));
    EQ(length, t_addr_len);
    struct sockaddr_storage accepted = peer;
    peer_of(fd);
    EQ(t_port(&peer), t_port(&accepted));
    name_of(fd);
    EQ(t_port(&name), t_port(&t_addr));
    exchange(fd);
    // A short place for the peer's name.
    length = 6;
    memset(&peer, 0xee, sizeof peer);
    fd = OK(accept(listener, (struct sockaddr *)&peer, &length));
    EQ(length, t_addr_len);
    EQ(peer.ss_family, t_family());
    EQ(((unsigned char *)&peer)[6], 0xee);
    t_await_end(fd);
    // A client that chose its port.
    length = sizeof peer;
    fd = OK(accept(listener, (struct sockaddr *)&peer, &length));
    uint16_t port;
    t_receive(fd, &port, sizeof port);
    EQ(port, t_port(&peer));
}

static void client(void) {
    fresh();
    int fd = t_connect();
    peer_of(fd);
    EQ(t_port(&peer), t_port(&t_addr));
    CHECK(t_same_host(&peer, &t_addr));
    name_of(fd);
    CHECK(t_port(&name) != 0);
    exchange(fd);
    OK(close(t_connect()));

    // Bound before it connects, to any address and a port of the kernel's choice.
    fd = OK(socket(t_family(), SOCK_STREAM, 0));
    struct sockaddr_storage any;
    memset(&any, 0, sizeof any);
    any.ss_family = t_family();
    OK(bind(fd, (struct sockaddr *)&any, t_addr_len));
    name_of(fd);
    uint16_t port = t_port(&name);
    CHECK(port != 0);
    FAILS(bind(fd, (struct sockaddr *)&any, t_addr_len), EINVAL);
    OK(connect(fd, (struct sockaddr *)&t_addr, t_addr_len));
    name_of(fd);
    EQ(t_port(&name), port);
    t_send(fd, &port, sizeof port);
    OK(close(fd));
}
