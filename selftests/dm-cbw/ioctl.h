/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of cbw-ioctl (cbw-ioctl.c says what it does):
 *
 *	ioctl-words.c	what calls take and give, as words
 *	ioctl-bitmap.c	list, extents, read, load, mark
 *	ioctl-raw.c	raw, rawread
 *	cbw-ioctl.c	all other commands
 *
 * A command prints what its call returned and how it ended; true: well.
 */
#ifndef IOCTL_H
#define IOCTL_H

#include <errno.h>
#include <linux/dm-cbw.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

/* ---- ioctl-words.c ---------------------------------------------------------------- */

extern int control;		/* /dev/cbw-control */
extern bool misused;		/* the command line is at fault, not the call */

/* Says so; false. */
bool misuse(const char *what, const char *arg);

/* False: it was misused. */
bool get_number(const char *s, uint64_t *v);
bool get_dev(const char *s, struct cbw_devno *dev);
bool get_cut(const char *s, struct cbw_cut_id *cut);
/* \xHH in place, returns the length. */
size_t unescape(char *s);

void put_name(const uint8_t *name, uint32_t len);
void put_cut(const struct cbw_cut_id *cut);
/* The last line, from what a call returned, and errno. */
bool result(int ret);

/* ---- ioctl-bitmap.c --------------------------------------------------------------- */

bool cmd_list(char **args);
bool cmd_extents(char **args, int n);
/* All bits, from the beginning, into a file. */
bool cmd_read(char **args);
bool cmd_load(char **args, int n);
bool cmd_mark(char **args, int n);

/* ---- ioctl-raw.c ------------------------------------------------------------------ */

bool cmd_raw(char **args, int n);
bool cmd_rawread(char **args, int n);

#endif
