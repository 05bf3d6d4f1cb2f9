/* Waiting for all: in the order of the tokens, and nothing is taken on failure. */
#include "common.h"

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int ends[2];
    connected(AF_INET, ends);
    demi_qtoken_t tokens[3] = {start_pop(ends[1]), start_push(ends[0], "abc", 3), start_pop(ends[0])};
    demi_qresult_t results[3];
    struct timespec short_while = {.tv_sec = 0, .tv_nsec = 20000000};

    /* The last one has nothing to pop. */
    RETURNS(ETIMEDOUT, demi_wait_all(results, tokens, 3, &short_while));
    RETURNS(ETIMEDOUT, demi_wait_all(results, tokens, 3, &at_once));
    demi_qtoken_t answer = start_push(ends[1], "defg", 4);
    OK(demi_wait_all(results, tokens, 3, &patience));
    CHECK(results[0].qr_opcode == DEMI_OPC_POP && results[0].qr_qt == tokens[0]);
    CHECK(results[1].qr_opcode == DEMI_OPC_PUSH && results[1].qr_qt == tokens[1]);
    CHECK(results[2].qr_opcode == DEMI_OPC_POP && results[2].qr_qt == tokens[2]);
    holds(&results[0].qr_value.sga, "abc");
    holds(&results[2].qr_value.sga, "defg");
    OK(demi_sgafree(&results[0].qr_value.sga));
    OK(demi_sgafree(&results[2].qr_value.sga));

    /* The token is gone, and so none of these is taken. */
    demi_qtoken_t stale[2] = {answer, tokens[1]};
    RETURNS(EINVAL, demi_wait_all(results, stale, 2, &patience));
    demi_qtoken_t twice[2] = {answer, answer};
    RETURNS(EINVAL, demi_wait_all(results, twice, 2, &patience));
    RETURNS(EINVAL, demi_wait_all(results, &answer, 0, &patience));
    RETURNS(EINVAL, demi_wait_all(results, NULL, 1, &patience));
    RETURNS(EINVAL, demi_wait_all(NULL, &answer, 1, &patience));
    OK(demi_wait_all(results, &answer, 1, &patience));
    CHECK(results[0].qr_opcode == DEMI_OPC_PUSH);
    return 0;
}
