// SPDX-License-Identifier: GPL-2.0-or-later
/* snapshots, and the instant of a backup */
#include <fcntl.h>

#include "backup-int.h"
#include "cbw.h"
#include "room.h"

/* A container may have no room for @nr more bitmaps: true if that could be helped. */
static bool make_room(const struct backup *b, const struct job *j, unsigned int nr)
{
	bool made = false;

	if (!j->dev.container.major)
		return false;
	while (nr-- && !container_make_room(b->session, &j->dev, j->before.granularity, NULL))
		made = true;
	return made;
}

static bool make_room_for_cut(const struct backup *b)
{
	bool made = false;
	size_t i;

	for (i = 0; i < b->nr; i++) {
		const struct decision *d = &b->job[i].decision;

		made |= make_room(b, &b->job[i], d->add + (d->second == SECOND_ADD));
	}
	return made;
}

/*
 * A bitmap that is removed keeps its place in the container until that is written, so what replaces
 * it in the same transaction needs one of its own. Where the container cannot grow, the old one,
 * which is of no use to anybody, has to go before.
 */
static bool replaced_before(const struct job *j)
{
	return j->dev.container.major &&
		(j->decision.replace ||
		 (j->decision.second == SECOND_ADD && j->decision.second_replace));
}

static void add_removals(const struct job *j, struct cbw_txn *txn)
{
	if (j->decision.replace)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev,
			       j->chain.bitmap, NULL);
	if (j->decision.second == SECOND_ADD && j->decision.second_replace)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev, j->second, NULL);
}

static bool remove_replaced(const struct backup *b)
{
	struct cbw_txn *txn = cbw_txn_new();
	bool some = false;
	size_t i;

	if (!txn)
		return false;
	for (i = 0; i < b->nr; i++) {
		if (!replaced_before(&b->job[i]))
			continue;
		add_removals(&b->job[i], txn);
		some = true;
	}
	some = some && !cbw_txn_run(b->session, txn, NULL, NULL);
	cbw_txn_free(txn);
	return some;
}

static int prepare_chain(struct job *j, struct cbw_error *err)
{
	int ret = chain_clean(&j->chain, NULL, err);

	resume_clean(&j->chain);
	/* the id has to be known before the bitmap named after it */
	return ret ? ret : chain_save(&j->chain, NULL, err);
}

/* The second bitmap: the old one is removed, or made from the first one, or both. */
static int copy_second(const struct backup *b, const struct job *j, bool remove, bool copy,
		       struct cbw_error *err)
{
	struct cbw_txn *txn = cbw_txn_new();
	int ret;

	if (!txn)
		return fail_with(err, ENOMEM, "out of memory");
	if (remove)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev, j->second, NULL);
	if (copy)
		cbw_txn_bitmap_copy(txn, j->dev.dev, j->second, (struct cbw_devno){ 0 },
				    j->chain.bitmap, NULL);
	ret = cbw_txn_run(b->session, txn, NULL, err);
	cbw_txn_free(txn);
	return ret;
}

/*
 * What a snapshot is limited to has to be there before it is made. All else is done at the cut:
 * if there is none, nothing has changed.
 */
static int prepare_bitmaps(struct backup *b, struct job *j, struct cbw_error *err)
{
	const struct decision *d = &j->decision;
	int ret;

	if (d->replace)
		j->before.base = (struct cbw_cut_id){ 0 };
	if (d->second != SECOND_COPY)
		return 0;
	ret = copy_second(b, j, d->second_replace, true, err);
	if (ret == -ENOSPC && make_room(b, j, 1))
		ret = copy_second(b, j, d->second_replace, true, err);
	/* each in its own, as remove_replaced() */
	if (ret == -ENOSPC && d->second_replace && j->dev.container.major &&
	    !copy_second(b, j, true, false, NULL))
		ret = copy_second(b, j, false, true, err);
	return ret;
}

/* Without a container that cannot be told, and makes no difference. */
static bool was_transient(const struct job *j)
{
	return j->decision.replace && j->dev.container.major &&
		!(j->before.flags & CBW_BITMAP_PERSISTENT);
}

/* @removed: what is replaced is gone already */
static int add_actions(const struct job *j, bool removed, struct cbw_txn *txn)
{
	const struct decision *d = &j->decision;
	const char *bitmap = j->chain.bitmap;

	/* another one's snapshot rotates the bitmap it is limited to */
	if (d->type == ENTRY_FULL) {
		/* it loses its base with that, so a run that dies leaves none to be trusted */
		if (d->enable)
			cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_ENABLE, j->dev.dev,
				       bitmap, NULL);
		if (!removed)
			add_removals(j, txn);
		if (d->add)
			cbw_txn_bitmap_add(txn, j->dev.dev, bitmap, j->before.granularity,
					   was_transient(j) ? CBW_ADD_TRANSIENT : 0, NULL);
		if (bitmap)
			cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_ROTATE, j->dev.dev,
				       bitmap, NULL);
		if (d->second == SECOND_ADD)
			cbw_txn_bitmap_add(txn, j->dev.dev, j->second,
					   j->before.granularity, 0, NULL);
		if (d->second != SECOND_LEAVE)
			cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_ROTATE, j->dev.dev,
				       j->second, NULL);
	}
	return cbw_txn_snapshot_start(txn, j->snap.dev, NULL);
}

