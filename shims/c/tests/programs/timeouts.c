/* Timeouts leave tokens valid; what cannot be a timeout is refused; an interrupter ends a wait. */
#include "common.h"

#include <signal.h>
#include <unistd.h>

static int interrupter = -1;

static void on_alarm(int signal)
{
    (void)signal;
    (void)!write(interrupter, "x", 1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int qd, offset = -1, count;
    OK(demi_queue(&qd));
    demi_qtoken_t pop = start_pop(qd);
    demi_qresult_t qr;
    struct timespec short_while = {.tv_sec = 0, .tv_nsec = 30000000};
    double begin = now();
    RETURNS(ETIMEDOUT, demi_wait(&qr, pop, &short_while));
    CHECK(now() - begin >= 0.03);
    RETURNS(ETIMEDOUT, demi_wait_any(&qr, &offset, &pop, 1, &short_while));
    RETURNS(ETIMEDOUT, demi_wait_next_n(&qr, 1, &count, &short_while));
    RETURNS(ETIMEDOUT, demi_wait(&qr, pop, &at_once));

    struct timespec wrong[] = {{-1, 0}, {0, -1}, {0, 1000000000}, {1, 2000000000}};
    for (int i = 0; i < 4; i++)
        RETURNS(EINVAL, demi_wait(&qr, pop, &wrong[i]));
    struct timespec long_time = {.tv_sec = INT64_MAX, .tv_nsec = 999999999};

    /* A signal without an interrupter does not end a wait, with one it does. */
    struct sigaction action = {.sa_handler = on_alarm};
    OK(sigaction(SIGALRM, &action, NULL));
    ualarm(20000, 0);
    RETURNS(ETIMEDOUT, demi_wait(&qr, pop, &short_while));
    OK(demi_interrupter(&interrupter));
    ualarm(20000, 0);
    RETURNS(EINTR, demi_wait(&qr, pop, NULL));
    OK(close(interrupter));

    push(qd, "at last");
    OK(demi_wait(&qr, pop, &long_time));
    holds(&qr.qr_value.sga, "at last");
    OK(demi_sgafree(&qr.qr_value.sga));
    RETURNS(EINVAL, demi_wait(&qr, pop, &at_once));
    return 0;
}
