// Sockets bound to no address in particular, by IPv4 and by an IPv6 socket that takes both.
#include "t.h"

static int listen_any(int family, uint16_t port, int only) {
    int fd = OK(socket(family, SOCK_STREAM, 0)), one = 1;
    struct sockaddr_storage any;
    memset(&any, 0, sizeof any);
    any.ss_family = family;
    t_set_port(&any, port);
    OK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    if (family == AF_INET6) OK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only));
    OK(bind(fd, (struct sockaddr *)&any, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
    OK(listen(fd, 8));
    return fd;
}

static void server(void) {
    struct sockaddr_storage name, peer;
    socklen_t length = sizeof name;
    int listener = listen_any(AF_INET, 0, 0);
    OK(getsockname(listener, (struct sockaddr *)&name, &length));
    t_set_port(&t_addr, t_port(&name));
    EQ(((struct sockaddr_in *)&name)->sin_addr.s_addr, 0);
    t_ready();
    int fd = t_accept(listener);
    // Its connection has the address that the client used.
    length = sizeof name;
    OK(getsockname(fd, (struct sockaddr *)&name, &length));
    CHECK(t_same_host(&name, &t_addr));
    OK(close(listener));
    // The same port, while a connection on it lives, by a socket for both families.
    listener = listen_any(AF_INET6, t_port(&t_addr), 0);
    t_tell(fd, 'b');
    length = sizeof peer;
    int both = OK(accept(listener, (struct sockaddr *)&peer, &length));
    EQ(peer.ss_family, AF_INET6);
    CHECK(IN6_IS_ADDR_V4MAPPED(&((struct sockaddr_in6 *)&peer)->sin6_addr));
    EQ(length, sizeof(struct sockaddr_in6));
    length = sizeof name;
    OK(getsockname(both, (struct sockaddr *)&name, &length));
    CHECK(IN6_IS_ADDR_V4MAPPED(&((struct sockaddr_in6 *)&name)->sin6_addr));
    t_tell(both, 'm');
    t_await_end(both);
}

static void client(void) {
    int fd = t_connect();
    t_await(fd, 'b');
    int both = t_connect();
    t_await(both, 'm');
    OK(close(both));
}
