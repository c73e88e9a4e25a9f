/* SPDX-License-Identifier: GPL-2.0-or-later */
/* merges that are cut off, for the tests of what ends them */
#ifndef CUTOFF_H
#define CUTOFF_H

#include "faults.h"
#include "merge.h"
#include "points.h"

struct qcow2_image;

#define MIB	(1024u * 1024)

/* Where the chains are; run_merges() makes it. */
extern char top[64];

/* Shell commands: with @a for %s; in the chain's directory. */
void run(const char *fmt, const char *a);
void run_in(const struct points *p, const char *cmd);

/* A command on the chain, which is DIR in @line; @says is what it has to say, NULL: anything. */
void tool(int (*fn)(int, char **), const struct points *p, const char *line, int status,
	  const char *says);

/* Four points in time: 1 and 2 have all of the volume, 3 and 4 a part. */
void build(struct points *p, const char *name);

/* Dies at call @n of a merge of @id into what it stands on, or of ending one; whether it got there. */
bool cut_off(const struct points *p, uint32_t id, const struct merge_opts *o, unsigned int n);

/* The same with another fault: an error is what the merge ends with, then. */
bool hit_at(const struct points *p, uint32_t id, const struct merge_opts *o, enum fault kind,
	    unsigned int n);

/*
 * A merge of @id that dies when it has just begun, and again after @more calls that change files;
 * 0: not again.
 */
void begun(const struct points *p, uint32_t id, bool punch, unsigned int more);

/* What @fn returns in a process of its own, in which it may die. */
int forked(int (*fn)(const void *arg), const void *arg);

/* How far the merge is; just before its end there is no chain to be read. @m: NULL: not wanted */
enum merge_state state_of(const struct points *p, struct chain_merge *m);

/* Turns a byte over of what an image itself has from 8 MiB of the volume on. */
void poke(const struct points *p, const char *file);

/* These points in time are there, read as they have to, and all that is there is good. */
void sound(const struct points *p, const char *ids);

/* The chain goes, and all else that is at @top. */
void drop(struct points *p);

/* An image by itself; bytes of its file, and a number there as the format has them. */
struct qcow2_image *image_of(const struct points *p, const char *file);
void put_at(const struct points *p, const char *file, uint64_t place, const void *bytes, size_t len);
uint64_t number_at(const struct points *p, const char *file, uint64_t place);

/* Where in its file the L2 entry of a byte of the volume is, which has a table. */
uint64_t l2_place(const struct points *p, const char *file, uint64_t at);

int run_merges(const char *name, const struct CMUnitTest *tests, size_t nr);

#endif
