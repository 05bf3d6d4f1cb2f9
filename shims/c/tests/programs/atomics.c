/* Atomic operations: every queue that is not a region refuses them, above operators too, and goes on; a region does not. */
#include "common.h"

#include <fcntl.h>

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
    int region, opened = demi_open(&region, "rdma:///words?size=64", O_RDWR | O_CREAT, 0);
    if (opened == EOPNOTSUPP)
        return 0;

    /* Where there are regions. */
    OK(opened);
    OK(demi_fetch_and_add(&qt, region, 8, 5));
    CHECK(done(qt, DEMI_OPC_FETCHED).qr_value.word == 0);
    OK(demi_compare_and_swap(&qt, region, 8, 5, UINT64_MAX));
    CHECK(done(qt, DEMI_OPC_FETCHED).qr_value.word == 5);
    OK(demi_compare_and_swap(&qt, region, 8, 5, 6));
    CHECK(done(qt, DEMI_OPC_FETCHED).qr_value.word == UINT64_MAX);
    RETURNS(EINVAL, demi_fetch_and_add(&qt, region, 4, 1));
    RETURNS(EINVAL, demi_fetch_and_add(&qt, region, 64, 1));
    OK(demi_lseek(NULL, region, 59, SEEK_SET));
    push(region, "bytes");
    OK(demi_lseek(NULL, region, 59, SEEK_SET));
    streams(region, "bytes", 5);
    ends(region);
    demi_sgarray_t sga = array("no", 2);
    RETURNS(ENOSPC, demi_push(&qt, region, &sga));
    OK(demi_sgafree(&sga));
    OK(demi_close(region));
    RETURNS(ENOENT, demi_open(&region, "rdma:///words", O_RDWR, 0));
    return 0;
}
