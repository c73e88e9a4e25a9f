// SPDX-License-Identifier: GPL-2.0-or-later
/* from a snapshot into the new image of a chain */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"
#include "qcow2.h"

struct found {
	struct ranges *data, *zero;
};

static int collect(const struct cbw_extent *e, void *arg)
{
	struct found *f = arg;

	ranges_add(e->flags & CBW_EXTENT_DISCARDED ? f->zero : f->data, e->offset, e->length);
	return 0;
}

/*
 * @zero: what need not be read, since its content does not matter: units of what is
 * protected that were discarded whole
 */
static int what_to_copy(struct backup *b, struct job *j, struct ranges *data,
			struct ranges *zero, uint32_t *cluster, struct cbw_error *err)
{
	struct found f = { data, zero };
	uint64_t unit;
	int ret;

	*cluster = QCOW2_DEFAULT_CLUSTER;
	if (j->decision.type == ENTRY_FULL) {
		/* its bitmap says nothing about the time before it recorded */
		ranges_add(data, 0, j->dev.size);
		return 0;
	}
	ret = cbw_bitmap_extents(b->session, j->dev.dev, job_bitmap(j), &b->cut,
				 0, collect, &f, err);
	if (ret)
		return ret;
	/* what is protected: every chunk that a dirty granule touches */
	unit = j->before.granularity > j->chunk ? j->before.granularity :
		j->chunk;
	ranges_align(data, zero, unit, j->dev.size);
	if (*cluster > unit)
		*cluster = (uint32_t)unit;
	return 0;
}

static int open_direct(int fd)
{
	char path[40];
	int direct;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	/* tmpfs and some network file systems have none */
	return direct >= 0 ? direct : open(path, O_RDWR | O_CLOEXEC);
}

static int make_image(struct backup *b, struct job *j, uint32_t cluster,
		      struct cbw_error *err)
{
	const struct entry *newest = chain_newest(&j->chain);
	const struct entry *below = chain_by_id(&j->chain, j->decision.parent);
	struct cbw_cut_id ids[3] = { j->chain.id, b->cut, { { 0 } } };
	const struct qcow2_header_ext ext = {
		.type = CHAIN_QCOW2_EXT,
		.len = sizeof(ids),
		.data = ids,
	};
	struct qcow2_create_opts o = {
		.virtual_size = j->dev.size,
		.cluster_size = cluster,
		.ext = &ext,
		.ext_count = 1,
		.flags = QCOW2_CREATE_EXCL,
	};
	struct qcow2_error qerr;
	int ret;

	j->entry = (struct entry){
		.id = newest ? newest->id + 1 : 1,
		.type = j->decision.type,
		.cut = b->cut,
		.base = j->before.base,
		.time = time(NULL),
		.size = j->dev.size,
		.granularity = j->before.granularity ? j->before.granularity :
			CBW_GRANULARITY_DEFAULT,
	};
	chain_file_name(j->entry.id, j->entry.type, j->entry.file);
	if (below) {
		j->entry.parent = below->id;
		ids[2] = below->cut;
		o.backing_file = below->file;
		o.backing_format = "qcow2";
	}
	j->img_path = chain_path(&j->chain, j->entry.file);
	ret = qcow2_create(j->img_path, &o, &j->img, &qerr);
	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	j->img_fd = open_direct(qcow2_fd(j->img));
	if (j->img_fd < 0)
		return fail_with(err, errno, "%s: %s", esc(j->img_path),
				 strerror(errno));
	return 0;
}

struct release_arg {
	struct backup *b;
	struct job *j;
};

static int release(void *arg, const struct ranges *r, struct cbw_error *err)
{
	struct release_arg *a = arg;

	return cbw_release(a->b->session, a->j->snap.dev, &a->b->cut, r->v,
			   r->nr, err);
}

/* -EIO with the kernel's reason if the snapshot failed */
static int check_snapshot(struct backup *b, struct job *j,
			  struct cbw_error *err)
{
	struct cbw_snapshot_info info;
	int ret;

	ret = cbw_snapshot_get_info(b->session, j->snap.dev, &b->cut, &info,
				    err);
	if (ret || info.out_state != CBW_SNAPSHOT_FAILED)
		return ret;
	switch (info.out_reason) {
	case CBW_REASON_STORE_FULL:
		return fail_with(err, EIO,
				 "%s: the snapshot failed: store-full: what was overwritten meanwhile did not fit into %s (%s); %s",
				 esc(j->dev.name), esc(j->store.path),
				 human(info.out_store_chunks *
				  info.out_chunk_size), j->store.kind == STORE_GIVEN ?
				 "take a larger store" :
				 "begin with a larger one (--store-size), raise --store-max, or make room");
	case CBW_REASON_STORE_IO:
		return fail_with(err, EIO,
				 "%s: the snapshot failed: store-io: %s returned an error",
				 esc(j->dev.name), esc(j->store.path));
	default:
		return fail_with(err, EIO, "%s: the snapshot failed: %s",
				 esc(j->dev.name), cbw_reason_text(info.out_reason));
	}
}

static int why_read_failed(void *arg, uint64_t offset, int code,
			   struct cbw_error *err)
{
	struct release_arg *a = arg;
	int ret = check_snapshot(a->b, a->j, err);

	if (ret)
		return ret;
	return fail_with(err, code,
			 "%s: the snapshot cannot be read at offset %llu: %s%s",
			 esc(a->j->dev.name), (ull)offset, strerror(code),
			 code == EIO ? "; is there an unreadable sector on the origin?" :
			 code == ENODATA ? "; it is not protected there" : "");
}

static int still_good(void *arg, struct cbw_error *err)
{
	struct release_arg *a = arg;

	return check_snapshot(a->b, a->j, err);
}

int backup_copy(struct backup *b, struct job *j, struct cbw_error *err)
{
	struct release_arg arg = { b, j };
	struct ranges data = { 0 }, zero = { 0 };
	struct qcow2_error qerr;
	struct copy c = {
		.name = j->dev.name,
		.src = j->snap_fd,
		.size = j->dev.size,
		.ranges = &data,
		.zero = &zero,
		.chunk = j->chunk,
		.backed = j->decision.type != ENTRY_FULL,
		.rate = b->rate,
		.json = b->json,
		.release = release,
		.why = why_read_failed,
		.check = still_good,
		.arg = &arg,
	};
	uint32_t cluster;
	int ret;

	ret = what_to_copy(b, j, &data, &zero, &cluster, err);
	if (!ret)
		ret = make_image(b, j, cluster, err);
	/* nobody needs what was there, so writes to it need not wait nor be kept */
	if (!ret && zero.nr)
		ret = release(&arg, &zero, err);
	if (!ret) {
		c.target = j->img_path;
		c.img = j->img;
		c.img_fd = j->img_fd;
		ret = copy_run(&c, err);
	}
	ranges_free(&data);
	ranges_free(&zero);
	if (ret)
		return ret;
	j->entry.copied = c.copied;
	j->entry.zero = c.zeros;
	j->entry.crc = c.sums.total;
	sums_free(&c.sums);
	ret = qcow2_flush(j->img, &qerr);
	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	qcow2_close(j->img);
	j->img = NULL;
	ret = check_snapshot(b, j, err);
	if (!ret)
		j->complete = true;
	return ret;
}
