/* SPDX-License-Identifier: GPL-2.0-or-later */
/* where data goes: a file or device, a qcow2 image, an NBD server, a stream */
#ifndef CBW_SINK_H
#define CBW_SINK_H

#include "xfer.h"

struct qcow2_image;
struct sink;

/**
 * struct sink_ops - all in the main thread but write() and read()
 * @data: places for @length bytes at @data, for @offset: up to @room writes; their number, or an
 *	error. @length is a multiple of the unit but for the end of the volume, behind which
 *	the buffer has zeros up to the unit.
 * @zero: the range reads as zeros from now on
 * @packed: a unit that was compressed, @len bytes
 * @write: for writes with XFER_CALL; a worker
 * @read: what the target has now, a worker; the buffer as in source_ops. NULL: it cannot be
 *	read
 * @flush: all that was placed has been written: make it durable
 * @close: frees @s, too
 */
struct sink_ops {
	int (*data)(struct sink *s, uint64_t offset, void *data, uint32_t length,
		    struct xfer_write *w, unsigned int room, struct cbw_error *err);
	int (*zero)(struct sink *s, uint64_t offset, uint64_t length, struct cbw_error *err);
	int (*packed)(struct sink *s, uint64_t offset, const void *data, size_t len,
		      struct cbw_error *err);
	int (*write)(struct sink *s, const struct xfer_write *w, unsigned int worker,
		     struct cbw_error *err);
	int (*read)(struct sink *s, uint64_t offset, void *buf, uint32_t length,
		    unsigned int worker, struct cbw_error *err);
	int (*flush)(struct sink *s, struct cbw_error *err);
	void (*close)(struct sink *s);
};

/**
 * struct sink - embedded in each kind's own
 * @name: for messages
 * @unit: what is data or zeros as a whole: a power of two
 * @zero_min: zeros within data that are shorter are written as data
 * @say_zero: ranges of zeros have to be said, else they are zeros already
 * @compress: units are compressed: the level, 0: not; @type: QCOW2_COMPRESSION_*
 * @no_flush: nothing says that it is ever durable
 * @memory: it lies in memory, and takes pieces in any order
 * @made: there was no such file before
 * @stuck: a thread may be in it for ever: it is not closed
 * @sync_fd: whose fdatasync makes data durable (not what says where it is)
 */
struct sink {
	const struct sink_ops *ops;
	char *name;
	uint32_t unit;
	uint32_t zero_min;
	bool say_zero;
	int compress;
	unsigned int type;
	int sync_fd;
	bool no_flush;
	bool memory;
	bool made;
	bool stuck;
};

/**
 * sink_qcow2 - a new image, which stays the caller's
 * @fd: to write data, O_DIRECT if the file can; the caller's
 * @backed: there is something below that zeros have to hide
 */
struct sink *sink_qcow2(const char *name, struct qcow2_image *img, int fd, bool backed,
			int compress);

/**
 * struct sink_file_opts
 * @size: that is needed
 * @force: an existing file is emptied
 * @keep: what it has stays where nothing else is written; the file may be there
 */
struct sink_file_opts {
	uint64_t size;
	bool force;
	bool keep;
};

/* A file, made if need be, or a block device that nobody else uses. */
int sink_file(const char *path, const struct sink_file_opts *o, struct sink **s,
	      struct cbw_error *err);
/* NBD URI; for so many workers */
int sink_nbd(const char *uri, uint64_t size, unsigned int workers, struct sink **s,
	     struct cbw_error *err);
/*
 * Takes a file that is open for one writer, until it is closed: -EBUSY if another run has it,
 * -ESTALE if @path is no longer that file.
 */
int sink_lock(int fd, const char *path, struct cbw_error *err);
/* The stream that stream_restore() takes, to @fd. */
struct sink *sink_stream(int fd, uint64_t size);
void sink_close(struct sink *s);

#endif
