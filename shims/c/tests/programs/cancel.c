/* Cancelling, and closing under what is outstanding. */
#include "common.h"

int main(int argc, char *const argv[])
{
    init(argc, argv);
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(AF_INET, &addr, &len), both[2];
    join(listening, &addr, len, both);

    demi_qtoken_t pop = start_pop(both[0]);
    OK(demi_cancel(pop));
    fails(pop, ECANCELED);
    RETURNS(EINVAL, demi_cancel(pop));

    /* What is done cannot be recalled. */
    push(both[1], "here");
    pop = start_pop(both[0]);
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
    pop = start_pop(both[0]);
    OK(demi_cancel(pop));
    push(both[1], "kept");
    fails(pop, ECANCELED);
    streams(both[0], "kept", 4);

    OK(demi_accept(&never, listening));
    pop = start_pop(both[0]);
    OK(demi_close(listening));
    OK(demi_close(both[0]));
    fails(never, ECANCELED);
    fails(pop, ECANCELED);
    RETURNS(EBADF, demi_close(both[0]));
    RETURNS(EBADF, demi_close(listening));
    ends(both[1]);
    OK(demi_close(both[1]));

    /* Nobody listens there any more. */
    int qd;
    demi_qtoken_t connect;
    OK(demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    OK(demi_connect(&connect, qd, (struct sockaddr *)&addr, len));
    fails(connect, ECONNREFUSED);
    OK(demi_close(qd));
    return 0;
}
