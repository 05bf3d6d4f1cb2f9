// A peer that does not read: its connection fills up to a bound and stays there, others go on, and at last it gets all.
#include "t.h"

static void fill_and_serve(int stalled, int lively) {
    static unsigned char chunk[65536];
    size_t total = 0;
    t_nonblock(stalled);
    for (int full = 0; full < 3;) {
        t_fill(chunk, sizeof chunk, total);
        ssize_t sent = write(stalled, chunk, sizeof chunk);
        if (sent < 0) {
            EQ(errno, EAGAIN);
            full++;
            t_sleep(20);
        } else {
            total += sent;
        }
        CHECK(total < (64u << 20));
    }
    // Full for one is not full for another.
    for (int i = 0; i < 200; i++) {
        t_tell(lively, (char)i);
        t_await(lively, (char)i);
    }
    uint64_t sent = total;
    t_send(lively, &sent, sizeof sent);
    OK(shutdown(stalled, SHUT_WR));
    t_await(lively, 'd');
    EQ(t_poll(stalled, POLLIN, 10000) & POLLIN, POLLIN);
    t_await_end(stalled);
}

static void stall(int stalled, int lively) {
    for (int i = 0; i < 200; i++) {
        t_await(lively, (char)i);
        t_tell(lively, (char)i);
    }
    uint64_t total;
    t_receive(lively, &total, sizeof total);
    t_receive_stream(stalled, total, 0);
    t_await_end(stalled);
    t_tell(lively, 'd');
    OK(close(stalled));
    OK(close(lively));
}

static void server(void) {
    int listener = t_listen(), one = t_accept(listener), other = t_accept(listener);
    fill_and_serve(one, other);
    one = t_accept(listener);
    other = t_accept(listener);
    stall(one, other);
}

static void client(void) {
    int one = t_connect(), other = t_connect();
    stall(one, other);
    one = t_connect();
    other = t_connect();
    fill_and_serve(one, other);
}
