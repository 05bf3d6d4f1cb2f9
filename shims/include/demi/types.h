/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef DEMI_TYPES_H
#define DEMI_TYPES_H

/* The types of Demi's C interface. See demi(3). */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Strict C leaves it out of time.h. */
struct timespec;

/* Most segments of an array. Popped arrays have one, unless the program asks for more: see DEMI_SO_SEGMENTS. */
#define DEMI_SGARRAY_MAXSIZE 8

/* Names an operation that is outstanding, or done and not yet waited for. Never zero. */
typedef uint64_t demi_qtoken_t;

typedef struct demi_sgaseg {
    void *sgaseg_buf;    /* The first byte. */
    uint32_t sgaseg_len; /* How many there are. */
} demi_sgaseg_t;

typedef struct demi_sgarray {
    void *sga_buf;        /* By which the array is freed. Not an address. */
    uint32_t sga_numsegs; /* Segments in use; zero: there is no array. */
    demi_sgaseg_t sga_segs[DEMI_SGARRAY_MAXSIZE];
    /* Where a popped datagram came from. sin_family tells which of them it is. */
    __extension__ union {
        struct sockaddr_in sga_addr;
        struct sockaddr_in6 sga_addr6;
    };
} demi_sgarray_t;

typedef enum demi_opcode {
    DEMI_OPC_INVALID = 0,
    DEMI_OPC_PUSH,
    DEMI_OPC_POP,
    DEMI_OPC_ACCEPT,
    DEMI_OPC_CONNECT,
    DEMI_OPC_CLOSE,
    DEMI_OPC_FAILED, /* qr_ret is the errno. */
    DEMI_OPC_MOVED,  /* A demi_qconnect_token has come to its end. */
    DEMI_OPC_FETCHED /* A word of a region was changed, or looked at. */
} demi_opcode_t;

typedef struct demi_accept_result {
    int32_t qd; /* The connection. */
    /* Who connected. */
    __extension__ union {
        struct sockaddr_in addr;
        struct sockaddr_in6 addr6;
    };
} demi_accept_result_t;

typedef struct demi_qresult {
    demi_opcode_t qr_opcode;
    int32_t qr_qd;       /* The queue that it was asked of. */
    demi_qtoken_t qr_qt; /* Its token, no longer valid. */
    /* DEMI_OPC_FAILED: the errno. DEMI_OPC_PUSH: the position in a log or file. A demi_pop_n of messages: how many.
     * DEMI_OPC_MOVED: how many elements. Otherwise zero. */
    int64_t qr_ret;
    union {
        demi_sgarray_t sga;        /* DEMI_OPC_POP */
        demi_accept_result_t ares; /* DEMI_OPC_ACCEPT */
        uint64_t word;             /* DEMI_OPC_FETCHED: what was there. */
    } qr_value;
} demi_qresult_t;

/* Is told a counter: its name, the length of that, and the value. */
typedef void (*demi_callback_t)(const char *, uint32_t, uint64_t);

struct demi_args {
    int argc;
    char *const *argv;
    demi_callback_t callback; /* That of demi_counters, unless it is given another. May be NULL. */
};

/* Whether an element passes. The array is not the function's own, as with the two below. */
typedef bool (*demi_predicate_t)(const demi_sgarray_t *, void *);

/* Less than, equal to or greater than zero, as the first is less than, equal to or greater than the second. */
typedef int (*demi_compare_t)(const demi_sgarray_t *, const demi_sgarray_t *, void *);

/* Makes the second array, which begins as the first. Zero, or an errno. */
typedef int (*demi_map_t)(const demi_sgarray_t *, demi_sgarray_t *, void *);

enum demi_codec_kind {
    DEMI_CODEC_LENGTH = 1, /* Each message behind its length. */
    DEMI_CODEC_DELIMITER,  /* Each message before a delimiter. */
    DEMI_CODEC_RESP        /* The Redis protocol, version 2. */
};

/* How messages lie in a byte stream. */
struct demi_codec {
    int kind;              /* One of enum demi_codec_kind. */
    uint32_t length_bytes; /* Of the length: 1, 2, 4 or 8. */
    int little_endian;     /* The length's order; zero: big-endian. */
    uint32_t delimiter_len; /* 1 to 255. */
    const void *delimiter;
};

/* Level and names of Demi's own options. */
#define SOL_DEMI 0x4d45
#define DEMI_SO_SEGMENTS 1 /* int: most segments of an array popped from the queue; descriptor -1: from any. */

/* demi_lseek: the oldest element, or the begin of a file. SEEK_SET takes a position, SEEK_END zero. */
#define DEMI_SEEK_HEAD 3

#ifdef __cplusplus
}
#endif

#endif
