/* SPDX-License-Identifier: GPL-2.0-or-later */
/* reads all that an image itself has, not its backing files */
#ifndef CBW_SCAN_H
#define CBW_SCAN_H

#include <stdbool.h>

#include "chain.h"
#include "libcbw.h"
#include "progress.h"
#include "sums.h"

struct qcow2_image;

/**
 * struct scan_range - of one range of SUMS_RANGE
 * @crc: checksum, as struct sums has it
 * @bytes: that went into it, for crc32c_combine()
 * @copied: in clusters with data, plain and compressed, up to the volume's end
 * @zeros: in zero clusters
 * @nr_bad: clusters that could not be decompressed
 */
struct scan_range {
	uint32_t crc;
	uint64_t bytes;
	uint64_t copied;
	uint64_t zeros;
	unsigned int nr_bad;
};

/**
 * struct scan_source - where ranges are read from
 * @img: layer 0 of it
 * @path: printable, for messages
 * @fd: its file, O_DIRECT where that can be; see scan_source_open()
 */
struct scan_source {
	struct qcow2_image *img;
	const char *path;
	int fd;
};

void scan_source_open(struct scan_source *s, struct qcow2_image *img,
		      const char *path);
void scan_source_close(struct scan_source *s);

/* A buffer of SUMS_RANGE, for O_DIRECT; for free() */
void *scan_buffer(void);

/**
 * scan_one - read range @nr
 * @buf: from scan_buffer(); what is in clusters with data is there, afterwards, at
 *	the place that it has in the range. The rest is left alone.
 * @bad: set for each of the range's clusters that is compressed and cannot be decompressed:
 *	zeros are in its place, and @r does not have it. NULL: that is an error.
 *
 * Any thread.
 */
int scan_one(const struct scan_source *s, uint64_t nr, void *buf, bool *bad,
	     struct scan_range *r, struct cbw_error *err);

/**
 * struct scan - what scan_image() found
 * @sums: of all ranges that could be read; .total only if there are no others
 * @bad: ranges that could not
 * @nr_bad: how many
 * @first: why the first of them could not
 */
struct scan {
	struct sums sums;
	uint64_t copied;
	uint64_t zeros;
	bool *bad;
	uint64_t nr_bad;
	struct cbw_error first;
};

/**
 * scan_image - read all of layer 0, by several threads
 * @path: for messages
 * @progress: may be NULL
 *
 * Goes on behind what cannot be read. Return: 0, or -EINTR after a signal; then nothing
 * is in @scan. Else the caller frees it.
 */
int scan_image(struct qcow2_image *img, const char *path,
	       struct progress *progress, struct scan *scan,
	       struct cbw_error *err);
void scan_free(struct scan *scan);

/**
 * scan_compare - with what the manifest says; 0, or -EUCLEAN with what has changed
 *
 * Zero clusters of an image on top of another count, too: one less and what is below
 * shows through, and no checksum knows of them.
 */
int scan_compare(const struct chain *chain, const struct entry *e, const struct scan *scan,
		 struct cbw_error *err);

/** scan_compare_zeros - just those */
int scan_compare_zeros(const struct chain *chain, const struct entry *e, uint64_t zeros,
		       struct cbw_error *err);

#endif
