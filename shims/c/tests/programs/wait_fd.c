/* An event loop of the program's own: it sleeps on the descriptor, with the library's leave. */
#include "common.h"

#include <poll.h>

static int prepared(struct timespec *limit)
{
    memset(limit, 0xaa, sizeof *limit);
    return demi_prepare_sleep(limit);
}

/* Takes the next result, and sleeps for it with poll(2) only. */
static demi_qresult_t next(int fd)
{
    for (int turn = 0; turn < 10000; turn++) {
        demi_qresult_t qr;
        struct timespec limit;
        int count = 0, returned = demi_wait_next_n(&qr, 1, &count, &at_once);
        if (returned == 0 && count == 1)
            return qr;
        CHECK(returned == ETIMEDOUT);
        returned = prepared(&limit);
        CHECK(returned == 0 || returned == EAGAIN);
        if (returned == EAGAIN)
            continue;
        CHECK(limit.tv_sec < 0 || limit.tv_nsec < 1000000000);
        long ms = limit.tv_sec < 0 || limit.tv_sec > 20 ? 20000 : limit.tv_sec * 1000 + (limit.tv_nsec + 999999) / 1000000;
        struct pollfd poller = {.fd = fd, .events = POLLIN};
        CHECK(poll(&poller, 1, (int)ms) >= 0);
    }
    CHECK(!"it came");
    abort();
}

int main(int argc, char *const argv[])
{
    struct timespec limit;
    int fd = -1, again = -1, ends_[2];
    RETURNS(ENOSYS, demi_wait_fd(&fd));
    RETURNS(ENOSYS, demi_prepare_sleep(&limit));
    init(argc, argv);
    OK(demi_wait_fd(&fd));
    OK(demi_wait_fd(&again));
    CHECK(fd >= 0 && fd == again);
    RETURNS(EINVAL, demi_wait_fd(NULL));
    RETURNS(EINVAL, demi_prepare_sleep(NULL));

    connected(AF_INET, ends_);
    uint64_t turns = counter("turns");
    for (int turn = 0; turn < 100; turn++) {
        demi_qtoken_t pop = start_pop(ends_[1]), pushed = start_push(ends_[0], "12345678", 8);
        int popped = 0;
        for (int of = 0; of < 2; of++) {
            demi_qresult_t qr = next(fd);
            CHECK(qr.qr_qt == pop || qr.qr_qt == pushed);
            if (qr.qr_qt != pop)
                continue;
            popped++;
            CHECK(qr.qr_opcode == DEMI_OPC_POP);
            holds(&qr.qr_value.sga, "12345678");
            OK(demi_sgafree(&qr.qr_value.sga));
        }
        CHECK(popped == 1);
    }
    CHECK(counter("turns") - turns < 20000);

    /* A result that is there already. */
    int queue;
    OK(demi_queue(&queue));
    demi_qtoken_t qt = start_push(queue, "x", 1);
    RETURNS(EAGAIN, prepared(&limit));
    done(qt, DEMI_OPC_PUSH);
    /* Nothing comes: the sleep takes as long as the program likes, and the descriptor is quiet. */
    qt = start_pop(ends_[0]);
    demi_qresult_t qr;
    RETURNS(ETIMEDOUT, demi_wait(&qr, qt, &(struct timespec){.tv_nsec = 300000000}));
    int quiet = 0;
    for (int turn = 0; turn < 100 && !quiet; turn++) {
        int count;
        demi_wait_next_n(&qr, 1, &count, &at_once);
        if (prepared(&limit) == 0) {
            struct pollfd poller = {.fd = fd, .events = POLLIN};
            quiet = poll(&poller, 1, 1) == 0;
        }
    }
    CHECK(quiet);
    return 0;
}
