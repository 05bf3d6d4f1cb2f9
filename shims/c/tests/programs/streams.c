/* Streams over both families: names, half-close, the end of a stream, bulk both ways. */
#include "common.h"

static void names(int domain)
{
    struct sockaddr_storage addr, name;
    socklen_t len, name_len = sizeof name;
    int listening = listener(domain, &addr, &len), ends[2];
    join(listening, &addr, len, ends);
    OK(demi_getpeername(ends[0], (struct sockaddr *)&name, &name_len));
    CHECK(name_len == len && memcmp(&name, &addr, 4) == 0);
    /* As much as there is room for, and the full length. */
    memset(&name, 0xaa, sizeof name);
    name_len = 4;
    OK(demi_getpeername(ends[0], (struct sockaddr *)&name, &name_len));
    CHECK(name_len == len && memcmp(&name, &addr, 4) == 0 && ((unsigned char *)&name)[4] == 0xaa);
    RETURNS(ENOTCONN, demi_getpeername(listening, (struct sockaddr *)&name, &name_len));
    OK(demi_close(listening));
    OK(demi_close(ends[0]));
    OK(demi_close(ends[1]));
}

static void ping_pong(int domain)
{
    int qds[2];
    connected(domain, qds);
    for (int i = 0; i < 100; i++) {
        push(qds[0], "ping");
        streams(qds[1], "ping", 4);
        push(qds[1], "pong");
        streams(qds[0], "pong", 4);
    }
    OK(demi_shutdown(qds[0], SHUT_WR));
    ends(qds[1]);
    push(qds[1], "late");
    streams(qds[0], "late", 4);
    OK(demi_close(qds[1]));
    ends(qds[0]);
    OK(demi_close(qds[0]));
}

/* More than any buffer on the way holds; waited for the oldest push first. */
static void bulk(int domain)
{
    enum { PIECE = 40000, PIECES = 100 };
    int qds[2];
    demi_qtoken_t pushes[PIECES];
    char *all = malloc(PIECE * PIECES);
    size_t popped = 0;
    connected(domain, qds);
    for (size_t i = 0; i < PIECE * PIECES; i++)
        all[i] = i * i / 7;
    for (int i = 0; i < PIECES; i++)
        pushes[i] = start_push(qds[0], all + i * PIECE, PIECE);
    int pushed = 0;
    demi_qtoken_t tokens[2] = {start_pop(qds[1]), pushes[0]};
    while (popped < PIECE * PIECES || pushed < PIECES) {
        demi_qresult_t qr;
        int offset = -1;
        int tokens_left = pushed < PIECES ? 2 : 1;
        if (popped == PIECE * PIECES) {
            OK(demi_wait(&qr, tokens[1], &patience));
            offset = 1;
        } else {
            OK(demi_wait_any(&qr, &offset, tokens, tokens_left, &patience));
        }
        CHECK(qr.qr_qt == tokens[offset]);
        if (offset == 1) {
            CHECK(qr.qr_opcode == DEMI_OPC_PUSH);
            if (++pushed < PIECES)
                tokens[1] = pushes[pushed];
            continue;
        }
        CHECK(qr.qr_opcode == DEMI_OPC_POP && qr.qr_value.sga.sga_numsegs == 1);
        demi_sgaseg_t *seg = &qr.qr_value.sga.sga_segs[0];
        CHECK(seg->sgaseg_len > 0 && memcmp(seg->sgaseg_buf, all + popped, seg->sgaseg_len) == 0);
        popped += seg->sgaseg_len;
        OK(demi_sgafree(&qr.qr_value.sga));
        if (popped < PIECE * PIECES)
            tokens[0] = start_pop(qds[1]);
    }
    OK(demi_close(qds[0]));
    OK(demi_close(qds[1]));
    free(all);
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    for (int i = 0; i < 2; i++) {
        int domain = i == 0 ? AF_INET : AF_INET6;
        names(domain);
        ping_pong(domain);
        bulk(domain);
    }
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
