// SPDX-License-Identifier: GPL-2.0-only
/*
 * The room for bitmaps in a container, and the places of bitmaps.
 *
 * A place that is given back holds what a state on disk still refers to, so it is used again
 * only when a newer state is durable.
 */
#include "container.h"

#include <linux/slab.h>

static void room_insert(struct cbw_container *c, struct cbw_room *room)
{
	struct cbw_room *pos, *prev = NULL;

	lockdep_assert_held(&c->lock);
	list_for_each_entry(pos, &c->room, node) {
		if (pos->place.offset > room->place.offset)
			break;
		prev = pos;
	}
	list_add(&room->node, prev ? &prev->node : &c->room);
}

/* Neighbours become one. */
static void room_join(struct cbw_container *c)
{
	struct cbw_room *pos, *next;

	lockdep_assert_held(&c->lock);
	list_for_each_entry_safe(pos, next, &c->room, node) {
		while (!list_entry_is_head(next, &c->room, node) &&
		       pos->place.offset + pos->place.length == next->place.offset) {
			struct cbw_room *gone = next;

			pos->place.length += gone->place.length;
			next = list_next_entry(gone, node);
			list_del(&gone->node);
			kfree(gone);
		}
	}
}

/* May sleep.  Returns 0 or -ENOMEM. */
int cbw_room_add(struct cbw_container *c, u64 offset, u64 length)
{
	struct cbw_room *room = kzalloc(sizeof(*room), GFP_KERNEL);

	if (!room)
		return -ENOMEM;
	room->place.offset = offset;
	room->place.length = length;
	spin_lock_irq(&c->lock);
	room_insert(c, room);
	room_join(c);
	spin_unlock_irq(&c->lock);
	return 0;
}

static void rooms_free(struct list_head *list)
{
	struct cbw_room *room, *tmp;

	list_for_each_entry_safe(room, tmp, list, node)
		kfree(room);
	INIT_LIST_HEAD(list);
}

void cbw_room_destroy(struct cbw_container *c)
{
	rooms_free(&c->room);
	rooms_free(&c->freed);
	rooms_free(&c->freeing);
}

/* A state is being built: it does not refer to what has been given back by now. */
void cbw_room_begin(struct cbw_container *c)
{
	lockdep_assert_held(&c->cp_mutex);
	lockdep_assert_held(&cbw_config_mutex);
	spin_lock_irq(&c->lock);
	list_splice_tail_init(&c->freed, &c->freeing);
	spin_unlock_irq(&c->lock);
}

/* It is durable: that is free. */
void cbw_room_settle(struct cbw_container *c)
{
	struct cbw_room *room, *tmp;

	lockdep_assert_held(&c->cp_mutex);
	spin_lock_irq(&c->lock);
	list_for_each_entry_safe(room, tmp, &c->freeing, node) {
		list_del(&room->node);
		room_insert(c, room);
	}
	room_join(c);
	spin_unlock_irq(&c->lock);
}

u64 cbw_room_free(struct cbw_container *c)
{
	struct cbw_room *room;
	u64 bytes = 0;

	spin_lock_irq(&c->lock);
	list_for_each_entry(room, &c->room, node)
		bytes += room->place.length;
	spin_unlock_irq(&c->lock);
	return bytes;
}

static struct cbw_disk *disk_new(struct cbw_container *c)
{
	struct cbw_disk *disk = kzalloc(sizeof(*disk), GFP_KERNEL);

	if (!disk)
		return NULL;
	disk->room = kzalloc(sizeof(*disk->room), GFP_KERNEL);
	if (!disk->room) {
		kfree(disk);
		return NULL;
	}
	refcount_set(&disk->ref, 1);
	disk->c = cbw_container_get(c);
	INIT_LIST_HEAD(&disk->kept);
	return disk;
}

/**
 * cbw_disk_alloc - find a place for a bitmap
 * @c: the container
 * @bytes: of its bits
 *
 * May sleep.  Whole clusters of user space's image, so that it can become a bitmap of it.
 * Returns the place, or ERR_PTR(-ENOSPC) or -ENOMEM.
 */
struct cbw_disk *cbw_disk_alloc(struct cbw_container *c, u64 bytes)
{
	struct cbw_disk *disk = disk_new(c);
	struct cbw_room *room;

