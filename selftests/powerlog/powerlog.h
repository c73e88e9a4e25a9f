/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The log of the powerlog target, as /sys/kernel/debug/powerlog/log gives it:
 * a head, then records in the order of their submission, each followed by its
 * data, which is padded to eight bytes.  All in the machine's byte order.
 *
 * Everything that happens to any of the devices takes the next number, from 1:
 * that a bio was submitted, that it was completed, that a mark was made.  The
 * number of a submission is taken before the device below has the bio, that of
 * a completion before anybody above hears of it: so what was submitted after
 * somebody had seen a completion has the larger number.
 */
#ifndef POWERLOG_H
#define POWERLOG_H

#include <linux/types.h>

#define POWERLOG_MAGIC		0x676f6c7265776f70ull	/* "powerlog" */
#define POWERLOG_VERSION	1

enum powerlog_state {
	POWERLOG_OFF,
	POWERLOG_ON,
	POWERLOG_FULL,		/* events are missing: good for nothing */
};

struct powerlog_head {
	__u64 magic;
	__u32 version;
	__u32 state;
	__u64 seq;		/* the last number that was taken */
	__u64 bytes;		/* of the log, with this head */
	__u64 records;
	__u64 reserved;
};

enum powerlog_type {
	POWERLOG_WRITE = 1,	/* with data */
	POWERLOG_ZEROES = 2,	/* without */
	POWERLOG_DISCARD = 3,
	POWERLOG_FLUSH = 4,	/* of the whole device; no sectors */
	POWERLOG_MARK = 5,	/* the data is the text, with its terminating zero */
};

/* Of POWERLOG_WRITE and POWERLOG_ZEROES. */
#define POWERLOG_FUA		(1u << 0)
#define POWERLOG_PREFLUSH	(1u << 1)

struct powerlog_rec {
	__u32 type;
	__u32 flags;
	__u32 id;		/* of the device; 0 for marks */
	__u32 error;		/* a block status, 0: none */
	__u64 sector;
	__u64 sectors;
	__u64 submit;
	__u64 complete;		/* 0: not before the log ended */
	__u32 data;		/* bytes that follow, before padding */
	__u32 reserved;
};

#endif /* POWERLOG_H */
