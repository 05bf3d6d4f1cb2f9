// readv, writev, sendmsg and recvmsg with many parts, empty ones among them.
#include "t.h"

#define PARTS IOV_MAX

static struct iovec parts[PARTS + 1];
static unsigned char bytes[PARTS * 64];

/* Parts of 0 to 63 bytes; how many bytes in all. */
static size_t cut(void) {
    size_t place = 0;
    for (int i = 0; i < PARTS; i++) {
        parts[i] = (struct iovec){bytes + place, i % 64};
        place += i % 64;
    }
    return place;
}

static void give(int fd) {
    size_t total = cut();
    t_fill(bytes, total, 0);
    // It fits into any send buffer, so it goes at once.
    EQ(writev(fd, parts, PARTS), total);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = PARTS};
    EQ(sendmsg(fd, &message, 0), total);
    EQ(writev(fd, parts, 0), 0);
    FAILS(writev(fd, parts, PARTS + 1), EINVAL);
    FAILS(writev(fd, parts, t_opaque(-1)), EINVAL);
    message.msg_iovlen = PARTS + 1;
    FAILS(sendmsg(fd, &message, 0), EMSGSIZE);
    FAILS(pwrite(fd, bytes, 1, 0), ESPIPE);
    FAILS(lseek(fd, 0, SEEK_CUR), ESPIPE);
}

static void take(int fd) {
    size_t total = cut();
    memset(bytes, 0, sizeof bytes);
    size_t got = OK(readv(fd, parts, PARTS));
    CHECK(got > 0 && got <= total);
    t_verify(bytes, got, 0);
    t_receive_stream(fd, total - got, got);
    memset(bytes, 0, sizeof bytes);
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = PARTS, .msg_namelen = 77, .msg_flags = -1};
    EQ(recvmsg(fd, &message, MSG_WAITALL), total);
    t_verify(bytes, total, 0);
    EQ(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC), 0);
    FAILS(readv(fd, parts, PARTS + 1), EINVAL);
    FAILS(readv(fd, parts, t_opaque(-1)), EINVAL);
    message.msg_iovlen = PARTS + 1;
    FAILS(recvmsg(fd, &message, 0), EMSGSIZE);
    FAILS(pread(fd, bytes, 1, 0), ESPIPE);
}

static void server(void) {
    int fd = t_accept(t_listen());
    give(fd);
    take(fd);
    t_tell(fd, 'e');
}

static void client(void) {
    int fd = t_connect();
    take(fd);
    give(fd);
    t_await(fd, 'e');
}
