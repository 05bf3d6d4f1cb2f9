/* An echo server and its client in one program each, written as those of the public interface are: one segment, IPv4,
 * results by demi_wait. Run as `--server IP PORT COUNT` and `--client IP PORT COUNT`. */
#include <arpa/inet.h>
#include <assert.h>
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef NDEBUG
#define DATA_SIZE 64

static void report(const char *name, uint32_t len, uint64_t value)
{
    fprintf(stderr, "%.*s = %llu\n", (int)len, name, (unsigned long long)value);
}

static void push_wait(int qd, demi_sgarray_t *sga, demi_qresult_t *qr)
{
    demi_qtoken_t qt = -1;
    assert(demi_push(&qt, qd, sga) == 0);
    assert(demi_wait(qr, qt, NULL) == 0);
    assert(qr->qr_opcode == DEMI_OPC_PUSH);
}

/* Pops; zero where a connection of messages has ended. Of one of bytes the end is an array without any. */
static int pop_wait(int qd, demi_qresult_t *qr)
{
    demi_qtoken_t qt = -1;
    assert(demi_pop(&qt, qd) == 0);
    assert(demi_wait(qr, qt, NULL) == 0);
    if (qr->qr_opcode == DEMI_OPC_FAILED && qr->qr_ret == ENODATA)
        return 0;
    assert(qr->qr_opcode == DEMI_OPC_POP);
    assert(qr->qr_value.sga.sga_numsegs == 1);
    return 1;
}

static void server(const struct sockaddr_in *local)
{
    int sockqd = -1;
    demi_qtoken_t qt = -1;
    demi_qresult_t qr = {0};

    assert(demi_socket(&sockqd, AF_INET, SOCK_STREAM, 0) == 0);
    assert(demi_bind(sockqd, (const struct sockaddr *)local, sizeof(struct sockaddr_in)) == 0);
    assert(demi_listen(sockqd, 16) == 0);
    struct sockaddr_in bound;
    socklen_t len = sizeof bound;
    assert(demi_getsockname(sockqd, (struct sockaddr *)&bound, &len) == 0 && len == sizeof bound);
    printf("listening on %s:%d\n", inet_ntoa(bound.sin_addr), ntohs(bound.sin_port));
    fflush(stdout);

    assert(demi_accept(&qt, sockqd) == 0);
    assert(demi_wait(&qr, qt, NULL) == 0);
    assert(qr.qr_opcode == DEMI_OPC_ACCEPT);
    assert(qr.qr_value.ares.addr.sin_family == AF_INET && qr.qr_value.ares.addr.sin_port != 0);
    int qd = qr.qr_value.ares.qd;

    for (;;) {
        demi_sgarray_t sga;
        if (!pop_wait(qd, &qr))
            break;
        memcpy(&sga, &qr.qr_value.sga, sizeof(demi_sgarray_t));
        if (sga.sga_segs[0].sgaseg_len == 0) {
            assert(demi_sgafree(&sga) == 0);
            break;
        }
        push_wait(qd, &sga, &qr);
        assert(demi_sgafree(&sga) == 0);
    }
    assert(demi_close(qd) == 0);
    assert(demi_close(sockqd) == 0);
}

static void client(const struct sockaddr_in *remote, int count)
{
    int qd = -1;
    demi_qtoken_t qt = -1;
    demi_qresult_t qr = {0};
    char expected[DATA_SIZE];

    assert(demi_socket(&qd, AF_INET, SOCK_STREAM, 0) == 0);
    assert(demi_connect(&qt, qd, (const struct sockaddr *)remote, sizeof(struct sockaddr_in)) == 0);
    assert(demi_wait(&qr, qt, NULL) == 0);
    assert(qr.qr_opcode == DEMI_OPC_CONNECT);

    for (int i = 0; i < count; i++) {
        memset(expected, i % 256, DATA_SIZE);
        demi_sgarray_t sga = demi_sgaalloc(DATA_SIZE);
        assert(sga.sga_segs != 0 && sga.sga_numsegs == 1 && sga.sga_segs[0].sgaseg_len == DATA_SIZE);
        memcpy(sga.sga_segs[0].sgaseg_buf, expected, DATA_SIZE);
        push_wait(qd, &sga, &qr);
        assert(demi_sgafree(&sga) == 0);

        uint32_t received = 0;
        while (received < DATA_SIZE) {
            assert(pop_wait(qd, &qr));
            demi_sgaseg_t *seg = &qr.qr_value.sga.sga_segs[0];
            assert(seg->sgaseg_len > 0 && received + seg->sgaseg_len <= DATA_SIZE);
            assert(memcmp(seg->sgaseg_buf, expected + received, seg->sgaseg_len) == 0);
            received += seg->sgaseg_len;
            assert(demi_sgafree(&qr.qr_value.sga) == 0);
        }
    }
    assert(demi_close(qd) == 0);
}

int main(int argc, char *const argv[])
{
    assert(argc >= 5);
    struct sockaddr_in addr = {0};
    addr.sin_family = AF_INET;
    addr.sin_port = htons(atoi(argv[3]));
    assert(inet_pton(AF_INET, argv[2], &addr.sin_addr) == 1);

    const struct demi_args args = {.argc = argc, .argv = argv, .callback = report};
    assert(demi_init(&args) == 0);
    assert(demi_init(&args) == EEXIST);
    if (!strcmp(argv[1], "--server"))
        server(&addr);
    else
        client(&addr, atoi(argv[4]));
    return EXIT_SUCCESS;
}
