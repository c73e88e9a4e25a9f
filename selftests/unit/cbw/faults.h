/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What can happen to the n-th call that changes a file: the program dies before it, the
 * power fails before it, or it fails. Calls are counted from faults_begin() on:
 * pwrite, write, fsync, fdatasync, ftruncate, fallocate, renameat, unlinkat.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include <stdbool.h>

enum fault {
	FAULT_NONE,	/* just count */
	FAULT_KILL,	/* _exit(FAULT_EXIT) instead of the call */
	FAULT_POWER,	/* the same, and what was not synced is there in part only */
	FAULT_ERROR,	/* the call fails with EIO */
};

#define FAULT_EXIT	99

/* @dir: where files that are replaced are kept meanwhile; @nr: calls that go well */
void faults_begin(enum fault kind, unsigned int nr, const char *dir);
/* calls since then; no more faults */
unsigned int faults_end(void);
/* whether it has happened */
bool faults_happened(void);

#endif
