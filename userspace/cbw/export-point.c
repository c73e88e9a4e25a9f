// SPDX-License-Identifier: GPL-2.0-or-later
/* export: a snapshot, with what its bitmap says and what became of it meanwhile */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <libdevmapper.h>

#include "cbw.h"
#include "export.h"
#include "map.h"
#include "nbd-proto.h"

/* what counts as served: a block of this, whole */
#define SERVED_UNIT	4096u

static struct point *point_of(const struct nbd_source *s)
{
	return (struct point *)((char *)s - offsetof(struct point, source));
}

/* ---- reading ---------------------------------------------------------------- */

static const char *reason(const struct cbw_snapshot_info *info)
{
	return info->out_reason == CBW_REASON_STORE_FULL ?
		"store-full: what was overwritten meanwhile did not fit into the store" :
		cbw_reason_text(info->out_reason);
}

int point_alive(struct point *p, struct cbw_error *err)
{
	struct cbw_snapshot_info info;
	int ret;

	pthread_mutex_lock(&p->lock);
	ret = cbw_snapshot_get_info(p->session, p->snap.dev, &p->cut, &info, err);
	pthread_mutex_unlock(&p->lock);
	if (ret || info.out_state != CBW_SNAPSHOT_FAILED)
		return ret;
	return fail_with(err, EIO, "%s: the snapshot failed: %s", esc(p->snap.name), reason(&info));
}

static int read_failed(struct point *p, uint64_t at, int code, struct cbw_error *err)
{
	struct cbw_snapshot_info info;
	int ret;

	if (code == ENODATA)
		return fail_with(err, code, "offset %llu: it was released, or is not protected",
				 (ull)at);
	pthread_mutex_lock(&p->lock);
	ret = cbw_snapshot_get_info(p->session, p->snap.dev, &p->cut, &info, NULL);
	pthread_mutex_unlock(&p->lock);
	/* no esc(), no strerror(): their buffers are not for threads */
	if (!ret && info.out_state == CBW_SNAPSHOT_FAILED)
		return fail_with(err, code, "the snapshot failed: %s", reason(&info));
	return fail_with(err, code, "offset %llu: %s%s", (ull)at, strerrordesc_np(code),
			 code == EIO ? "; is there an unreadable sector on the origin?" : "");
}

/* @offset and @length: multiples of the logical block size, or up to the end */
static int read_blocks(struct point *p, uint64_t offset, char *buf, size_t length,
		       struct cbw_error *err)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pread(p->fd, buf + done, length - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return read_failed(p, offset + done, n ? errno : EIO, err);
		done += (size_t)n;
	}
	return 0;
}

static int read_any(struct point *p, uint64_t offset, char *buf, size_t length,
		    struct cbw_error *err)
{
	const uint64_t block = p->source.block;
	uint64_t from = offset / block * block, to = (offset + length + block - 1) / block * block;
	uint64_t wide_len = to - from < NBD_PIECE ? to - from : NBD_PIECE;
	void *wide;
	int ret = 0;

	if (from == offset && to == offset + length && (uintptr_t)buf % block == 0)
		return read_blocks(p, offset, buf, length, err);
	if (posix_memalign(&wide, 4096, wide_len))
		return fail_with(err, ENOMEM, "out of memory");
	while (length && !ret) {
		uint64_t now = to - from < wide_len ? to - from : wide_len;
		size_t skip = (size_t)(offset - from);
		size_t use = now - skip < length ? (size_t)(now - skip) : length;

		ret = read_blocks(p, from, wide, now, err);
		if (!ret)
			memcpy(buf, (char *)wide + skip, use);
		from += now;
		offset += use;
		buf += use;
		length -= use;
	}
	free(wide);
	return ret;
}

/* What was discarded reads as zeros: so it is the same to everybody, and costs nothing. */
static int point_read(const struct nbd_source *s, uint64_t offset, void *buf, size_t length,
		      struct cbw_error *err)
{
	struct point *p = point_of(s);
	size_t done = 0;

	while (done < length) {
		uint64_t run = length - done;
		char *to = (char *)buf + done;
		int ret;

		if (p->has_bitmap && plane_run(&p->gone, offset + done, run, &run)) {
			memset(to, 0, run);
		} else {
			ret = read_any(p, offset + done, to, run, err);
			if (ret)
				return ret;
		}
		done += run;
	}
	return 0;
}

