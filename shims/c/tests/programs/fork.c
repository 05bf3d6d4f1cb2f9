/* A child of a process with an instance, made by another thread: its threads have none, whatever stacks they are given. */
#include "common.h"

#include <pthread.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

static sem_t made, over;

static void *owner(void *unused)
{
    int qd;
    init(0, NULL);
    OK(demi_queue(&qd));
    push(qd, "before");
    OK(sem_post(&made));
    while (sem_wait(&over) != 0)
        ;
    pops(qd, "before");
    return unused;
}

static void *stranger(void *unused)
{
    int qd;
    RETURNS(ENOSYS, demi_queue(&qd));
    demi_qresult_t qr;
    RETURNS(ENOSYS, demi_wait(&qr, 1, &at_once));
    return unused;
}

int main(void)
{
    pthread_t thread, others[4];
    OK(sem_init(&made, 0, 0));
    OK(sem_init(&over, 0, 0));
    OK(pthread_create(&thread, NULL, owner, NULL));
    while (sem_wait(&made) != 0)
        ;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        stranger(NULL);
        for (int at = 0; at < 4; at++)
            OK(pthread_create(&others[at], NULL, stranger, NULL));
        for (int at = 0; at < 4; at++)
            OK(pthread_join(others[at], NULL));
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    /* Beside the first thread with an instance, and after it. */
    stranger(NULL);
    init(0, NULL);
    int qd;
    OK(demi_queue(&qd));
    push(qd, "beside");
    OK(sem_post(&over));
    OK(pthread_join(thread, NULL));
    pops(qd, "beside");
    /* A child has the instance of the thread that made it. */
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        push(qd, "in the child");
        pops(qd, "in the child");
        OK(pthread_create(&thread, NULL, stranger, NULL));
        OK(pthread_join(thread, NULL));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    push(qd, "after");
    pops(qd, "after");
    return 0;
}
