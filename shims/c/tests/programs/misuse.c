/* Descriptors, tokens and pointers that are not what they should be: an errno, and nothing else. */
#include "common.h"

static char odd[sizeof(demi_qresult_t) + 16] __attribute__((aligned(16)));

static void descriptors(int qd)
{
    struct sockaddr_storage addr;
    socklen_t len = loopback(AF_INET, &addr);
    demi_qtoken_t qt;
    demi_sgarray_t sga = array("x", 1);
    RETURNS(EBADF, demi_bind(qd, (struct sockaddr *)&addr, len));
    RETURNS(EBADF, demi_listen(qd, 5));
    RETURNS(EBADF, demi_accept(&qt, qd));
    RETURNS(EBADF, demi_connect(&qt, qd, (struct sockaddr *)&addr, len));
    RETURNS(EBADF, demi_close(qd));
    RETURNS(EBADF, demi_push(&qt, qd, &sga));
    RETURNS(EBADF, demi_pushto(&qt, qd, &sga, (struct sockaddr *)&addr, len));
    RETURNS(EBADF, demi_pop(&qt, qd));
    RETURNS(EBADF, demi_pop_n(&qt, qd, 1));
    RETURNS(EBADF, demi_shutdown(qd, SHUT_WR));
    RETURNS(EBADF, demi_getsockname(qd, (struct sockaddr *)&addr, &len));
    RETURNS(EBADF, demi_getpeername(qd, (struct sockaddr *)&addr, &len));
    int one = 1;
    len = sizeof one;
    RETURNS(EBADF, demi_setsockopt(qd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    RETURNS(EBADF, demi_getsockopt(qd, SOL_SOCKET, SO_REUSEADDR, &one, &len));
    RETURNS(EBADF, demi_merge(&one, qd, qd ^ 1));
    RETURNS(EBADF, demi_qconnect(qd, qd));
    RETURNS(EBADF, demi_lseek(NULL, qd, 0, SEEK_SET));
    RETURNS(EBADF, demi_truncate(qd, 0));
    RETURNS(EBADF, demi_discard(qd, 0));
    RETURNS(EBADF, demi_flush(qd));
    OK(demi_sgafree(&sga));
}

static void tokens(demi_qtoken_t qt)
{
    demi_qresult_t qr;
    int offset;
    RETURNS(EINVAL, demi_wait(&qr, qt, &at_once));
    RETURNS(EINVAL, demi_wait(&qr, qt, NULL));
    RETURNS(EINVAL, demi_wait_any(&qr, &offset, &qt, 1, &at_once));
    RETURNS(EINVAL, demi_wait_all(&qr, &qt, 1, &at_once));
    RETURNS(EINVAL, demi_cancel(qt));
    RETURNS(ENOENT, demi_next_element(&qr.qr_value.sga, qt));
}

static void pointers(void)
{
    int qd, offset;
    struct sockaddr_storage addr;
    socklen_t len = loopback(AF_INET, &addr);
    demi_qtoken_t qt;
    demi_qresult_t qr;
    demi_sgarray_t sga = array("x", 1);
    RETURNS(EINVAL, demi_init(NULL));
    RETURNS(EINVAL, demi_socket(NULL, AF_INET, SOCK_STREAM, 0));
    RETURNS(EINVAL, demi_socket((int *)(odd + 1), AF_INET, SOCK_STREAM, 0));
    OK(demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    RETURNS(EINVAL, demi_bind(qd, NULL, len));
    RETURNS(EINVAL, demi_bind(qd, (struct sockaddr *)&addr, 0));
    RETURNS(EINVAL, demi_bind(qd, (struct sockaddr *)&addr, 1));
    RETURNS(EINVAL, demi_bind(qd, (struct sockaddr *)&addr, UINT32_MAX));
    addr.ss_family = 99;
    RETURNS(EAFNOSUPPORT, demi_bind(qd, (struct sockaddr *)&addr, len));
    socklen_t len6 = loopback(AF_INET6, &addr);
    RETURNS(EAFNOSUPPORT, demi_bind(qd, (struct sockaddr *)&addr, len6));
    RETURNS(EINVAL, demi_bind(qd, (struct sockaddr *)&addr, len));
    /* An address need not be aligned. */
    loopback(AF_INET, &addr);
    memcpy(odd + 1, &addr, len);
    OK(demi_bind(qd, (struct sockaddr *)(odd + 1), len));
    RETURNS(EINVAL, demi_accept(NULL, qd));
    RETURNS(EINVAL, demi_connect(NULL, qd, (struct sockaddr *)&addr, len));
    RETURNS(EINVAL, demi_connect(&qt, qd, NULL, len));
    RETURNS(EINVAL, demi_push(NULL, qd, &sga));
    RETURNS(EINVAL, demi_push(&qt, qd, NULL));
    RETURNS(EINVAL, demi_push((demi_qtoken_t *)(odd + 1), qd, &sga));
    RETURNS(EINVAL, demi_push(&qt, qd, (demi_sgarray_t *)(odd + 4)));
    RETURNS(EINVAL, demi_pushto(&qt, qd, &sga, NULL, len));
    RETURNS(EINVAL, demi_pop(NULL, qd));
    RETURNS(EINVAL, demi_getsockname(qd, NULL, &len));
    RETURNS(EINVAL, demi_getsockname(qd, (struct sockaddr *)&addr, NULL));
    RETURNS(EINVAL, demi_setsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, NULL, 4));
    RETURNS(EINVAL, demi_setsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &offset, 3));
    RETURNS(EINVAL, demi_getsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &offset, NULL));
    RETURNS(EINVAL, demi_getsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, NULL, &len));
    OK(demi_close(qd));

    OK(demi_queue(&qd));
    qt = start_pop(qd);
    RETURNS(EINVAL, demi_wait(NULL, qt, NULL));
    RETURNS(EINVAL, demi_wait((demi_qresult_t *)(odd + 4), qt, NULL));
    RETURNS(EINVAL, demi_wait(&qr, qt, (struct timespec *)(odd + 4)));
    RETURNS(EINVAL, demi_wait_any(&qr, NULL, &qt, 1, NULL));
    RETURNS(EINVAL, demi_wait_any(&qr, &offset, NULL, 1, NULL));
    RETURNS(EINVAL, demi_wait_any(&qr, &offset, (demi_qtoken_t *)(odd + 4), 1, NULL));
    RETURNS(EINVAL, demi_wait_any(&qr, &offset, &qt, 0, NULL));
    RETURNS(EINVAL, demi_wait_any(&qr, &offset, &qt, -1, NULL));
    RETURNS(EINVAL, demi_blocking_pop(NULL, qd));
    RETURNS(EINVAL, demi_interrupter(NULL));
    RETURNS(EINVAL, demi_counters(NULL));
    push(qd, "the token is valid yet");
    qr = done(qt, DEMI_OPC_POP);
    OK(demi_sgafree(&qr.qr_value.sga));
    OK(demi_sgafree(&sga));
    OK(demi_close(qd));
}

