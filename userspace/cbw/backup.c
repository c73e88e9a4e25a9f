// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A backup, from the cut to the commit.
 *
 * The order is what makes it safe: image durable, its details, manifest, commit. Killed
 * before the manifest, the next run finds the old chain and the kernel merges the
 * bitmap back; killed between manifest and commit, the next run finds the new
 * chain and a bitmap whose base is the one the newest entry names as its own.
 */
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backup.h"
#include "cbw.h"
#include "details.h"
#include "qcow2.h"
#include "restore.h"
#include "room.h"

/* ---- the plan ---------------------------------------------------------- */

static int plan_chain(struct backup *b, struct job *j, struct cbw_error *err)
{
	char *name = xcalloc(4 * strlen(j->dev.name) + 1, 1), *dir;
	int ret;

	cbw_escape(j->dev.name, name, 4 * strlen(j->dev.name) + 1);
	dir = xasprintf("%s/%s", b->dir, name);
	free(name);
	if (b->mode == MODE_INCREMENTAL && access(dir, F_OK)) {
		/* an increment to nothing: nothing is made for it */
		j->chain = (struct chain){ .dir = dir, .dirfd = -1 };
		j->have_chain = true;
		return 0;
	}
	ret = chain_open(dir, true, &j->chain, err);
	free(dir);
	if (ret)
		return ret;
	j->have_chain = true;
	if (j->chain.volume && strcmp(j->chain.volume, j->dev.name))
		return fail_with(err, EUCLEAN,
				 "%s: this is a chain of volume '%s', not of '%s'",
				 esc(j->chain.dir), esc(j->chain.volume),
				 esc(j->dev.name));
	return 0;
}

/* A chain that was not there yet gets its id and the name of its bitmap. */
static int new_chain(struct job *j, struct cbw_error *err)
{
	if (!cbw_cut_is_none(&j->chain.id))
		return 0;
	if (getrandom(&j->chain.id, sizeof(j->chain.id), 0) !=
	    sizeof(j->chain.id))
		return fail_with(err, EIO, "getrandom gave no random number");
	j->chain.volume = xstrdup(j->dev.name);
	j->chain.bitmap = xasprintf("cbw-%02x%02x%02x%02x", j->chain.id.b[0],
				    j->chain.id.b[1], j->chain.id.b[2],
				    j->chain.id.b[3]);
	return 0;
}

static int plan_job(struct backup *b, struct job *j)
{
	const struct cbw_bitmap *have = NULL;
	struct cbw_error err;
	int ret;

	ret = plan_chain(b, j, &err);
	if (ret == -EUCLEAN) {
		say("%s", err.msg);
		return EXIT_DISTRUST;
	}
	if (!ret)
		ret = new_chain(j, &err);
	if (ret)
		return failed("%s", err.msg);
	if (b->bitmap) {
		free(j->chain.bitmap);
		j->chain.bitmap = xstrdup(b->bitmap);
	}
	ret = cbw_bitmap_find(b->session, j->dev.dev, j->chain.bitmap,
			      &j->before, &err);
	if (!ret)
		have = &j->before;
	else if (ret != -ENOENT)
		return failed("%s: %s", esc(j->dev.name), err.msg);
	if (!have && b->bitmap)
		return failed("%s: it has no bitmap '%s'; add it (cbw bitmap add), or leave --bitmap out",
			      esc(j->dev.name), esc(b->bitmap));
	chain_decide(&j->chain, have, j->dev.size, b->mode, &j->decision);
	if (j->chain.nr >= CHAIN_ENTRIES_MAX)
		return failed("%s: the chain is full (%zu backups); take another directory",
			      esc(j->chain.dir), j->chain.nr);
	if (j->decision.type == ENTRY_INCREMENTAL) {
		/* what it would be put on has to be there, and be what it is said to be */
		struct qcow2_image *img;

		if (open_entry(&j->chain, &j->chain.entry[j->chain.nr - 1], &img,
			       &err)) {
			say("%s: no increment is possible on a chain that cannot be read: %s; repair it, or use --full",
			    esc(j->dev.name), err.msg);
			return EXIT_DISTRUST;
		}
		qcow2_close(img);
	}
	if (b->mode == MODE_INCREMENTAL && j->decision.fallback) {
		say("%s: no increment is possible: %s", esc(j->dev.name),
		    j->decision.reason);
		return EXIT_DISTRUST;
	}
	return EXIT_OK;
}

