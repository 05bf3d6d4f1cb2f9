/* An event loop around demi_wait_next_n: whatever completes next, in batches. */
#include "common.h"

enum { PAIRS = 10, ROUNDS = 200 };

int main(int argc, char *const argv[])
{
    init(argc, argv);
    demi_qresult_t results[8];
    int count = -1;
    /* Nothing is outstanding: without a limit it would be for ever. */
    RETURNS(ECHILD, demi_wait_next_n(results, 8, &count, NULL));
    RETURNS(ETIMEDOUT, demi_wait_next_n(results, 8, &count, &at_once));
    CHECK(count == -1);

    int ends[PAIRS][2], rounds = 0, pops = 0, pushes = 0;
    demi_qtoken_t qt;
    for (int i = 0; i < PAIRS; i++) {
        connected(AF_INET, ends[i]);
        OK(demi_pop(&qt, ends[i][0]));
        OK(demi_pop(&qt, ends[i][1]));
        start_push(ends[i][0], "to and fro", 10);
    }
    while (rounds < ROUNDS) {
        OK(demi_wait_next_n(results, 8, &count, &patience));
        CHECK(count >= 1 && count <= 8);
        for (int i = 0; i < count; i++) {
            demi_qresult_t *qr = &results[i];
            if (qr->qr_opcode == DEMI_OPC_PUSH) {
                pushes++;
                continue;
            }
            CHECK(qr->qr_opcode == DEMI_OPC_POP);
            holds(&qr->qr_value.sga, "to and fro");
            OK(demi_pop(&qt, qr->qr_qd));
            OK(demi_push(&qt, qr->qr_qd, &qr->qr_value.sga));
            OK(demi_sgafree(&qr->qr_value.sga));
            pops++;
        }
        rounds++;
    }
    CHECK(pops > ROUNDS / 4 && pushes > ROUNDS / 8);
    RETURNS(EINVAL, demi_wait_next_n(results, 0, &count, &at_once));
    RETURNS(EINVAL, demi_wait_next_n(results, -1, &count, &at_once));
    RETURNS(EINVAL, demi_wait_next_n(NULL, 8, &count, &at_once));
    RETURNS(EINVAL, demi_wait_next_n(results, 8, NULL, &at_once));
    return 0;
}
