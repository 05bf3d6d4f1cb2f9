/* Cancelling, and closing under what is outstanding. */
#include "common.h"

int main(int argc, char *const argv[])
{
    init(argc, argv);
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(AF_INET, &addr, &len), ends[2];
    join(listening, &addr, len, ends);

    demi_qtoken_t pop = start_pop(ends[0]);
    OK(demi_cancel(pop));
    fails(pop, ECANCELED);
    RETURNS(EINVAL, demi_cancel(pop));

    /* What is done cannot be recalled. */
    push(ends[1], "here");
    pop = start_pop(ends[0]);
    struct timespec short_while = {.tv_sec = 0, .tv_nsec = 10000000};
    demi_qresult_t qr;
    demi_qtoken_t never;
    OK(demi_accept(&never, listening));
    RETURNS(ETIMEDOUT, demi_wait(&qr, never, &short_while));
    RETURNS(EALREADY, demi_cancel(pop));
    qr = done(pop, DEMI_OPC_POP);
    OK(demi_sgafree(&qr.qr_value.sga));
    OK(demi_cancel(never));
    fails(never, ECANCELED);

    /* No element is lost to an operation that was cancelled. */
    pop = start_pop(ends[0]);
    OK(demi_cancel(pop));
    push(ends[1], "kept");
    fails(pop, ECANCELED);
    streams(ends[0], "kept", 4);

    OK(demi_accept(&never, listening));
    pop = start_pop(ends[0]);
    OK(demi_close(listening));
    OK(demi_close(ends[0]));
    fails(never, ECANCELED);
    fails(pop, ECANCELED);
    RETURNS(EBADF, demi_close(ends[0]));
    RETURNS(EBADF, demi_close(listening));
    qr = done(start_pop(ends[1]), DEMI_OPC_POP);
    CHECK(qr.qr_value.sga.sga_segs[0].sgaseg_len == 0);
    OK(demi_close(ends[1]));

    /* Nobody listens there any more. */
    int qd;
    demi_qtoken_t connect;
    OK(demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    OK(demi_connect(&connect, qd, (struct sockaddr *)&addr, len));
    fails(connect, ECONNREFUSED);
    OK(demi_close(qd));
    return 0;
}
