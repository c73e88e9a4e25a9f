// SPDX-License-Identifier: GPL-2.0-or-later
/* snapshot create, snapshot remove */
#include <json-c/json.h>

#include "cbw.h"
#include "store.h"

/* of a store that is sized by a bitmap: room for what becomes dirty until the cut */
#define DIRTY_SPARE	(64ull << 20)
#define CHUNK_DEFAULT	4096

/* one device of a snapshot create */
struct item {
	struct cbw_dm_dev dev;
	struct cbw_dm_dev snap;
	struct store store;
	bool made;
};

static void undo(struct item *items, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++) {
		if (items[i].made)
			cbw_snapshot_remove(items[i].snap.name, NULL);
		if (items[i].store.path)
			store_drop(&items[i].store);
	}
}

static void report(const struct item *items, size_t nr,
		   const struct cbw_cut_id *cut, bool json)
{
	char text[CBW_CUT_HEX];
	size_t i;

	for (i = 0; i < nr; i++) {
		struct json_object *o;

		if (!json) {
			printf("%s  of %s  cut %s\n", esc(items[i].snap.name),
			       esc(items[i].dev.name),
			       cbw_cut_to_text(cut, text));
			continue;
		}
		o = json_object_new_object();
		json_object_object_add(o, "snapshot", json_object_new_string(
				       esc(items[i].snap.name)));
		json_object_object_add(o, "device", json_object_new_string(
				       esc(items[i].dev.name)));
		json_object_object_add(o, "cut", json_object_new_string(
				       cbw_cut_to_text(cut, text)));
		json_line(o);
	}
}

/* The chunks that a snapshot limited to @bitmap has to preserve are no more bytes than this. */
static int most_dirty(struct cbw_session *session, const struct item *item, const char *bitmap,
		      uint64_t chunk, uint64_t *bytes, struct cbw_error *err)
{
	struct cbw_bitmap b;
	int ret = cbw_bitmap_find(session, item->dev.dev, bitmap, &b, err);

	if (ret)
		return ret;
	if (!chunk)
		chunk = CHUNK_DEFAULT;
	/* a granule that is smaller needs a chunk all the same */
	*bytes = b.dirty_bytes / b.granularity * (b.granularity > chunk ? b.granularity : chunk);
	return 0;
}

/*
 * All that the snapshot may have to preserve, in a store that does not grow: of a bitmap what is
 * dirty, and a little more, since that goes on until the cut.
 */
static int make_store(struct item *item, const struct cbw_dm_dev *volumes, size_t nr,
		      const char *bitmap, uint64_t chunk, struct cbw_error *err)
{
	uint64_t size = item->dev.size + item->dev.size / 8 + STORE_ALIGN, some;
	struct cbw_session *session;
	struct cbw_error why;
	int ret;

	if (bitmap) {
		ret = cbw_session_open(&session, err);
		if (ret)
			return ret;
		ret = most_dirty(session, item, bitmap, chunk, &some, err);
		cbw_session_close(session);
		if (ret)
			return ret;
		some += some / 8 + DIRTY_SPARE;
		if (some < size)
			size = some;
	}
	ret = store_auto_kept(&item->dev, volumes, nr, size, &item->store, err);
	if (ret != -ENOSPC)
		return ret;
	why = *err;
	return fail_with(err, ENOSPC, "%s: no store for it: %.300s; once the command has ended nobody makes it larger, so --store auto needs room for all that may be overwritten: name a store",
			 esc(item->dev.name), why.msg);
}

/* Whether a store that was sized by a bitmap has room for all of it, as it was at the cut. */
static int check_room(struct cbw_session *session, const struct item *item, const char *bitmap,
		      uint64_t chunk, struct cbw_error *err)
{
	uint64_t bytes;
	int ret;

	if (item->store.kind == STORE_GIVEN || !bitmap || item->store.size >= item->dev.size)
		return 0;
	ret = most_dirty(session, item, bitmap, chunk, &bytes, err);
	if (ret || bytes <= item->store.size)
		return ret;
	return fail_with(err, ENOSPC, "%s: more became dirty before the cut than its store has room for; try again, or name a store",
			 esc(item->dev.name));
}

