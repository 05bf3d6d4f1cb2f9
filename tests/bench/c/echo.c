/* Both ends of an echo through the C interface, as `demi-bench echo-server` and `echo-client` are through Rust's: a pop and
 * a push, each waited for. What is timed, and what is printed, is the same.
 *
 *     echo server CORE IP PORT
 *     echo client CORE IP PORT SIZE SECONDS COUNT */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <demi.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>

#define WARM_UP 100000000ull

/* Latencies to the nanosecond up to this, and all others in the last place. */
#define MOST 1000000
static uint32_t histogram[MOST + 1];

static void must(int errno_, const char *what)
{
    if (errno_ != 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno_));
        exit(1);
    }
}

static demi_qresult_t waited(demi_qtoken_t qt, demi_opcode_t opcode)
{
    static const struct timespec patience = {.tv_sec = 10, .tv_nsec = 0};
    demi_qresult_t qr;
    must(demi_wait(&qr, qt, opcode == DEMI_OPC_ACCEPT ? NULL : &patience), "wait");
    if (qr.qr_opcode != opcode)
        must(qr.qr_ret ? (int)qr.qr_ret : EPROTO, "operation");
    return qr;
}

static void no_delay(int qd)
{
    int on = 1;
    must(demi_setsockopt(qd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "setsockopt");
}

static void serve(const struct sockaddr_in *addr)
{
    int listener;
    demi_qtoken_t qt;
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    must(demi_socket(&listener, AF_INET, SOCK_STREAM, 0), "socket");
    must(demi_bind(listener, (const struct sockaddr *)addr, sizeof *addr), "bind");
    must(demi_listen(listener, 8), "listen");
    must(demi_getsockname(listener, (struct sockaddr *)&name, &len), "getsockname");
    printf("{\"listening\": \"%s:%d\"}\n", inet_ntoa(name.sin_addr), ntohs(name.sin_port));
    fflush(stdout);
    must(demi_accept(&qt, listener), "accept");
    int qd = waited(qt, DEMI_OPC_ACCEPT).qr_value.ares.qd;
    no_delay(qd);
    for (;;) {
        must(demi_pop(&qt, qd), "pop");
        demi_qresult_t qr = waited(qt, DEMI_OPC_POP);
        if (qr.qr_value.sga.sga_segs[0].sgaseg_len == 0)
            break;
        must(demi_push(&qt, qd, &qr.qr_value.sga), "push");
        must(demi_sgafree(&qr.qr_value.sga), "sgafree");
        waited(qt, DEMI_OPC_PUSH);
    }
    must(demi_close(qd), "close");
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t at(uint64_t count, double part)
{
    uint64_t seen = 0;
    for (uint64_t ns = 0; ns <= MOST; ns++) {
        seen += histogram[ns];
        if (seen >= count * part)
            return ns;
    }
    return MOST;
}

static unsigned long preemptions(void)
{
    char line[256];
    unsigned long count = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        sscanf(line, "nonvoluntary_ctxt_switches: %lu", &count);
    if (file != NULL)
        fclose(file);
    return count;
}

static void measure(const struct sockaddr_in *addr, uint32_t size, double seconds, uint64_t most)
{
    int qd;
    demi_qtoken_t qt;
    must(demi_socket(&qd, AF_INET, SOCK_STREAM, 0), "socket");
    must(demi_connect(&qt, qd, (const struct sockaddr *)addr, sizeof *addr), "connect");
    waited(qt, DEMI_OPC_CONNECT);
    no_delay(qd);
    demi_sgarray_t message = demi_sgaalloc(size);
    if (message.sga_numsegs == 0)
        must(ENOMEM, "sgaalloc");
    memset(message.sga_segs[0].sgaseg_buf, 0x5a, size);

    unsigned long before = preemptions();
    uint64_t count = 0, warm = now() + WARM_UP, begin = 0, end = 0;
    for (;;) {
        uint64_t sent = now();
        must(demi_push(&qt, qd, &message), "push");
        waited(qt, DEMI_OPC_PUSH);
        for (uint32_t received = 0; received < size;) {
            must(demi_pop(&qt, qd), "pop");
            demi_qresult_t qr = waited(qt, DEMI_OPC_POP);
            if (qr.qr_value.sga.sga_segs[0].sgaseg_len == 0)
                must(EPIPE, "the server closed the connection");
            received += qr.qr_value.sga.sga_segs[0].sgaseg_len;
            must(demi_sgafree(&qr.qr_value.sga), "sgafree");
        }
        end = now();
        if (begin == 0) {
            if (end >= warm)
                begin = end;
            continue;
        }
        histogram[end - sent < MOST ? end - sent : MOST]++;
        count++;
        if (most > 0 ? count >= most : end - begin >= seconds * 1e9)
            break;
    }
    printf("{\"messages\": %llu, \"p50_ns\": %llu, \"p90_ns\": %llu, \"p99_ns\": %llu, \"msgs_per_s\": %.1f, "
           "\"preemptions\": %lu}\n",
           (unsigned long long)count, (unsigned long long)at(count, 0.5), (unsigned long long)at(count, 0.9),
           (unsigned long long)at(count, 0.99), count * 1e9 / (end - begin), preemptions() - before);
    must(demi_sgafree(&message), "sgafree");
    must(demi_shutdown(qd, SHUT_WR), "shutdown");
    /* The end of the stream, or a server that is gone already. */
    static const struct timespec farewell = {.tv_sec = 0, .tv_nsec = 200000000};
    demi_qresult_t qr;
    if (demi_pop(&qt, qd) == 0 && demi_wait(&qr, qt, &farewell) == 0 && qr.qr_opcode == DEMI_OPC_POP)
        must(demi_sgafree(&qr.qr_value.sga), "sgafree");
}

int main(int argc, char *const argv[])
{
    if (argc < 5) {
        fprintf(stderr, "usage: see the source\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(atoi(argv[2]), &cores);
    sched_setaffinity(0, sizeof cores, &cores);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[4]))};
    if (inet_pton(AF_INET, argv[3], &addr.sin_addr) != 1)
        must(EINVAL, argv[3]);
    const struct demi_args args = {.argc = argc, .argv = argv, .callback = NULL};
    must(demi_init(&args), "init");
    if (strcmp(argv[1], "server") == 0)
        serve(&addr);
    else if (argc >= 8)
        measure(&addr, atoi(argv[5]), atof(argv[6]), strtoull(argv[7], NULL, 10));
    return 0;
}
