// SPDX-License-Identifier: GPL-2.0-only
/*
 * Named bitmaps: names, commit and abort.  What changes what a write marks goes
 * through a transaction (txn.c).
 *
 * Who consumes a frozen bitmap waits until the epoch that marked it has been
 * released: a write that fetched that epoch before the cut may set a bit after it.
 */
#include "cbw.h"

#include <linux/slab.h>

/* ---- names ------------------------------------------------------------------ */

bool cbw_name_valid(struct cbw_name name)
{
	return name.len && name.len <= CBW_NAME_MAX &&
	       !memchr(name.s, '\0', name.len) && !memchr(name.s, '/', name.len);
}

static bool name_byte_plain(u8 c)
{
	return c > ' ' && c < 0x7f && c != '\\';
}

/**
 * cbw_name_escape - print a name as messages and status have it
 * @name: the name
 * @buf: where to
 * @size: room in @buf
 *
 * Bytes that are not printable ASCII, the space and the backslash become \xHH.
 * Returns the length without the NUL.
 */
int cbw_name_escape(struct cbw_name name, char *buf, size_t size)
{
	unsigned int i;
	int sz = 0;

	for (i = 0; i < name.len; i++)
		sz += scnprintf(buf + sz, size - sz,
				name_byte_plain(name.s[i]) ? "%c" : "\\x%02x",
				name.s[i]);
	return sz;
}

/**
 * cbw_name_unescape - read a name from a message or table argument, in place
 * @arg: the argument, overwritten
 * @name: points into @arg
 *
 * Returns 0 or -EINVAL for a bad escape or a name that is not valid.
 */
int cbw_name_unescape(char *arg, struct cbw_name *name)
{
	u8 *to = (u8 *)arg;
	const char *from = arg;

	name->s = to;
	while (*from) {
		if (*from != '\\') {
			*to++ = *from++;
			continue;
		}
		if (from[1] != 'x' || hex_to_bin(from[2]) < 0 ||
		    hex_to_bin(from[3]) < 0)
			return -EINVAL;
		*to++ = hex_to_bin(from[2]) << 4 | hex_to_bin(from[3]);
		from += 4;
	}
	name->len = to - name->s;
	return cbw_name_valid(*name) ? 0 : -EINVAL;
}

/* ---- life ------------------------------------------------------------------- */

struct cbw_bitmap *cbw_bitmap_find(struct cbw_device *dev, struct cbw_name name)
{
	struct cbw_bitmap *b;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &dev->bitmaps, node)
		if ((b->staged ? b->next.present : b->cur.present) &&
		    b->name_len == name.len && !memcmp(b->name, name.s, name.len))
			return b;
	return NULL;
}

/* Drop what a state refers to.  May sleep. */
void cbw_state_drop(struct cbw_bitmap_state *state)
{
	cbw_bits_put(state->active);
	cbw_bits_put(state->frozen);
	cbw_disk_put(state->disk);
	state->disk = NULL;
	state->active = NULL;
	state->frozen = NULL;
}

static void bitmap_free_ref(struct kref *ref)
{
	struct cbw_bitmap *b = container_of(ref, struct cbw_bitmap, ref);

	cbw_state_drop(&b->cur);
	cbw_device_put(b->dev);
	kfree(b);
}

/* May sleep. */
void cbw_bitmap_put(struct cbw_bitmap *b)
{
	kref_put(&b->ref, bitmap_free_ref);
}

/* The device is gone and nobody finds it any more.  May sleep. */
void cbw_bitmaps_destroy(struct cbw_device *dev)
{
	struct cbw_bitmap *b;

	for (;;) {
		cbw_config_lock();
		b = list_first_entry_or_null(&dev->bitmaps, struct cbw_bitmap,
					     node);
		if (b) {
			list_del_init(&b->node);
			b->cur.present = false;
			dev->nr_bitmaps--;
		}
		cbw_config_unlock();
		if (!b)
			return;
		cbw_bitmap_put(b);
	}
}

/**
 * struct cbw_dirty_set - dirty bytes of a device's bitmaps, counted
 * @nr: entries
 * @e: memory (compared, not followed) and what is dirty in it
 */
struct cbw_dirty_set {
	unsigned int nr;
	struct {
		struct cbw_bits *active, *frozen;
		u64 bytes;
	} e[CBW_BITMAPS_MAX];
};

