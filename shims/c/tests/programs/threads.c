/* A thread without an instance, threads with instances of their own, and what belongs to another. */
#include "common.h"

#include <pthread.h>

static demi_sgarray_t of_main;
static demi_qtoken_t pop_of_main;
static int queue_of_main;
static void *object_of_main;

static void *without(void *arg)
{
    (void)arg;
    int qd;
    demi_qtoken_t qt;
    demi_qresult_t qr;
    RETURNS(ENOSYS, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    RETURNS(ENOSYS, demi_queue(&qd));
    RETURNS(ENOSYS, demi_pop(&qt, queue_of_main));
    RETURNS(ENOSYS, demi_wait(&qr, pop_of_main, &at_once));
    RETURNS(ENOSYS, demi_push(&qt, queue_of_main, &of_main));
    RETURNS(ENOSYS, demi_sgafree(&of_main));
    RETURNS(ENOSYS, demi_close(queue_of_main));
    CHECK(demi_sgaalloc(10).sga_numsegs == 0);
    CHECK(demi_malloc(10) == NULL);
    demi_free(object_of_main);
    return NULL;
}

static void *with(void *arg)
{
    int qds[2];
    demi_qtoken_t qt;
    init(0, arg);
    struct demi_args args = {0, NULL, NULL};
    RETURNS(EEXIST, demi_init(&args));
    /* An array of another thread is not freed, and is foreign memory like any other. */
    demi_sgarray_t theirs = of_main;
    RETURNS(EINVAL, demi_sgafree(&theirs));
    demi_free(object_of_main);
    connected(AF_INET, qds);
    OK(demi_push(&qt, qds[0], &of_main));
    done(qt, DEMI_OPC_PUSH);
    streams(qds[1], "of main", 7);
    for (int i = 0; i < 50; i++) {
        push(qds[0], "of a thread");
        streams(qds[1], "of a thread", 11);
    }
    /* All this is left to the end of the thread. */
    start_pop(qds[0]);
    array("left behind", 11);
    CHECK(demi_malloc(100000) != NULL);
    return NULL;
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    OK(demi_queue(&queue_of_main));
    pop_of_main = start_pop(queue_of_main);
    of_main = array("of main", 7);
    object_of_main = demi_malloc(100);
    pthread_t threads[3];
    OK(pthread_create(&threads[0], NULL, without, NULL));
    OK(pthread_join(threads[0], NULL));
    /* At the same time, and more than once. */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++)
            OK(pthread_create(&threads[i], NULL, with, NULL));
        for (int i = 0; i < 3; i++)
            OK(pthread_join(threads[i], NULL));
    }
    push(queue_of_main, "still here");
    demi_qresult_t qr = done(pop_of_main, DEMI_OPC_POP);
    holds(&qr.qr_value.sga, "still here");
    OK(demi_sgafree(&qr.qr_value.sga));
    holds(&of_main, "of main");
    OK(demi_sgafree(&of_main));
    demi_free(object_of_main);
    return 0;
}
