/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * the container as a qcow2 image
 *
 * Of what the format allows a container uses little: no guest data, no snapshots, so that all
 * that is in use is known from header and directory alone. A change writes directory, tables
 * and refcounts anew, to clusters that the old ones do not use, and goes over to them with the
 * first sector of the file: at any moment the image is whole, without leaks.
 */
#ifndef CBW_IMAGE_H
#define CBW_IMAGE_H

#include "cfile.h"
#include "state.h"

#define CLUSTER_BITS	16
#define CLUSTER		(1u << CLUSTER_BITS)
#define IMAGE_EXT	0x43425753u	/* "CBWS": the state */
#define IMAGE_EXT_FILL	0x43425750u	/* "CBWP": puts it to its place */
#define IMAGE_SLOTS	4096		/* where the slots are, in an image of ours */
#define PSEUDO		".cbw-"
#define INTENT_A	PSEUDO "intent-a"
#define INTENT_B	PSEUDO "intent-b"
#define SPACE		PSEUDO "space-"

/* flags of a bitmap in the directory */
#define ENTRY_IN_USE	(1u << 0)
#define ENTRY_AUTO	(1u << 1)

/**
 * struct entry - a bitmap of the directory
 * @table: @clusters of them, as in the image: 0, 1 or an offset
 */
struct entry {
	char name[CBW_NAME_MAX + 1];
	uint32_t flags;
	uint32_t bits;		/* log2 of the granularity */
	uint64_t clusters;
	uint64_t *table;
	uint64_t table_offset;
};

/**
 * struct image - what is in a container's file, but the states and the bits
 * @size: of the volume
 * @slots: where the state is; 0: the header does not say (any more)
 * @used: per cluster of the file: whether something refers to it
 */
struct image {
	struct cfile *f;
	uint64_t size;
	uint64_t l1_offset;
	uint64_t slots;
	uint64_t backing_offset;
	char *backing;
	unsigned char *head;	/* the first cluster */
	struct entry *entry;
	size_t nr;
	unsigned char *used;
	uint64_t clusters;
};

/* Clusters of the bits of a bitmap. */
uint64_t bitmap_clusters(uint64_t size, uint32_t bits);

/*
 * Reads header and directory, whatever is there. -ENODATA: no container (an image of something
 * else, or nothing at all); -EUCLEAN: a damaged one.
 */
int image_load(struct cfile *f, struct image *img, struct cbw_error *err);
void image_free(struct image *img);

/* Whether a bitmap of the directory is IN_USE. */
bool image_in_use(const struct image *img);
struct entry *image_find(const struct image *img, const char *name);
/* The place of its bits when they are in one piece, else 0. */
uint64_t entry_place(const struct entry *e);

/* Takes clusters, one after the other, that nothing uses; a file grows. Multiples of CLUSTER. */
int image_take(struct image *img, uint64_t clusters, uint64_t *offset, struct cbw_error *err);
/* Marks a place as used, or not. */
void image_mark(struct image *img, uint64_t offset, uint64_t length, bool used);
/* The largest piece that is free. */
uint64_t image_free_run(const struct image *img, uint64_t *offset);

/* Adds a bitmap in one piece to a directory to be. */
void entries_add(struct entry **list, size_t *nr, const char *name, uint32_t flags,
		 uint32_t bits, uint64_t clusters, uint64_t offset);
void entries_free(struct entry *list, size_t nr);

/*
 * Writes the directory, and the header if it has to change. What was written before is durable
 * first. Takes over the list. @backing: NULL: as it was.
 */
int image_commit(struct image *img, struct entry *list, size_t nr, const char *backing,
		 struct cbw_error *err);

/* Makes the image of an empty file, all but the header, which comes with the first commit. */
int image_create(struct cfile *f, uint64_t size, struct image *img, struct cbw_error *err);

/* The volume has another size: with the next commit. */
int image_resize(struct image *img, uint64_t size, struct cbw_error *err);

/* Puts a state into its slot, durably; counts @state->seq up before. */
int image_write_state(struct image *img, struct state *state, struct cbw_error *err);
/* The newest one, from wherever slots are. */
int image_read_state(const struct image *img, struct state *state, struct cbw_error *err);

#endif