/**
 * cbw_dirty_count - count what is dirty, without keeping anybody waiting
 * @dev: the device
 *
 * Called with cbw_config_mutex held, which it drops while it counts.  May sleep.
 * The caller frees (kfree) what it returns; NULL is fine for cbw_dirty_bytes().
 */
struct cbw_dirty_set *cbw_dirty_count(struct cbw_device *dev)
{
	struct cbw_dirty_set *set = kzalloc(sizeof(*set), GFP_KERNEL);
	struct cbw_bitmap *b;
	unsigned int i;

	lockdep_assert_held(&cbw_config_mutex);
	if (!set)
		return NULL;
	list_for_each_entry(b, &dev->bitmaps, node) {
		set->e[set->nr].active = cbw_bits_get(b->cur.active);
		if (b->cur.frozen)
			set->e[set->nr].frozen = cbw_bits_get(b->cur.frozen);
		set->nr++;
	}
	cbw_config_unlock();
	for (i = 0; i < set->nr; i++)
		set->e[i].bytes = cbw_bits_dirty_bytes(set->e[i].active,
						       set->e[i].frozen);
	cbw_config_lock();
	for (i = 0; i < set->nr; i++) {
		cbw_bits_put(set->e[i].active);
		cbw_bits_put(set->e[i].frozen);
	}
	return set;
}

/* What was counted; what has come since is counted now. */
u64 cbw_dirty_bytes(const struct cbw_dirty_set *set, const struct cbw_bitmap *b)
{
	unsigned int i;

	lockdep_assert_held(&cbw_config_mutex);
	for (i = 0; set && i < set->nr; i++)
		if (set->e[i].active == b->cur.active &&
		    set->e[i].frozen == b->cur.frozen)
			return set->e[i].bytes;
	return cbw_bits_dirty_bytes(b->cur.active, b->cur.frozen);
}

/* ---- commit and abort --------------------------------------------------------- */

static bool may_commit(const struct cbw_bitmap_state *s,
		       struct cbw_session *session, struct cbw_snap *through)
{
	switch (s->owner) {
	case CBW_OWNER_ANYONE:
		return true;
	case CBW_OWNER_SESSION:
		return s->session == session;
	case CBW_OWNER_SNAP:
		return s->snap == through;
	}
	return false;
}

/* Not frozen any more; the frozen half is the caller's. */
static void state_thaw(struct cbw_bitmap_state *s, bool committed)
{
	lockdep_assert_held(&cbw_config_mutex);
	s->frozen = NULL;
	/* A bitmap that does not record has no base. */
	if (committed && s->enabled)
		s->base = s->cut;
	memset(&s->cut, 0, sizeof(s->cut));
	s->session = NULL;
	s->snap = NULL;
}

/* Are these the ones that a commit or abort of @cut, through @through, is about? */
static bool frozen_at(const struct cbw_bitmap *b, const struct cbw_cut_id *cut,
		      const struct cbw_snap *through)
{
	const struct cbw_bitmap_state *s = &b->cur;

	return s->frozen && (!cut || cbw_cut_same(&s->cut, cut)) &&
	       (!through || s->snap == through);
}

/*
 * May what was frozen at a cut be committed?  Returns 0, also if it was committed before
 * or, with @always, is being committed like that, -EBUSY or -ESTALE.
 */
static int commit_check(struct cbw_device *dev, struct cbw_bitmap *only,
			const struct cbw_cut_id *cut, struct cbw_session *session,
			struct cbw_snap *through, bool always)
{
	struct cbw_bitmap *b;
	bool found = false;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &dev->bitmaps, node) {
		if (only && b != only)
			continue;
		if (cut && cbw_cut_same(&b->cur.base, cut))
			found = true;
		if (!b->cur.frozen || (cut && !cbw_cut_same(&b->cur.cut, cut)))
			continue;
		if (b->aborting && !(always && b->committing))
			return -EBUSY;
		if (!frozen_at(b, cut, through))
			continue;
		if (!may_commit(&b->cur, session, through))
			return -EBUSY;
		found = true;
	}
	return found ? 0 : -ESTALE;
}

/**
 * cbw_bitmap_commit - the backup of a cut is safe
 * @dev: the device
 * @only: only this bitmap; NULL: all that were frozen at the cut
 * @cut: the cut; NULL (with @only): whatever cut froze it
 * @session: who asks; NULL: a message
 * @through: the snapshot through which it was asked, or NULL
 *
 * Drops the frozen halves and makes the cut the bitmaps' base.  Nothing waits: a late
 * marker has the memory through its epoch, and what it marks was marked in the
 * recording half as well if it was still in flight.
 *
 * Returns 0 (also if it was committed before), -EBUSY if it belongs to somebody else
 * or is being aborted,
 * -ESTALE if it is not a cut of this device that could be committed.
 */
