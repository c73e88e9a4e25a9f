// SPDX-License-Identifier: GPL-2.0-only
/*
 * The control device's calls about bitmaps: what is in them.  What changes them at a cut
 * is a transaction.
 */
#include "control.h"

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

/* The caller frees name->s. */
static int get_name(u64 from, u32 len, struct cbw_name *name)
{
	u8 *s;

	if (!len || len > CBW_NAME_MAX)
		return -EINVAL;
	s = memdup_user(u64_to_user_ptr(from), len);
	if (IS_ERR(s))
		return PTR_ERR(s);
	name->s = s;
	name->len = len;
	return 0;
}

/* ---- the list ------------------------------------------------------------------------ */

static u32 entry_size(const struct cbw_bitmap *b)
{
	return ALIGN(sizeof(struct cbw_bitmap_entry) + b->name_len, 8);
}

static void entry_fill(struct cbw_bitmap *b, const struct cbw_dirty_set *dirty,
		       struct cbw_bitmap_entry *e)
{
	memset(e, 0, entry_size(b));
	e->entry_size = entry_size(b);
	e->granularity = 1u << (b->cur.active->shift + SECTOR_SHIFT);
	if (b->cur.enabled)
		e->flags |= CBW_BITMAP_ENABLED;
	if (cbw_bitmap_busy(b))
		e->flags |= CBW_BITMAP_BUSY;
	if (cbw_disk_persistent(b->cur.disk))
		e->flags |= CBW_BITMAP_PERSISTENT;
	e->dirty_bytes = cbw_dirty_bytes(dirty, b);
	e->base = b->cur.base;
	e->cut = b->cur.cut;
	e->name_len = b->name_len;
	memcpy(e->name, b->name, b->name_len);
}

int cbw_do_bitmap_list(struct cbw_session *session, void *arg)
{
	struct cbw_bitmap_list *cmd = arg;
	u32 room = cmd->buf_len, need = 0;
	struct cbw_dirty_set *dirty = NULL;
	struct cbw_device *dev;
	struct cbw_bitmap *b;
	u8 *buf = NULL;
	int r = 0;

	if (cmd->flags)
		return -EINVAL;
	cmd->out_nr = 0;
	cmd->buf_len = 0;
	cbw_config_lock();
	dev = cbw_control_device(cmd->dev);
	if (!dev) {
		r = -ENODEV;
		goto out;
	}
	cbw_device_get(dev);
	dirty = cbw_dirty_count(dev);
	cmd->out_device_size = (u64)dev->len << SECTOR_SHIFT;
	list_for_each_entry(b, &dev->bitmaps, node) {
		need += entry_size(b);
		cmd->out_nr++;
	}
	cmd->buf_len = need;
	if (need > room) {
		r = -EMSGSIZE;
		goto out;
	}
	buf = kvmalloc(max(need, 1u), GFP_KERNEL_ACCOUNT);
	if (!buf) {
		r = -ENOMEM;
		goto out;
	}
	need = 0;
	list_for_each_entry(b, &dev->bitmaps, node) {
		entry_fill(b, dirty, (struct cbw_bitmap_entry *)(buf + need));
		need += entry_size(b);
	}
out:
	cbw_config_unlock();
	if (dev)
		cbw_device_put(dev);
	kfree(dirty);
	if (!r && copy_to_user(u64_to_user_ptr(cmd->buf), buf, need))
		r = -EFAULT;
	kvfree(buf);
	return r;
}

/* ---- extents -------------------------------------------------------------------------- */

/*
 * The memory of one half of a bitmap, a reference; when what is merged into it is there
 * and, for the frozen half (@cut is not 0), it is final.
 */
static struct cbw_bits *get_half(struct cbw_devno devno, u64 user_name, u32 name_len,
				 const struct cbw_cut_id *cut)
{
	struct cbw_device *dev;
	struct cbw_bitmap *b;
	struct cbw_bits *bits;
	struct cbw_name name;
	u64 seq = 0;
	int r;

	r = get_name(user_name, name_len, &name);
	if (r)
		return ERR_PTR(r);
	cbw_config_lock();
	dev = cbw_control_device(devno);
	b = dev ? cbw_bitmap_find(dev, name) : NULL;
	if (!dev) {
		bits = ERR_PTR(-ENODEV);
	} else if (!b) {
		bits = ERR_PTR(-ENOENT);
	} else if (cbw_cut_none(cut)) {
		bits = cbw_bits_get(b->cur.active);
	} else if (!b->cur.frozen || b->aborting ||
		   !cbw_cut_same(&b->cur.cut, cut)) {
		bits = ERR_PTR(-ESTALE);
	} else {
		bits = cbw_bits_get(b->cur.frozen);
		seq = b->cur.frozen_seq;
	}
	if (!IS_ERR(bits))
		cbw_device_get(dev);
	cbw_config_unlock();
	kfree(name.s);
	if (IS_ERR(bits))
		return bits;
	if (cbw_cured(2) &&
	    wait_event_killable(dev->waitq, cbw_bits_final(dev, bits, seq))) {
		cbw_bits_put(bits);
		bits = ERR_PTR(-EINTR);
	}
	cbw_device_put(dev);
	return bits;
}