static int create_all(struct item *items, size_t nr, const char *bitmap,
		      uint64_t chunk, struct cbw_cut_id *cut,
		      struct cbw_error *err)
{
	struct cbw_session *session;
	struct cbw_txn *txn;
	size_t i;
	int ret;

	ret = cbw_session_open(&session, err);
	if (ret)
		return ret;
	txn = cbw_txn_new();
	if (!txn) {
		cbw_session_close(session);
		return fail_with(err, ENOMEM, "out of memory");
	}
	for (i = 0; i < nr; i++) {
		struct cbw_snapshot_opts o = {
			.source = items[i].dev.dev,
			.chunk_size = (uint32_t)chunk,
			.armed = true,
			.bitmap = bitmap,
			.buffer_kib = -1,
			.timeout_ms = -1,
		};

		ret = store_ready(&items[i].store, err);
		if (ret)
			goto out;
		o.store = items[i].store.dev;
		ret = cbw_snapshot_create(&o, &items[i].snap, err);
		if (ret)
			goto out;
		items[i].made = true;
		cbw_txn_snapshot_start(txn, items[i].snap.dev, NULL);
	}
	ret = cbw_txn_run(session, txn, cut, err);
	/* without a bitmap there may be nothing that the session owns */
	if (!ret) {
		ret = cbw_detach_cut(session, cut, err);
		if (ret == -ESTALE && !bitmap)
			ret = 0;
	}
	for (i = 0; i < nr && !ret; i++)
		ret = check_room(session, &items[i], bitmap, chunk, err);
out:
	cbw_txn_free(txn);
	cbw_session_close(session);
	return ret;
}