int cbw_bitmap_commit(struct cbw_device *dev, struct cbw_bitmap *only,
		      const struct cbw_cut_id *cut, struct cbw_session *session,
		      struct cbw_snap *through)
{
	struct cbw_bitmap *b;
	int r;

	/* Validate all, then act. */
	r = commit_check(dev, only, cut, session, through, false);
	if (r)
		return r;
	list_for_each_entry(b, &dev->bitmaps, node) {
		struct cbw_bitmap_state *s = &b->cur;

		if ((only && b != only) || !frozen_at(b, cut, through))
			continue;
		cbw_disk_keep(s->disk, s->frozen, s->frozen_seq);
		cbw_bits_put(s->frozen);
		state_thaw(s, true);
	}
	return 0;
}

/* What a snapshot has released is safe in the backup: merge back the rest. */
static void merge_unreleased(struct cbw_bits *to, const struct cbw_bits *frozen,
			     struct cbw_snap *snap)
{
	sector_t start, end = 0, from, stop;

	while (cbw_bits_next_run(frozen, end, &start, &end)) {
		for (stop = start; cbw_snap_next_unreleased(snap, stop, end, &from, &stop);) {
			cbw_bits_mark_data(to, from, stop - from);
			cond_resched();
		}
	}
}

/*
 * An abort, or the rest of a commit.  Only this adds the frozen half to the recording
 * one, and nothing can change either meanwhile: the bitmap is busy.  Setting bits in what
 * writes are marking is always safe, so there is nothing to allocate and nothing to
 * publish, and it cannot fail.
 */
static void bitmap_abort_work(struct work_struct *work)
{
	struct cbw_bitmap *b = container_of(work, struct cbw_bitmap, abort_work);
	struct cbw_device *dev = b->dev;
	struct cbw_bits *frozen = b->cur.frozen, *active;
	struct cbw_snap *released_by;
	bool resized;

	cbw_hook_sleep(CBW_HOOK_ABORT_WORK, 0, dev->len);
	if (cbw_cured(2))
		wait_event(dev->waitq, cbw_bits_final(dev, frozen, b->cur.frozen_seq));
	cbw_config_lock();
	do {
		/* A resize that comes meanwhile sees that something is merged into it. */
		active = cbw_bits_get(b->cur.active);
		atomic_inc(&active->merges);
		cbw_config_unlock();
		cbw_hook_sleep(CBW_HOOK_ABORT_MERGE, 0, 1);
		if (b->released_by)
			merge_unreleased(active, frozen, b->released_by);
		else if (cbw_cured(7))
			cbw_bits_or(active, frozen, true);
		/* Pairs with cbw_bits_merged(). */
		atomic_dec_return_release(&active->merges);
		wake_up_all(&dev->waitq);

		cbw_config_lock();
		/*
		 * If one came, what records now has only as much as was there by then: the
		 * rest follows some time (resize.c), but the frozen half goes now, from the
		 * container, too.
		 */
		resized = b->cur.active != active && cbw_cured(27);
		cbw_bits_put(active);
	} while (resized);
	released_by = b->released_by;
	if (b->committing)
		cbw_disk_keep(b->cur.disk, frozen, b->cur.frozen_seq);
	b->released_by = NULL;
	state_thaw(&b->cur, b->committing);
	b->committing = false;
	b->aborting = false;
	cbw_config_unlock();
	cbw_bits_put(frozen);
	if (released_by)
		cbw_snap_put(released_by);
	wake_up_all(&dev->waitq);
	cbw_bitmap_put(b);
}

/**
 * cbw_bitmap_abort_start - begin to merge the frozen half back
 * @b: the bitmap
 *
 * Goes on in the background; cannot fail but with -ENOENT when it is not frozen.
 */
int cbw_bitmap_abort_start(struct cbw_bitmap *b)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (b->aborting)
		return 0;
	if (!b->cur.frozen)
		return -ENOENT;
	b->aborting = true;
	kref_get(&b->ref);
	INIT_WORK(&b->abort_work, bitmap_abort_work);
	queue_work(cbw_wait_wq, &b->abort_work);
	return 0;
}

