/* What may be pushed: arrays, parts of them, memory from demi_malloc, memory from elsewhere; and what may not. */
#include "common.h"

#include <sys/mman.h>

static int ends_[2];

static void sends(const demi_sgarray_t *sga, const char *text)
{
    demi_qtoken_t qt;
    OK(demi_push(&qt, ends_[0], sga));
    done(qt, DEMI_OPC_PUSH);
    streams(ends_[1], text, strlen(text));
}

static void refused(int errno_, const demi_sgarray_t *sga)
{
    demi_qtoken_t qt = 77;
    RETURNS(errno_, demi_push(&qt, ends_[0], sga));
    CHECK(qt == 77);
}

static demi_sgarray_t of(void *bytes, uint32_t len)
{
    demi_sgarray_t sga;
    memset(&sga, 0, sizeof sga);
    sga.sga_numsegs = 1;
    sga.sga_segs[0].sgaseg_buf = bytes;
    sga.sga_segs[0].sgaseg_len = len;
    return sga;
}

static void freed_in_flight(void)
{
    enum { LEN = 300000 };
    static char expected[LEN];
    demi_qtoken_t qt;
    memset(expected, 'f', LEN - 1);
    for (int i = 0; i < 20; i++) {
        demi_sgarray_t sga = demi_sgaalloc(LEN - 1);
        CHECK(sga.sga_numsegs == 1);
        memset(sga.sga_segs[0].sgaseg_buf, 'f', LEN - 1);
        OK(demi_push(&qt, ends_[0], &sga));
        OK(demi_sgafree(&sga));
        /* What is allocated now is not what is in flight. */
        demi_sgarray_t next = demi_sgaalloc(LEN - 1);
        CHECK(next.sga_numsegs == 1);
        memset(next.sga_segs[0].sgaseg_buf, 'X', LEN - 1);
        OK(demi_sgafree(&next));
        streams(ends_[1], expected, LEN - 1);
        done(qt, DEMI_OPC_PUSH);
    }
}

static void allocations(void)
{
    char *object = demi_malloc(10000);
    CHECK(object != NULL && (uintptr_t)object % 16 == 0);
    memcpy(object + 5000, "in the middle of it", 20);
    uint64_t copies = counter("heap_foreign_copies");
    demi_sgarray_t sga = of(object + 5007, 6);
    sends(&sga, "middle");
    CHECK(counter("heap_foreign_copies") == copies);
    demi_qtoken_t qt;
    OK(demi_push(&qt, ends_[0], &sga));
    demi_free(object);
    done(qt, DEMI_OPC_PUSH);
    streams(ends_[1], "middle", 6);
    refused(EFAULT, &sga);
    /* These are said on standard error, and change nothing. */
    demi_free(object);
    object = demi_malloc(0);
    CHECK(object != NULL);
    demi_free(object + 1);
    char other;
    demi_free(&other);
    demi_free(NULL);
    demi_free(object);
    CHECK(demi_malloc(SIZE_MAX) == NULL && demi_malloc((size_t)1 << 40) == NULL);
    /* An array is not freed by demi_free. */
    sga = array("array", 5);
    demi_free(sga.sga_segs[0].sgaseg_buf);
    sends(&sga, "array");
    OK(demi_sgafree(&sga));
}

static void foreign(void)
{
    static char global[] = "global";
    char local[] = "local";
    uint64_t copies = counter("heap_foreign_copies");
    demi_sgarray_t sga = of(global, 6);
    sga.sga_numsegs = 3;
    sga.sga_segs[1] = (demi_sgaseg_t){local, 5};
    sga.sga_segs[2] = (demi_sgaseg_t){(void *)"constant", 8};
    sends(&sga, "globallocalconstant");
    CHECK(counter("heap_foreign_copies") == copies + 3);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    memcpy(page + 4092, "page", 4);
    sga = of(page + 4092, 4);
    demi_qtoken_t qt;
    OK(demi_push(&qt, ends_[0], &sga));
    OK(munmap(page, 4096));
    done(qt, DEMI_OPC_PUSH);
    streams(ends_[1], "page", 4);
}

