/* With `c.check_writes`: what is written to while it is in flight is found. Prints the token of the first such push. */
#include "common.h"

#include <inttypes.h>

int main(int argc, char *const argv[])
{
    init(argc, argv);
    int qd;
    demi_qtoken_t qt;
    OK(demi_queue(&qd));
    demi_sgarray_t sga = array("original", 8);
    OK(demi_push(&qt, qd, &sga));
    done(qt, DEMI_OPC_PUSH);
    OK(demi_push(&qt, qd, &sga));
    ((char *)sga.sga_segs[0].sgaseg_buf)[3] ^= 1;
    printf("%" PRIu64 "\n", qt);
    fails(qt, EFAULT);
    /* What is freed in flight is not written to by whoever gets memory next. */
    OK(demi_push(&qt, qd, &sga));
    OK(demi_sgafree(&sga));
    demi_sgarray_t next = array("something else", 14);
    done(qt, DEMI_OPC_PUSH);
    OK(demi_sgafree(&next));

    struct sockaddr_storage addr;
    socklen_t len;
    int datagrams = bound(AF_INET, SOCK_DGRAM, &addr, &len);
    sga = array("datagram", 8);
    OK(demi_pushto(&qt, datagrams, &sga, (struct sockaddr *)&addr, len));
    done(qt, DEMI_OPC_PUSH);
    OK(demi_sgafree(&sga));
    pops(datagrams, "datagram");
    return 0;
}