static int snapshot_create(int argc, char **argv)
{
	struct text_list stores = { 0 };
	const char *bitmap = NULL;
	uint64_t chunk = 0;
	bool force = false, elsewhere = false, json = false;
	struct opt opts[] = {
		{ "store", OPT_LIST, &stores, "S",
		  "block device or file for preserved data, or auto: one that has room for all, and goes with the snapshot; one per DEV, in order" },
		{ "bitmap", OPT_TEXT, &bitmap, "B",
		  "freeze this bitmap at the cut, preserve only what it says is dirty" },
		{ "chunk", OPT_SIZE, &chunk, "N",
		  "unit of preserving: power of two, 4K (default) to 1M" },
		{ "force", OPT_FLAG, &force, NULL,
		  "also on a store that holds data" },
		{ "elsewhere", OPT_FLAG, &elsewhere, NULL,
		  "the store lies on none of the devices, where cbw cannot tell" },
		{ "json", OPT_FLAG, &json, NULL, "a line of JSON per snapshot" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw snapshot create",
		.args = "DEV... --store S... [--bitmap B] [--chunk N] [--force] [--json]",
		.about = "Makes snapshots of the tracked devices, all of the same instant. Prints their\n"
			"names in /dev/mapper. They live until 'cbw snapshot remove'.",
		.opts = opts,
		.min_args = 1, .max_args = -1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_cut_id cut;
	struct cbw_dm_dev *volumes;
	struct item *items;
	struct cbw_error err;
	size_t nr, i, k;

	if (status >= 0)
		return status;
	nr = (size_t)cl.nr_args;
	if (stores.nr != nr)
		return usage("cbw snapshot create: %zu devices but %zu --store; one for each is needed, in the same order",
			     nr, stores.nr);
	if (chunk && (chunk & (chunk - 1) || chunk < 4096 || chunk > 1 << 20))
		return usage("cbw snapshot create: --chunk %llu: it has to be a power of two from 4K to 1M",
			     (ull)chunk);
	if (bitmap && cbw_name_check(bitmap, &err))
		return usage("cbw snapshot create: %s", err.msg);
	if (elsewhere)
		assume_elsewhere();
	items = xcalloc(nr, sizeof(*items));
	volumes = xcalloc(nr, sizeof(*volumes));
	for (i = 0; i < nr; i++) {
		status = find_tracked("snapshot create", cl.arg[i],
				      &items[i].dev);
		if (status)
			return status;
		volumes[i] = items[i].dev;
		for (k = 0; k < i; k++)
			if (items[k].dev.dev.minor == items[i].dev.dev.minor)
				return usage("cbw snapshot create: %s is named twice",
					     esc(items[i].dev.name));
	}
	/* the snapshot of a backup that was killed may still have the store */
	if (in_child(remove_stale, NULL) < 0)
		say("the snapshot of an interrupted backup cannot be removed: its store hangs");
	for (i = 0; i < nr; i++) {
		for (k = 0; k < i; k++)
			if (!strcmp(stores.v[k], stores.v[i]) && strcmp(stores.v[i], "auto"))
				return usage("cbw snapshot create: --store %s is named twice",
					     esc(stores.v[i]));
		if (!strcmp(stores.v[i], "auto") ?
		    make_store(&items[i], volumes, nr, bitmap, chunk, &err) :
		    store_check(stores.v[i], volumes, nr, force, &items[i].store, &err)) {
			undo(items, nr);
			return failed("snapshot create: %s", err.msg);
		}
	}
	if (create_all(items, nr, bitmap, chunk, &cut, &err)) {
		undo(items, nr);
		return failed("snapshot create: %s", err.msg);
	}
	report(items, nr, &cut, json);
	for (i = 0; i < nr; i++)
		store_leave(&items[i].store);
	return EXIT_OK;
}

static int snapshot_remove(int argc, char **argv)
{
	bool commit = false;
	struct opt opts[] = {
		{ "commit", OPT_FLAG, &commit, NULL,
		  "commit its bitmap: the cut becomes the bitmap's base" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw snapshot remove",
		.args = "SNAP [--commit]",
		.about = "Removes a snapshot. Without --commit what its bitmap had recorded at the cut is\n"
			"merged back, as if the snapshot had not been.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_snapshot_info info;
	struct cbw_session *session;
	struct cbw_dm_dev dev;
	struct cbw_error err;
	struct store store;
	bool kept;

	if (status >= 0)
		return status;
	if (cbw_dm_find(cl.arg[0], &dev, &err))
		return failed("snapshot remove: %s", err.msg);
	if (dev.kind != CBW_DM_SNAPSHOT)
		return failed("snapshot remove: %s: not a cbw snapshot",
			      esc(dev.name));
	if (dev.open_count)
		return failed("snapshot remove: %s: it is in use (opened %d times); close it first",
			      esc(dev.name), dev.open_count);
	if (commit) {
		if (cbw_session_open(&session, &err) ||
		    cbw_snapshot_get_info(session, dev.dev, NULL, &info, &err))
			return failed("snapshot remove: %s", err.msg);
		if (cbw_cut_is_none(&info.cut))
			return failed("snapshot remove: %s: it is armed, no cut was made that could be committed",
				      esc(dev.name));
		if (info.out_state == CBW_SNAPSHOT_FAILED)
			return failed("snapshot remove: %s: it failed (%s), so --commit would lose changes; remove it without",
				      esc(dev.name),
				      cbw_reason_text(info.out_reason));
		if (cbw_commit_cut(session, dev.dev, &info.cut,
				   CBW_COMMIT_ON_SUCCESS, &err))
			return failed("snapshot remove: %s: %s", esc(dev.name),
				      err.msg);
		cbw_session_close(session);
	}
	kept = store_kept_by(&dev, &store);
	if (cbw_snapshot_remove(dev.name, &err)) {
		if (kept)
			store_leave(&store);
		return failed("snapshot remove: %s", err.msg);
	}
	if (kept)
		store_drop(&store);
	return EXIT_OK;
}

static const struct command verbs[] = {
	{ "create", snapshot_create, NULL },
	{ "remove", snapshot_remove, NULL },
	{ NULL, NULL, NULL }
};

int cmd_snapshot(int argc, char **argv)
{
	return run_verb("cbw snapshot", "...", verbs, argc, argv);
}
