// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state in a container: see <linux/dm-cbw-container.h>.
 */
#include "container.h"

#include <linux/crc32c.h>
#include <linux/part_stat.h>

static __le32 state_crc(const void *buf, u32 len)
{
	return cpu_to_le32(crc32c(~0, buf, len) ^ ~0);
}

/* Sectors that were written and discarded through the device since it was made. */
u64 cbw_device_written(struct cbw_device *dev)
{
	struct block_device *part = dm_disk(dev->md)->part0;

	return part_stat_read(part, sectors[STAT_WRITE]) +
	       part_stat_read(part, sectors[STAT_DISCARD]);
}

/* @len: size of the device in sectors */
static void state_header(struct cbw_container *c, struct cbw_state *s, sector_t len)
{
	unsigned int i;

	s->magic = cpu_to_le64(CBW_STATE_MAGIC);
	s->version = cpu_to_le32(CBW_STATE_VERSION);
	s->generation = cpu_to_le64(c->generation);
	memcpy(s->container, c->id, sizeof(s->container));
	memcpy(s->boot_id, c->boot_id, sizeof(s->boot_id));
	s->device_size = cpu_to_le64((u64)len << SECTOR_SHIFT);
	for (i = 0; i < 2; i++)
		s->intent_offset[i] = cpu_to_le64(c->intent_offset[i]);
	s->intent_length = cpu_to_le64((u64)c->intent_blocks * CBW_BLOCK);
	s->region_shift = cpu_to_le32(c->region_shift + SECTOR_SHIFT);
}

static u32 entry_size(const struct cbw_bitmap *b)
{
	return ALIGN(sizeof(struct cbw_state_bitmap) + b->name_len, 8);
}

/* Bytes of the state with these bitmaps, and a name of @more bytes (0: none). */
u32 cbw_state_length(struct cbw_container *c, u32 more)
{
	u32 len = sizeof(struct cbw_state) + ALIGN(c->binding_len, 8);
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &c->dev->bitmaps, node)
		if (!b->transient)
			len += entry_size(b);
	return len + (more ? ALIGN(sizeof(struct cbw_state_bitmap) + more, 8) : 0);
}

/**
 * cbw_state_build - the state that goes with a checkpoint
 * @c: the container; what is written is c->items
 * @clean: say CBW_STATE_CLEAN
 * @len: bytes of it, in c->state_buf, without number and checksum
 *
 * May sleep.  Returns 0 or -ENOSPC.
 */
int cbw_state_build(struct cbw_container *c, bool clean, u32 *len)
{
	struct cbw_state *s = (struct cbw_state *)c->state_buf;
	u32 at = sizeof(*s), i;

	lockdep_assert_held(&c->cp_mutex);
	lockdep_assert_held(&cbw_config_mutex);
	memset(c->state_buf, 0, CBW_STATE_SLOT_SIZE);
	state_header(c, s, cbw_cured(29) ? c->items_len : c->dev->len);
	if (clean) {
		s->flags = cpu_to_le32(CBW_STATE_CLEAN);
		/*
		 * Not what it is by now: a checkpoint may come when another table, or the one
		 * before ours, writes already, and what that writes is in no bitmap.
		 */
		s->written = cpu_to_le64(cbw_cured(23) ? c->written :
					 cbw_device_written(c->dev));
	} else if (!READ_ONCE(c->live)) {
		s->flags = cpu_to_le32(CBW_STATE_ATTACHING);
	}
	s->binding_length = cpu_to_le32(c->binding_len);
	memcpy(c->state_buf + at, c->binding, c->binding_len);
	at += ALIGN(c->binding_len, 8);
	s->nr_bitmaps = cpu_to_le32(c->nr_items);
	for (i = 0; i < c->nr_items; i++) {
		const struct cbw_cp_item *item = &c->items[i];
		const struct cbw_bitmap *b = item->b;
		struct cbw_state_bitmap *e;

		if (at + entry_size(b) > CBW_STATE_SLOT_SIZE)
			return -ENOSPC;
		e = (struct cbw_state_bitmap *)(c->state_buf + at);
		e->entry_size = cpu_to_le32(entry_size(b));
		e->flags = cpu_to_le32(item->enabled ? CBW_STATE_ENABLED : 0);
		e->granularity = cpu_to_le32(1u << (item->active->shift + SECTOR_SHIFT));
		e->name_len = cpu_to_le32(b->name_len);
		e->offset = cpu_to_le64(item->place.offset);
		e->length = cpu_to_le64(item->place.length);
		memcpy(e->base, item->base.b, sizeof(e->base));
		memcpy(e->name, b->name, b->name_len);
		at += entry_size(b);
	}
	s->length = cpu_to_le32(at);
	*len = at;
	return 0;
}

/* Number and checksum of a state that is about to be written. */
void cbw_state_seal(struct cbw_state *s, u64 seq)
{
	s->seq = cpu_to_le64(seq);
	s->crc32c = 0;
	s->crc32c = state_crc(s, le32_to_cpu(s->length));
}

/*
 * What is left to say when the container has failed: what was written last, not to be
 * trusted.  @s: room for a slot.  Any context that may sleep.
 */
void cbw_state_untracked(struct cbw_container *c, struct cbw_state *s)
{
	memset(s, 0, CBW_STATE_SLOT_SIZE);
	spin_lock_irq(&c->lock);
	memcpy(s, c->state_last, CBW_STATE_SLOT_SIZE);
	spin_unlock_irq(&c->lock);
	if (!s->length) {
		state_header(c, s, c->dev->len);
		s->length = cpu_to_le32(sizeof(*s));
	}
	s->flags = cpu_to_le32(CBW_STATE_UNTRACKED);
}
