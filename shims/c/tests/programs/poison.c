/* A program that writes to what it has freed. A library built with debug assertions panics at the next allocation:
 * that is an errno, for ever, and the process goes on. */
#include "common.h"

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int qd;
    OK(demi_queue(&qd));
    demi_sgarray_t sga = demi_sgaalloc(64), copy = sga;
    CHECK(sga.sga_numsegs == 1);
    OK(demi_sgafree(&sga));
    memset(copy.sga_segs[0].sgaseg_buf, 'X', 64);
    CHECK(demi_sgaalloc(64).sga_numsegs == 0);
    demi_qtoken_t qt;
    RETURNS(ENOTRECOVERABLE, demi_pop(&qt, qd));
    RETURNS(ENOTRECOVERABLE, demi_close(qd));
    CHECK(demi_malloc(1) == NULL);
    struct demi_args args = {argc, argv, NULL};
    RETURNS(EEXIST, demi_init(&args));
    printf("goes on\n");
    return 0;
}
