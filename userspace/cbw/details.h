/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is kept beside an image, in a file of its own: checksums for each range of what
 * it has, and copies of its header and its L1 table, without which all of it would
 * be lost. The manifest names size and checksum of that file.
 */
#ifndef CBW_DETAILS_H
#define CBW_DETAILS_H

#include <stdbool.h>

#include "chain.h"
#include "sums.h"

struct qcow2_image;

#define DETAILS_MAX	(1u << 30)	/* bytes of the file */
/* end of the name of details that are to take the place of others */
#define DETAILS_NEW	".new"

/**
 * struct details - of one image
 * @cut: the image's
 * @size: of the volume
 * @sums: of what the image itself has; not .total, which the manifest has
 * @header: first bytes of the file, up to the last one that is not zero
 * @l1: the L1 table as it is in the file, @l1_bytes at @l1_offset
 */
struct details {
	struct cbw_cut_id cut;
	uint64_t size;
	struct sums sums;
	uint8_t *header;
	uint32_t header_bytes;
	uint8_t *l1;
	uint32_t l1_bytes;
	uint64_t l1_offset;
};

void details_free(struct details *d);

/**
 * details_take - copy header and L1 table of an image
 * @path: of its file, for messages
 * @img: open and flushed; layer 0
 */
int details_take(struct qcow2_image *img, const char *path, struct details *d,
		 struct cbw_error *err);

/** details_format - the text; for free() */
char *details_format(const struct details *d);

/**
 * details_parse - read it
 *
 * The text is not trusted: any text gives 0, with lengths that fit each other, or
 * -EUCLEAN with a reason.
 */
int details_parse(const char *text, size_t len, struct details *d,
		  struct cbw_error *err);

/** details_name - the file for those of image @file: .json for .qcow2; for free() */
char *details_name(const char *file);

/**
 * details_save - write them durably, note size and checksum in the entry
 * @staged: under the name with %DETAILS_NEW; details_settle() gives them theirs
 */
int details_save(const struct chain *chain, struct entry *e,
		 const struct details *d, bool staged, struct cbw_error *err);

/**
 * details_settle - staged details that the manifest means take the place of the old
 *
 * Does nothing if there are none. The caller syncs the directory.
 */
int details_settle(const struct chain *chain, const struct entry *e,
		   struct cbw_error *err);

/**
 * details_load - read those of an entry, staged ones too
 *
 * -ENOENT: the file is missing; -EUCLEAN: it is not what the manifest says; -ENODATA: the
 * entry has none, since its image was made before there were details.
 */
int details_load(const struct chain *chain, const struct entry *e,
		 struct details *d, struct cbw_error *err);

/** details_remove - of an image that is not to be */
void details_remove(const struct chain *chain, const struct entry *e);

#endif
