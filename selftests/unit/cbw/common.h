/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COMMON_H
#define COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cbw.h"

/* The path of a file, until there were three others. */
char *path_in(const char *dir, const char *name);

/* Runs @fn with what it writes to stdout and stderr in @text (4096 bytes). */
int run_quiet(int (*fn)(int, char **), int argc, char **argv, char *text);

#endif
