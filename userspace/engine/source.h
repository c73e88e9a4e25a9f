/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what data comes from: a file or device, a chain of qcow2 images, an NBD server */
#ifndef CBW_SOURCE_H
#define CBW_SOURCE_H

#include "xfer.h"

struct qcow2_image;
struct source;

/**
 * enum source_kind - what there is
 * @SOURCE_DATA: at src_offset of fd
 * @SOURCE_ZERO: it reads as zeros
 * @SOURCE_CALL: only source_ops.read() gets at it
 */
enum source_kind {
	SOURCE_DATA,
	SOURCE_ZERO,
	SOURCE_CALL,
};

struct source_run {
	uint64_t length;
	enum source_kind kind;
	enum xfer_how how;	/* of DATA */
	int fd;
	uint64_t src_offset;
};

/**
 * struct source_ops
 * @map: the run that begins at @offset, at most @length; main thread
 * @read: any range, by any number of threads at once; @worker spreads them over connections, and
 *	two may have the same. The buffer is aligned and has room for the length rounded up to
 *	4096
 * @close: frees @s, too
 */
struct source_ops {
	int (*map)(struct source *s, uint64_t offset, uint64_t length, struct source_run *run,
		   struct cbw_error *err);
	int (*read)(struct source *s, uint64_t offset, void *buf, uint32_t length,
		    unsigned int worker, struct cbw_error *err);
	void (*close)(struct source *s);
};

/**
 * struct source - embedded in each kind's own
 * @name: for messages, as it was given
 * @size: bytes
 * @memory: all of it lies in memory
 * @stuck: a thread may be in it for ever: it is not closed
 */
struct source {
	const struct source_ops *ops;
	char *name;
	uint64_t size;
	bool memory;
	bool stuck;
};

/* A file or block device, raw; @fd stays the caller's if it is not -1. Holes are not read. */
int source_file(const char *path, int fd, struct source **s, struct cbw_error *err);
/* An image with all below it, which stays the caller's. */
struct source *source_qcow2(const char *name, struct qcow2_image *img);
/* NBD URI */
int source_nbd(const char *uri, unsigned int workers, struct source **s, struct cbw_error *err);

/**
 * source_open - by name
 * @format: "raw", "qcow2" or NULL: what ends with .qcow2 is one, an NBD URI is that,
 *	all else is raw. A format is never guessed from the content, which may be a guest's.
 */
int source_open(const char *name, const char *format, unsigned int workers, struct source **s,
		struct cbw_error *err);
/* Whether it reads that file or device, or an image that stands on it. */
struct stat;
bool source_uses(const struct source *s, const struct stat *st);
void source_close(struct source *s);

#endif
