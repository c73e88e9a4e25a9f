/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A log of what the program writes to one file, and what a crash makes of it:
 * all that was synced, and any subset, by sectors, of the rest
 */
#ifndef RECORD_H
#define RECORD_H

#include <stdbool.h>
#include <stddef.h>

/* from now on, beginning with the content @path has (may be missing: empty) */
void record_start(const char *path);
/* stop and forget */
void record_stop(void);
/* operations so far */
size_t record_ops(void);
/* what may be found in @path after a crash right after operation @ops */
void record_crash(size_t ops, const char *path);

/* independent of recording: the write, sync or truncate after @ops more of them fails with @err; 0: none */
void record_fail(size_t ops, int err);
/* did it? */
bool record_failed(void);

#endif /* RECORD_H */
