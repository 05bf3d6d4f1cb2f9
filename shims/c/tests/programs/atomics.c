/* Atomic operations: every queue that is not a region refuses them, above operators too, and goes on. */
#include "common.h"

static void refuses(int qd)
{
    demi_qtoken_t qt = 7;
    RETURNS(EOPNOTSUPP, demi_compare_and_swap(&qt, qd, 0, 1, 2));
    RETURNS(EOPNOTSUPP, demi_fetch_and_add(&qt, qd, 8, UINT64_MAX));
    CHECK(qt == 7);
}

static bool all(const demi_sgarray_t *sga UNUSED, void *argument UNUSED)
{
    return true;
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    demi_qtoken_t qt;
    RETURNS(EBADF, demi_fetch_and_add(&qt, -1, 0, 1));
    RETURNS(EBADF, demi_compare_and_swap(&qt, 4711, 0, 1, 2));

    int queue, filtered, socket;
    OK(demi_queue(&queue));
    refuses(queue);
    RETURNS(EINVAL, demi_fetch_and_add(NULL, queue, 0, 1));
    OK(demi_filter(&filtered, queue, all, NULL));
    refuses(filtered);
    push(filtered, "still a queue");
    pops(filtered, "still a queue");
    OK(demi_close(filtered));

    /* Where there are sockets. */
    if (demi_socket(&socket, AF_INET, SOCK_STREAM, 0) == 0) {
        refuses(socket);
        OK(demi_close(socket));
        int ends[2];
        connected(AF_INET, ends);
        refuses(ends[0]);
        push(ends[0], "still connected");
        streams(ends[1], "still connected", 15);
        OK(demi_close(ends[0]));
        OK(demi_close(ends[1]));
    }
    /* Where there are files or logs: the path of a region is none of theirs. */
    CHECK(demi_open(&queue, "rdma:///words", 0, 0) == EOPNOTSUPP);
    return 0;
}
