// A non-blocking sender, faster than its receiver: writes are partial, then none, then go on; nothing is lost.
// also: ipv6
#include "t.h"

#define TOTAL (8u << 20)

static void send_all(int fd) {
    // Of a length that is no buffer's.
    static unsigned char bytes[3 << 19];
    size_t place = 0;
    int partial = 0, refused = 0;
    t_nonblock(fd);
    while (place < TOTAL) {
        size_t length = TOTAL - place < sizeof bytes ? TOTAL - place : sizeof bytes;
        t_fill(bytes, length, place);
        ssize_t sent = write(fd, bytes, length);
        if (sent < 0) {
            EQ(errno, EAGAIN);
            refused++;
            EQ(t_poll(fd, POLLOUT, 20000), POLLOUT);
            continue;
        }
        CHECK(sent > 0);
        partial += (size_t)sent < length;
        place += sent;
    }
    // The receiver slept: no buffer is that large.
    CHECK(partial > 0);
    CHECK(refused > 0);
}

static void receive_all(int fd) {
    t_sleep(300);
    t_receive_stream(fd, TOTAL, 0);
}

static void server(void) {
    int fd = t_accept(t_listen());
    send_all(fd);
    OK(fcntl(fd, F_SETFL, 0));
    receive_all(fd);
    t_await_end(fd);
}

static void client(void) {
    int fd = t_connect();
    receive_all(fd);
    send_all(fd);
}