int backup_plan(struct backup *b)
{
	struct cbw_error err;
	int status;
	size_t i;

	if (cbw_session_open(&b->session, &err))
		return failed("%s", err.msg);
	for (i = 0; i < b->nr; i++) {
		status = plan_job(b, &b->job[i]);
		if (status)
			return status;
	}
	return EXIT_OK;
}

/* ---- the cut ----------------------------------------------------------- */

/*
 * A bitmap with a gap goes first, and for good: were it only enabled again, a run that
 * dies now would leave it with its old base, which an increment would trust.
 */
static int replace_bitmap(struct backup *b, struct job *j,
			  struct cbw_error *err)
{
	struct cbw_txn *txn;
	int ret;

	if (!j->decision.replace)
		return 0;
	txn = cbw_txn_new();
	if (!txn)
		return fail_with(err, ENOMEM, "out of memory");
	cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev,
		       j->chain.bitmap, NULL);
	ret = cbw_txn_run(b->session, txn, NULL, err);
	cbw_txn_free(txn);
	j->before.base = (struct cbw_cut_id){ 0 };
	return ret;
}

static int add_actions(const struct job *j, struct cbw_txn *txn)
{
	const char *bitmap = j->chain.bitmap;

	/* an increment's snapshot rotates the bitmap it is limited to */
	if (j->decision.type == ENTRY_FULL) {
		if (j->decision.add)
			cbw_txn_bitmap_add(txn, j->dev.dev, bitmap,
					   j->before.granularity, 0, NULL);
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_ROTATE, j->dev.dev,
			       bitmap, NULL);
	}
	return cbw_txn_snapshot_start(txn, j->snap.dev, NULL);
}

/* A new bitmap may not fit into the container: true if that could be helped. */
static bool make_room(const struct backup *b)
{
	bool made = false;
	size_t i;

	for (i = 0; i < b->nr; i++) {
		const struct job *j = &b->job[i];

		if (j->decision.type == ENTRY_FULL && j->decision.add && j->dev.container.major)
			made |= !container_make_room(b->session, &j->dev, j->before.granularity,
						     NULL);
	}
	return made;
}

static int make_snapshot(const struct backup *b, struct job *j,
			 struct cbw_error *err)
{
	struct cbw_snapshot_opts o = {
		.source = j->dev.dev,
		.chunk_size = (uint32_t)b->chunk,
		.armed = true,
		.own = true,
		.bitmap = j->decision.type == ENTRY_INCREMENTAL ?
			j->chain.bitmap : NULL,
		.buffer_kib = -1,
		.timeout_ms = -1,
	};
	struct cbw_snapshot_info info;
	int ret;

