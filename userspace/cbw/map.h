/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * map: extents from a source (a bitmap, an image of a chain) to a format
 *
 * A source calls map_begin() once, when it knows what it has, then map_put() in ascending
 * order. Documentation/formats.rst has the grammar of each format, and who reads it.
 */
#ifndef CBW_MAP_H
#define CBW_MAP_H

#include <stdio.h>

#include "libcbw.h"

/* beside CBW_EXTENT_DIRTY and _DISCARDED: it was changed, and reads as zeros */
#define MAP_ZERO	(1u << 31)

/**
 * struct map_info - what the extents are about
 * @size: of the volume
 * @granularity: extents begin at multiples of it, and end there or at the volume's end
 * @name: of the bitmap
 * @backing: path of the volume as the extents describe it; NULL: not known
 * @backing_format: raw or qcow2
 * @image: of a chain: extents may be MAP_ZERO, never discarded
 * @whole: the image has no parent: all of the volume is listed
 */
struct map_info {
	uint64_t size;
	uint32_t granularity;
	const char *name;
	const char *backing;
	const char *backing_format;
	bool image;
	bool whole;
};

struct map_out;
struct map_bits;

/**
 * struct map_format - how it is written
 * @gaps: what is not changed is put, too, with flags 0
 * @alike: which flags make a difference; neighbours without one become one extent
 * @put, @end: return 0 or a negative errno value with the text in @err
 */
struct map_format {
	const char *name;
	bool gaps;
	uint32_t alike;
	int (*begin)(struct map_out *out, struct cbw_error *err);
	int (*put)(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err);
	int (*end)(struct map_out *out, struct cbw_error *err);
};

/**
 * struct map_out - a map on its way out
 * @f: where text goes
 * @path: of @f, or of the qcow2 image; NULL: stdout
 * @tmp: what it is called until it is complete
 * @block: of the block list; 0: the granularity
 * @began: map_begin() was called
 * @last: not put yet, since it may grow
 * @at: end of what was put
 * @nr: for the format: of what was put
 * @bits: of qcow2
 */
struct map_out {
	const struct map_format *format;
	FILE *f;
	const char *path;
	char *tmp;
	uint64_t block;
	struct map_info info;
	bool began;
	struct cbw_extent last;
	uint64_t at;
	uint64_t nr;
	struct map_bits *bits;
};

/* NULL: not known */
const struct map_format *map_format_find(const char *name);
/* Their names, with commas. */
const char *map_format_names(void);
extern const struct map_format map_qcow2;

/* @out: @format, @path and @block are filled in */
int map_open(struct map_out *out, struct cbw_error *err);
int map_begin(struct map_out *out, const struct map_info *info, struct cbw_error *err);
int map_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err);
/* The rest, and a file gets its name. */
int map_end(struct map_out *out, struct cbw_error *err);
/* After map_end() or instead of it; a file that is not complete goes. */
void map_close(struct map_out *out);

/* Sources: exit statuses, and what is wrong was said. @name, @id: NULL: not given. */
int map_device(const struct cbw_dm_dev *dev, const char *name, struct map_out *out);
int map_snapshot(const struct cbw_dm_dev *dev, const char *name, struct map_out *out);
int map_chain(const char *path, const char *name, const char *id, struct map_out *out);
int map_container(const char *path, const char *name, struct map_out *out);

/**
 * frozen_bitmap - the bitmap that was frozen at the cut of a snapshot
 * @name: NULL: the only one; else that one
 */
int frozen_bitmap(struct cbw_session *session, struct cbw_devno source,
		  const struct cbw_cut_id *cut, const char *name, struct cbw_bitmap *bitmap,
		  struct cbw_error *err);

#endif
