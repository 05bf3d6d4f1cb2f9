// MSG_PEEK, MSG_WAITALL and MSG_TRUNC on a stream, and FIONREAD.
#include "t.h"

static int waiting(int fd) {
    int count = -1;
    OK(ioctl(fd, FIONREAD, &count));
    return count;
}

static void look(int fd) {
    char bytes[16] = "";
    EQ(waiting(fd), 0);
    t_tell(fd, '1');
    EQ(recv(fd, bytes, 6, MSG_WAITALL), 6);
    EQ(memcmp(bytes, "abcdef", 6), 0);

    t_tell(fd, '2');
    // Looking does not take, however often.
    EQ(recv(fd, bytes, 6, MSG_PEEK | MSG_WAITALL), 6);
    EQ(memcmp(bytes, "ghijkl", 6), 0);
    EQ(waiting(fd), 6);
    memset(bytes, 0, sizeof bytes);
    EQ(recv(fd, bytes, 3, MSG_PEEK), 3);
    EQ(memcmp(bytes, "ghi\0", 4), 0);
    EQ(recv(fd, bytes, 2, 0), 2);
    EQ(recv(fd, bytes, sizeof bytes, MSG_PEEK), 4);
    EQ(memcmp(bytes, "ijkl", 4), 0);
    struct iovec parts[2] = {{bytes, 1}, {bytes + 8, 2}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    EQ(recvmsg(fd, &message, MSG_PEEK), 3);
    EQ(bytes[0], 'i');
    EQ(memcmp(bytes + 8, "jk", 2), 0);
    EQ(waiting(fd), 4);
    // On a stream, MSG_TRUNC throws away.
    EQ(recv(fd, NULL, 3, MSG_TRUNC), 3);
    EQ(waiting(fd), 1);
    EQ(read(fd, bytes, sizeof bytes), 1);
    EQ(bytes[0], 'l');
    EQ(waiting(fd), 0);

    // All that is asked for, though it comes in pieces; the end is the end of waiting.
    t_tell(fd, '3');
    EQ(recv(fd, bytes, 10, MSG_WAITALL), 10);
    EQ(memcmp(bytes, "0123456789", 10), 0);
    t_tell(fd, '4');
    EQ(recv(fd, bytes, 10, MSG_WAITALL), 4);
    EQ(memcmp(bytes, "last", 4), 0);
    EQ(recv(fd, bytes, 10, MSG_PEEK), 0);
    EQ(recv(fd, bytes, 10, MSG_WAITALL), 0);
}

static void give(int fd) {
    t_await(fd, '1');
    t_send(fd, "abc", 3);
    t_sleep(50);
    t_send(fd, "def", 3);
    t_await(fd, '2');
    t_send(fd, "ghijkl", 6);
    t_await(fd, '3');
    for (int i = 0; i < 10; i++) {
        t_tell(fd, (char)('0' + i));
        if (i % 3 == 0) t_sleep(20);
    }
    t_await(fd, '4');
    t_send(fd, "last", 4);
    OK(shutdown(fd, SHUT_WR));
}

static void server(void) {
    int listener = t_listen(), fd = t_accept(listener), other = t_accept(listener);
    look(fd);
    give(other);
}

static void client(void) {
    int fd = t_connect(), other = t_connect();
    give(fd);
    look(other);
}
