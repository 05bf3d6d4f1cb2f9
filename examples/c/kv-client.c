/* A client of the key-value store, or of Redis: sends one command, prints the reply as it came.
 *
 *     kv-client 127.0.0.1 6379 SET greeting hello
 *
 * demi_frame makes messages out of the stream: a pop is one whole reply, however many packets it came in. */
#include <arpa/inet.h>
#include <demi.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int error, const char *what)
{
    if (error != 0) {
        fprintf(stderr, "cannot %s: %s\n", what, strerror(error));
        exit(1);
    }
}

static void succeeded(const demi_qresult_t *qr, const char *what)
{
    if (qr->qr_opcode == DEMI_OPC_FAILED)
        must((int)qr->qr_ret, what);
}

/* The command as an array of bulk strings. */
static demi_sgarray_t request(int count, char *const words[])
{
    size_t len = 32;
    for (int i = 0; i < count; i++)
        len += strlen(words[i]) + 32;
    demi_sgarray_t sga = demi_sgaalloc(len);
    must(sga.sga_numsegs == 0 ? ENOMEM : 0, "allocate the request");
    char *bytes = sga.sga_segs[0].sgaseg_buf;
    int at = sprintf(bytes, "*%d\r\n", count);
    for (int i = 0; i < count; i++)
        at += sprintf(bytes + at, "$%zu\r\n%s\r\n", strlen(words[i]), words[i]);
    sga.sga_segs[0].sgaseg_len = at;
    return sga;
}

int main(int argc, char *const argv[])
{
    struct sockaddr_in addr = {.sin_family = AF_INET};
    if (argc < 4 || inet_pton(AF_INET, argv[1], &addr.sin_addr) != 1) {
        fprintf(stderr, "usage: %s IP PORT COMMAND [ARGUMENT...]\n", argv[0]);
        return 2;
    }
    addr.sin_port = htons(atoi(argv[2]));
    const struct demi_args args = {.argc = argc, .argv = argv, .callback = NULL};
    must(demi_init(&args), "start");

    int socket, replies;
    demi_qtoken_t qt;
    demi_qresult_t qr;
    must(demi_socket(&socket, AF_INET, SOCK_STREAM, 0), "make a socket");
    must(demi_connect(&qt, socket, (const struct sockaddr *)&addr, sizeof addr), "connect");
    must(demi_wait(&qr, qt, NULL), "connect");
    succeeded(&qr, "connect");
    const struct demi_codec codec = {.kind = DEMI_CODEC_RESP};
    must(demi_frame(&replies, socket, &codec), "expect replies");

    demi_sgarray_t sga = request(argc - 3, argv + 3);
    must(demi_blocking_push(&qr, replies, &sga), "send the request");
    succeeded(&qr, "send the request");
    must(demi_sgafree(&sga), "free");
    must(demi_blocking_pop(&qr, replies), "receive the reply");
    succeeded(&qr, "receive the reply");
    const demi_sgaseg_t *reply = &qr.qr_value.sga.sga_segs[0];
    fwrite(reply->sgaseg_buf, 1, reply->sgaseg_len, stdout);
    int refused = *(char *)reply->sgaseg_buf == '-';
    must(demi_sgafree(&qr.qr_value.sga), "free");
    must(demi_close(replies), "close");
    return refused;
}
