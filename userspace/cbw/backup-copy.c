// SPDX-License-Identifier: GPL-2.0-or-later
/* from a snapshot into the new image of a chain, or another target */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"
#include "crc.h"
#include "details.h"
#include "qcow2.h"

/* resumable: what is copied is made durable, and written down, that often */
#define SYNC_MIN	(1u << 20)
#define SYNC_MAX	(64u << 20)

struct found {
	struct ranges *data, *zero;
};

static int collect(const struct cbw_extent *e, void *arg)
{
	struct found *f = arg;

	ranges_add(e->flags & CBW_EXTENT_DISCARDED ? f->zero : f->data, e->offset, e->length);
	return 0;
}

/* What is protected: every chunk that a dirty granule touches. */
static uint32_t protected_unit(const struct job *j)
{
	return j->before.granularity > j->chunk ? j->before.granularity : j->chunk;
}

uint32_t backup_cluster(const struct job *j)
{
	uint32_t unit = protected_unit(j);

	return j->decision.type != ENTRY_FULL && unit < QCOW2_DEFAULT_CLUSTER ? unit :
		QCOW2_DEFAULT_CLUSTER;
}

/*
 * @zero: what need not be read, since its content does not matter: units of what is
 * protected that were discarded whole
 */
static int what_to_copy(struct backup *b, struct job *j, struct ranges *data,
			struct ranges *zero, struct cbw_error *err)
{
	struct found f = { data, zero };
	int ret;

	if (j->decision.type == ENTRY_FULL) {
		/* its bitmap says nothing about the time before it recorded */
		ranges_add(data, 0, j->dev.size);
		return 0;
	}
	ret = cbw_bitmap_extents(b->session, j->dev.dev, job_bitmap(j), &b->cut,
				 0, collect, &f, err);
	if (ret)
		return ret;
	ranges_align(data, zero, protected_unit(j), j->dev.size);
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

static void fill_entry(const struct backup *b, struct job *j)
{
	const struct entry *newest = chain_newest(&j->chain);
	const struct resume *r = j->resume;

	j->entry = (struct entry){
		.id = r ? r->id : newest ? newest->id + 1 : 1,
		.type = j->decision.type,
		.parent = j->decision.parent,
		.cut = b->cut,
		.base = j->before.base,
		.group = r && r->group ? r->group : (uint32_t)b->nr,
		.time = r ? r->time : time(NULL),
		.size = j->dev.size,
		.granularity = j->before.granularity ? j->before.granularity :
			CBW_GRANULARITY_DEFAULT,
	};
	chain_file_name(j->entry.id, j->entry.type, j->entry.file);
}

/* The ids that an image has to have: chain, cut, and cut of what is below. */
static void image_ids(const struct job *j, struct cbw_cut_id ids[3])
{
	const struct entry *below = chain_by_id(&j->chain, j->entry.parent);

	ids[0] = j->chain.id;
	ids[1] = j->entry.cut;
	ids[2] = below ? below->cut : (struct cbw_cut_id){ 0 };
}

/* Who resumes a backup does not say it again. */
static int level_of(const struct backup *b, const struct job *j)
{
	return j->resume ? j->resume->compress : b->compress;
}

static int create_image(const struct backup *b, struct job *j, uint32_t cluster,
			struct cbw_error *err)
{
	const struct entry *below = chain_by_id(&j->chain, j->entry.parent);
	struct cbw_cut_id ids[3];
	const struct qcow2_header_ext ext = {
		.type = CHAIN_QCOW2_EXT,
		.len = sizeof(ids),
		.data = ids,
	};
	struct qcow2_create_opts o = {
		.virtual_size = j->dev.size,
		.cluster_size = cluster,
		.backing_file = below ? below->file : NULL,
		.backing_format = below ? "qcow2" : NULL,
		.ext = &ext,
		.ext_count = 1,
		.compression = level_of(b, j) ? QCOW2_COMPRESSION_ZSTD : 0,
		.flags = QCOW2_CREATE_EXCL,
	};
	struct qcow2_error qerr;
	int ret;

