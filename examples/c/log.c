/* Appends lines to a log, and prints a log from its begin. For a library with cattree.
 *
 *     log append NAME < lines
 *     log print NAME
 *
 * A line is appended when the one before is on its way, not when it is durable: all of them are when the program ends. */
#include <demi.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lines on their way at a time. */
enum { WINDOW = 64 };

static void must(int error, const char *what)
{
    if (error != 0) {
        fprintf(stderr, "cannot %s: %s\n", what, strerror(error));
        exit(1);
    }
}

static void append(const char *name)
{
    int log, pending = 0;
    char *line = NULL;
    size_t room = 0;
    ssize_t len;
    long lines = 0;
    demi_qtoken_t tokens[WINDOW];
    demi_qresult_t qr;
    must(demi_open(&log, name, O_RDWR | O_CREAT | O_DSYNC, 0644), "open the log");
    do {
        len = getline(&line, &room, stdin);
        if (len > 0) {
            demi_sgarray_t sga = demi_sgaalloc(len);
            must(sga.sga_numsegs == 0 ? ENOMEM : 0, "allocate a line");
            memcpy(sga.sga_segs[0].sgaseg_buf, line, len);
            must(demi_push(&tokens[pending++], log, &sga), "append");
            must(demi_sgafree(&sga), "free");
            lines++;
        }
        while (pending == WINDOW || (len <= 0 && pending > 0)) {
            int done;
            must(demi_wait_any(&qr, &done, tokens, pending, NULL), "wait");
            if (qr.qr_opcode == DEMI_OPC_FAILED)
                must((int)qr.qr_ret, "append");
            tokens[done] = tokens[--pending];
        }
    } while (len > 0);
    free(line);
    must(demi_close(log), "close");
    printf("%ld lines are durable\n", lines);
}

static void print(const char *name)
{
    int log;
    uint64_t end, position;
    demi_qtoken_t qt;
    demi_qresult_t qr;
    const struct timespec at_once = {.tv_sec = 0, .tv_nsec = 0}, soon = {.tv_sec = 0, .tv_nsec = 200000000};
    must(demi_open(&log, name, O_RDONLY, 0), "open the log");
    must(demi_lseek(&end, log, 0, SEEK_END), "find the end");
    must(demi_lseek(&position, log, 0, DEMI_SEEK_HEAD), "find the begin");
    if (position == end)
        return;
    for (;;) {
        must(demi_pop(&qt, log), "read");
        int error = demi_wait(&qr, qt, &at_once);
        if (error == ETIMEDOUT)
            error = demi_wait(&qr, qt, &soon);
        if (error == ETIMEDOUT)
            break; /* Behind the last line. */
        must(error, "read");
        if (qr.qr_opcode == DEMI_OPC_FAILED)
            must((int)qr.qr_ret, "read");
        fwrite(qr.qr_value.sga.sga_segs[0].sgaseg_buf, 1, qr.qr_value.sga.sga_segs[0].sgaseg_len, stdout);
        must(demi_sgafree(&qr.qr_value.sga), "free");
    }
    must(demi_close(log), "close");
}

int main(int argc, char *const argv[])
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s append|print NAME\n", argv[0]);
        return 2;
    }
    const struct demi_args args = {.argc = argc, .argv = argv, .callback = NULL};
    must(demi_init(&args), "start");
    if (strcmp(argv[1], "append") == 0)
        append(argv[2]);
    else
        print(argv[2]);
    return 0;
}
