/* Queues in memory, and made of queues. */
#include "common.h"

static bool is_long(const demi_sgarray_t *sga, void *arg)
{
    CHECK(sga->sga_buf == NULL && sga->sga_numsegs == 1);
    ++*(int *)arg;
    return sga->sga_segs[0].sgaseg_len > 3;
}

static int by_bytes(const demi_sgarray_t *a, const demi_sgarray_t *b, void *arg)
{
    ++*(int *)arg;
    return memcmp(a->sga_segs[0].sgaseg_buf, b->sga_segs[0].sgaseg_buf, 1);
}

/* Puts brackets around: segments of its own, and those that it was given. */
static int brackets(const demi_sgarray_t *given, demi_sgarray_t *made, void *arg)
{
    CHECK(memcmp(given, made, sizeof *given) == 0);
    *made = demi_sgaalloc(2);
    CHECK(made->sga_numsegs == 1);
    memcpy(made->sga_segs[0].sgaseg_buf, arg, 2);
    made->sga_segs[0].sgaseg_len = 1;
    made->sga_segs[1] = given->sga_segs[0];
    made->sga_segs[2] = made->sga_segs[0];
    made->sga_segs[2].sgaseg_buf = (char *)made->sga_segs[0].sgaseg_buf + 1;
    made->sga_numsegs = 3;
    return 0;
}

/* Takes the brackets off: a part of what it was given. */
static int bare(const demi_sgarray_t *given, demi_sgarray_t *made, void *arg)
{
    (void)arg;
    if (given->sga_segs[0].sgaseg_len < 3)
        return EDOM;
    made->sga_segs[0].sgaseg_buf = (char *)given->sga_segs[0].sgaseg_buf + 1;
    made->sga_segs[0].sgaseg_len = given->sga_segs[0].sgaseg_len - 2;
    return 0;
}

static int nonsense(const demi_sgarray_t *given, demi_sgarray_t *made, void *arg)
{
    (void)given;
    *made = *(demi_sgarray_t *)arg;
    return 0;
}

static void memory_and_merge(void)
{
    int a, b, both;
    OK(demi_queue(&a));
    OK(demi_queue(&b));
    OK(demi_merge(&both, a, b));
    RETURNS(EINVAL, demi_merge(&both, a, a));
    push(a, "one");
    pops(both, "one");
    push(b, "two");
    pops(both, "two");
    /* To both, of which each is popped through what it feeds only. */
    push(both, "three");
    pops(both, "three");
    pops(both, "three");
    demi_qtoken_t qt;
    RETURNS(EBUSY, demi_pop(&qt, a));
    OK(demi_close(both));
    RETURNS(EBADF, demi_pop(&qt, a));
}

static void filter_and_partition(void)
{
    int queue, filtered, yes, no, calls = 0;
    OK(demi_queue(&queue));
    OK(demi_filter(&filtered, queue, is_long, &calls));
    push(queue, "no");
    push(queue, "yes, long");
    pops(filtered, "yes, long");
    CHECK(calls == 2);
    fails(start_push(filtered, "no", 2), EPERM);
    push(filtered, "passes");
    pops(filtered, "passes");
    OK(demi_close(filtered));

    OK(demi_queue(&queue));
    OK(demi_partition(&yes, &no, queue, is_long, &calls));
    push(queue, "long enough");
    push(queue, "no");
    pops(no, "no");
    pops(yes, "long enough");
    OK(demi_close(yes));
    OK(demi_close(no));
    CHECK(counter("elements_dropped") >= 1);
}

static void sort(void)
{
    int queue, sorted, calls = 0;
    OK(demi_queue(&queue));
    OK(demi_sort(&sorted, queue, by_bytes, &calls));
    push(queue, "b second");
    push(queue, "c first");
    push(queue, "a last");
    pops(sorted, "c first");
    pops(sorted, "b second");
    pops(sorted, "a last");
    CHECK(calls > 0);
    OK(demi_close(sorted));
}

static void map(void)
{
    int queue, mapped;
    OK(demi_queue(&queue));
    OK(demi_map(&mapped, queue, NULL, brackets, "[]"));
    push(mapped, "element");
    pops(mapped, "[element]");
    OK(demi_close(mapped));

    OK(demi_queue(&queue));
    OK(demi_map(&mapped, queue, bare, NULL, NULL));
    push(queue, "(inside)");
    pops(mapped, "inside");
    push(queue, "()");
    fails(start_pop(mapped), EDOM);
    push(queue, "(next)");
    pops(mapped, "next");
    OK(demi_close(mapped));
    CHECK(counter("arrays_lent") == 0);

    /* What a closure makes of an array is as much an allegation as what is pushed. */
    demi_sgarray_t made;
    OK(demi_queue(&queue));
    OK(demi_map(&mapped, queue, nonsense, NULL, &made));
    demi_sgarray_t stale = array("stale", 5);
    made = stale;
    OK(demi_sgafree(&stale));
    push(queue, "x");
    fails(start_pop(mapped), EFAULT);
    memset(&made, 0, sizeof made);
    made.sga_numsegs = 9;
    push(queue, "x");
    fails(start_pop(mapped), EINVAL);
    made.sga_numsegs = 1;
    made.sga_segs[0].sgaseg_len = 1;
    push(queue, "x");
    fails(start_pop(mapped), EFAULT);
    /* Memory of the program's own is copied. */
    made.sga_segs[0].sgaseg_buf = (char[]){'y'};
    push(queue, "x");
    pops(mapped, "y");
    OK(demi_close(mapped));
}

static void arguments(void)
{
    int queue, other;
    OK(demi_queue(&queue));
    RETURNS(EINVAL, demi_queue(NULL));
    RETURNS(EINVAL, demi_filter(&other, queue, NULL, NULL));
    RETURNS(EINVAL, demi_filter(NULL, queue, is_long, NULL));
    RETURNS(EINVAL, demi_sort(&other, queue, NULL, NULL));
    RETURNS(EINVAL, demi_partition(&other, NULL, queue, is_long, NULL));
    RETURNS(EBADF, demi_map(&other, -1, NULL, NULL, NULL));
    RETURNS(EBADF, demi_sort(&other, 1000000, by_bytes, NULL));
    OK(demi_map(&other, queue, NULL, NULL, NULL));
    push(other, "as it is");
    pops(other, "as it is");
    OK(demi_close(other));
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    memory_and_merge();
    filter_and_partition();
    sort();
    map();
    arguments();
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
