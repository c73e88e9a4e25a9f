/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what is written, where it is no chain: a file, a device, one image, an NBD server, stdout */
#ifndef CBW_TARGET_H
#define CBW_TARGET_H

#include "sink.h"

/**
 * struct target_opts
 * @format: "raw", "qcow2"; NULL: what the name says
 * @backing: of an image: what it does not have is there; NULL: none
 * @cluster: bytes of one of an image; 0: the default
 * @level: of compression of an image, 0: none
 * @workers: threads that will write
 * @force: an existing file is overwritten
 * @keep: what is there stays where nothing is written; an image cannot be kept
 * @part: a file has another name until target_sync(), so that one which is not complete is never
 *	taken for one that is, and what it replaces stays until then
 */
struct target_opts {
	const char *format;
	const char *backing;
	uint32_t cluster;
	int level;
	unsigned int workers;
	bool force;
	bool keep;
	bool part;
};

/**
 * struct target
 * @part: name that the file has until it is complete; NULL: @name
 * @force: it may replace one
 * @replaced: the file that is going to be, locked; -1: there was none
 * @img: NULL: it is no image
 * @made: the file is ours, and goes if the copy fails
 */
struct target {
	char *name;
	char *part;
	bool force;
	int replaced;
	struct sink *sink;
	struct qcow2_image *img;
	int fd;
	bool made;
};

/* "-": standard output */
bool target_is_stream(const char *name);
/* of an NBD server */
bool target_is_uri(const char *name);
/* an image by @format, which may be NULL, or by its name */
bool target_is_image(const char *name, const char *format);
/* "raw", "qcow2" or NULL */
bool target_format_ok(const char *format);

/* For @size bytes. After an error, too, target_close(), which does nothing where there was none. */
int target_open(struct target *t, const char *name, const struct target_opts *o, uint64_t size,
		struct cbw_error *err);
/* All of it was written: it becomes durable, and so does the name of a file that was made. */
int target_sync(struct target *t, struct cbw_error *err);
/* @failed: what was made goes again */
void target_close(struct target *t, bool failed);

#endif
