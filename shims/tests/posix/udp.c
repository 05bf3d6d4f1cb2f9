// Datagrams without a connection: who sent them, what is cut off, empty ones, looking at them, and what is too large.
// also: ipv6
#include "t.h"

static struct sockaddr_storage from;

/* The socket has what was sent, in order; datagrams on one wire are not lost here. */
static void receive(int fd, const char *expected) {
    char bytes[2000];
    socklen_t length = sizeof from;
    memset(&from, 0xee, sizeof from);
    EQ(recvfrom(fd, bytes, sizeof bytes, 0, (struct sockaddr *)&from, &length), strlen(expected));
    EQ(memcmp(bytes, expected, strlen(expected)), 0);
    EQ(length, t_addr_len);
    EQ(from.ss_family, t_family());
}

static void reply(int fd, const char *text) {
    EQ(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&from, t_addr_len), strlen(text));
}

static void look(int fd) {
    char bytes[16];
    int count = -1, type = -1;
    socklen_t length = sizeof type;
    OK(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length));
    EQ(type, SOCK_DGRAM);
    // A wait, by poll.
    EQ(t_poll(fd, POLLIN | POLLOUT, 0), POLLOUT);
    reply(fd, "go");
    EQ(t_poll(fd, POLLIN, 10000), POLLIN);
    receive(fd, "one");
    receive(fd, "second");
    receive(fd, "");
    // Cut off; with MSG_TRUNC the whole length is said; the rest is gone.
    EQ(recv(fd, bytes, 4, MSG_PEEK), 4);
    EQ(recv(fd, bytes, 4, MSG_PEEK | MSG_TRUNC), 10);
    OK(ioctl(fd, FIONREAD, &count));
    EQ(count, 10);
    EQ(recv(fd, bytes, 4, 0), 4);
    EQ(memcmp(bytes, "0123", 4), 0);
    struct iovec parts[2] = {{bytes, 2}, {bytes + 8, 3}};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = parts, .msg_iovlen = 2};
    EQ(recvmsg(fd, &message, 0), 5);
    EQ(message.msg_flags, MSG_TRUNC);
    EQ(message.msg_namelen, t_addr_len);
    EQ(message.msg_controllen, 0);
    EQ(memcmp(bytes, "ab", 2), 0);
    EQ(memcmp(bytes + 8, "cde", 3), 0);
    message.msg_iovlen = 1;
    EQ(recvmsg(fd, &message, MSG_TRUNC), 8);
    // No room at all takes one as well.
    EQ(recv(fd, bytes, 0, 0), 0);
    EQ(readv(fd, parts, 2), 4);
    EQ(memcmp(bytes + 8, "ft", 2), 0);
    FAILS(recv(fd, bytes, 4, MSG_DONTWAIT), EAGAIN);
    static char large[70000];
    FAILS(sendto(fd, large, sizeof large, 0, (struct sockaddr *)&from, t_addr_len), EMSGSIZE);
    FAILS(send(fd, "x", 1, 0), EDESTADDRREQ);
    FAILS(write(fd, "x", 1), EDESTADDRREQ);
    FAILS(sendto(fd, "x", 1, 0, (struct sockaddr *)&from, 3), EINVAL);
    reply(fd, "done");
}

static void give(int fd, int asks) {
    if (asks) EQ(sendto(fd, "hello", 5, 0, (struct sockaddr *)&t_addr, t_addr_len), 5);
    else receive(fd, "hello");
}

static void speak(int fd) {
    receive(fd, "go");
    const char *all[] = {"one", "second", "", "0123456789", "abcdefgh", "ijklmnop", "thrown away", "left"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) reply(fd, all[i]);
    receive(fd, "done");
}

static void server(void) {
    int fd = t_bind(SOCK_DGRAM);
    t_ready();
    give(fd, 0);
    look(fd);
    speak(fd);
    reply(fd, "now");
    // Large ones, in pieces on the wire, which may go another way than the whole ones before them.
    static unsigned char large[40000];
    socklen_t length = sizeof from;
    for (int i = 0; i < 3; i++) {
        EQ(recvfrom(fd, large, sizeof large, 0, (struct sockaddr *)&from, &length), 20000 + i);
        t_verify(large, 20000 + i, i);
        EQ(sendto(fd, large, 20000 + i, 0, (struct sockaddr *)&from, length), 20000 + i);
    }
}

static void client(void) {
    int fd = OK(socket(t_family(), SOCK_DGRAM, 0));
    give(fd, 1);
    speak(fd);
    look(fd);
    receive(fd, "now");
    static unsigned char large[40000];
    for (int i = 0; i < 3; i++) {
        t_fill(large, 20000 + i, i);
        EQ(sendto(fd, large, 20000 + i, 0, (struct sockaddr *)&t_addr, t_addr_len), 20000 + i);
        memset(large, 0, sizeof large);
        EQ(recv(fd, large, sizeof large, 0), 20000 + i);
        t_verify(large, 20000 + i, i);
    }
}