/* ---- what holds where ------------------------------------------------------- */

static int point_status(const struct nbd_source *s, enum nbd_context context, uint64_t offset,
			uint64_t length, uint32_t *flags, uint64_t *run, struct cbw_error *err)
{
	struct point *p = point_of(s);
	uint64_t n = length;

	(void)err;
	*flags = 0;
	if (context == NBD_DIRTY_BITMAP) {
		*flags = plane_run(&p->dirty, offset, n, run) ? NBD_STATE_DIRTY : 0;
		return 0;
	}
	if (p->has_bitmap && plane_run(&p->gone, offset, n, &n))
		*flags = NBD_STATE_HOLE | NBD_STATE_ZERO;
	/* a hole that does not read as zeros: there is nothing to be had */
	if (!*flags && p->released.word && plane_run(&p->released, offset, n, &n))
		*flags = NBD_STATE_HOLE;
	if (!*flags && p->kept.word && !plane_run(&p->kept, offset, n, &n))
		*flags = NBD_STATE_HOLE;
	*run = n;
	return 0;
}

static int point_trim(const struct nbd_source *s, uint64_t offset, uint64_t length,
		      struct cbw_error *err)
{
	struct point *p = point_of(s);
	uint64_t end = offset + length;
	struct cbw_range r;
	int ret;

	/* inwards: the rest of a chunk may not have been read */
	r.offset = (offset + p->chunk - 1) / p->chunk * p->chunk;
	if (end != p->source.size)
		end = end / p->chunk * p->chunk;
	if (r.offset >= end)
		return 0;
	r.length = end - r.offset;
	pthread_mutex_lock(&p->lock);
	ret = cbw_release(p->session, p->snap.dev, &p->cut, &r, 1, err);
	pthread_mutex_unlock(&p->lock);
	if (!ret)
		plane_set_inside(&p->released, r.offset, r.length, p->source.size);
	return ret;
}

static void point_served(const struct nbd_source *s, uint64_t offset, uint64_t length)
{
	struct point *p = point_of(s);

	plane_set_inside(&p->served, offset, length, p->source.size);
}

uint64_t point_unread(const struct point *p, bool all)
{
	uint64_t at, run, size = p->source.size, unread = 0;

	for (at = 0; at < size; at += run) {
		bool need = plane_run(&p->dirty, at, size - at, &run) || all;

		if (need)
			need = !plane_run(&p->gone, at, run, &run);
		if (need)
			need = !plane_run(&p->served, at, run, &run);
		if (need && p->released.word)
			need = !plane_run(&p->released, at, run, &run);
		unread += need ? run : 0;
	}
	return unread;
}

/* ---- open, close ------------------------------------------------------------ */

static int add_extent(const struct cbw_extent *e, void *arg)
{
	struct point *p = arg;
	const uint64_t end = e->offset + e->length;

	if (e->length > p->source.size || end > p->source.size)
		return -EUCLEAN;
	plane_set_touched(&p->dirty, e->offset, e->length);
	if (e->flags & CBW_EXTENT_DISCARDED)
		plane_set_touched(&p->gone, e->offset, e->length);
	if (p->limited)
		plane_set_touched(&p->kept, e->offset, e->length);
	return 0;
}

static int load_bitmap(struct point *p, struct cbw_devno source, struct cbw_error *err)
{
	const uint64_t size = p->source.size;
	int ret;

	ret = plane_init(&p->dirty, size, p->bitmap.granularity, err);
	if (!ret)
		ret = plane_init(&p->gone, size, p->bitmap.granularity, err);
	if (!ret && p->limited)
		ret = plane_init(&p->kept, size, p->chunk, err);
	if (ret)
		return ret;
	ret = cbw_bitmap_extents(p->session, source, p->bitmap.name, &p->cut, 0, add_extent, p,
				 err);
	if (ret == -EUCLEAN)
		return fail_with(err, EUCLEAN, "bitmap '%s' goes beyond the snapshot's end",
				 esc(p->bitmap.name));
	return ret;
}

