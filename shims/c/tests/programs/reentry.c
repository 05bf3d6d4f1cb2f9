/* Closures that call back: EDEADLK, but for memory. */
#include "common.h"

static int queue, calls;

static bool calls_back(const demi_sgarray_t *sga, void *arg)
{
    (void)arg;
    int qd, count;
    demi_qtoken_t qt;
    demi_qresult_t qr;
    RETURNS(EDEADLK, demi_pop(&qt, queue));
    /* An element that is on its way up is not the program's to push. */
    int pushed = demi_push(&qt, queue, sga);
    CHECK(pushed == EDEADLK || pushed == EFAULT);
    RETURNS(EDEADLK, demi_queue(&qd));
    RETURNS(EDEADLK, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    RETURNS(EDEADLK, demi_close(queue));
    RETURNS(EDEADLK, demi_wait(&qr, 1, NULL));
    RETURNS(EDEADLK, demi_wait_next_n(&qr, 1, &count, NULL));
    RETURNS(EDEADLK, demi_cancel(1));
    RETURNS(EDEADLK, demi_counters(counter_callback));
    struct demi_args args = {0, NULL, NULL};
    RETURNS(EEXIST, demi_init(&args));

    demi_sgarray_t own = array("own", 3);
    RETURNS(EDEADLK, demi_push(&qt, queue, &own));
    OK(demi_sgafree(&own));
    demi_free(demi_malloc(100));
    /* The array is the queue's. */
    demi_sgarray_t theirs = *sga;
    RETURNS(EINVAL, demi_sgafree(&theirs));
    calls++;
    return true;
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int filtered;
    OK(demi_queue(&queue));
    OK(demi_filter(&filtered, queue, calls_back, NULL));
    push(queue, "one");
    pops(filtered, "one");
    push(filtered, "two");
    pops(filtered, "two");
    CHECK(calls == 3);
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
