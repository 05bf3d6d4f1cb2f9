/* A configuration that cannot be used is an errno, every time, and leaves no instance behind. */
#include "common.h"

int main(int argc, char *const argv[])
{
    struct demi_args args = {argc, argv, NULL};
    int qd;
    for (int i = 0; i < 3; i++) {
        RETURNS(EINVAL, demi_init(&args));
        RETURNS(ENOSYS, demi_queue(&qd));
    }
    return 0;
}
