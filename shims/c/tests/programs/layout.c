/* Prints sizes and offsets as C has them, a line each. */
#include <demi.h>
#include <stdio.h>

#define SIZE(type) printf("%s %zu\n", #type, sizeof(type))
#define AT(type, field) printf("%s.%s %zu %zu\n", #type, #field, offsetof(type, field), sizeof(((type *)0)->field))

int main(void)
{
    SIZE(demi_sgaseg_t);
    AT(demi_sgaseg_t, sgaseg_buf);
    AT(demi_sgaseg_t, sgaseg_len);
    SIZE(demi_sgarray_t);
    AT(demi_sgarray_t, sga_buf);
    AT(demi_sgarray_t, sga_numsegs);
    AT(demi_sgarray_t, sga_segs);
    AT(demi_sgarray_t, sga_addr6);
    SIZE(demi_accept_result_t);
    AT(demi_accept_result_t, qd);
    AT(demi_accept_result_t, addr6);
    SIZE(demi_qresult_t);
    AT(demi_qresult_t, qr_opcode);
    AT(demi_qresult_t, qr_qd);
    AT(demi_qresult_t, qr_qt);
    AT(demi_qresult_t, qr_ret);
    AT(demi_qresult_t, qr_value);
    SIZE(struct demi_args);
    AT(struct demi_args, argc);
    AT(struct demi_args, argv);
    AT(struct demi_args, callback);
    SIZE(struct demi_codec);
    AT(struct demi_codec, kind);
    AT(struct demi_codec, length_bytes);
    AT(struct demi_codec, little_endian);
    AT(struct demi_codec, delimiter_len);
    AT(struct demi_codec, delimiter);
    printf("sga_addr %zu\n", offsetof(demi_sgarray_t, sga_addr));
    printf("word %zu\n", sizeof(((demi_qresult_t *)0)->qr_value.word));
    printf("max %d\n", DEMI_SGARRAY_MAXSIZE);
    printf("opcodes %d %d %d %d %d %d %d %d %d\n", DEMI_OPC_INVALID, DEMI_OPC_PUSH, DEMI_OPC_POP, DEMI_OPC_ACCEPT,
           DEMI_OPC_CONNECT, DEMI_OPC_CLOSE, DEMI_OPC_FAILED, DEMI_OPC_MOVED,
           DEMI_OPC_FETCHED);
    printf("codecs %d %d %d\n", DEMI_CODEC_LENGTH, DEMI_CODEC_DELIMITER, DEMI_CODEC_RESP);
    printf("own %d %d %d\n", SOL_DEMI, DEMI_SO_SEGMENTS, DEMI_SEEK_HEAD);
    return 0;
}