	if (!disk)
		return ERR_PTR(-ENOMEM);
	bytes = round_up(bytes, CBW_CLUSTER);
	spin_lock_irq(&c->lock);
	list_for_each_entry(room, &c->room, node) {
		if (room->place.length < bytes)
			continue;
		disk->room->place.offset = room->place.offset;
		disk->room->place.length = bytes;
		room->place.offset += bytes;
		room->place.length -= bytes;
		if (!room->place.length) {
			list_del(&room->node);
			kfree(room);
		}
		spin_unlock_irq(&c->lock);
		return disk;
	}
	spin_unlock_irq(&c->lock);
	kfree(disk->room);
	kfree(disk);
	cbw_container_put(c);
	return ERR_PTR(-ENOSPC);
}

/*
 * Find a larger place for a bitmap.  What is being written goes to the old one, which is free
 * when a newer state is durable.  May sleep.  Returns 0, -ENOSPC or -ENOMEM.
 */
int cbw_disk_move(struct cbw_disk *disk, u64 bytes)
{
	struct cbw_disk *other = cbw_disk_alloc(disk->c, bytes);

	lockdep_assert_held(&cbw_config_mutex);
	if (IS_ERR(other))
		return PTR_ERR(other);
	swap(disk->room, other->room);
	cbw_disk_put(other);
	return 0;
}

/* The place that a bitmap has already.  May sleep.  An ERR_PTR without memory. */
struct cbw_disk *cbw_disk_at(struct cbw_container *c, const struct cbw_place *place)
{
	struct cbw_disk *disk = disk_new(c);

	if (!disk)
		return ERR_PTR(-ENOMEM);
	disk->room->place = *place;
	disk->listed = true;
	return disk;
}

/**
 * cbw_disk_put - drop a reference to a place
 * @disk: may be NULL
 *
 * May sleep.
 */
void cbw_disk_put(struct cbw_disk *disk)
{
	struct cbw_container *c;
	struct cbw_bits *bits, *tmp;

	if (!disk || !refcount_dec_and_test(&disk->ref))
		return;
	c = disk->c;
	list_for_each_entry_safe(bits, tmp, &disk->kept, kept_node) {
		list_del_init(&bits->kept_node);
		cbw_bits_put(bits);
	}
	spin_lock_irq(&c->lock);
	list_add_tail(&disk->room->node, &c->freed);
	spin_unlock_irq(&c->lock);
	kfree(disk);
	cbw_container_put(c);
}

/* Is it still written? */
bool cbw_disk_persistent(const struct cbw_disk *disk)
{
	return disk && !READ_ONCE(disk->c->failed);
}

/**
 * cbw_disk_demote - soon there will be writes that the bitmap does not record
 * @disk: its place; NULL: it has none
 *
 * Returns true as long as the state says that it has a base: then a checkpoint has to come
 * first, or after a crash the bitmap would be trusted with those writes missing.
 */
bool cbw_disk_demote(struct cbw_disk *disk)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (!cbw_disk_persistent(disk) || !cbw_cured(19))
		return false;
	disk->demoted = true;
	return !disk->demotion_durable;
}

/* That has happened, or will not.  @disk may be NULL. */
void cbw_disk_promote(struct cbw_disk *disk)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (!disk)
		return;
	disk->demoted = false;
	disk->demotion_durable = false;
}

/*
 * The same for all there are.  A transaction that has had others demoted and does not come to them
 * again does not know them; who needs one of them still demotes it once more.
 */
void cbw_disks_promote(void)
{
	struct cbw_device *dev;
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	for (dev = cbw_device_next(NULL); dev; dev = cbw_device_next(dev))
		list_for_each_entry(b, &dev->bitmaps, node)
			cbw_disk_promote(b->cur.disk);
}

/* A checkpoint of its container, after which cbw_disk_demote() need not wait any more. */
int cbw_disk_sync(struct cbw_disk *disk)
{
	int r = cbw_container_wait(disk->c, cbw_container_kick(disk->c, false));

	if (r) {
		cbw_config_lock();
		cbw_disk_promote(disk);
		cbw_config_unlock();
	}
	return r;
}

struct cbw_disk *cbw_disk_get(struct cbw_disk *disk)
{
	if (disk)
		refcount_inc(&disk->ref);
	return disk;
}

/**
 * cbw_disk_keep - memory drops what the base on disk may still need
 * @disk: the bitmap's place; NULL: it has none
 * @bits: what is dropped; the container takes a reference of its own
 * @seq: the newest epoch under which it was marked
 *
 * From now on a checkpoint writes it together with what the bitmap has, until the state has
 * the bitmap's new base.
 */
void cbw_disk_keep(struct cbw_disk *disk, struct cbw_bits *bits, u64 seq)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (!disk || !bits || !list_empty(&bits->kept_node) || !cbw_cured(15))
		return;
	list_add_tail(&cbw_bits_get(bits)->kept_node, &disk->kept);
	disk->settle_seq = max(disk->settle_seq, seq);
}
