/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef DEMI_LIBOS_H
#define DEMI_LIBOS_H

/* Queues. Every function returns zero or a positive errno. Descriptors, tokens and arrays belong to the thread that made
 * them. See demi(3), which has the table of all errors. */

#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the instance of this thread. It is configured by the file that DEMI_CONFIG names, if it is set. */
int demi_init(const struct demi_args *args);

/* Sockets. */
int demi_socket(int *qd_out, int domain, int type, int protocol);
int demi_bind(int qd, const struct sockaddr *addr, socklen_t size);
int demi_listen(int qd, int backlog);
int demi_accept(demi_qtoken_t *qt_out, int qd);
int demi_connect(demi_qtoken_t *qt_out, int qd, const struct sockaddr *addr, socklen_t size);
int demi_shutdown(int qd, int how);
int demi_setsockopt(int qd, int level, int optname, const void *optval, socklen_t optlen);
int demi_getsockopt(int qd, int level, int optname, void *optval, socklen_t *optlen);
int demi_getsockname(int qd, struct sockaddr *addr, socklen_t *addrlen);
int demi_getpeername(int qd, struct sockaddr *addr, socklen_t *addrlen);

/* Every queue. A push takes references: freeing the array right after is legal, writing to it is not. */
int demi_push(demi_qtoken_t *qt_out, int qd, const demi_sgarray_t *sga);
int demi_pushto(demi_qtoken_t *qt_out, int qd, const demi_sgarray_t *sga, const struct sockaddr *addr, socklen_t size);
int demi_pop(demi_qtoken_t *qt_out, int qd);
/* 1 to `count` bytes of a stream, or elements of a message queue: the first comes with the result, and the others
 * with demi_next_element. */
int demi_pop_n(demi_qtoken_t *qt_out, int qd, size_t count);
int demi_next_element(demi_sgarray_t *sga_out, demi_qtoken_t qt);
int demi_close(int qd);

/* Queues in memory, and queues made of queues. */
int demi_queue(int *qd_out);
int demi_merge(int *qd_out, int a, int b);
int demi_filter(int *qd_out, int from, demi_predicate_t passes, void *arg);
int demi_partition(int *yes_out, int *no_out, int from, demi_predicate_t passes, void *arg);
int demi_map(int *qd_out, int from, demi_map_t on_pop, demi_map_t on_push, void *arg);
int demi_sort(int *qd_out, int from, demi_compare_t compare, void *arg);
int demi_frame(int *qd_out, int from, const struct demi_codec *codec);
int demi_qconnect(int from, int to);
int demi_qconnect_token(demi_qtoken_t *qt_out, int from, int to);

/* Files and logs. */
int demi_open(int *qd_out, const char *path, int flags, mode_t mode);
int demi_creat(int *qd_out, const char *path, mode_t mode);
int demi_lseek(uint64_t *position_out, int qd, int64_t offset, int whence);
int demi_truncate(int qd, uint64_t position);
int demi_discard(int qd, uint64_t position);
int demi_unlink(const char *path);
int demi_flush(int qd);

/* A word of a region: eight bytes at a multiple of eight. Yields what was there (DEMI_OPC_FETCHED). */
int demi_compare_and_swap(demi_qtoken_t *qt_out, int qd, uint64_t position, uint64_t expected, uint64_t desired);
int demi_fetch_and_add(demi_qtoken_t *qt_out, int qd, uint64_t position, uint64_t add);

/* Reports every counter of the instance to `callback`; NULL: to that of demi_init. */
int demi_counters(demi_callback_t callback);

#ifdef __cplusplus
}
#endif

#endif