/* Whether a snapshot protects only what a bitmap says: its table has that bitmap's name. */
static int is_limited(const struct cbw_dm_dev *snap, bool *limited, struct cbw_error *err)
{
	struct dm_task *dmt = dm_task_create(DM_DEVICE_TABLE);
	char *type, *params, *copy = NULL, *save, *word;
	uint64_t start, len;
	int i;

	if (dmt && dm_task_set_name(dmt, snap->name) && dm_task_run(dmt)) {
		dm_get_next_target(dmt, NULL, &start, &len, &type, &params);
		if (params)
			copy = xstrdup(params);
	}
	if (dmt)
		dm_task_destroy(dmt);
	if (!copy)
		return fail_with(err, EIO, "%s: its table cannot be read", esc(snap->name));
	/* source, store, chunk, number of features; the bitmap is the feature with a name */
	*limited = false;
	word = strtok_r(copy, " ", &save);
	for (i = 0; word && !*limited; i++, word = strtok_r(NULL, " ", &save))
		*limited = i >= 4 && !strcmp(word, "bitmap");
	free(copy);
	return 0;
}

static int find_bitmap(struct point *p, struct cbw_devno source, const char *name,
		       struct cbw_error *err)
{
	int ret = frozen_bitmap(p->session, source, &p->cut, name, &p->bitmap, err);

	/* none is none, if none was asked for */
	if (ret == -ENOENT && !name && !p->limited)
		return 0;
	if (ret)
		return ret;
	if (p->bitmap.flags & CBW_BITMAP_INCONSISTENT)
		return fail_with(err, EUCLEAN,
				 "bitmap '%s' is inconsistent: it may lack changes; it is not exported",
				 esc(p->bitmap.name));
	p->has_bitmap = true;
	p->source.bitmap = p->bitmap.name;
	return load_bitmap(p, source, err);
}

int point_open(struct point *p, const char *bitmap, bool release, bool count, bool resume,
	       struct cbw_error *err)
{
	struct cbw_snapshot_info info;
	int ret, block;

	ret = cbw_snapshot_get_info(p->session, p->snap.dev, NULL, &info, err);
	if (ret)
		return ret;
	if (cbw_cut_is_none(&info.cut))
		return fail_with(err, ENODATA, "%s: it is armed, there was no cut yet",
				 esc(p->snap.name));
	p->cut = info.cut;
	p->chunk = info.out_chunk_size;
	p->source.size = info.out_device_size;
	ret = point_alive(p, err);
	/* who began anew would find that out late, or take the holes for what was there */
	if (!ret && info.out_released && !resume)
		ret = fail_with(err, ENODATA, "%s: %s of it were released before, and cannot be read any more; a reader that has those goes on with --resume, any other needs a new snapshot ('cbw snapshot remove %s' gives this one up, and its bitmap is as if it had not been)",
				esc(p->snap.name), human(info.out_released * p->chunk),
				esc(p->snap.name));
	else if (!ret && info.out_released)
		say("export: %s: %s of it were released before; where they are only the reader knows",
		    esc(p->snap.name), human(info.out_released * p->chunk));
	if (!ret)
		ret = is_limited(&p->snap, &p->limited, err);
	if (ret)
		return ret;
	p->fd = cbw_dm_open(p->snap.dev, O_RDONLY | O_DIRECT, err);
	if (p->fd < 0)
		return p->fd;
	if (ioctl(p->fd, BLKSSZGET, &block))
		return fail_with(err, errno, "%s: %s", esc(p->snap.name), strerror(errno));
	p->source.block = (uint32_t)block;
	p->source.read = point_read;
	p->source.status = point_status;
	ret = find_bitmap(p, info.out_source, bitmap, err);
	if (!ret && release) {
		p->source.trim = point_trim;
		ret = plane_init(&p->released, p->source.size, p->chunk, err);
	}
	if (!ret && count) {
		p->source.served = point_served;
		/* by blocks: what is read need not be whole chunks */
		ret = plane_init(&p->served, p->source.size, SERVED_UNIT, err);
	}
	return ret;
}

void point_close(struct point *p)
{
	plane_free(&p->dirty);
	plane_free(&p->gone);
	plane_free(&p->kept);
	plane_free(&p->released);
	plane_free(&p->served);
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}