static void arrays(void)
{
    demi_sgarray_t sga = array("0123456789", 10), copy = sga, none;
    sga.sga_segs[0].sgaseg_buf = (char *)sga.sga_segs[0].sgaseg_buf + 2;
    sga.sga_segs[0].sgaseg_len = 3;
    sends(&sga, "234");
    sga.sga_numsegs = 8;
    for (int i = 1; i < 8; i++) {
        sga.sga_segs[i] = sga.sga_segs[0];
        sga.sga_segs[i].sgaseg_len = i % 3;
    }
    sends(&sga, "234" "2" "23" "" "2" "23" "" "2");

    /* Lengths and counts that cannot be. */
    sga.sga_numsegs = 9;
    refused(EINVAL, &sga);
    sga.sga_numsegs = UINT32_MAX;
    refused(EINVAL, &sga);
    sga.sga_numsegs = 0;
    refused(EINVAL, &sga);
    sga.sga_numsegs = 1;
    sga.sga_segs[0].sgaseg_len = 1000000;
    refused(EFAULT, &sga);
    sga.sga_segs[0].sgaseg_len = UINT32_MAX;
    refused(EFAULT, &sga);
    sga.sga_segs[0].sgaseg_buf = NULL;
    refused(EFAULT, &sga);
    sga.sga_segs[0].sgaseg_buf = (void *)UINTPTR_MAX;
    refused(EFAULT, &sga);

    /* Free once, whichever copy. */
    OK(demi_sgafree(&sga));
    CHECK(sga.sga_buf == NULL);
    RETURNS(EINVAL, demi_sgafree(&sga));
    refused(EFAULT, &copy);
    RETURNS(EINVAL, demi_sgafree(&copy));
    demi_sgarray_t again = array("0123456789", 10);
    CHECK(again.sga_buf != copy.sga_buf);
    RETURNS(EINVAL, demi_sgafree(&copy));
    sends(&again, "0123456789");
    OK(demi_sgafree(&again));
    memset(&none, 0, sizeof none);
    RETURNS(EINVAL, demi_sgafree(&none));
    memset(&none, 0xff, sizeof none);
    RETURNS(EINVAL, demi_sgafree(&none));
    none.sga_buf = &none;
    RETURNS(EINVAL, demi_sgafree(&none));
    RETURNS(EINVAL, demi_sgafree(NULL));
    RETURNS(EINVAL, demi_sgafree((demi_sgarray_t *)((char *)&none + 1)));

    CHECK(demi_sgaalloc(0).sga_numsegs == 0);
    CHECK(demi_sgaalloc(SIZE_MAX).sga_numsegs == 0);
    CHECK(demi_sgaalloc((size_t)1 << 32).sga_numsegs == 0);
    again = demi_sgaalloc(3 << 20);
    CHECK(again.sga_numsegs == 1);
    ((char *)again.sga_segs[0].sgaseg_buf)[(3 << 20) - 1] = 1;
    OK(demi_sgafree(&again));
}

/* Until there is no memory left, and back. */
static void exhaustion(void)
{
    enum { MOST = 4096 };
    static demi_sgarray_t taken[MOST];
    int count = 0;
    do
        taken[count] = demi_sgaalloc(1 << 16);
    while (taken[count].sga_numsegs == 1 && ++count < MOST);
    CHECK(count > 8 && count < MOST);
    CHECK(demi_malloc(1 << 16) == NULL);
    static char large[1 << 16];
    demi_sgarray_t sga = of(large, sizeof large);
    refused(ENOMEM, &sga);
    while (count-- > 0)
        OK(demi_sgafree(&taken[count]));
    char text[] = "as before";
    sga = of(text, 9);
    sends(&sga, text);
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    connected(AF_INET, ends_);
    freed_in_flight();
    allocations();
    foreign();
    arrays();
    exhaustion();
    CHECK(counter("arrays_lent") == 0);
    CHECK(demi_malloc(100) != NULL);
    return 0;
}
