// A signal every millisecond while megabytes go both ways: every interrupted call is made again, and no byte is lost.
#include "t.h"

#define BYTES (4u << 20)

static volatile sig_atomic_t ticks;

static void tick(int signal) {
    (void)signal;
    ticks++;
}

static ssize_t again(ssize_t result) {
    if (result < 0) {
        EQ(errno, EINTR);
        return 0;
    }
    CHECK(result > 0);
    return result;
}

static void *write_all(void *argument) {
    int fd = (int)(intptr_t)argument;
    static unsigned char chunk[50000];
    for (size_t done = 0; done < BYTES;) {
        size_t part = BYTES - done < sizeof chunk ? BYTES - done : sizeof chunk;
        t_fill(chunk, part, done);
        for (size_t sent = 0; sent < part;) sent += again(write(fd, chunk + sent, part - sent));
        done += part;
    }
    return NULL;
}

static void storm(int fd) {
    struct sigaction action = {.sa_handler = tick};
    OK(sigaction(SIGALRM, &action, NULL));
    struct itimerval timer = {{0, 1000}, {0, 1000}};
    OK(setitimer(ITIMER_REAL, &timer, NULL));
    pthread_t writer;
    EQ(pthread_create(&writer, NULL, write_all, (void *)(intptr_t)fd), 0);
    static unsigned char chunk[50000];
    for (size_t done = 0; done < BYTES;) {
        ssize_t got = again(read(fd, chunk, sizeof chunk));
        t_verify(chunk, got, done);
        done += got;
    }
    t_join(writer);
    memset(&timer, 0, sizeof timer);
    OK(setitimer(ITIMER_REAL, &timer, NULL));
    CHECK(ticks > 0);
    OK(shutdown(fd, SHUT_WR));
    t_await_end(fd);
}

static void server(void) { storm(t_accept(t_listen())); }

static void client(void) { storm(t_connect()); }
