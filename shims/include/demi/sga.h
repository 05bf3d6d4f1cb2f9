/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef DEMI_SGA_H
#define DEMI_SGA_H

/* Memory. See demi_sgaalloc(3), demi_malloc(3). */

#include <demi/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An array of one segment of `len` bytes. sga_numsegs is zero if there is not so much memory. */
demi_sgarray_t demi_sgaalloc(size_t len);

/* Frees an array. What is in flight of it goes once it has arrived. */
int demi_sgafree(demi_sgarray_t *sga);

/* Memory from which can be pushed without a copy, from any address in it. NULL if there is not so much. */
void *demi_malloc(size_t len);

/* Frees what demi_malloc gave. What is in flight of it goes once it has arrived. */
void demi_free(void *object);

#ifdef __cplusplus
}
#endif

#endif
