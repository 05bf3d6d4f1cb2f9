/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef DEMI_WAIT_H
#define DEMI_WAIT_H

/* Waiting. A timeout of NULL is none; ETIMEDOUT leaves every token valid. See demi_wait(3). */

#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Waits for one operation. */
int demi_wait(demi_qresult_t *qr_out, demi_qtoken_t qt, const struct timespec *timeout);

/* Waits for any of `num_qts` operations; `ready_offset` is its place among them. */
int demi_wait_any(demi_qresult_t *qr_out, int *ready_offset, const demi_qtoken_t qts[], int num_qts,
                  const struct timespec *timeout);

/* Waits until at least one operation is done, whichever, and takes up to `num_qrs` results, the oldest first. */
int demi_wait_next_n(demi_qresult_t qrs_out[], int num_qrs, int *num_qrs_out, const struct timespec *timeout);

/* Waits until all are done. The results are in the order of the tokens. On failure none is taken. */
int demi_wait_all(demi_qresult_t qrs_out[], const demi_qtoken_t qts[], int num_qts, const struct timespec *timeout);

/* demi_push and demi_wait, demi_pop and demi_wait. */
int demi_blocking_push(demi_qresult_t *qr_out, int qd, const demi_sgarray_t *sga);
int demi_blocking_pop(demi_qresult_t *qr_out, int qd);

/* Recalls an operation; it completes with ECANCELED then. EALREADY: it is done, or too far under way. */
int demi_cancel(demi_qtoken_t qt);

/* A descriptor for write(2): a byte that is written to it, as from a signal handler, ends the current or next wait of
 * this thread with EINTR. It is the program's to close. */
int demi_interrupter(int *fd_out);

/* For a program with an event loop of its own. demi_wait_fd: a descriptor that polls readable when there is work for an
 * instance that was prepared for sleep; it stays the library's. demi_prepare_sleep: whether the program may sleep on it, and
 * for how long at the most, tv_sec below zero being no limit; EAGAIN: it may not, as there is a result or work. A wait, with
 * a timeout of zero or not, comes after the sleep. */
int demi_wait_fd(int *fd_out);
int demi_prepare_sleep(struct timespec *limit_out);

#ifdef __cplusplus
}
#endif

#endif