static int extents_fill(struct cbw_bitmap_extents *cmd, struct cbw_bits *bits)
{
	struct cbw_extent __user *to = u64_to_user_ptr(cmd->extents);
	u64 granularity = 1ULL << (bits->shift + SECTOR_SHIFT);
	sector_t pos = (cmd->offset & ~(granularity - 1)) >> SECTOR_SHIFT;
	u64 size = (u64)bits->len << SECTOR_SHIFT;
	sector_t start, end;
	bool discarded;
	u32 n = 0;

	cmd->out_granularity = granularity;
	/* Not the short granule at the end once more. */
	if (cmd->offset >= size)
		pos = bits->len;
	while (n < cmd->nr_extents &&
	       cbw_bits_next_extent(bits, pos, &start, &end, &discarded)) {
		struct cbw_extent e = {
			.offset = (u64)start << SECTOR_SHIFT,
			.length = (u64)(end - start) << SECTOR_SHIFT,
			.flags = CBW_EXTENT_DIRTY |
				 (discarded ? CBW_EXTENT_DISCARDED : 0),
		};

		if (copy_to_user(&to[n], &e, sizeof(e)))
			return -EFAULT;
		n++;
		pos = end;
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	cmd->offset = n < cmd->nr_extents ? size : (u64)pos << SECTOR_SHIFT;
	cmd->nr_extents = n;
	return 0;
}

int cbw_do_bitmap_extents(struct cbw_session *session, void *arg)
{
	struct cbw_bitmap_extents *cmd = arg;
	struct cbw_bits *bits;
	int r;

	if (cmd->flags || cmd->reserved || !cmd->nr_extents ||
	    cmd->nr_extents > CBW_EXTENTS_MAX)
		return -EINVAL;
	bits = get_half(cmd->dev, cmd->name, cmd->name_len, &cmd->cut);
	if (IS_ERR(bits))
		return PTR_ERR(bits);
	r = extents_fill(cmd, bits);
	cbw_bits_put(bits);
	return r;
}

/* ---- the bits themselves ------------------------------------------------------------- */

#define WORD_BYTES	sizeof(unsigned long)

/* The place of a granule in words, if it is the first of 64; else -EINVAL. */
static int word_of(const struct cbw_bits *bits, u64 offset, u64 *word)
{
	u64 sector = offset >> SECTOR_SHIFT, granule = sector >> bits->shift;

	if (offset > (u64)bits->len << SECTOR_SHIFT)
		return -EINVAL;
	/* The device's end, as the one before has said. */
	if (offset == (u64)bits->len << SECTOR_SHIFT) {
		*word = bits->bytes / WORD_BYTES;
		return 0;
	}
	if (granule % 64 || offset != (granule << bits->shift) << SECTOR_SHIFT)
		return -EINVAL;
	*word = granule / BITS_PER_LONG;
	return 0;
}

static int read_fill(struct cbw_bitmap_read *cmd, const struct cbw_bits *bits)
{
	u64 words = bits->bytes / WORD_BYTES, word, nr;
	size_t bytes;
	void *buf;
	int r;

	cmd->out_granularity = 1u << (bits->shift + SECTOR_SHIFT);
	r = word_of(bits, cmd->offset, &word);
	if (r)
		return r;
	nr = min_t(u64, cmd->data_len / WORD_BYTES, words - word);
	/* What is returned is whole groups of 8 bytes, also with words of 4. */
	bytes = ALIGN(nr * WORD_BYTES, 8);
	if (bytes) {
		buf = kvzalloc(bytes, GFP_KERNEL_ACCOUNT);
		if (!buf)
			return -ENOMEM;
		cbw_bits_read(bits, word, buf, nr);
		r = copy_to_user(u64_to_user_ptr(cmd->data), buf, bytes) ? -EFAULT : 0;
		kvfree(buf);
		if (r)
			return r;
	}
	word += nr;
	cmd->data_len = bytes;
	cmd->offset = (u64)(word < words ? word * BITS_PER_LONG << bits->shift : bits->len)
		      << SECTOR_SHIFT;
	return 0;
}

int cbw_do_bitmap_read(struct cbw_session *session, void *arg)
{
	struct cbw_bitmap_read *cmd = arg;
	struct cbw_bits *bits;
	int r;

	if (cmd->flags || cmd->reserved || !cmd->data_len || cmd->data_len % 8 ||
	    cmd->data_len > CBW_BITMAP_DATA_MAX)
		return -EINVAL;
	bits = get_half(cmd->dev, cmd->name, cmd->name_len, &cmd->cut);
	if (IS_ERR(bits))
		return PTR_ERR(bits);
	r = read_fill(cmd, bits);
	cbw_bits_put(bits);
	return r;
}

/* Under the mutex, so that what is loaded is in the recording half. */
static int load_into(const struct cbw_bitmap_load *cmd, struct cbw_bitmap *b,
		     const unsigned long *data)
{
	struct cbw_bits *bits = b->cur.active;
	u64 word;
	int r;

	lockdep_assert_held(&cbw_config_mutex);
	if (cmd->granularity != 1u << (bits->shift + SECTOR_SHIFT))
		return -EINVAL;
	if ((cmd->flags & CBW_LOAD_BASE) && !b->cur.enabled)
		return -EINVAL;
	r = word_of(bits, cmd->offset, &word);
	if (!r)
		r = cbw_bits_load(bits, word, data, cmd->data_len / WORD_BYTES);
	if (!r && (cmd->flags & CBW_LOAD_BASE))
		b->cur.base = cmd->base;
	return r;
}

/* The container of a device, a reference; NULL: none.  What is marked goes there first. */
static struct cbw_container *get_container(struct cbw_devno no)
{
	struct cbw_container *c;
	struct cbw_device *dev;

	cbw_config_lock();
	dev = cbw_control_device(no);
	c = dev ? cbw_container_sync_begin(dev) : NULL;
	cbw_config_unlock();
	return c;
}

/* The regions of all that may be marked by bits that are not checked yet; until it is. */
static void cover_load(struct cbw_container *c, const struct cbw_bitmap_load *cmd,
		       const unsigned long *data)
{
	u64 span = (u64)cmd->granularity * 64, at = cmd->offset, i;

	if (!c)
		return;
	cbw_intents_begin(c);
	if (!is_power_of_2(cmd->granularity) || cmd->offset >> 62)
		return;
	for (i = 0; i < cmd->data_len / 8; i++, at += span)
		if (data[i])
			cbw_intents_want(c, at >> SECTOR_SHIFT, span >> SECTOR_SHIFT);
	for (i = 0, at = cmd->offset; i < cmd->data_len / 8; i++, at += span)
		if (data[i])
			cbw_intents_cover(c, at >> SECTOR_SHIFT, span >> SECTOR_SHIFT);
}

int cbw_do_bitmap_load(struct cbw_session *session, void *arg)
{
	bool base = ((struct cbw_bitmap_load *)arg)->flags & CBW_LOAD_BASE;
	struct cbw_bitmap_load *cmd = arg;
	struct cbw_container *c;
	struct cbw_bitmap *b;
	struct cbw_name name;
	struct cbw_txn txn = {};
	void *data = NULL;
	int r;

	if ((cmd->flags & ~CBW_LOAD_BASE) || cmd->reserved || cmd->data_len % 8 ||
	    cmd->data_len > CBW_BITMAP_DATA_MAX || (!cmd->data_len && !base) ||
	    (!base && !cbw_cut_none(&cmd->base)))
		return -EINVAL;
	r = get_name(cmd->name, cmd->name_len, &name);
	if (r)
		return r;
	if (cmd->data_len) {
		data = vmemdup_user(u64_to_user_ptr(cmd->data), cmd->data_len);
		if (IS_ERR(data)) {
			r = PTR_ERR(data);
			goto free_name;
		}
	}
	do {
		struct cbw_device *dev;

		c = get_container(cmd->dev);
		cover_load(c, cmd, data);
		/* Nothing is published: there is no cut. */
		cbw_txn_begin(&txn, session);
		dev = cbw_control_device(cmd->dev);
		b = dev ? cbw_txn_settled_bitmap(&txn, dev, name) : ERR_PTR(-ENODEV);
		r = IS_ERR(b) ? PTR_ERR(b) : load_into(cmd, b, data);
		cbw_txn_end(&txn, -ECANCELED);
		if (c)
			cbw_intents_end(c);
		r = cbw_container_sync_end(c, r);
		r = cbw_txn_retry(&txn, r);
	} while (r == -EAGAIN && !fatal_signal_pending(current));
	if (r == -EAGAIN)
		r = -EINTR;
	kvfree(data);
free_name:
	kfree(name.s);
	return r;
}

/* ---- marks ---------------------------------------------------------------------------- */

static int marks_check(const struct cbw_device *dev, const struct cbw_range *ranges, u32 nr)
{
	u64 size = (u64)dev->len << SECTOR_SHIFT;
	u32 i;

	for (i = 0; i < nr; i++)
		if (!ranges[i].length || ranges[i].offset >= size ||
		    ranges[i].length > size - ranges[i].offset)
			return -EINVAL;
	return 0;
}

static void mark_one(struct cbw_bits *bits, const struct cbw_range *range)
{
	cbw_bits_mark_run(bits, range->offset >> SECTOR_SHIFT,
			  ((range->offset + range->length - 1) >> SECTOR_SHIFT) + 1);
}

/* So many ranges are marked before others get the mutex. */
#define MARKS_AT_ONCE	64u

/* Some of them; under the mutex, so that what is marked is in the recording half. */
static int marks_do(const struct cbw_mark_dirty *cmd, const struct cbw_name *name,
		    const struct cbw_range *ranges, u32 nr)
{
	struct cbw_device *dev = cbw_control_device(cmd->dev);
	struct cbw_bitmap *b, *only = NULL;
	int r;
	u32 i;

	lockdep_assert_held(&cbw_config_mutex);
	if (!dev)
		return -ENODEV;
	r = marks_check(dev, ranges, nr);
	if (r)
		return r;
	if (name->s) {
		only = cbw_bitmap_find(dev, *name);
		if (!only)
			return -ENOENT;
	}
	nr = min(nr, MARKS_AT_ONCE);
	list_for_each_entry(b, &dev->bitmaps, node) {
		if (only && b != only)
			continue;
		for (i = 0; i < nr; i++)
			mark_one(b->cur.active, &ranges[i]);
	}
	return 0;
}

/* What is not within the device is refused after that. */
static void cover_marks(struct cbw_container *c, const struct cbw_range *ranges, u32 nr)
{
	u32 i;

	if (!c)
		return;
	cbw_intents_begin(c);
	for (i = 0; i < nr; i++) {
		u64 first = ranges[i].offset >> SECTOR_SHIFT;
		u64 last = (ranges[i].offset + ranges[i].length - 1) >> SECTOR_SHIFT;

		if (last >= first)
			cbw_intents_cover(c, first, last - first + 1);
	}
}

int cbw_do_mark_dirty(struct cbw_session *session, void *arg)
{
	struct cbw_mark_dirty *cmd = arg;
	struct cbw_container *c;
	struct cbw_range *ranges;
	struct cbw_name name = {};
	u32 done = 0;
	int r = 0;

	if (cmd->flags || !cmd->nr_ranges || cmd->nr_ranges > CBW_RANGES_MAX ||
	    (!cmd->name_len && cmd->name))
		return -EINVAL;
	if (cmd->name_len)
		r = get_name(cmd->name, cmd->name_len, &name);
	if (r)
		return r;
	ranges = vmemdup_user(u64_to_user_ptr(cmd->ranges),
			      (size_t)cmd->nr_ranges * sizeof(*ranges));
	if (IS_ERR(ranges)) {
		r = PTR_ERR(ranges);
		goto free_name;
	}
	c = get_container(cmd->dev);
	for (; done < cmd->nr_ranges && !r; done += MARKS_AT_ONCE) {
		cover_marks(c, ranges + done, min(cmd->nr_ranges - done, MARKS_AT_ONCE));
		cbw_config_lock();
		r = marks_do(cmd, &name, ranges + done, cmd->nr_ranges - done);
		cbw_config_unlock();
		if (c)
			cbw_intents_end(c);
		if (!r && fatal_signal_pending(current))
			r = -EINTR;
	}
	r = cbw_container_sync_end(c, r);
	kvfree(ranges);
free_name:
	kfree(name.s);
	return r;
}

