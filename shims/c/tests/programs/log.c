/* A log, or on catnap a file: `--log`, or `--file PATH`. Appended to, read, gone along, cut, reopened. */
#include "common.h"

#include <fcntl.h>

static int is_log;

static void element(int qd, const char *text)
{
    if (is_log)
        pops(qd, text);
    else
        streams(qd, text, strlen(text));
}

int main(int argc, char *const argv[])
{
    CHECK(argc >= 3);
    is_log = strcmp(argv[1], "--log") == 0;
    const char *path = argv[2];
    init(argc, argv);

    int qd = -1, other;
    RETURNS(ENOENT, demi_open(&qd, path, O_RDWR, 0));
    RETURNS(EINVAL, demi_open(&qd, path, O_RDWR | O_CREAT | O_DIRECTORY, 0644));
    RETURNS(EINVAL, demi_open(&qd, path, O_ACCMODE, 0644));
    RETURNS(EINVAL, demi_open(NULL, path, O_RDWR, 0));
    RETURNS(EINVAL, demi_open(&qd, NULL, O_RDWR, 0));
    CHECK(demi_open(&qd, "", O_RDWR, 0) != 0);
    OK(demi_open(&qd, path, O_RDWR | O_CREAT | O_EXCL, 0600));
    OK(demi_close(qd));
    RETURNS(EEXIST, demi_open(&other, path, O_RDWR | O_CREAT | O_EXCL, 0600));
    OK(demi_creat(&qd, path, 0600));

    int64_t at[3];
    const char *texts[3] = {"first", "second", "third"};
    for (int i = 0; i < 3; i++)
        at[i] = done(start_push(qd, texts[i], strlen(texts[i])), DEMI_OPC_PUSH).qr_ret;
    CHECK(at[0] < at[1] && at[1] < at[2]);
    OK(demi_flush(qd));
    for (int i = 0; i < 3 && is_log; i++)
        element(qd, texts[i]);
    if (!is_log)
        element(qd, "firstsecondthird");

    uint64_t position = 0;
    OK(demi_lseek(&position, qd, at[1], SEEK_SET));
    CHECK(position == (uint64_t)at[1]);
    element(qd, is_log ? "second" : "secondthird");
    OK(demi_lseek(NULL, qd, 0, DEMI_SEEK_HEAD));
    element(qd, is_log ? "first" : "firstsecondthird");
    OK(demi_lseek(&position, qd, 0, SEEK_END));
    CHECK(position > (uint64_t)at[2]);
    RETURNS(EINVAL, demi_lseek(&position, qd, 0, SEEK_CUR));
    RETURNS(EINVAL, demi_lseek(&position, qd, -1, SEEK_SET));
    RETURNS(EINVAL, demi_lseek(&position, qd, 1, SEEK_END));

    OK(demi_truncate(qd, at[2]));
    OK(demi_lseek(NULL, qd, 0, DEMI_SEEK_HEAD));
    element(qd, is_log ? "first" : "firstsecond");
    if (is_log)
        element(qd, "second");
    push(qd, "another");
    element(qd, "another");
    OK(demi_flush(qd));
    OK(demi_close(qd));
    RETURNS(EBADF, demi_flush(qd));

    OK(demi_open(&qd, path, O_RDONLY, 0));
    element(qd, is_log ? "first" : "firstsecondanother");
    demi_qtoken_t qt;
    demi_sgarray_t sga = array("no", 2);
    int started = demi_push(&qt, qd, &sga);
    if (started == 0)
        fails(qt, EROFS);
    else
        RETURNS(EROFS, started);
    OK(demi_sgafree(&sga));
    RETURNS(EROFS, demi_truncate(qd, at[1]));
    OK(demi_close(qd));
    OK(demi_unlink(path));
    RETURNS(ENOENT, demi_unlink(path));
    if (is_log) {
        OK(demi_creat(&qd, path, 0600));
        push(qd, "gone");
        int64_t second = done(start_push(qd, "stays", 5), DEMI_OPC_PUSH).qr_ret;
        OK(demi_discard(qd, second));
        fails(start_pop(qd), ESTALE);
        OK(demi_lseek(NULL, qd, 0, DEMI_SEEK_HEAD));
        element(qd, "stays");
        OK(demi_close(qd));
    }
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
