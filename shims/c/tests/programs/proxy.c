/* Two connections connected with each other, as in a proxy; half-closes pass through. */
#include "common.h"

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int near[2], far[2];
    connected(AF_INET, near);
    connected(AF_INET, far);
    OK(demi_qconnect(near[1], far[0]));
    demi_qtoken_t back;
    OK(demi_qconnect_token(&back, far[0], near[1]));
    RETURNS(EBUSY, demi_qconnect(near[1], far[1]));

    for (int i = 0; i < 20; i++) {
        push(near[0], "request");
        streams(far[1], "request", 7);
        push(far[1], "response");
        streams(near[0], "response", 8);
    }
    OK(demi_shutdown(near[0], SHUT_WR));
    ends(far[1]);
    push(far[1], "still");
    streams(near[0], "still", 5);
    OK(demi_shutdown(far[1], SHUT_WR));
    ends(near[0]);
    demi_qresult_t qr = done(back, DEMI_OPC_MOVED);
    CHECK(qr.qr_ret >= 1);

    /* The end of the other one is told to nobody. */
    int count;
    RETURNS(ETIMEDOUT, demi_wait_next_n(&qr, 1, &count, &at_once));
    for (int i = 0; i < 100; i++) {
        int a, b;
        OK(demi_queue(&a));
        OK(demi_queue(&b));
        OK(demi_qconnect(a, b));
        push(a, "on its way");
        pops(b, "on its way");
        OK(demi_close(a));
        OK(demi_close(b));
    }
    CHECK(counter("operations_unreaped") <= 2);
    return 0;
}
