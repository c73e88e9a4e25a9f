/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the file or block device that a container is */
#ifndef CBW_CFILE_H
#define CBW_CFILE_H

#include "libcbw.h"

#define CFILE_ALIGN	4096

/**
 * struct cfile - an open container
 * @size: of a file: grows with cfile_grow()
 * @loop: a file's loop device, 0:0: none
 *
 * Reads and writes are O_DIRECT where the file system can: the kernel writes there, too, and
 * not through anybody's page cache. So buffers come from cfile_buffer(), offsets and lengths
 * are multiples of CFILE_ALIGN. What lies behind the end of a file reads as zeros.
 */
struct cfile {
	char *path;
	int fd;
	bool block;
	bool writable;
	uint64_t size;
	struct cbw_devno dev;	/* of a block device */
	struct cbw_devno loop;
};

#define CFILE_WRITE	(1u << 0)
#define CFILE_CREATE	(1u << 1)	/* a file that is not there */
#define CFILE_LOCK	(1u << 2)	/* nobody else is at it: other runs, loop devices, mounts */

int cfile_open(const char *path, unsigned int flags, struct cfile *f, struct cbw_error *err);
/* What a mapped device has as its container: a loop device's file is known by its name only. */
int cfile_open_dev(struct cbw_devno dev, struct cfile *f, struct cbw_error *err);
void cfile_close(struct cfile *f);

void *cfile_buffer(size_t len);
int cfile_read(const struct cfile *f, void *buf, size_t len, uint64_t offset,
	       struct cbw_error *err);
int cfile_write(const struct cfile *f, const void *buf, size_t len, uint64_t offset,
		struct cbw_error *err);
int cfile_zero(const struct cfile *f, uint64_t offset, uint64_t len, struct cbw_error *err);
int cfile_sync(const struct cfile *f, struct cbw_error *err);
/* Makes a file longer, with room on its file system; -ENOSPC for a device. */
int cfile_grow(struct cfile *f, uint64_t size, struct cbw_error *err);

#endif