	image_ids(j, ids);
	/* one that was not durable when its run ended has nothing that was released */
	if (j->resume && unlink(j->img_path) && errno != ENOENT)
		return fail_with(err, errno, "%s: %s", esc(j->img_path), strerror(errno));
	ret = qcow2_create(j->img_path, &o, &j->img, &qerr);
	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

/* The unfinished image of a run that ended: of this cut, or nothing of it is used. */
static int reopen_image(struct job *j, struct cbw_error *err)
{
	struct qcow2_header_ext ext;
	struct cbw_cut_id ids[3];
	struct qcow2_error qerr;
	int ret;

	ret = qcow2_open(j->img_path, QCOW2_OPEN_WRITE | QCOW2_OPEN_SAME_DIR, &j->img, &qerr);
	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	image_ids(j, ids);
	if (qcow2_size(j->img) != j->dev.size ||
	    qcow2_get_ext(j->img, 0, CHAIN_QCOW2_EXT, &ext) || ext.len != sizeof(ids) ||
	    memcmp(ext.data, ids, sizeof(ids)))
		return fail_with(err, EUCLEAN, "%s: the image is not of the backup that was interrupted",
				 esc(j->img_path));
	return 0;
}

static int make_image(struct backup *b, struct job *j, uint32_t cluster,
		      struct cbw_error *err)
{
	int ret;

	fill_entry(b, j);
	j->img_path = j->resume ? resume_image(&j->chain, j->resume) :
		chain_path(&j->chain, j->entry.file);
	ret = j->resume && j->resume->done ? reopen_image(j, err) : create_image(b, j, cluster, err);
	if (ret)
		return ret;
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

/*
 * What a later run is to go on with: the image is durable up to here; written down, and
 * only then released.
 */
static int release_for_good(void *arg, const struct ranges *r, struct cbw_error *err)
{
	const struct cbw_range *last = &r->v[r->nr - 1];
	struct release_arg *a = arg;
	int ret = resume_progress(a->j, last->offset + last->length, err);

	return ret ? ret : release(arg, r, err);
}

/*
 * Both parts of an image that was made by two runs: what it has itself. Its data was
 * durable before it was released, so it is what was read.
 */
static int take_stock(struct job *j, struct sums *sums, struct cbw_error *err)
{
	uint32_t cluster = qcow2_cluster_size(j->img);
	uint64_t size = j->dev.size, at;
	char *buf = xcalloc(cluster, 1);
	struct qcow2_error qerr;
	struct qcow2_run run;
	int ret = 0;

	sums_init(sums, size);
	j->entry.copied = j->entry.zero = 0;
	for (at = 0; at < size && !ret; at += run.length) {
		uint64_t end, pos;

		ret = qcow2_map_layer(j->img, 0, at, size - at, &run, &qerr);
		if (ret)
			break;
		if (run.type == QCOW2_RUN_ZERO ||
		    (run.type == QCOW2_RUN_UNALLOCATED && !j->entry.parent))
			j->entry.zero += run.length;
		if (run.type != QCOW2_RUN_DATA && run.type != QCOW2_RUN_COMPRESSED)
			continue;
		j->entry.copied += run.length;
		end = at + run.length;
		for (pos = at; pos < end && !ret; pos += cluster) {
			size_t now = end - pos < cluster ? (size_t)(end - pos) : cluster;

			memset(buf, 0, cluster);
			ret = qcow2_read(j->img, pos, buf, now, &qerr);
			sums_add(sums, pos, crc_cluster(0, pos, buf, cluster),
				 CRC_CLUSTER_BYTES(cluster));
			if (!ret && stop_signal) {
				ret = -EINTR;
				snprintf(qerr.msg, sizeof(qerr.msg), "stopped by signal %d",
					 (int)stop_signal);
			}
		}
	}
	free(buf);
	if (!ret)
		return 0;
	sums_free(sums);
	return fail_with(err, ret, "%s", qerr.msg);
}

/* -EIO with the kernel's reason if the snapshot failed */
int backup_check_snapshot(struct backup *b, struct job *j,
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
	int ret = backup_check_snapshot(a->b, a->j, err);

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

	return backup_check_snapshot(a->b, a->j, err);
}

/* With a limit of the rate about once a second. */
static uint64_t how_often(const struct backup *b)
{
	uint64_t bytes = b->rate;

	if (!bytes || bytes > SYNC_MAX)
		return SYNC_MAX;
	return bytes < SYNC_MIN ? SYNC_MIN : bytes;
}

static int copy_ranges(struct backup *b, struct job *j, struct ranges *data, struct ranges *zero,
		       struct sums *sums, struct cbw_error *err)
{
	struct release_arg arg = { b, j };
	uint64_t done = j->resume ? j->resume->done : 0;
	struct copy c = {
		.name = j->dev.name,
		.target = j->img_path,
		.dst = j->target.sink,
		.src = j->snap_fd,
		.size = j->dev.size,
		.ranges = data,
		.zero = zero,
		.chunk = j->chunk,
		.img = j->img,
		.img_fd = j->img_fd,
		.backed = j->decision.type != ENTRY_FULL,
		.compress = level_of(b, j),
		.rate = b->rate,
		.json = b->json,
		/* what has no file to sync is flushed as a whole */
		.quiet = j->resume || (j->target.sink && j->target.sink->sync_fd < 0),
		.sync_bytes = j->resume ? how_often(b) : 0,
		/* whether a stream is durable anywhere is not known */
		.release = j->resume ? release_for_good :
			b->single && target_is_stream(b->single) ? NULL : release,
		.why = why_read_failed,
		.check = still_good,
		.arg = &arg,
	};
	int ret = 0;