static void sockets(void)
{
    int qd;
    RETURNS(EAFNOSUPPORT, demi_socket(&qd, AF_PACKET, SOCK_STREAM, 0));
    RETURNS(ESOCKTNOSUPPORT, demi_socket(&qd, AF_INET, SOCK_RAW, 0));
    RETURNS(EPROTONOSUPPORT, demi_socket(&qd, AF_INET, SOCK_STREAM, IPPROTO_UDP));
    RETURNS(EPROTONOSUPPORT, demi_socket(&qd, AF_INET6, SOCK_DGRAM, IPPROTO_SCTP));
    OK(demi_socket(&qd, AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
    demi_qtoken_t qt;
    demi_sgarray_t sga = array("x", 1);
    RETURNS(ENOTCONN, demi_push(&qt, qd, &sga));
    RETURNS(ENOTCONN, demi_pop(&qt, qd));
    OK(demi_close(qd));

    /* As the public examples have it: to the peer of a stream, by its address. */
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(AF_INET, &addr, &len), ends_[2];
    join(listening, &addr, len, ends_);
    OK(demi_pushto(&qt, ends_[0], &sga, (struct sockaddr *)&addr, len));
    done(qt, DEMI_OPC_PUSH);
    streams(ends_[1], "x", 1);
    ((struct sockaddr_in *)&addr)->sin_port ^= 1;
    RETURNS(EISCONN, demi_pushto(&qt, ends_[0], &sga, (struct sockaddr *)&addr, len));
    RETURNS(EINVAL, demi_shutdown(ends_[0], 7));
    OK(demi_sgafree(&sga));
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    const struct demi_args args = {.argc = argc, .argv = argv};
    RETURNS(EEXIST, demi_init(&args));
    int closed;
    OK(demi_queue(&closed));
    OK(demi_close(closed));
    int qds[] = {-1, INT32_MIN, INT32_MAX, 0, 1, 2, 3, 999, closed};
    for (size_t i = 0; i < sizeof qds / sizeof *qds; i++)
        descriptors(qds[i]);
    OK(demi_queue(&closed));
    demi_qtoken_t stale = start_push(closed, "x", 1);
    done(stale, DEMI_OPC_PUSH);
    demi_qtoken_t qts[] = {0, 1, UINT64_MAX, UINT32_MAX, (uint64_t)1 << 32, stale, stale + 1};
    for (size_t i = 0; i < sizeof qts / sizeof *qts; i++)
        tokens(qts[i]);
    pointers();
    sockets();
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
