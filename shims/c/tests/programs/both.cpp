// The headers in C++, and a little of what is in them.
#include <demi.h>

#include <cstring>

static bool passes(const demi_sgarray_t *sga, void *)
{
    return sga->sga_numsegs == 1;
}

int main(int argc, char **argv)
{
    demi_args args{argc, argv, nullptr};
    int queue = -1, filtered = -1;
    demi_qtoken_t push, pop;
    demi_qresult_t qr{};
    if (demi_init(&args) != 0 || demi_queue(&queue) != 0 || demi_filter(&filtered, queue, passes, nullptr) != 0)
        return 1;
    demi_sgarray_t sga = demi_sgaalloc(3);
    std::memcpy(sga.sga_segs[0].sgaseg_buf, "abc", 3);
    if (demi_push(&push, filtered, &sga) != 0 || demi_sgafree(&sga) != 0 || demi_pop(&pop, filtered) != 0)
        return 2;
    if (demi_wait(&qr, push, nullptr) != 0 || demi_wait(&qr, pop, nullptr) != 0 || qr.qr_opcode != DEMI_OPC_POP)
        return 3;
    if (qr.qr_value.sga.sga_addr.sin_family != 0 || std::memcmp(qr.qr_value.sga.sga_segs[0].sgaseg_buf, "abc", 3) != 0)
        return 4;
    return demi_sgafree(&qr.qr_value.sga);
}