/**
 * cbw_bitmap_abort_wait - wait for the end of an abort
 * @b: the bitmap, a reference that this gives back
 *
 * May sleep, no lock held.  Returns 0 or -EINTR when killed (the abort goes on).
 */
int cbw_bitmap_abort_wait(struct cbw_bitmap *b)
{
	int r;

	r = wait_event_killable(b->dev->waitq, !READ_ONCE(b->aborting));
	cbw_bitmap_put(b);
	return r ? -EINTR : 0;
}

/*
 * Wait (killable) until nothing that was frozen at a cut is being merged back any more.
 * Drops cbw_config_mutex.  Returns 0 or -EINTR.
 */
static int thaw_wait(struct cbw_device *dev, const struct cbw_cut_id *cut,
		     struct cbw_snap *through)
{
	struct cbw_bitmap *b, *wait;
	int r = 0;

	lockdep_assert_held(&cbw_config_mutex);
	cbw_device_get(dev);
	do {
		wait = NULL;
		list_for_each_entry(b, &dev->bitmaps, node)
			if (b->aborting && frozen_at(b, cut, through))
				wait = b;
		if (wait) {
			kref_get(&wait->ref);
			cbw_config_unlock();
			r = cbw_bitmap_abort_wait(wait);
			cbw_config_lock();
		}
	} while (wait && !r);
	cbw_config_unlock();
	cbw_device_put(dev);
	return r;
}

/**
 * cbw_abort_cut - abort all bitmaps frozen at a cut, and wait
 * @dev: the device
 * @cut: the cut
 * @through: the snapshot through which it was asked, or NULL
 *
 * May sleep.  Called with cbw_config_mutex held, drops it.  Returns 0, -ESTALE when
 * nothing was frozen at that cut, or -EINTR.
 */
int cbw_abort_cut(struct cbw_device *dev, const struct cbw_cut_id *cut,
		  struct cbw_snap *through)
{
	struct cbw_bitmap *b;
	bool found = false;
	int r;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(b, &dev->bitmaps, node) {
		if (!frozen_at(b, cut, through))
			continue;
		/* A commit was there before. */
		found = found || !b->committing;
		cbw_bitmap_abort_start(b);
	}
	r = thaw_wait(dev, cut, through);
	return found ? r : -ESTALE;
}

/*
 * Does it count for a bitmap what a snapshot of its cut has released?  One that is limited
 * to another bitmap has never protected what that does not say is dirty; and with
 * read_once a chunk is released when it was read, wherever the data was going.
 */
static bool release_counts(const struct cbw_snap *snap, const struct cbw_bitmap *b)
{
	return snap && !snap->read_once && (!snap->bitmap_len || b->cur.snap == snap);
}

/* The snapshot of a cut, if there is one, and only one. */
static struct cbw_snap *snap_of_cut(struct cbw_device *dev, const struct cbw_cut_id *cut)
{
	struct cbw_snap *snap, *found = NULL;

	lockdep_assert_held(&cbw_config_mutex);
	list_for_each_entry(snap, &dev->snaps, node) {
		if (!snap->start_seq || !cbw_cut_same(&snap->cut, cut))
			continue;
		if (found)
			return NULL;
		found = snap;
	}
	return found;
}

/**
 * cbw_commit_always - the backup of a cut has failed, but what was released is safe
 * @dev: the device
 * @cut: the cut
 * @session: who asks
 * @through: the snapshot through which it was asked, or NULL
 *
 * The frozen granules with a chunk that was not released are merged back; the cut becomes
 * the base, as the unfinished backup is what the next one builds upon.
 *
 * May sleep.  Called with cbw_config_mutex held, drops it.  Returns 0, the errors of
 * cbw_bitmap_commit(), or -EINTR.
 */
int cbw_commit_always(struct cbw_device *dev, const struct cbw_cut_id *cut,
		      struct cbw_session *session, struct cbw_snap *through)
{
	struct cbw_snap *snap = through ? through : snap_of_cut(dev, cut);
	struct cbw_bitmap *b;
	int r;

	r = commit_check(dev, NULL, cut, session, through, true);
	if (r) {
		cbw_config_unlock();
		return r;
	}
	list_for_each_entry(b, &dev->bitmaps, node) {
		if (b->aborting || !frozen_at(b, cut, through))
			continue;
		b->committing = true;
		b->released_by = release_counts(snap, b) ? cbw_snap_get(snap) : NULL;
		cbw_bitmap_abort_start(b);
	}
	return thaw_wait(dev, cut, through);
}
