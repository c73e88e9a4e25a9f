/* SPDX-License-Identifier: GPL-2.0-or-later */
/* merging: a range of two images, for merge-range.c, merge-data.c and merge-verify.c */
#ifndef CBW_MERGE_INT_H
#define CBW_MERGE_INT_H

#include "merge.h"
#include "progress.h"
#include "qcow2.h"
#include "ranges.h"
#include "scan.h"
#include "sums.h"

/* of a cluster of the lower image */
enum content {
	NOWHERE,	/* below */
	ZEROS,
	PLAIN,
	COMPRESSED,
};

/* what is lost of a cluster since something cannot be decompressed */
enum loss {
	LOSS_NONE,
	LOSS_ALL,	/* it stays so, and cannot be read */
	LOSS_OLD,	/* in a part of it what is below stands for it */
	LOSS_ZERO,	/* zeros do */
};

struct cluster {
	enum content content;
	enum loss loss;
	bool bad;		/* compressed, and cannot be decompressed */
	bool touched;		/* the upper image has something of it ... */
	bool packed;		/* ... compressed */
	uint32_t covered;	/* ... so many bytes */
	uint32_t up_bad;	/* ... and so many that cannot be decompressed */
};

struct merge_below;

struct merge_run {
	const struct chain *chain;
	const struct entry *lower, *upper;
	const struct details *lower_d, *upper_d;
	struct sums *after;
	bool punch;
	bool repair;
	bool doubtful;
	bool backed;		/* the lower image has a backing file */
	bool same_packing;	/* compressed clusters can move as they are */
	struct qcow2_image *low, *up;
	unsigned int low_type;
	char *low_path, *up_path;	/* printable */
	struct scan_source low_src, up_src;
	struct merge_below *below;	/* has what is below compared; NULL: as it comes */
	uint64_t low_zeros, up_zeros;	/* bytes that merge_map() has seen in zero clusters */
	uint64_t new_zeros;	/* that the result will have */
	uint32_t cluster, up_cluster;
	bool *low_bad, *up_bad;	/* of the range's clusters, from scan_one() */
	uint64_t size;
	char *buf, *up_buf, *below_buf;
	void *packed;
	struct cluster *map;	/* of the range's clusters */
	struct ranges moved;	/* since the last flush */
	uint64_t moved_bytes, batch, done;
	struct progress progress;
};

/* An error of the library. */
int merge_qfail(struct cbw_error *err, int ret, const struct qcow2_error *qerr);
bool merge_all_zero(const char *buf, size_t len);

/* What the checksum of a range says; -EUCLEAN */
int merge_damaged(const struct chain *chain, const struct entry *e, uint64_t start, uint64_t end,
		  struct cbw_error *err);

/**
 * merge_open - both images, and the buffers
 * @low_flags, @up_flags: of qcow2_open(), beside those that are always given
 *
 * With any result merge_close() is called.
 */
int merge_open(struct merge_run *m, unsigned int low_flags, unsigned int up_flags,
	       struct cbw_error *err);
void merge_close(struct merge_run *m);

/** merge_map - what both say of each cluster, to .map, .moved; @any: the upper one has something */
int merge_map(struct merge_run *m, uint64_t start, uint64_t end, bool *any,
	      struct cbw_error *err);

/**
 * merge_read - all that both have of a range that was mapped
 * @up: what the upper one has
 *
 * What cannot be decompressed is noted in .map.
 */
int merge_read(struct merge_run *m, uint64_t nr, struct scan_range *up, struct cbw_error *err);

/**
 * merge_losses - whether the range will not have all that it had
 * @say: what becomes of it is said; the result's entry; NULL: it is not
 */
bool merge_losses(const struct merge_run *m, uint64_t start, uint64_t end,
		  const struct entry *say);

/** merge_lay - what the lower image will have, to .buf, when both were read */
int merge_lay(struct merge_run *m, uint64_t start, uint64_t end, struct cbw_error *err);

/** merge_new_sum - of the range as it will be in the lower image */
uint32_t merge_new_sum(const struct merge_run *m, uint64_t start, uint64_t end);

/** merge_new_zeros - bytes that it will have in zero clusters there, if that stands on another */
uint64_t merge_new_zeros(const struct merge_run *m, uint64_t start, uint64_t end);

/* ---- merge-below.c ------------------------------------------------------- */

/** merge_below_open - all below @lower; nothing of it is read yet, nor are its details */
struct merge_below *merge_below_open(struct chain *chain, const struct entry *lower, bool json);
void merge_below_close(struct merge_below *b);

/**
 * merge_below_read - what the upper @depth of those images have of a range
 * @buf: from scan_buffer()
 *
 * All that they have of it is read and compared with its checksums; details that are missing are
 * made. -EUCLEAN: an image is damaged, and @buf has nothing that means anything.
 */
int merge_below_read(struct merge_below *b, uint64_t nr, size_t depth, char *buf,
		     struct cbw_error *err);

#endif
