/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BITS_COMMON_H
#define BITS_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model.h"

/* Largest granularity: 2 GiB. */
#define SHIFT_MAX	22

/* CBW_SEED, or the seed of the program's first argument, is that of all tests. */
void rnd_seed(const char *test, u64 seed);
u64 rnd(u64 below);

int bits_setup(void **state);
/* No memory in use, none accounted for, no warning that was not looked at. */
int bits_teardown(void **state);
#define bits_test_case(f)	cmocka_unit_test_setup_teardown(f, bits_setup, bits_teardown)
void bits_args(int argc, char **argv);

/* Mark @n ranges in the twin: short ones, long ones, some at the device's end. */
void mark_some(struct twin *t, unsigned int n);

#endif
