/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the state of a container, as the kernel and we write it: see <linux/dm-cbw-container.h> */
#ifndef CBW_STATE_H
#define CBW_STATE_H

#include "libcbw.h"

#define STATE_SLOTS	2
#define STATE_BYTES	(STATE_SLOTS * CBW_STATE_SLOT_SIZE)
#define STATE_ALIGN	4096

/**
 * struct state_bitmap - a bitmap of the state; @offset 0: it has no place yet
 */
struct state_bitmap {
	char name[CBW_NAME_MAX + 1];
	uint32_t flags;		/* CBW_STATE_ENABLED */
	uint32_t granularity;
	uint32_t crc32c;
	uint64_t offset;
	uint64_t length;
	struct cbw_cut_id base;
};

/**
 * struct state - what a slot says; @intent_length 0: there are no intents
 */
struct state {
	uint32_t flags;		/* CBW_STATE_* */
	uint32_t region_shift;
	uint64_t seq;
	uint64_t generation;
	struct cbw_cut_id container;
	struct cbw_cut_id boot_id;
	uint64_t device_size;
	uint64_t written;
	uint64_t intent_offset[2];
	uint64_t intent_length;
	char *binding;		/* NUL behind it */
	uint32_t binding_length;
	struct state_bitmap *bitmap;
	uint32_t nr;
};

/* Bytes of the bits of a volume of @size bytes. */
uint64_t bits_bytes(uint64_t size, uint64_t granularity);

/*
 * Reads a slot of CBW_STATE_SLOT_SIZE bytes, whatever is in it: -ENOENT when it is no
 * state at all (torn, never written), -EUCLEAN when its checksum is right and what it says is
 * impossible. state_free() in any case of success.
 */
int state_parse(const void *slot, struct state *state, struct cbw_error *err);

/* Fills a slot. -ENOSPC when it is too small for the names. */
int state_build(const struct state *state, void *slot, struct cbw_error *err);

/*
 * The newer one of two slots that lie one after the other, -ENOENT when there is none. A
 * state counts only in the slot of its sequence number.
 */
int state_newest(const void *slots, struct state *state, struct cbw_error *err);

/*
 * Whether all places are within @bytes, behind @first, multiples of @align, and apart from
 * each other.
 */
int state_places(const struct state *state, uint64_t first, uint64_t bytes, uint64_t align,
		 struct cbw_error *err);

struct state_bitmap *state_find(const struct state *state, const char *name);
struct state_bitmap *state_add(struct state *state, const char *name);
void state_copy(struct state *to, const struct state *from);
void state_free(struct state *state);

#endif
