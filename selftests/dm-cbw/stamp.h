/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the load and verify programs of these cases share: data that names
 * itself, sector by sector, and the log of the writes that put it there.
 */
#ifndef STAMP_H
#define STAMP_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define SECTOR		512u
#define STAMP_MAGIC	0x706d617473776263ull	/* "cbwstamp" */
#define STAMP_FILL	58

/*
 * One sector.  @sum is a hash of what precedes it, @fill follows from @sum,
 * so that every byte of the sector is known from its first 40.
 */
struct stamp {
	uint64_t magic;
	uint64_t sector;	/* where it was written to */
	uint32_t dev;		/* which device of the load */
	uint32_t gen;		/* generation: which fill or load wrote it */
	uint32_t writer;
	uint32_t reserved;
	uint64_t seq;		/* record of the log, from 1; 0: not logged */
	uint64_t sum;
	uint64_t fill[STAMP_FILL];
};
_Static_assert(sizeof(struct stamp) == SECTOR, "a stamp is a sector");

enum stamp_kind {
	STAMP_OK,
	STAMP_ZERO,	/* 512 zero bytes */
	STAMP_MISPLACED, /* whole, but of another sector or device */
	STAMP_DAMAGED,	/* bytes that belong together do not */
	STAMP_ALIEN,	/* never was a stamp */
};

void stamp_make(struct stamp *s, uint64_t sector, uint32_t dev, uint32_t gen,
		uint32_t writer, uint64_t seq);
enum stamp_kind stamp_check(const struct stamp *s, uint64_t sector,
			    uint32_t dev);
/* In words, into a static buffer. */
const char *stamp_describe(const struct stamp *s, uint64_t sector,
			   uint32_t dev);

/*
 * The order log.  @clock is shared by all writers of all devices: a write
 * takes the next value before it is issued and the next value after it was
 * acknowledged, so ack(A) < issue(B) says that A was acknowledged before B
 * was issued.  A record that has no ack was in flight, or has failed.
 */
#define OPLOG_MAGIC	0x676f6c7077626321ull
#define OPLOG_DEVS	8

enum op_type {
	OP_WRITE = 1,
	OP_ZERO = 2,
	OP_DISCARD = 3,
};

struct oprec {
	uint64_t off;
	uint32_t len;
	uint8_t op;
	uint8_t dev;
	uint8_t failed;
	uint8_t writer;
	uint64_t issue;
	uint64_t ack;
};

struct oplog {
	uint64_t magic;
	uint64_t max;		/* room for so many records */
	uint64_t clock;
	uint64_t nr;		/* records taken */
	uint64_t size[OPLOG_DEVS]; /* the devices, in bytes */
	uint32_t ndevs;
	uint32_t gen;
	struct oprec rec[];
};

struct oplog *oplog_create(const char *path, uint64_t max);
struct oplog *oplog_open(const char *path);

static inline uint64_t oplog_tick(struct oplog *log)
{
	return __atomic_add_fetch(&log->clock, 1, __ATOMIC_SEQ_CST);
}

/* A device or image. */
struct target {
	int fd;
	uint64_t size;
	bool block;
	unsigned int lbs;	/* logical block size; of a file: SECTOR */
};

int target_open(struct target *t, const char *path, int flags);
void *buffer_alloc(size_t len);
int read_full(int fd, void *buf, size_t len, uint64_t off);
int write_full(int fd, const void *buf, size_t len, uint64_t off);
const char *errname(int err);
uint64_t parse_size(const char *s);
void die(int status, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 2, 3)));

/* Exit statuses of the programs. */
#define EXIT_DIFFERS	1
#define EXIT_USAGE	2
#define EXIT_IO		3

#endif