	ret = store_ready(&j->store, err);
	if (ret)
		return ret;
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
static int check_frozen(struct backup *b, struct job *j, struct cbw_error *err)
{
	bool full = j->decision.type == ENTRY_FULL;
	struct cbw_bitmap now;
	int ret;

	ret = cbw_bitmap_find(b->session, j->dev.dev, j->chain.bitmap, &now, err);
	if (ret)
		return ret;
	if (memcmp(&now.cut, &b->cut, sizeof(now.cut)) ||
	    !(now.flags & CBW_BITMAP_ENABLED) ||
	    (!full && (memcmp(&now.base, &j->before.base, sizeof(now.base)) ||
		       now.granularity != j->before.granularity)))
		return fail_with(err, ESTALE,
				 "%s: somebody else changed bitmap '%s' while the backup began; start again",
				 esc(j->dev.name), esc(j->chain.bitmap));
	j->before.base = now.base;
	return 0;
}

static int cut(struct backup *b, struct cbw_error *err)
{
	struct cbw_txn *txn = cbw_txn_new();
	size_t i;
	int ret = 0;

	if (!txn)
		return fail_with(err, ENOMEM, "out of memory");
	for (i = 0; i < b->nr && !ret; i++) {
		struct job *j = &b->job[i];

		ret = chain_clean(&j->chain, NULL, err);
		/* the id has to be known before the bitmap named after it */
		if (!ret)
			ret = chain_save(&j->chain, NULL, err);
		if (!ret)
			ret = make_snapshot(b, j, err);
		if (!ret)
			ret = replace_bitmap(b, j, err);
		if (!ret)
			ret = add_actions(j, txn);
	}
	if (!ret && b->freeze)
		ret = cbw_txn_freeze(txn, 0, err);
	if (!ret)
		ret = cbw_txn_run(b->session, txn, &b->cut, err);
	if (ret == -ENOSPC && make_room(b))
		ret = cbw_txn_run(b->session, txn, &b->cut, err);
	if (!ret)
		b->have_cut = true;
	cbw_txn_free(txn);
	for (i = 0; i < b->nr && !ret; i++)
		ret = check_frozen(b, &b->job[i], err);
	return ret;
}

/* ---- one image --------------------------------------------------------- */

static int collect(const struct cbw_extent *e, void *arg)
{
	ranges_add(arg, e->offset, e->length);
	return 0;
}

static int what_to_copy(struct backup *b, struct job *j, struct ranges *ranges,
			uint32_t *cluster, struct cbw_error *err)
{
	uint64_t unit;
	int ret;

	*cluster = QCOW2_DEFAULT_CLUSTER;
	if (j->decision.type == ENTRY_FULL) {
		ranges_add(ranges, 0, j->dev.size);
		return 0;
	}
	ret = cbw_bitmap_extents(b->session, j->dev.dev, j->chain.bitmap,
				 &b->cut, 0, collect, ranges, err);
	if (ret)
		return ret;
	/* what is protected: every chunk that a dirty granule touches */
	unit = j->before.granularity > j->chunk ? j->before.granularity :
		j->chunk;
	ranges_widen(ranges, unit, j->dev.size);
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
		.group = (uint32_t)b->nr,
		.time = time(NULL),
		.size = j->dev.size,
		.granularity = j->before.granularity ? j->before.granularity :
			CBW_GRANULARITY_DEFAULT,
	};
	snprintf(j->entry.file, sizeof(j->entry.file), "%06u-%s.qcow2",
		 j->entry.id,
		 j->entry.type == ENTRY_FULL ? "full" : "inc");
	if (j->entry.type == ENTRY_INCREMENTAL) {
		j->entry.parent = newest->id;
		ids[2] = newest->cut;
		o.backing_file = newest->file;
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
				 "%s: the snapshot failed: store-full: what was overwritten meanwhile did not fit into %s (%s); take a larger store",
				 esc(j->dev.name), esc(j->store.path),
				 human(info.out_store_chunks *
				  info.out_chunk_size));
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

/* What verify and check will want to know of the image, which is durable. */
static int save_details(struct job *j, struct sums *sums, struct cbw_error *err)
{
	struct details d = { .cut = j->entry.cut, .size = j->entry.size };
	int ret;

	ret = details_take(j->img, j->img_path, &d, err);
	d.sums = *sums;
	if (!ret)
		ret = details_save(&j->chain, &j->entry, &d, false, err);
	details_free(&d);
	*sums = (struct sums){ 0 };
	return ret;
}

static int copy_job(struct backup *b, struct job *j, struct cbw_error *err)
{
	struct release_arg arg = { b, j };
	struct ranges ranges = { 0 };
	struct qcow2_error qerr;
	struct copy c = {
		.name = j->dev.name,
		.src = j->snap_fd,
		.size = j->dev.size,
		.ranges = &ranges,
		.chunk = j->chunk,
		.backed = j->decision.type == ENTRY_INCREMENTAL,
		.rate = b->rate,
		.json = b->json,
		.release = release,
		.why = why_read_failed,
		.check = still_good,
		.arg = &arg,
	};
	uint32_t cluster;
	int ret;

	ret = what_to_copy(b, j, &ranges, &cluster, err);
	if (!ret)
		ret = make_image(b, j, cluster, err);
	if (!ret) {
		c.target = j->img_path;
		c.img = j->img;
		c.img_fd = j->img_fd;
		ret = copy_run(&c, err);
	}
	ranges_free(&ranges);
	if (ret)
		return ret;
	j->entry.copied = c.copied;
	j->entry.zero = c.zeros;
	j->entry.crc = c.sums.total;
	ret = qcow2_flush(j->img, &qerr);
	if (ret) {
		sums_free(&c.sums);
		return fail_with(err, ret, "%s", qerr.msg);
	}
	ret = save_details(j, &c.sums, err);
	if (ret)
		return ret;
	qcow2_close(j->img);
	j->img = NULL;
	ret = check_snapshot(b, j, err);
	if (!ret)
		j->complete = true;
	return ret;
}

/* ---- the end ----------------------------------------------------------- */

static int commit_job(struct backup *b, struct job *j, struct cbw_error *err)
{
	struct cbw_devno dev = j->decision.type == ENTRY_FULL ? j->dev.dev :
		j->snap.dev;

	return cbw_commit_cut(b->session, dev, &b->cut, CBW_COMMIT_ON_SUCCESS,
			      err);
}

static int remove_snapshot(void *arg)
{
	struct job *j = arg;
	struct cbw_error err;

	if (!cbw_snapshot_remove(j->snap.name, &err))
		return EXIT_OK;
	say("%s: its snapshot stays behind: %s", esc(j->dev.name), err.msg);
	return EXIT_FAILED;
}

/*
 * The kernel keeps who removes a snapshot waiting for what it writes to the
 * store. A store that hangs shall not keep us, so a child does it.
 */
static void drop_snapshot(struct job *j)
{
	int status;

	if (j->snap_fd >= 0)
		close(j->snap_fd);
	j->snap_fd = -1;
	if (!j->have_snap)
		return;
	j->have_snap = false;
	status = in_child(remove_snapshot, j);
	if (status < 0)
		say("%s: its snapshot %s stays behind until the store answers: %s hangs",
		    esc(j->dev.name), esc(j->snap.name), esc(j->store.path));
	if (!status)
		store_wipe(&j->store);
}

static void report(const struct backup *b, const struct job *j)
{
	struct json_object *o;

	if (!b->json) {
		printf("%s: %s backup %u, %s of data, %s zero, in %s/%s\n",
		       esc(j->dev.name), j->entry.type == ENTRY_FULL ?
		       "full" : "incremental", j->entry.id,
		       human(j->entry.copied), human(j->entry.zero),
		       esc(j->chain.dir), j->entry.file);
		return;
	}
	o = json_entry(&j->entry);
	json_object_object_add(o, "event", json_object_new_string("done"));
	json_object_object_add(o, "volume",
			       json_object_new_string(esc(j->dev.name)));
	json_object_object_add(o, "dir",
			       json_object_new_string(esc(j->chain.dir)));
	if (j->decision.fallback)
		json_object_object_add(o, "reason",
				       json_object_new_string(j->decision.reason));
	json_line(o);
}

int backup_run(struct backup *b)
{
	struct cbw_error err;
	int status = EXIT_OK;
	size_t i;

	for (i = 0; i < b->nr; i++)
		if (b->job[i].decision.fallback)
			say("%s: a full backup, since an increment is impossible: %s",
			    esc(b->job[i].dev.name),
			    b->job[i].decision.reason);
	if (cut(b, &err))
		return failed("%s", err.msg);
	for (i = 0; i < b->nr; i++)
		if (copy_job(b, &b->job[i], &err))
			return failed("%s; the backup was given up, chain and bitmap are as they were",
				      err.msg);
	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		chain_add(&j->chain, &j->entry);
		if (chain_save(&j->chain, &j->saved, &err))
			return failed("%s", err.msg);
		j->saved = true;
	}
	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		if (commit_job(b, j, &err))
			status = failed("%s: the backup is complete, but its commit failed: %s; the next increment will be larger than needed",
					esc(j->dev.name), err.msg);
	}
	for (i = 0; i < b->nr; i++) {
		drop_snapshot(&b->job[i]);
		report(b, &b->job[i]);
		if (b->job[i].decision.fallback && status == EXIT_OK)
			status = EXIT_FULL;
	}
	return status;
}

/* The bitmap that this backup added is of no use to anybody. */
static void undo_job(struct backup *b, struct job *j)
{
	struct cbw_devno dev = j->decision.type == ENTRY_FULL ? j->dev.dev :
		j->snap.dev;
	struct cbw_txn *txn;

	if (!b->have_cut || j->saved)
		return;
	cbw_abort_cut(b->session, dev, &b->cut, NULL);
	if (!j->decision.add)
		return;
	txn = cbw_txn_new();
	if (!txn)
		return;
	cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev,
		       j->chain.bitmap, NULL);
	cbw_txn_run(b->session, txn, NULL, NULL);
	cbw_txn_free(txn);
}

void backup_free(struct backup *b)
{
	size_t i;

	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		undo_job(b, j);
		drop_snapshot(j);
		qcow2_close(j->img);
		if (j->img_fd >= 0)
			close(j->img_fd);
		if (j->img_path && !j->saved) {
			unlink(j->img_path);
			details_remove(&j->chain, &j->entry);
		}
		free(j->img_path);
		if (j->have_store)
			store_close(&j->store);
		if (j->have_chain)
			chain_close(&j->chain);
	}
	cbw_session_close(b->session);
	free(b->job);
}
