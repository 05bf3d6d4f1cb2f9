/* Ends from a signal handler inside a wait, as the public examples do. */
#include "common.h"

#include <signal.h>
#include <unistd.h>

static void leave(int signal)
{
    (void)signal;
    exit(0);
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int ends_[2];
    demi_qtoken_t qt;
    demi_qresult_t qr;
    connected(AF_INET, ends_);
    OK(demi_pop(&qt, ends_[0]));
    signal(SIGALRM, leave);
    ualarm(50000, 0);
    demi_wait(&qr, qt, NULL);
    return 1;
}
