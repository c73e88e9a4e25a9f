// SPDX-License-Identifier: GPL-2.0-or-later
/* map: what the kernel has of a bitmap, and what an image of a chain has changed */
#include <limits.h>

#include "cbw.h"
#include "chain.h"
#include "map.h"
#include "qcow2.h"
#include "restore.h"

/* ---- bitmaps ------------------------------------------------------------ */

struct to_out {
	struct map_out *out;
	struct cbw_error *err;
};

static int to_out(const struct cbw_extent *e, void *arg)
{
	struct to_out *t = arg;

	return map_put(t->out, e, t->err);
}

static int not_trusted(const char *dev, const struct cbw_bitmap *b)
{
	say("map: %s: bitmap '%s' is inconsistent: it may lack changes; make a full backup and remove it",
	    esc(dev), esc(b->name));
	return EXIT_DISTRUST;
}

/* One half of bitmap @b of @source, for the volume that @dev is. */
static int map_bitmap(struct cbw_session *session, const struct cbw_dm_dev *dev,
		      struct cbw_devno source, const struct cbw_bitmap *b,
		      const struct cbw_cut_id *cut, struct map_out *out)
{
	char *path = xasprintf("/dev/mapper/%s", dev->name);
	struct map_info info = {
		.size = dev->size, .granularity = b->granularity, .name = b->name,
		.backing = path, .backing_format = "raw",
	};
	struct cbw_error err;
	struct to_out t = { out, &err };
	int ret;

	ret = map_begin(out, &info, &err);
	if (!ret)
		ret = cbw_bitmap_extents(session, source, b->name, cut, 0, to_out, &t, &err);
	free(path);
	out->info.name = out->info.backing = NULL;
	return ret ? failed("map: %s: %s", esc(dev->name), err.msg) : EXIT_OK;
}

int map_device(const struct cbw_dm_dev *dev, const char *name, struct map_out *out)
{
	struct cbw_session *session;
	struct cbw_bitmap b;
	struct cbw_error err;
	int status;

	if (cbw_session_open(&session, &err))
		return failed("map: %s", err.msg);
	if (cbw_bitmap_find(session, dev->dev, name, &b, &err))
		status = failed("map: %s: %s", esc(dev->name), err.msg);
	else if (b.flags & CBW_BITMAP_INCONSISTENT)
		status = not_trusted(dev->name, &b);
	else
		status = map_bitmap(session, dev, dev->dev, &b, NULL, out);
	cbw_session_close(session);
	return status;
}

int frozen_bitmap(struct cbw_session *session, struct cbw_devno source,
		  const struct cbw_cut_id *cut, const char *name, struct cbw_bitmap *bitmap,
		  struct cbw_error *err)
{
	struct cbw_bitmap *list;
	size_t nr, i, found = 0;
	int ret;

	ret = cbw_bitmap_list(session, source, &list, &nr, NULL, err);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++) {
		if (name && strcmp(list[i].name, name))
			continue;
		if (name && !cbw_cut_equal(&list[i].cut, cut)) {
			ret = fail_with(err, ESTALE,
					"bitmap '%s' was not frozen at the cut of this snapshot, or was committed or aborted since",
					esc(name));
			break;
		}
		if (cbw_cut_equal(&list[i].cut, cut) && !found++)
			*bitmap = list[i];
	}
	free(list);
	if (ret)
		return ret;
	if (!found)
		return name ? fail_with(err, ENOENT, "its volume has no bitmap '%s'", esc(name)) :
			fail_with(err, ENOENT,
				  "no bitmap was frozen at its cut ('cbw snapshot create --bitmap')");
	if (found > 1)
		return fail_with(err, EINVAL,
				 "%zu bitmaps were frozen at its cut; say which with --bitmap",
				 found);
	return 0;
}

int map_snapshot(const struct cbw_dm_dev *dev, const char *name, struct map_out *out)
{
	struct cbw_snapshot_info info;
	struct cbw_session *session;
	struct cbw_bitmap b;
	struct cbw_error err;
	int ret, status;

	if (cbw_session_open(&session, &err))
		return failed("map: %s", err.msg);
	ret = cbw_snapshot_get_info(session, dev->dev, NULL, &info, &err);
	if (!ret && cbw_cut_is_none(&info.cut))
		ret = fail_with(&err, ENODATA, "it is armed, there was no cut yet");
	if (!ret)
		ret = frozen_bitmap(session, info.out_source, &info.cut, name, &b, &err);
	if (ret)
		status = failed("map: %s: %s", esc(dev->name), err.msg);
	else if (b.flags & CBW_BITMAP_INCONSISTENT)
		status = not_trusted(dev->name, &b);
	else
		status = map_bitmap(session, dev, info.out_source, &b, &info.cut, out);
	cbw_session_close(session);
	return status;
}

/* ---- images of a chain -------------------------------------------------- */

static int put_run(struct map_out *out, const struct qcow2_run *run, bool whole,
		   struct cbw_error *err)
{
	struct cbw_extent e = {
		.offset = run->offset, .length = run->length, .flags = CBW_EXTENT_DIRTY,
	};

	switch (run->type) {
	case QCOW2_RUN_DATA:
	case QCOW2_RUN_COMPRESSED:
		break;
	case QCOW2_RUN_ZERO:
		e.flags |= MAP_ZERO;
		break;
	case QCOW2_RUN_UNALLOCATED:
		/* without a parent there is nothing else that could be there */
		if (!whole)
			return 0;
		e.flags |= MAP_ZERO;
		break;
	}
	return map_put(out, &e, err);
}

static int map_image(struct qcow2_image *img, struct map_out *out, struct cbw_error *err)
{
	uint64_t at = 0, size = qcow2_size(img);
	struct qcow2_error qerr;
	struct qcow2_run run;
	int ret = 0;

	while (at < size && !ret) {
		ret = qcow2_map_layer(img, 0, at, size - at, &run, &qerr);
		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
		ret = put_run(out, &run, out->info.whole, err);
		at += run.length;
	}
	return ret;
}

int map_chain(const char *path, const char *name, const char *id, struct map_out *out)
{
	struct map_info info = { .image = true, .backing_format = "qcow2" };
	struct qcow2_image *img = NULL;
	char *file = NULL, *full = NULL;
	const struct entry *e;
	struct cbw_error err;
	struct chain chain;
	int ret, status;

	status = pick_chain("map", path, &chain);
	if (status)
		return status;
	e = pick_entry("map", &chain, id);
	if (!e) {
		chain_close(&chain);
		return EXIT_FAILED;
	}
	ret = open_entry(&chain, e, &img, &err);
	if (!ret) {
		file = chain_path(&chain, e->file);
		/* as long as the file is where it is now */
		full = realpath(file, NULL);
		if (!full)
			ret = fail_with(&err, errno, "%s: %s", esc(file), strerror(errno));
	}
	if (!ret) {
		info.size = e->size;
		info.granularity = qcow2_cluster_size(img);
		info.name = name ? name : chain.bitmap;
		info.backing = full;
		info.whole = !e->parent;
		ret = map_begin(out, &info, &err);
	}
	if (!ret)
		ret = map_image(img, out, &err);
	out->info.name = out->info.backing = NULL;
	free(full);
	free(file);
	qcow2_close(img);
	chain_close(&chain);
	if (!ret)
		return EXIT_OK;
	say("map: %s", err.msg);
	return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
}
