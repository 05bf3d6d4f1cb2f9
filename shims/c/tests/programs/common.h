/* What the programs share. Each exits with a message that names the line if something is not as it should be. */
#ifndef COMMON_H
#define COMMON_H

#include <arpa/inet.h>
#include <demi.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* That a call returns an errno, or zero. */
#define RETURNS(expected, call)                                                                                        \
    do {                                                                                                               \
        int returned_ = (call);                                                                                        \
        if (returned_ != (expected)) {                                                                                 \
            fprintf(stderr, "%s:%d: %s returned %d (%s), not %d\n", __FILE__, __LINE__, #call, returned_,              \
                    strerror(returned_), (int)(expected));                                                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define OK(call) RETURNS(0, call)

#define UNUSED __attribute__((unused))

static const struct timespec patience UNUSED = {.tv_sec = 20, .tv_nsec = 0};
static const struct timespec at_once UNUSED = {.tv_sec = 0, .tv_nsec = 0};

UNUSED static void init(int argc, char *const argv[])
{
    struct demi_args args = {.argc = argc, .argv = argv, .callback = NULL};
    OK(demi_init(&args));
}

/* Waits for a result of a kind. */
UNUSED static demi_qresult_t done(demi_qtoken_t qt, demi_opcode_t opcode)
{
    demi_qresult_t qr;
    OK(demi_wait(&qr, qt, &patience));
    if (qr.qr_opcode != opcode)
        fprintf(stderr, "opcode %d, not %d; returned %lld\n", qr.qr_opcode, opcode, (long long)qr.qr_ret);
    CHECK(qr.qr_opcode == opcode && qr.qr_qt == qt);
    return qr;
}

/* Waits for a result that is an error. */
UNUSED static void fails(demi_qtoken_t qt, int expected)
{
    demi_qresult_t qr = done(qt, DEMI_OPC_FAILED);
    RETURNS(expected, (int)qr.qr_ret);
}

UNUSED static demi_sgarray_t array(const void *bytes, size_t len)
{
    demi_sgarray_t sga = demi_sgaalloc(len);
    CHECK(sga.sga_numsegs == 1 && sga.sga_segs[0].sgaseg_len == len && sga.sga_buf != NULL);
    memcpy(sga.sga_segs[0].sgaseg_buf, bytes, len);
    return sga;
}

UNUSED static demi_qtoken_t start_push(int qd, const void *bytes, size_t len)
{
    demi_qtoken_t qt;
    demi_sgarray_t sga = array(bytes, len);
    OK(demi_push(&qt, qd, &sga));
    OK(demi_sgafree(&sga));
    return qt;
}

UNUSED static void push(int qd, const char *text)
{
    done(start_push(qd, text, strlen(text)), DEMI_OPC_PUSH);
}

UNUSED static demi_qtoken_t start_pop(int qd)
{
    demi_qtoken_t qt;
    OK(demi_pop(&qt, qd));
    return qt;
}

/* That an array holds a text, cut in whatever way. */
UNUSED static void holds(const demi_sgarray_t *sga, const char *text)
{
    size_t len = strlen(text);
    for (uint32_t at = 0; at < sga->sga_numsegs; at++) {
        const demi_sgaseg_t *seg = &sga->sga_segs[at];
        if (seg->sgaseg_len > len || memcmp(seg->sgaseg_buf, text, seg->sgaseg_len) != 0)
            fprintf(stderr, "\"%.*s\" is not \"%s\"\n", (int)seg->sgaseg_len, (char *)seg->sgaseg_buf, text);
        CHECK(seg->sgaseg_len <= len && memcmp(seg->sgaseg_buf, text, seg->sgaseg_len) == 0);
        text += seg->sgaseg_len;
        len -= seg->sgaseg_len;
    }
    CHECK(len == 0);
}

/* Pops one element, which holds a text. */
UNUSED static void pops(int qd, const char *text)
{
    demi_qresult_t qr = done(start_pop(qd), DEMI_OPC_POP);
    CHECK(qr.qr_qd == qd);
    holds(&qr.qr_value.sga, text);
    OK(demi_sgafree(&qr.qr_value.sga));
}

/* Pops as many bytes as a text has, and compares them. */
UNUSED static void streams(int qd, const char *text, size_t len)
{
    while (len > 0) {
        demi_qresult_t qr = done(start_pop(qd), DEMI_OPC_POP);
        CHECK(qr.qr_value.sga.sga_numsegs == 1);
        demi_sgaseg_t *seg = &qr.qr_value.sga.sga_segs[0];
        CHECK(seg->sgaseg_len > 0 && seg->sgaseg_len <= len && memcmp(seg->sgaseg_buf, text, seg->sgaseg_len) == 0);
        text += seg->sgaseg_len;
        len -= seg->sgaseg_len;
        OK(demi_sgafree(&qr.qr_value.sga));
    }
}

/* Pops the end of a connection: of bytes an array without any, of messages a failure, as any array may be a message. */
UNUSED static void ends(int qd)
{
    demi_qresult_t qr;
    OK(demi_wait(&qr, start_pop(qd), &patience));
    if (qr.qr_opcode == DEMI_OPC_FAILED) {
        RETURNS(ENODATA, (int)qr.qr_ret);
        return;
    }
    CHECK(qr.qr_opcode == DEMI_OPC_POP);
    CHECK(qr.qr_value.sga.sga_numsegs == 1 && qr.qr_value.sga.sga_segs[0].sgaseg_len == 0);
    OK(demi_sgafree(&qr.qr_value.sga));
}

/* A loop-back address with any port. */
UNUSED static socklen_t loopback(int domain, struct sockaddr_storage *addr)
{
    memset(addr, 0, sizeof *addr);
    addr->ss_family = domain;
    if (domain == AF_INET) {
        ((struct sockaddr_in *)addr)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return sizeof(struct sockaddr_in);
    }
    ((struct sockaddr_in6 *)addr)->sin6_addr = in6addr_loopback;
    return sizeof(struct sockaddr_in6);
}

/* A bound socket, and its address. */
UNUSED static int bound(int domain, int type, struct sockaddr_storage *addr, socklen_t *len)
{
    int qd = -1;
    OK(demi_socket(&qd, domain, type, 0));
    CHECK(qd > 0);
    *len = loopback(domain, addr);
    OK(demi_bind(qd, (struct sockaddr *)addr, *len));
    *len = sizeof *addr;
    OK(demi_getsockname(qd, (struct sockaddr *)addr, len));
    CHECK(addr->ss_family == domain && *len == loopback(domain, &(struct sockaddr_storage){0}));
    return qd;
}

/* A listening socket. */
UNUSED static int listener(int domain, struct sockaddr_storage *addr, socklen_t *len)
{
    int qd = bound(domain, SOCK_STREAM, addr, len);
    OK(demi_listen(qd, 16));
    return qd;
}

/* Connects to a listening socket: the near end and the far end. */
UNUSED static void join(int listening, const struct sockaddr_storage *addr, socklen_t len, int ends[2])
{
    demi_qtoken_t accept, connect;
    OK(demi_socket(&ends[0], addr->ss_family, SOCK_STREAM, 0));
    OK(demi_accept(&accept, listening));
    OK(demi_connect(&connect, ends[0], (const struct sockaddr *)addr, len));
    done(connect, DEMI_OPC_CONNECT);
    demi_qresult_t qr = done(accept, DEMI_OPC_ACCEPT);
    CHECK(qr.qr_qd == listening);
    ends[1] = qr.qr_value.ares.qd;
}

/* Two connected sockets. */
UNUSED static void connected(int domain, int ends[2])
{
    struct sockaddr_storage addr;
    socklen_t len;
    int listening = listener(domain, &addr, &len);
    join(listening, &addr, len, ends);
    OK(demi_close(listening));
}

/* The value of a counter. */
UNUSED static const char *counter_name;
UNUSED static uint64_t counter_value;

UNUSED static void counter_callback(const char *name, uint32_t len, uint64_t value)
{
    if (strlen(counter_name) == len && memcmp(name, counter_name, len) == 0)
        counter_value = value;
}

UNUSED static uint64_t counter(const char *name)
{
    counter_name = name;
    counter_value = UINT64_MAX;
    OK(demi_counters(counter_callback));
    CHECK(counter_value != UINT64_MAX);
    return counter_value;
}

#endif
