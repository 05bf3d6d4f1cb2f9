/* Arrays of several segments: one, unless more are asked for; no byte is lost, for want of memory neither. */
#include "common.h"

static demi_sgarray_t of_three(void)
{
    static char *texts[3] = {"one ", "two ", "three"};
    demi_sgarray_t sga;
    memset(&sga, 0, sizeof sga);
    sga.sga_numsegs = 3;
    for (int i = 0; i < 3; i++)
        sga.sga_segs[i] = (demi_sgaseg_t){texts[i], strlen(texts[i])};
    return sga;
}

static demi_qtoken_t popped(int qd)
{
    demi_qtoken_t qt;
    demi_sgarray_t sga = of_three();
    OK(demi_push(&qt, qd, &sga));
    done(qt, DEMI_OPC_PUSH);
    return start_pop(qd);
}

static void in(int qd, uint32_t segments)
{
    demi_qresult_t qr = done(popped(qd), DEMI_OPC_POP);
    CHECK(qr.qr_value.sga.sga_numsegs == segments);
    holds(&qr.qr_value.sga, "one two three");
    for (uint32_t i = segments; i < DEMI_SGARRAY_MAXSIZE; i++)
        CHECK(qr.qr_value.sga.sga_segs[i].sgaseg_buf == NULL && qr.qr_value.sga.sga_segs[i].sgaseg_len == 0);
    OK(demi_sgafree(&qr.qr_value.sga));
}

static void limit(int qd, int segments)
{
    int read = -1;
    socklen_t len = sizeof read;
    OK(demi_setsockopt(qd, SOL_DEMI, DEMI_SO_SEGMENTS, &segments, sizeof segments));
    OK(demi_getsockopt(qd, SOL_DEMI, DEMI_SO_SEGMENTS, &read, &len));
    CHECK(read == segments && len == sizeof read);
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int qd, other, wrong[] = {0, -1, 9};
    OK(demi_queue(&qd));
    OK(demi_queue(&other));
    in(qd, 1);
    limit(qd, 2);
    in(qd, 2);
    in(other, 1);
    limit(-1, 8);
    in(other, 3);
    in(qd, 2);
    limit(-1, 1);
    for (int i = 0; i < 3; i++)
        RETURNS(EINVAL, demi_setsockopt(qd, SOL_DEMI, DEMI_SO_SEGMENTS, &wrong[i], sizeof wrong[i]));
    RETURNS(ENOPROTOOPT, demi_setsockopt(qd, SOL_DEMI, 99, &wrong[0], sizeof wrong[0]));
    RETURNS(EBADF, demi_setsockopt(1000000, SOL_DEMI, DEMI_SO_SEGMENTS, &(int){2}, sizeof(int)));

    /* Each wait that has not the memory to put the segments together leaves the result where it was. */
    demi_qresult_t qr, results[2];
    demi_qtoken_t pop = popped(other), second = popped(other);
    push(other, "single");
    demi_qtoken_t pair[2] = {start_pop(other)};
    demi_sgarray_t three = of_three();
    demi_qtoken_t pushed;
    OK(demi_push(&pushed, other, &three));
    done(pushed, DEMI_OPC_PUSH);
    OK(demi_pop_n(&pair[1], other, 4));
    void *objects[200000];
    size_t count = 0, size = 1 << 20;
    while (size >= 1) {
        void *object = demi_malloc(size);
        if (object != NULL)
            objects[count++] = object;
        else
            size /= 2;
        CHECK(count < sizeof objects / sizeof *objects);
    }
    int offset = -1, number = -1;
    demi_qtoken_t tokens[2] = {pop, second};
    RETURNS(ENOMEM, demi_wait(&qr, pop, &patience));
    RETURNS(ENOMEM, demi_wait_any(&qr, &offset, tokens, 2, &patience));
    RETURNS(ENOMEM, demi_wait_next_n(results, 2, &number, &patience));
    RETURNS(ENOMEM, demi_wait_all(results, tokens, 2, &patience));
    /* The first would fit, but all are handed out or none. */
    RETURNS(ENOMEM, demi_wait_all(results, pair, 2, &patience));
    CHECK(offset == -1 && number == -1);
    while (count > 0)
        demi_free(objects[--count]);
    OK(demi_wait_all(results, tokens, 2, &patience));
    for (int i = 0; i < 2; i++) {
        CHECK(results[i].qr_qt == tokens[i] && results[i].qr_opcode == DEMI_OPC_POP);
        holds(&results[i].qr_value.sga, "one two three");
        OK(demi_sgafree(&results[i].qr_value.sga));
    }
    RETURNS(EINVAL, demi_wait(&qr, pop, &at_once));
    OK(demi_wait_all(results, pair, 2, &patience));
    for (int i = 0; i < 2; i++) {
        CHECK(results[i].qr_qt == pair[i] && results[i].qr_opcode == DEMI_OPC_POP);
        holds(&results[i].qr_value.sga, i == 0 ? "single" : "one two three");
        OK(demi_sgafree(&results[i].qr_value.sga));
    }

    /* A limit goes with its queue, also where that is closed by way of another. */
    int derived[2];
    limit(qd, 2);
    OK(demi_merge(&derived[0], qd, other));
    OK(demi_close(derived[0]));
    OK(demi_queue(&derived[0]));
    OK(demi_queue(&derived[1]));
    in(derived[0], 1);
    in(derived[1], 1);
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
