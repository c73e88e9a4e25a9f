/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The part of qcow2.h, which includes it, that is about bitmaps (of layer 0) */
#ifndef QCOW2_BITMAP_H
#define QCOW2_BITMAP_H

#include "qcow2.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QCOW2_BITMAP_IN_USE	(1u << 0)  /* not valid: being changed, or whoever did so was cut off */
#define QCOW2_BITMAP_AUTO	(1u << 1)  /* enabled: records the writes to the image */

/**
 * struct qcow2_bitmap - facts about one bitmap
 * @name:	any bytes but NUL, no certain encoding; followed by a NUL, owned by
 *		the image, valid until a commit, or until the bitmaps are dropped
 *		because guest data is changed (see qcow2_open())
 * @name_len:	bytes in @name, 1 to %QCOW2_MAX_BITMAP_NAME
 * @flags:	QCOW2_BITMAP_*
 * @granularity_bits: one bit stands for 2^granularity_bits bytes; 9 to 31
 * @granules:	bits: the size of the image by the granularity, rounded up
 * @bytes:	of the bitmap as it is stored: granule n is bit n % 8 (0 is the
 *		least significant) of byte n / 8
 * @table_entries, @table_offset: where the table is that names its clusters
 */
struct qcow2_bitmap {
	const char *name;
	uint16_t name_len;
	uint32_t flags;
	uint8_t granularity_bits;
	uint64_t granules;
	uint64_t bytes;
	uint32_t table_entries;
	uint64_t table_offset;
};

/**
 * qcow2_bitmap_count - how many bitmaps are there
 *
 * The directory is read and checked as a whole by the first call that wants it:
 * one bad entry is an error of all of them (EUCLEAN, or EOPNOTSUPP for extra data,
 * unknown flags and types). An image whose autoclear bit 0 is not set has none.
 */
int qcow2_bitmap_count(struct qcow2_image *img, unsigned int *nr,
		       struct qcow2_error *err);

/**
 * qcow2_get_bitmap - facts about one bitmap
 * @i: 0 to the count - 1, else -EINVAL; in the order of the directory
 */
int qcow2_get_bitmap(struct qcow2_image *img, unsigned int i,
		     struct qcow2_bitmap *b);

/** qcow2_find_bitmap - the number of the bitmap of that name, or -ENOENT */
int qcow2_find_bitmap(struct qcow2_image *img, const char *name, size_t len,
		      unsigned int *i);

/**
 * qcow2_bitmap_read - read the bits
 * @offset: of the bytes described in struct qcow2_bitmap
 * @buf:    @len bytes, offset + len <= bytes; undefined after a failure
 *
 * Bits behind the last granule come as 0. Bitmaps in use can be read, too: what
 * it is worth is the caller's to judge.
 */
int qcow2_bitmap_read(struct qcow2_image *img, unsigned int i, uint64_t offset,
		      void *buf, size_t len, struct qcow2_error *err);

/**
 * qcow2_bitmap_place - where in the file the bits lie, if they lie in one piece
 * @host_offset: of the first byte. The clusters are all there, one after the other.
 *
 * Return: 0, -ENODATA if not, or an error.
 */
int qcow2_bitmap_place(struct qcow2_image *img, unsigned int i,
		       uint64_t *host_offset, struct qcow2_error *err);

/**
 * struct qcow2_bitmaps_edit - a new bitmap directory in the making (opaque)
 *
 * It begins with no bitmaps; what is not kept or added is gone after the commit.
 * Until then the image has the old ones. One edit at a time (-EBUSY); it has to
 * end, by commit or abort, before the image is closed.
 */
struct qcow2_bitmaps_edit;

/**
 * qcow2_bitmaps_edit_begin - begin to make a new directory
 *
 * The image is open for writing. The old bitmaps must be sound: directory, tables,
 * and refcounts of 1 for what they take (-EUCLEAN). Guest data should not be
 * written until the commit: bitmaps that record would miss it (-EBUSY if old
 * ones would).
 */
