// Options: their values come back, wrong ones are refused, and a connection is what TCP_INFO says.
// also: ipv6
#include "t.h"

static int get(int fd, int level, int option) {
    int value = -1;
    socklen_t length = sizeof value;
    OK(getsockopt(fd, level, option, &value, &length));
    EQ(length, sizeof value);
    return value;
}

static void set(int fd, int level, int option, int value) { OK(setsockopt(fd, level, option, &value, sizeof value)); }

static void common(int fd, int listens) {
    EQ(get(fd, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    EQ(get(fd, SOL_SOCKET, SO_DOMAIN), t_family());
    EQ(get(fd, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
    EQ(get(fd, SOL_SOCKET, SO_ACCEPTCONN), listens);
    EQ(get(fd, SOL_SOCKET, SO_ERROR), 0);
    for (int on = 1; on >= 0; on--) {
        set(fd, SOL_SOCKET, SO_KEEPALIVE, on);
        EQ(get(fd, SOL_SOCKET, SO_KEEPALIVE), on);
        set(fd, IPPROTO_TCP, TCP_NODELAY, on);
        EQ(get(fd, IPPROTO_TCP, TCP_NODELAY), on);
        set(fd, IPPROTO_TCP, TCP_CORK, on);
        EQ(get(fd, IPPROTO_TCP, TCP_CORK), on);
    }
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    EQ(get(fd, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
    EQ(get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 30000);
    set(fd, SOL_SOCKET, SO_SNDBUF, 65536);
    EQ(get(fd, SOL_SOCKET, SO_SNDBUF), 131072);
    set(fd, SOL_SOCKET, SO_RCVBUF, 65536);
    EQ(get(fd, SOL_SOCKET, SO_RCVBUF), 131072);
    struct linger linger = {1, 5};
    socklen_t length = sizeof linger;
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    memset(&linger, 0, sizeof linger);
    OK(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    EQ(linger.l_onoff, 1);
    EQ(linger.l_linger, 5);
    linger.l_onoff = 0;
    OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    FAILS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, 4), EINVAL);

    int value = 1;
    length = sizeof value;
    FAILS(getsockopt(fd, SOL_SOCKET, 31337, &value, &length), ENOPROTOOPT);
    FAILS(setsockopt(fd, SOL_SOCKET, 31337, &value, length), ENOPROTOOPT);
    FAILS(setsockopt(fd, IPPROTO_TCP, 31337, &value, length), ENOPROTOOPT);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, 2), EINVAL);
    // No more is written than there is room for.
    unsigned char bytes[8];
    memset(bytes, 0xee, sizeof bytes);
    length = 2;
    OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, bytes, &length));
    EQ(length, 2);
    EQ(bytes[0], SOCK_STREAM);
    EQ(bytes[2], 0xee);
    length = (socklen_t)-1;
    FAILS(getsockopt(fd, SOL_SOCKET, SO_TYPE, bytes, &length), EINVAL);
}

static void connected(int fd) {
    common(fd, 0);
    struct tcp_info info;
    socklen_t length = sizeof info;
    memset(&info, 0, sizeof info);
    OK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    CHECK(length >= 104);
    EQ(info.tcpi_state, TCP_ESTABLISHED);
    CHECK(info.tcpi_snd_mss >= 500);
    int mss = get(fd, IPPROTO_TCP, TCP_MAXSEG);
    CHECK(mss >= 500 && mss <= 65535);
    char name[16];
    length = sizeof name;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    CHECK(length > 0 && name[0] != 0);
    // No room at all.
    length = 0;
    OK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, NULL, &length));
    EQ(length, 0);
    // For this the C library has every thread take part, whoever made it.
    OK(setgid(getgid()));
}

static void server(void) {
    int listener = t_listen();
    common(listener, 1);
    // What a listener has, its connections have.
    set(listener, IPPROTO_TCP, TCP_NODELAY, 1);
    set(listener, SOL_SOCKET, SO_KEEPALIVE, 1);
    int fd = t_accept(listener);
    t_await(fd, 'a');
    connected(fd);
    t_tell(fd, 'b');
    t_await(fd, 'c');
    OK(close(fd));
    fd = t_accept(listener);
    EQ(get(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    EQ(get(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    t_await_end(fd);
}

static void client(void) {
    int fd = OK(socket(t_family(), SOCK_STREAM, IPPROTO_TCP));
    common(fd, 0);
    OK(connect(fd, (struct sockaddr *)&t_addr, t_addr_len));
    t_tell(fd, 'a');
    t_await(fd, 'b');
    connected(fd);
    t_tell(fd, 'c');
    t_await_end(fd);
    OK(close(t_connect()));
}
