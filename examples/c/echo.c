/* An echo server, and a client that times it.
 *
 *     echo server 127.0.0.1 7000
 *     echo client 127.0.0.1 7000 [MESSAGES]
 *
 * The server has any number of connections, and one loop: whatever is done next is dealt with. Of each connection there is
 * one operation under way, a pop or a push, so a client that does not read what it is sent is not read from. */
#include <arpa/inet.h>
#include <demi.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 32, MESSAGE = 64 };

static void must(int error, const char *what)
{
    if (error != 0) {
        fprintf(stderr, "cannot %s: %s\n", what, strerror(error));
        exit(1);
    }
}

static void serve(const struct sockaddr_in *addr)
{
    int listener, count;
    demi_qtoken_t qt;
    demi_qresult_t results[BATCH];

    must(demi_socket(&listener, AF_INET, SOCK_STREAM, 0), "make a socket");
    must(demi_bind(listener, (const struct sockaddr *)addr, sizeof *addr), "bind");
    must(demi_listen(listener, 128), "listen");
    must(demi_accept(&qt, listener), "accept");
    printf("listening on %s:%d\n", inet_ntoa(addr->sin_addr), ntohs(addr->sin_port));
    fflush(stdout);

    for (;;) {
        must(demi_wait_next_n(results, BATCH, &count, NULL), "wait");
        for (int i = 0; i < count; i++) {
            demi_qresult_t *qr = &results[i];
            int error = 0;
            switch (qr->qr_opcode) {
            case DEMI_OPC_ACCEPT:
                error = demi_pop(&qt, qr->qr_value.ares.qd);
                if (error != 0)
                    demi_close(qr->qr_value.ares.qd);
                must(demi_accept(&qt, listener), "accept");
                break;
            case DEMI_OPC_POP:
                if (qr->qr_value.sga.sga_segs[0].sgaseg_len == 0)
                    error = EPIPE; /* The end of the stream. */
                else
                    error = demi_push(&qt, qr->qr_qd, &qr->qr_value.sga);
                /* The push has references of its own. */
                must(demi_sgafree(&qr->qr_value.sga), "free");
                if (error != 0)
                    demi_close(qr->qr_qd);
                break;
            case DEMI_OPC_PUSH:
                if (demi_pop(&qt, qr->qr_qd) != 0)
                    demi_close(qr->qr_qd);
                break;
            default:
                if (qr->qr_qd == listener)
                    must(demi_accept(&qt, listener), "accept");
                else
                    demi_close(qr->qr_qd);
            }
        }
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static demi_qresult_t waited(demi_qtoken_t qt, demi_opcode_t opcode, const char *what)
{
    const struct timespec patience = {.tv_sec = 10, .tv_nsec = 0};
    demi_qresult_t qr;
    must(demi_wait(&qr, qt, &patience), what);
    if (qr.qr_opcode != opcode)
        must((int)qr.qr_ret, what);
    return qr;
}

static void exchange(const struct sockaddr_in *addr, int messages)
{
    int qd;
    demi_qtoken_t qt;
    double *times = calloc(messages, sizeof *times);
    must(times == NULL ? ENOMEM : 0, "note the times");
    must(demi_socket(&qd, AF_INET, SOCK_STREAM, 0), "make a socket");
    must(demi_connect(&qt, qd, (const struct sockaddr *)addr, sizeof *addr), "connect");
    waited(qt, DEMI_OPC_CONNECT, "connect");

    for (int i = 0; i < messages; i++) {
        demi_sgarray_t message = demi_sgaalloc(MESSAGE);
        must(message.sga_numsegs == 0 ? ENOMEM : 0, "allocate");
        memset(message.sga_segs[0].sgaseg_buf, i, MESSAGE);
        double begin = now();
        must(demi_push(&qt, qd, &message), "push");
        must(demi_sgafree(&message), "free");
        waited(qt, DEMI_OPC_PUSH, "push");
        for (uint32_t received = 0; received < MESSAGE;) {
            must(demi_pop(&qt, qd), "pop");
            demi_qresult_t qr = waited(qt, DEMI_OPC_POP, "pop");
            demi_sgaseg_t *seg = &qr.qr_value.sga.sga_segs[0];
            must(seg->sgaseg_len == 0 ? EPIPE : 0, "go on: the server has closed the connection");
            for (uint32_t at = 0; at < seg->sgaseg_len; at++)
                must(((unsigned char *)seg->sgaseg_buf)[at] == (unsigned char)i ? 0 : EBADMSG, "believe the server");
            received += seg->sgaseg_len;
            must(demi_sgafree(&qr.qr_value.sga), "free");
        }
        times[i] = now() - begin;
    }
    must(demi_close(qd), "close");
    qsort(times, messages, sizeof *times, compare);
    printf("%d messages of %d bytes: p50 %.1f us, p99 %.1f us\n", messages, MESSAGE, times[messages / 2],
           times[messages - 1 - messages / 100]);
    free(times);
}

int main(int argc, char *const argv[])
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    if (argc < 4 || inet_pton(AF_INET, argv[2], &addr.sin_addr) != 1) {
        fprintf(stderr, "usage: %s server|client IP PORT [MESSAGES]\n", argv[0]);
        return 2;
    }
    addr.sin_port = htons(atoi(argv[3]));
    int messages = argc > 4 ? atoi(argv[4]) : 10000;
    const struct demi_args args = {.argc = argc, .argv = argv, .callback = NULL};
    must(demi_init(&args), "start");
    if (strcmp(argv[1], "server") == 0)
        serve(&addr);
    exchange(&addr, messages > 0 ? messages : 1);
    return 0;
}