int qcow2_bitmaps_edit_begin(struct qcow2_image *img,
			     struct qcow2_bitmaps_edit **edit,
			     struct qcow2_error *err);

/** qcow2_edit_keep - take over old bitmap @i, with these flags */
int qcow2_edit_keep(struct qcow2_bitmaps_edit *edit, unsigned int i,
		    uint32_t flags, struct qcow2_error *err);

/** qcow2_edit_keep_as - take over old bitmap @i, with another name */
int qcow2_edit_keep_as(struct qcow2_bitmaps_edit *edit, unsigned int i,
		       const char *name, size_t len, uint32_t flags,
		       struct qcow2_error *err);

/**
 * qcow2_edit_clusters - data clusters that a bitmap of the image takes
 * @granularity_bits: 9 to 31
 */
uint64_t qcow2_edit_clusters(const struct qcow2_image *img,
			     unsigned int granularity_bits);

/**
 * qcow2_edit_alloc - get clusters that lie in a row
 * @host_offset: where they begin
 *
 * For qcow2_edit_add_at() of the same edit; the commit frees those that no
 * bitmap took. Before they are written they hold anything.
 */
int qcow2_edit_alloc(struct qcow2_bitmaps_edit *edit, uint64_t clusters,
		     uint64_t *host_offset, struct qcow2_error *err);

/**
 * qcow2_edit_add - a new bitmap in new clusters, which lie in a row
 * @name:  @len bytes, 1 to %QCOW2_MAX_BITMAP_NAME, no NUL, no other bitmap's in the
 *	   new directory; copied
 * @flags: QCOW2_BITMAP_*
 * @host_offset: where in qcow2_fd() they begin. Before the commit the caller writes
 *	   qcow2_edit_clusters() whole clusters there (zeros behind the bits).
 */
int qcow2_edit_add(struct qcow2_bitmaps_edit *edit, const char *name, size_t len,
		   unsigned int granularity_bits, uint32_t flags,
		   uint64_t *host_offset, struct qcow2_error *err);

/**
 * qcow2_edit_add_at - a new bitmap in clusters that are there
 * @host_offset: multiple of the cluster size. qcow2_edit_clusters() clusters from
 *	   there on are data of old bitmaps (several, in part, as they lie) that
 *	   are not kept, or came from qcow2_edit_alloc(), and no other bitmap of
 *	   the new directory has them; else -EINVAL.
 */
int qcow2_edit_add_at(struct qcow2_bitmaps_edit *edit, const char *name,
		      size_t len, unsigned int granularity_bits, uint32_t flags,
		      uint64_t host_offset, struct qcow2_error *err);

/**
 * qcow2_edit_commit - replace the old directory by the new one, on disk
 * @edit: is gone afterwards, also after a failure
 *
 * What the bitmaps hold was written. Does what qcow2_flush() does, so what is said
 * there holds. Then the header is made to name the new directory, by one write of
 * the first 512 bytes of the file, and what only the old bitmaps had is freed.
 * After a crash the image has the old bitmaps or the new ones, with leaked
 * clusters at most. After a failure that is one of the two, too; if it came
 * when the header was written nothing more can be written (-ESHUTDOWN).
 *
 * Where the bitmaps extension does not lie within the first 512 bytes, in images
 * that other tools made or that were not created with %QCOW2_CREATE_BITMAPS, the
 * header is arranged anew the first time: see qcow2_set_ext().
 */
int qcow2_edit_commit(struct qcow2_bitmaps_edit *edit, struct qcow2_error *err);

/**
 * qcow2_edit_abort - drop the new directory
 * @edit: may be NULL; is gone afterwards. The next flush frees its clusters.
 */
void qcow2_edit_abort(struct qcow2_bitmaps_edit *edit);

#ifdef __cplusplus
}
#endif

#endif /* QCOW2_BITMAP_H */
