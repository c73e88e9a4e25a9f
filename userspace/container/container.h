/* SPDX-License-Identifier: GPL-2.0-or-later */
/* a container: image, state and bits together */
#ifndef CBW_CONTAINER_H
#define CBW_CONTAINER_H

#include "binding.h"
#include "image.h"
#include "state.h"

#define REGION_DEFAULT	(4u << 20)

/**
 * enum phase - where a container is in its life
 * @PHASE_EMPTY: nothing there yet
 * @PHASE_CLEAN: detached; the directory says which bitmaps there are, and where
 * @PHASE_STOPPED: an attach or a detach was cut off at a moment when all was exact: the
 *	directory is that of an attached container, the state is clean and counts
 * @PHASE_OPEN: attached, or was when the power failed
 * @PHASE_BAD: not to be trusted
 */
enum phase {
	PHASE_EMPTY,
	PHASE_CLEAN,
	PHASE_STOPPED,
	PHASE_OPEN,
	PHASE_BAD,
};

/**
 * struct container - @state is there unless @phase is PHASE_EMPTY or PHASE_BAD with @no_state
 * @why: of PHASE_BAD
 */
struct container {
	struct cfile f;
	struct image img;
	struct state state;
	bool no_state;
	enum phase phase;
	struct cbw_error why;
};

/*
 * Looks at what is in @c->f. -ENODATA: something else than a container. Whether it is
 * attached now is for the caller to know.
 */
int container_load(struct container *c, struct cbw_error *err);
/* Frees all but the file. */
void container_free(struct container *c);
/* Also closes the file. */
void container_close(struct container *c);

/* What attach does with the bits. */
enum take {
	TAKE_EXACT,	/* as they are */
	TAKE_RECOVER,	/* with all of the regions that have an intent */
};

/*
 * Whether the bitmaps can be trusted; -EUCLEAN with the reason if not. @now: the volume;
 * @boot_id: of this kernel.
 */
int container_judge(const struct container *c, const struct binding *now,
		    const struct cbw_cut_id *boot_id, enum take *take, struct cbw_error *err);

/*
 * -EUCLEAN if it is noted, in it or outside of it, that the volume ran on without it. That
 * needs no volume.
 */
int container_noted(const struct container *c, struct cbw_error *err);

struct cbw_dm_dev;
/* The tracked device that has this container now; false: none has. (report.c) */
bool container_live(const struct container *c, struct cbw_dm_dev *live);

/* Of this boot. */
int read_boot_id(struct cbw_cut_id *id, struct cbw_error *err);

/* ---- bits (bits.c) ----------------------------------------------------- */

/**
 * struct bits - the bits of a bitmap, in one piece or in clusters
 * @tail: mask of the last byte: bits behind the last granule are none
 */
struct bits {
	const struct cfile *f;
	const uint64_t *table;	/* NULL: in one piece, at @offset */
	uint64_t offset;
	uint64_t bytes;
	unsigned char tail;
};

#define BITS_STEP	CLUSTER

void bits_of_entry(const struct image *img, const struct entry *e, struct bits *b);
void bits_of_place(const struct container *c, uint64_t offset, uint64_t granularity,
		   struct bits *b);
/* One BITS_STEP from @at on, which is a multiple of it, into a cfile_buffer(). */
int bits_read(const struct bits *b, uint64_t at, unsigned char *buf, struct cbw_error *err);
int bits_crc(const struct bits *b, uint32_t *crc, struct cbw_error *err);
/* Whole clusters, zeros behind the bits. */
int bits_copy(const struct bits *from, const struct cfile *f, uint64_t offset,
	      struct cbw_error *err);
/* Number of bits, and whether there are some behind the last granule. */
int bits_count(const struct bits *b, uint64_t *set, bool *behind, struct cbw_error *err);

/*
 * Sets in a piece of a bitmap, which begins at bit 8 * @at, all granules of those regions that
 * have an intent. @intent: both of them, ORed. Returns how many were not set before.
 */
uint64_t bits_expand(unsigned char *buf, size_t len, uint64_t at, uint64_t granules,
		     unsigned int granularity_shift, const unsigned char *intent,
		     uint64_t regions, unsigned int region_shift);
/* Both intents, ORed; for free(). */
int read_intents(const struct container *c, unsigned char **intent, uint64_t *regions,
		 struct cbw_error *err);

/* ---- layout (layout.c) ------------------------------------------------- */

/*
 * Brings a clean container's state up to what the directory has, and says what somebody else
 * has changed. *@changed: the state is to be written.
 */
int layout_adopt(struct container *c, bool *changed, struct cbw_error *err);
/* Gives each bitmap of the state a place of whole clusters, by copying it where it has none. */
int layout_places(struct container *c, bool *changed, struct cbw_error *err);
/* Empties all bitmaps, with no base. */
int layout_reset(struct container *c, struct cbw_error *err);
/*
 * The directory of an attached container: all in use, with intents and free space. @room:
 * clusters of it that are wanted, 0: as many as make sense. *@space: where the free space is.
 */
int layout_attached(struct container *c, const char *backing, uint32_t region_shift,
		    uint64_t room, struct cbw_place *space, struct cbw_error *err);
/* That of a detached one, and the state that belongs to it. */
int layout_detached(struct container *c, struct cbw_error *err);
/* More space in an attached one: @clusters of them at least. */
int layout_grow(struct container *c, uint64_t clusters, struct cbw_place *space,
		struct cbw_error *err);

#endif
