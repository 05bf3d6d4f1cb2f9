// SO_RCVTIMEO and SO_SNDTIMEO: calls that wait end with EAGAIN in time, not before.
#include "t.h"

static void limit(int fd, int which, long ms) {
    struct timeval time = {ms / 1000, ms % 1000 * 1000}, got = {0, 0};
    socklen_t length = sizeof got;
    OK(setsockopt(fd, SOL_SOCKET, which, &time, sizeof time));
    OK(getsockopt(fd, SOL_SOCKET, which, &got, &length));
    EQ(length, sizeof got);
    // The kernel counts in ticks.
    long is = got.tv_sec * 1000 + got.tv_usec / 1000;
    CHECK(is >= ms && is <= ms + 20);
}

static void receiving(int fd) {
    char bytes[8];
    limit(fd, SO_RCVTIMEO, 100);
    TAKES(90, 5000, FAILS(read(fd, bytes, sizeof bytes), EAGAIN));
    TAKES(90, 5000, FAILS(recv(fd, bytes, sizeof bytes, MSG_PEEK), EAGAIN));
    TAKES(0, 80, FAILS(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT), EAGAIN));
    // It is no limit to readiness.
    TAKES(140, 5000, EQ(t_poll(fd, POLLIN, 150), 0));
    // A signal ends such a wait even when others are restarted.
    t_handle(SIGALRM, SA_RESTART);
    t_alarm(30);
    limit(fd, SO_RCVTIMEO, 20000);
    TAKES(10, 5000, FAILS(read(fd, bytes, 1), EINTR));
    // What came before the limit is what a call has that waits for more.
    limit(fd, SO_RCVTIMEO, 200);
    t_tell(fd, 'g');
    TAKES(150, 5000, EQ(recv(fd, bytes, sizeof bytes, MSG_WAITALL), 3));
    struct timeval bad = {0, 1000000};
    FAILS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bad, sizeof bad), EDOM);
    FAILS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bad, 4), EINVAL);
    limit(fd, SO_RCVTIMEO, 0);
    t_tell(fd, 'e');
}

static void provide(int fd) {
    t_await(fd, 'g');
    EQ(write(fd, "abc", 3), 3);
    t_await(fd, 'e');
}

static void sending(int fd, int aside) {
    static unsigned char bytes[1 << 20];
    size_t total = 0;
    limit(fd, SO_SNDTIMEO, 100);
    // It takes some, then fewer than it is given, then none.
    for (;;) {
        t_fill(bytes, sizeof bytes, total);
        long begin = t_ms();
        ssize_t sent = write(fd, bytes, sizeof bytes);
        if (sent < 0) {
            EQ(errno, EAGAIN);
            CHECK(t_ms() - begin >= 90);
            break;
        }
        total += sent;
        CHECK(total < (256u << 20));
    }
    uint64_t said = total;
    limit(fd, SO_SNDTIMEO, 0);
    // The peer reads once it is told.
    t_tell(aside, 'f');
    t_send_stream(fd, 4096, total);
    said += 4096;
    OK(shutdown(fd, SHUT_WR));
    uint64_t got = 0;
    t_receive(fd, &got, sizeof got);
    EQ(got, said);
}

static void drained(int fd, int aside) {
    static unsigned char bytes[65536];
    uint64_t total = 0;
    t_await(aside, 'f');
    for (ssize_t got; (got = OK(read(fd, bytes, sizeof bytes))) > 0; total += got) t_verify(bytes, got, total);
    t_send(fd, &total, sizeof total);
}

static void server(void) {
    int listener = t_bind(SOCK_STREAM);
    OK(listen(listener, 8));
    limit(listener, SO_RCVTIMEO, 100);
    TAKES(90, 5000, FAILS(accept(listener, NULL, NULL), EAGAIN));
    limit(listener, SO_RCVTIMEO, 0);
    t_ready();
    int fd = t_accept(listener), other = t_accept(listener), aside = t_accept(listener);
    receiving(fd);
    provide(fd);
    sending(fd, aside);
    drained(other, aside);
}

static void client(void) {
    int fd = t_connect(), other = t_connect(), aside = t_connect();
    provide(fd);
    receiving(fd);
    drained(fd, aside);
    sending(other, aside);
}