static int make_snapshot(const struct backup *b, struct job *j,
			 struct cbw_error *err)
{
	struct cbw_snapshot_opts o = {
		.source = j->dev.dev,
		.chunk_size = (uint32_t)b->chunk,
		.armed = true,
		.bitmap = j->decision.type != ENTRY_FULL ? job_bitmap(j) : NULL,
		.buffer_kib = -1,
		.timeout_ms = -1,
	};
	struct cbw_snapshot_info info;
	int ret;

	ret = store_ready(&j->store, err);
	if (!ret && b->resumable)
		ret = resume_begin(b, j, err);
	if (ret)
		return ret;
	o.name = j->resume ? j->resume->snapshot : NULL;
	o.own = !j->resume;
	o.store = j->store.dev;
	ret = cbw_snapshot_create(&o, &j->snap, err);
	if (ret)
		return ret;
	j->have_snap = true;
	ret = cbw_snapshot_get_info(b->session, j->snap.dev, NULL, &info, err);
	if (ret)
		return ret;
	if (info.out_chunk_size < 512 || info.out_device_size != j->dev.size)
		return fail_with(err, ESTALE,
				 "%s: the volume's size changed while the backup began; start again",
				 esc(j->dev.name));
	j->chunk = info.out_chunk_size;
	j->snap_fd = cbw_dm_open(j->snap.dev, O_RDONLY | O_DIRECT, err);
	return j->snap_fd < 0 ? j->snap_fd : 0;
}

/*
 * What was decided by the bitmap as it was before the cut has to hold for what
 * is frozen now: somebody else may have committed, cleared or replaced it in
 * between. Nothing has been read yet, and closing the session aborts it.
 */
int backup_check_frozen(struct backup *b, struct job *j, struct cbw_error *err)
{
	bool full = j->decision.type == ENTRY_FULL;
	struct cbw_bitmap now;
	int ret;

	if (!job_bitmap(j))
		return 0;
	ret = cbw_bitmap_find(b->session, j->dev.dev, job_bitmap(j), &now, err);
	if (ret)
		return ret;
	if (memcmp(&now.cut, &b->cut, sizeof(now.cut)) ||
	    !(now.flags & CBW_BITMAP_ENABLED) ||
	    (!full && (memcmp(&now.base, &j->before.base, sizeof(now.base)) ||
		       now.granularity != j->before.granularity)))
		return fail_with(err, ESTALE,
				 "%s: somebody else changed bitmap '%s' while the backup began; start again",
				 esc(j->dev.name), esc(job_bitmap(j)));
	j->before.base = now.base;
	return 0;
}

static int run_cut(struct backup *b, bool removed, struct cbw_error *err)
{
	struct cbw_txn *txn = cbw_txn_new();
	size_t i;
	int ret = 0;

	if (!txn)
		return fail_with(err, ENOMEM, "out of memory");
	for (i = 0; i < b->nr && !ret; i++)
		ret = add_actions(&b->job[i], removed && replaced_before(&b->job[i]), txn);
	if (!ret && b->freeze)
		ret = cbw_txn_freeze(txn, 0, err);
	if (!ret)
		ret = cbw_txn_run(b->session, txn, &b->cut, err);
	cbw_txn_free(txn);
	return ret;
}

int backup_cut(struct backup *b, struct cbw_error *err)
{
	size_t i;
	int ret = 0;

	for (i = 0; i < b->nr && !ret; i++) {
		struct job *j = &b->job[i];

		if (!b->single)
			ret = prepare_chain(j, err);
		if (!ret)
			ret = prepare_bitmaps(b, j, err);
		if (!ret)
			ret = make_snapshot(b, j, err);
		if (!ret && b->single)
			ret = single_open(b, j, err);
	}
	if (ret)
		return ret;
	ret = run_cut(b, false, err);
	if (ret == -ENOSPC && make_room_for_cut(b))
		ret = run_cut(b, false, err);
	if (ret == -ENOSPC && remove_replaced(b))
		ret = run_cut(b, true, err);
	if (ret)
		return ret;
	b->have_cut = true;
	for (i = 0; i < b->nr && !ret; i++)
		ret = backup_check_frozen(b, &b->job[i], err);
	if (!ret && b->resumable)
		ret = resume_cut(b, err);
	return ret;
}
