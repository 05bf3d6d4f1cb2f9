// A program that computes for long between two calls: what it was sent meanwhile is acknowledged in time, and there.
#include "t.h"

#define BYTES 20000

static void compute(long ms) {
    volatile unsigned long sum = 0;
    for (long end = t_ms() + ms; t_ms() < end;) {
        for (int i = 0; i < 100000; i++) sum += i;
    }
}

static void absent(int fd) {
    t_tell(fd, 'a');
    compute(1000);
    t_receive_stream(fd, BYTES, 0);
    // What was sent before is gone from here as well, although nothing was called since.
    t_send_stream(fd, BYTES, 0);
    compute(500);
    t_await(fd, 'z');
}

static void watch(int fd) {
    t_await(fd, 'a');
    t_send_stream(fd, BYTES, 0);
    int unsent = -1;
    for (long end = t_ms() + 700; t_ms() < end && unsent != 0;) {
        t_sleep(10);
        OK(ioctl(fd, TIOCOUTQ, &unsent));
    }
    // All of it acknowledged, by someone who has not called anything since.
    EQ(unsent, 0);
    t_receive_stream(fd, BYTES, 0);
    t_tell(fd, 'z');
}

static void server(void) {
    int listener = t_listen();
    absent(t_accept(listener));
    watch(t_accept(listener));
}

static void client(void) {
    watch(t_connect());
    absent(t_connect());
}
