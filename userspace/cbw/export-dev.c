// SPDX-License-Identifier: GPL-2.0-or-later
/* export: a snapshot that lives as long as the export */
#include "cbw.h"
#include "export.h"

static int make_snapshot(struct export_dev *d, struct cbw_error *err)
{
	struct cbw_snapshot_opts o = {
		.source = d->dev.dev,
		.chunk_size = (uint32_t)d->chunk,
		.armed = true,
		/* killed, it goes with the next run of the tool */
		.own = true,
		.bitmap = d->only_changed ? d->bitmap : NULL,
		.buffer_kib = -1,
		.timeout_ms = -1,
	};
	int ret = store_ready(&d->store, err);

	if (ret)
		return ret;
	o.store = d->store.dev;
	ret = cbw_snapshot_create(&o, &d->snap, err);
	if (!ret)
		d->have_snap = true;
	return ret;
}

static int check_bitmap(const struct export_dev *d, struct cbw_session *session,
			struct cbw_error *err)
{
	struct cbw_bitmap b;
	int ret;

	if (!d->bitmap)
		return 0;
	ret = cbw_bitmap_find(session, d->dev.dev, d->bitmap, &b, err);
	if (ret == -ENOENT)
		return fail_with(err, ENOENT, "%s: it has no bitmap '%s'; add it (cbw bitmap add), or leave --bitmap out",
				 esc(d->dev.name), esc(d->bitmap));
	if (!ret && b.flags & CBW_BITMAP_INCONSISTENT)
		return fail_with(err, EUCLEAN,
				 "%s: bitmap '%s' is inconsistent: it may lack changes; remove it, and begin with a full backup",
				 esc(d->dev.name), esc(d->bitmap));
	return ret;
}

/* One of ours, which grows while the export lives. */
static int make_store(struct export_dev *d, struct cbw_error *err)
{
	struct store_wish wish = { .most = d->dev.size + d->dev.size / 8 };

	wish.first = store_first_size(d->dev.size, wish.most + STORE_ALIGN);
	wish.least = wish.first < STORE_FIRST_MIN ? wish.first : STORE_FIRST_MIN;
	return store_auto(&d->dev, &d->dev, 1, &wish, &d->store, err);
}

int export_dev_cut(struct export_dev *d, const char *store, struct cbw_session *session,
		   struct cbw_error *err)
{
	struct cbw_txn *txn;
	int ret;

	ret = check_bitmap(d, session, err);
	if (ret)
		return ret;
	/* the snapshot of a run that was killed may still have the store */
	if (in_child(remove_stale, NULL) < 0)
		say("the snapshot of an interrupted run cannot be removed: its store hangs");
	if (!store || !strcmp(store, "auto"))
		ret = make_store(d, err);
	else
		ret = store_check(store, &d->dev, 1, d->force, &d->store, err);
	if (ret)
		return ret;
	d->have_store = true;
	ret = make_snapshot(d, err);
	if (ret)
		return ret;
	txn = cbw_txn_new();
	if (!txn)
		return fail_with(err, ENOMEM, "out of memory");
	/* a snapshot that is limited to the bitmap rotates it itself */
	if (d->bitmap && !d->only_changed)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_ROTATE, d->dev.dev, d->bitmap, NULL);
	cbw_txn_snapshot_start(txn, d->snap.dev, NULL);
	if (d->freeze)
		cbw_txn_freeze(txn, 0, NULL);
	ret = cbw_txn_run(session, txn, &d->cut, err);
	cbw_txn_free(txn);
	if (ret)
		return ret;
	d->have_cut = true;
	d->grow = (struct grow){ &d->snap, &d->store, d->dev.name };
	return grow_start(&d->grower, &d->grow, 1, d->json, err);
}

static struct cbw_devno owner(const struct export_dev *d)
{
	return d->only_changed ? d->snap.dev : d->dev.dev;
}

int export_dev_commit(struct export_dev *d, struct cbw_session *session, struct cbw_error *err)
{
	int ret = cbw_commit_cut(session, owner(d), &d->cut, CBW_COMMIT_ON_SUCCESS, err);

	if (!ret)
		d->have_cut = false;
	return ret;
}

static int remove_snapshot(void *arg)
{
	struct export_dev *d = arg;
	struct cbw_error err;

	if (!cbw_snapshot_remove(d->snap.name, &err))
		return EXIT_OK;
	say("%s: its snapshot stays behind: %s", esc(d->dev.name), err.msg);
	return EXIT_FAILED;
}

void export_dev_end(struct export_dev *d, struct cbw_session *session)
{
	int status;

	grow_stop(&d->grower);
	if (d->have_cut && d->bitmap)
		cbw_abort_cut(session, owner(d), &d->cut, NULL);
	if (d->have_snap) {
		/* the kernel keeps who removes it waiting for the store, which may hang */
		status = in_child(remove_snapshot, d);
		if (status < 0)
			say("%s: its snapshot %s stays behind until the store answers: %s hangs",
			    esc(d->dev.name), esc(d->snap.name), esc(d->store.path));
		if (!status && d->store.kind == STORE_GIVEN)
			store_wipe(&d->store);
	}
	if (d->have_store)
		store_drop(&d->store);
}
