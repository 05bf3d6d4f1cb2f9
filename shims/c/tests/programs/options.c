/* Socket options by the system's names. */
#include "common.h"

#include <netinet/tcp.h>

static void flag(int qd, int level, int name)
{
    for (int on = 1; on >= 0; on--) {
        int read = -1;
        socklen_t len = sizeof read;
        OK(demi_setsockopt(qd, level, name, &on, sizeof on));
        OK(demi_getsockopt(qd, level, name, &read, &len));
        CHECK((read != 0) == on && len == sizeof read);
    }
}

static void number(int qd, int level, int name, int value)
{
    int read = -1;
    socklen_t len = sizeof read;
    OK(demi_setsockopt(qd, level, name, &value, sizeof value));
    OK(demi_getsockopt(qd, level, name, &read, &len));
    /* The kernel doubles buffers. */
    CHECK((read == value || read == 2 * value) && len == sizeof read);
    value = -1;
    RETURNS(EINVAL, demi_setsockopt(qd, level, name, &value, sizeof value));
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(AF_INET, &addr, &len), ends_[2];
    join(listening, &addr, len, ends_);
    flag(ends_[0], SOL_SOCKET, SO_KEEPALIVE);
    flag(ends_[0], IPPROTO_TCP, TCP_NODELAY);
    number(ends_[0], IPPROTO_TCP, TCP_KEEPIDLE, 100);
    number(ends_[0], IPPROTO_TCP, TCP_KEEPINTVL, 10);
    number(ends_[0], IPPROTO_TCP, TCP_KEEPCNT, 5);
    number(ends_[0], IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
    number(ends_[0], SOL_SOCKET, SO_SNDBUF, 65536);
    number(ends_[0], SOL_SOCKET, SO_RCVBUF, 65536);
    int value = 1, type = -1;
    OK(demi_setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));

    struct linger linger = {.l_onoff = 1, .l_linger = 3}, read = {0};
    OK(demi_setsockopt(ends_[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    len = sizeof read;
    OK(demi_getsockopt(ends_[0], SOL_SOCKET, SO_LINGER, &read, &len));
    CHECK(len == sizeof read && read.l_onoff == 1 && read.l_linger == 3);
    RETURNS(EINVAL, demi_setsockopt(ends_[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(int)));
    linger.l_onoff = 0;
    OK(demi_setsockopt(ends_[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    OK(demi_getsockopt(ends_[0], SOL_SOCKET, SO_LINGER, &read, &len));
    CHECK(read.l_onoff == 0);

    /* As much as there is room for. */
    unsigned char bytes[4] = {0xaa, 0xaa, 0xaa, 0xaa};
    len = 2;
    OK(demi_getsockopt(ends_[0], IPPROTO_TCP, TCP_KEEPIDLE, bytes, &len));
    CHECK(len == 2 && bytes[0] == 100 && bytes[1] == 0 && bytes[2] == 0xaa);

    len = sizeof type;
    OK(demi_getsockopt(ends_[0], SOL_SOCKET, SO_TYPE, &type, &len));
    CHECK(type == SOCK_STREAM);
    RETURNS(ENOPROTOOPT, demi_setsockopt(ends_[0], SOL_SOCKET, 9999, &value, sizeof value));
    RETURNS(ENOPROTOOPT, demi_setsockopt(ends_[0], 9999, SO_KEEPALIVE, &value, sizeof value));
    RETURNS(ENOPROTOOPT, demi_getsockopt(ends_[0], SOL_SOCKET, 9999, &value, &len));

    value = 1;
    RETURNS(ENOPROTOOPT, demi_setsockopt(ends_[0], SOL_SOCKET, SO_ERROR, &value, sizeof value));
    for (int end = 0; end < 2; end++) {
        int error = -1;
        len = sizeof error;
        OK(demi_getsockopt(ends_[end], SOL_SOCKET, SO_ERROR, &error, &len));
        CHECK(error == 0 && len == sizeof error);
    }

    int datagrams = bound(AF_INET, SOCK_DGRAM, &addr, &len);
    len = sizeof type;
    OK(demi_getsockopt(datagrams, SOL_SOCKET, SO_TYPE, &type, &len));
    CHECK(type == SOCK_DGRAM);
    flag(datagrams, SOL_SOCKET, SO_BROADCAST);
    return 0;
}
