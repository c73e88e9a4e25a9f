/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BITS_PROGRAM_H
#define BITS_PROGRAM_H

#include "shim.h"

/*
 * Run any bytes as a program of operations on some bitmaps of one device, each beside
 * its model. What differs ends in shim_fail().
 */
void program_run(const u8 *data, size_t size);

#endif
