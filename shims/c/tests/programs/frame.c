/* Messages over a byte stream, in each codec; blocking calls; pops of several. */
#include "common.h"

static void codec(const struct demi_codec *codec, const char *raw, const char *first, const char *second)
{
    int ends_[2], framed;
    connected(AF_INET, ends_);
    OK(demi_frame(&framed, ends_[0], codec));
    push(ends_[1], raw);
    pops(framed, first);
    pops(framed, second);
    OK(demi_shutdown(ends_[1], SHUT_WR));
    fails(start_pop(framed), ENODATA);
    OK(demi_close(framed));
    OK(demi_close(ends_[1]));
}

int main(int argc, char *const argv[])
{
    init(argc, argv);
    struct demi_codec length = {.kind = DEMI_CODEC_LENGTH, .length_bytes = 1};
    codec(&length, "\5first\6second", "first", "second");
    struct demi_codec lines = {.kind = DEMI_CODEC_DELIMITER, .delimiter_len = 2, .delimiter = "\r\n"};
    codec(&lines, "first\r\nsecond\r\n", "first", "second");
    struct demi_codec resp = {.kind = DEMI_CODEC_RESP};
    codec(&resp, "+first\r\n$6\r\nsecond\r\n", "+first\r\n", "$6\r\nsecond\r\n");

    int ends_[2], framed[2], queue, other;
    connected(AF_INET6, ends_);
    struct demi_codec wrong[] = {
        {.kind = 0},
        {.kind = -1},
        {.kind = DEMI_CODEC_LENGTH, .length_bytes = 3},
        {.kind = DEMI_CODEC_LENGTH, .length_bytes = 1000},
        {.kind = DEMI_CODEC_DELIMITER, .delimiter_len = 0, .delimiter = ""},
        {.kind = DEMI_CODEC_DELIMITER, .delimiter_len = 2},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        RETURNS(EINVAL, demi_frame(&other, ends_[0], &wrong[i]));
    RETURNS(EINVAL, demi_frame(&other, ends_[0], NULL));
    OK(demi_queue(&queue));
    RETURNS(EPROTOTYPE, demi_frame(&other, queue, &lines));

    length.length_bytes = 4;
    length.little_endian = 1;
    for (int i = 0; i < 2; i++)
        OK(demi_frame(&framed[i], ends_[i], &length));
    demi_qresult_t qr;
    for (int i = 0; i < 10; i++) {
        demi_sgarray_t sga = array("message", 7);
        OK(demi_blocking_push(&qr, framed[i % 2], &sga));
        CHECK(qr.qr_opcode == DEMI_OPC_PUSH);
        OK(demi_sgafree(&sga));
        OK(demi_blocking_pop(&qr, framed[1 - i % 2]));
        CHECK(qr.qr_opcode == DEMI_OPC_POP);
        holds(&qr.qr_value.sga, "message");
        OK(demi_sgafree(&qr.qr_value.sga));
    }

    /* Several elements by one pop. */
    const char *texts[] = {"a", "bb", "ccc", "dddd", "eeeee"};
    for (int i = 0; i < 5; i++)
        push(queue, texts[i]);
    demi_qtoken_t qt;
    RETURNS(EINVAL, demi_pop_n(&qt, queue, 0));
    OK(demi_pop_n(&qt, queue, 4));
    qr = done(qt, DEMI_OPC_POP);
    CHECK(qr.qr_ret == 4);
    holds(&qr.qr_value.sga, texts[0]);
    OK(demi_sgafree(&qr.qr_value.sga));
    for (int i = 1; i < 4; i++) {
        demi_sgarray_t sga;
        OK(demi_next_element(&sga, qt));
        holds(&sga, texts[i]);
        OK(demi_sgafree(&sga));
    }
    RETURNS(ENOENT, demi_next_element(&qr.qr_value.sga, qt));
    OK(demi_pop_n(&qt, queue, 100));
    qr = done(qt, DEMI_OPC_POP);
    CHECK(qr.qr_ret == 1);
    holds(&qr.qr_value.sga, texts[4]);
    OK(demi_sgafree(&qr.qr_value.sga));
    RETURNS(ENOENT, demi_next_element(&qr.qr_value.sga, qt));

    /* A stream by the byte. */
    int plain[2];
    connected(AF_INET, plain);
    push(plain[0], "abcdef");
    OK(demi_pop_n(&qt, plain[1], 4));
    qr = done(qt, DEMI_OPC_POP);
    holds(&qr.qr_value.sga, "abcd");
    OK(demi_sgafree(&qr.qr_value.sga));
    streams(plain[1], "ef", 2);
    CHECK(counter("arrays_lent") == 0);
    return 0;
}