	/* nobody needs what was there, so writes to it need not wait nor be kept */
	if (!j->resume && zero->nr && c.release)
		ret = release(&arg, zero, err);
	ranges_from(data, done);
	ranges_from(zero, done);
	if (!ret)
		ret = copy_run(&c, err);
	if (ret)
		return ret;
	j->entry.copied = c.copied;
	j->entry.zero = c.zeros;
	*sums = c.sums;
	if (!done)
		return 0;
	sums_free(sums);
	return take_stock(j, sums, err);
}

/* What verify and check will want to know of the image, which is durable. Takes the sums. */
static int save_details(struct job *j, struct sums *sums, struct cbw_error *err)
{
	struct details d = { .cut = j->entry.cut, .size = j->entry.size };
	int ret;

	ret = details_take(j->img, j->img_path, &d, err);
	d.sums = *sums;
	if (!ret)
		ret = details_save(&j->chain, &j->entry, &d, false, err);
	details_free(&d);
	return ret;
}

int backup_copy(struct backup *b, struct job *j, struct cbw_error *err)
{
	struct ranges data = { 0 }, zero = { 0 };
	struct qcow2_error qerr;
	struct sums sums;
	int ret;

	ret = what_to_copy(b, j, &data, &zero, err);
	if (!ret && b->single)
		single_entry(b, j);
	else if (!ret)
		ret = make_image(b, j, backup_cluster(j), err);
	if (!ret)
		ret = copy_ranges(b, j, &data, &zero, &sums, err);
	ranges_free(&data);
	ranges_free(&zero);
	if (ret)
		return ret;
	if (b->single) {
		sums_free(&sums);
		/* a file gets its name, and a stream its end, only when all that was read is good */
		ret = backup_check_snapshot(b, j, err);
		return ret ? ret : target_sync(&j->target, err);
	}
	j->entry.crc = sums.total;
	ret = qcow2_flush(j->img, &qerr);
	if (ret) {
		sums_free(&sums);
		return fail_with(err, ret, "%s", qerr.msg);
	}
	ret = save_details(j, &sums, err);
	if (ret)
		return ret;
	qcow2_close(j->img);
	j->img = NULL;
	ret = backup_check_snapshot(b, j, err);
	if (!ret)
		j->complete = true;
	return ret;
}
