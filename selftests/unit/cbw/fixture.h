/* SPDX-License-Identifier: GPL-2.0-or-later */
/* a directory of its own, and a chain of two images in it */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "common.h"

#define FX_SIZE		(3u * 1024 * 1024 + 512 * 3)	/* the last granule is short */
#define FX_CLUSTER	65536u

extern char fx_top[];

/* setup and teardown of a group */
int fx_begin(void **state);
int fx_end(void **state);
/* a path in the directory; good until the eighth following call */
char *fx_path(const char *name);
/*
 * chain/vol: a full image and an increment; what a reader of the newest one sees, of FX_SIZE.
 * In clusters: the full one has data in 0-3, 5 and the short one at the end, zeros in 8, the
 * rest not; the increment has data in 1, 6-7 (7 compressed), zeros in 2-3.
 */
void fx_chain(unsigned char *newest);
/* Runs a shell command; it has to say nothing and succeed. */
void fx_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
