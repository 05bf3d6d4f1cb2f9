// sendmsg and recvmsg on a stream; sendmmsg and recvmmsg on datagrams and on a stream.
#include "t.h"

#define COUNT 32

static char bytes[COUNT][64];
static struct iovec parts[COUNT];
static struct mmsghdr messages[COUNT];
static struct sockaddr_storage names[COUNT];

static void prepare(void) {
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < COUNT; i++) {
        parts[i] = (struct iovec){bytes[i], sizeof bytes[i]};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
}

static void send_some(int fd, struct sockaddr_storage *to) {
    prepare();
    for (int i = 0; i < COUNT; i++) {
        parts[i].iov_len = i + 1;
        memset(bytes[i], 'a' + i % 26, i + 1);
        messages[i].msg_hdr.msg_name = to;
        messages[i].msg_hdr.msg_namelen = to == NULL ? 0 : t_addr_len;
    }
    EQ(sendmmsg(fd, messages, COUNT, 0), COUNT);
    for (int i = 0; i < COUNT; i++) EQ(messages[i].msg_len, i + 1);
    EQ(sendmmsg(fd, messages, 0, 0), 0);
}

static void receive_some(int fd, struct sockaddr_storage *who) {
    int got = 0;
    while (got < COUNT) {
        prepare();
        for (int i = 0; i < COUNT; i++) {
            messages[i].msg_hdr.msg_name = &names[i];
            messages[i].msg_hdr.msg_namelen = sizeof names[i];
        }
        int now = OK(recvmmsg(fd, messages, COUNT - got, MSG_WAITFORONE, NULL));
        CHECK(now > 0);
        for (int i = 0; i < now; i++) {
            EQ(messages[i].msg_len, got + i + 1);
            EQ(bytes[i][got + i], 'a' + (got + i) % 26);
            EQ(messages[i].msg_hdr.msg_namelen, t_addr_len);
            EQ(messages[i].msg_hdr.msg_flags, 0);
            *who = names[i];
        }
        got += now;
    }
    FAILS(recvmmsg(fd, messages, COUNT, MSG_DONTWAIT, NULL), EAGAIN);
    // Fewer than asked for, when the time is over; it is looked at only as datagrams come.
    struct timeval limit = {0, 50000};
    OK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    prepare();
    FAILS(recvmmsg(fd, messages, 2, 0, NULL), EAGAIN);
    limit.tv_usec = 0;
    OK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
}

static void stream(int fd) {
    char text[16] = "";
    struct iovec two[2] = {{text, 3}, {text + 3, 4}};
    struct sockaddr_storage name;
    struct msghdr message = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = two, .msg_iovlen = 2};
    char control[64];
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    EQ(recvmsg(fd, &message, MSG_WAITALL), 7);
    EQ(strcmp(text, "seven77"), 0);
    // A connection's messages come without a name and without control data.
    EQ(message.msg_namelen, 0);
    EQ(message.msg_controllen, 0);
    EQ(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC | MSG_OOB), 0);
    prepare();
    parts[0].iov_len = 2;
    parts[1].iov_len = 3;
    EQ(recvmmsg(fd, messages, 2, MSG_WAITALL, NULL), 2);
    EQ(messages[0].msg_len, 2);
    EQ(messages[1].msg_len, 3);
    EQ(memcmp(bytes[1], "345", 3), 0);
}

static void stream_peer(int fd) {
    struct iovec two[2] = {{"seven", 5}, {"77", 2}};
    struct msghdr message = {.msg_iov = two, .msg_iovlen = 2};
    EQ(sendmsg(fd, &message, 0), 7);
    prepare();
    memcpy(bytes[0], "12", 2);
    memcpy(bytes[1], "345", 3);
    parts[0].iov_len = 2;
    parts[1].iov_len = 3;
    EQ(sendmmsg(fd, messages, 2, MSG_NOSIGNAL), 2);
}

static void server(void) {
    struct sockaddr_storage who;
    int listener = t_bind(SOCK_STREAM), fd = OK(socket(t_family(), SOCK_DGRAM, 0));
    OK(bind(fd, (struct sockaddr *)&t_addr, t_addr_len));
    OK(listen(listener, 8));
    t_ready();
    receive_some(fd, &who);
    send_some(fd, &who);
    int connection = t_accept(listener);
    stream(connection);
    stream_peer(connection);
}

static void client(void) {
    struct sockaddr_storage who;
    int fd = OK(socket(t_family(), SOCK_DGRAM, 0));
    send_some(fd, &t_addr);
    receive_some(fd, &who);
    EQ(t_port(&who), t_port(&t_addr));
    int connection = t_connect();
    stream_peer(connection);
    stream(connection);
}
