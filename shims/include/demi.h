/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef DEMI_H
#define DEMI_H

/* All of Demi's C interface. See demi(3). */
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/types.h>
#include <demi/wait.h>

#endif
