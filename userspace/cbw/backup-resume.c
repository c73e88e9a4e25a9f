// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Backups that outlive the death of the tool.
 *
 * The cut is handed over to whoever knows its id, the snapshot has no owner, and a file in
 * the chain names both. It is written before the snapshot is made, so nothing is ever left
 * that it does not name; with the cut before that is handed over, so until then the kernel
 * takes the cut back, and afterwards somebody knows it; and it goes when nothing is left. A cut
 * that the manifest has is committed, any other one is aborted.
 */
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"

/* ---- what is written down -------------------------------------------------------- */

int resume_begin(const struct backup *b, struct job *j, struct cbw_error *err)
{
	const struct entry *newest = chain_newest(&j->chain);
	struct resume *r = xcalloc(1, sizeof(*r));
	char *path = j->store.kind == STORE_GIVEN ? realpath(j->store.path, NULL) :
		xstrdup(j->store.path);
	ull id;

	if (!path || getrandom(&id, sizeof(id), 0) != sizeof(id)) {
		free(path);
		free(r);
		return fail_with(err, EIO, "%s: %s", esc(j->store.path), strerror(errno));
	}
	*r = (struct resume){
		.bitmap = xstrdup(job_bitmap(j)),
		.decision = j->decision,
		.base = j->before.base,
		.granularity = j->before.granularity ? j->before.granularity :
			CBW_GRANULARITY_DEFAULT,
		.id = newest ? newest->id + 1 : 1,
		.size = j->dev.size,
		.compress = b->compress,
		.group = (uint32_t)b->nr,
		.store_kind = j->store.kind,
		.store = path,
		.lv = xstrdup(j->store.lv ? j->store.lv : ""),
		.store_most = j->store.most,
	};
	snprintf(r->snapshot, sizeof(r->snapshot), "cbw-snap-%016llx", id);
	j->resume = r;
	return resume_save(&j->chain, r, err);
}

int resume_cut(struct backup *b, struct cbw_error *err)
{
	size_t i;
	int ret;

	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		j->resume->cut = b->cut;
		j->resume->time = time(NULL);
		j->resume->base = j->before.base;
		ret = resume_save(&j->chain, j->resume, err);
		if (ret)
			return ret;
	}
	ret = cbw_detach_cut(b->session, &b->cut, err);
	b->detached = !ret;
	return ret;
}

int resume_progress(struct job *j, uint64_t done, struct cbw_error *err)
{
	j->resume->done = done;
	return resume_save(&j->chain, j->resume, err);
}

/* ---- what there is ---------------------------------------------------------------- */

/* The snapshot of the cut, or one that has not come to it; not any other of that name. */
static bool find_snapshot(struct backup *b, struct job *j)
{
	const struct resume *r = j->resume;
	bool cut = !cbw_cut_is_none(&r->cut);
	struct cbw_snapshot_info info;

	if (cbw_dm_find(r->snapshot, &j->snap, NULL) || j->snap.kind != CBW_DM_SNAPSHOT ||
	    cbw_snapshot_get_info(b->session, j->snap.dev, cut ? &r->cut : NULL, &info, NULL))
		return false;
	if (!cut && (info.out_source.major != j->dev.dev.major ||
		     info.out_source.minor != j->dev.dev.minor))
		return false;
	j->have_snap = true;
	j->chunk = info.out_chunk_size;
	return true;
}

/* One that was killed before its table was there has a name only. */
static void drop_nameless(struct job *j)
{
	struct cbw_dm_dev dev;

	if (!j->have_snap && !cbw_dm_find(j->resume->snapshot, &dev, NULL) &&
	    dev.kind == CBW_DM_OTHER && !dev.size)
		cbw_snapshot_remove(dev.name, NULL);
}

static const struct entry *by_cut(const struct chain *chain, const struct cbw_cut_id *cut)
{
	size_t i;

	for (i = chain->nr; i; i--)
		if (cbw_cut_equal(&chain->entry[i - 1].cut, cut))
			return &chain->entry[i - 1];
	return NULL;
}

/* Locks the chain, reads what is there; -ENOENT: nothing */
static int load(const char *dir, struct job *j, struct cbw_error *err)
{
	int ret;

	j->snap_fd = -1;
	j->img_fd = -1;
	j->target.fd = -1;
	ret = chain_open(dir, true, &j->chain, err);
	if (ret)
		return ret;
	j->have_chain = true;
	j->resume = xcalloc(1, sizeof(*j->resume));
	ret = resume_load(&j->chain, j->resume, err);
	if (ret) {
		free(j->resume);
		j->resume = NULL;
		return ret;
	}
	j->decision = j->resume->decision;
	j->second = chain_second(&j->chain);
	j->before.base = j->resume->base;
	j->before.granularity = j->resume->granularity;
	store_again(j->resume->store_kind, j->resume->store, j->resume->lv,
		    j->resume->store_most, &j->store);
	j->have_store = true;
	return 0;
}

/*
 * To its end, or away with it: commits a cut that the manifest has, else what was frozen is
 * merged back. The rest is backup_free()'s.
 */
static void take_down(struct backup *b, struct job *j)
{
	const struct entry *e = by_cut(&j->chain, &j->resume->cut);
	struct cbw_error err;

	b->cut = j->resume->cut;
	b->have_cut = !cbw_cut_is_none(&b->cut);
	drop_nameless(j);
	if (!e) {
		say("%s: an interrupted backup is given up, %s of %s were copied", esc(j->chain.dir),
		    human(j->resume->done), human(j->resume->size));
		return;
	}
	j->saved = true;
	say("%s: backup %u, which was interrupted at its very end, is complete", esc(j->chain.dir),
	    e->id);
	/* who has committed it already has done it */
	if (backup_commit(b, j, &err) && err.code != ESTALE)
		say("%s: commit of backup %u: %s", esc(j->chain.dir), e->id, err.msg);
}

int backup_settle(const char *dir, const struct cbw_dm_dev *dev)
{
	char *path = backup_chain_dir(dir, dev), *file = xasprintf("%s/" RESUME_FILE, path);
	struct backup b = { .nr = 1, .job = xcalloc(1, sizeof(*b.job)), .dir = dir };
	int status = EXIT_OK, ret = 0;
	struct cbw_error err;

	b.job[0].snap_fd = b.job[0].img_fd = b.job[0].target.fd = -1;
	if (access(file, F_OK))
		goto out;
	ret = cbw_session_open(&b.session, &err);
	if (!ret)
		ret = load(path, &b.job[0], &err);
	if (ret && ret != -ENOENT) {
		status = failed("%s", err.msg);
	} else if (!ret) {
		b.job[0].dev = *dev;
		find_snapshot(&b, &b.job[0]);
		take_down(&b, &b.job[0]);
	}
out:
	free(file);
	free(path);
	backup_free(&b);
	return status;
}

/* ---- going on ---------------------------------------------------------------------- */

/* 0: it can go on; 1: it was complete, and is taken down; or an error, which is its end. */
static int look_at(struct backup *b, struct job *j, struct cbw_error *err)
{
	const struct resume *r = j->resume;
	char *part, *name;
	int ret;

	if (by_cut(&j->chain, &r->cut)) {
		take_down(b, j);
		return 1;
	}
	drop_nameless(j);
	if (cbw_cut_is_none(&r->cut))
		return fail_with(err, ENOENT, "%s: it was interrupted before its cut",
				 esc(j->chain.dir));
	if (!j->have_snap)
		return fail_with(err, ENOENT, "%s: its snapshot is gone (it ends with a reboot)",
				 esc(j->chain.dir));
	if (j->dev.size != r->size)
		return fail_with(err, ESTALE, "%s: the volume has another size now",
				 esc(j->chain.dir));
	ret = backup_check_snapshot(b, j, err);
	if (!ret)
		ret = backup_check_frozen(b, j, err);
	if (ret)
		return ret;
	if ((j->decision.parent && !chain_by_id(&j->chain, j->decision.parent)) ||
	    (j->chain.nr && chain_newest(&j->chain)->id >= r->id))
		return fail_with(err, ESTALE, "%s: the chain was changed meanwhile",
				 esc(j->chain.dir));
	/* interrupted between the image's name and the manifest */
	part = resume_image(&j->chain, r);
	name = xstrdup(part);
	name[strlen(name) - strlen(".part")] = '\0';
	if (access(part, F_OK) && r->done && rename(name, part))
		ret = fail_with(err, errno, "%s: %s", esc(part), strerror(errno));
	free(part);
	free(name);
	if (ret)
		return ret;
	j->snap_fd = cbw_dm_open(j->snap.dev, O_RDONLY | O_DIRECT, err);
	return j->snap_fd < 0 ? j->snap_fd : 0;
}

static int add_job(struct backup *b, const char *dir, struct cbw_error *err)
{
	struct job *j = &b->job[b->nr];
	int ret = load(dir, j, err);

	/* closed with the others */
	b->nr++;
	if (ret == -ENOENT) {
		chain_close(&j->chain);
		*j = (struct job){ .snap_fd = -1, .img_fd = -1, .target.fd = -1 };
		b->nr--;
		return 0;
	}
	if (ret)
		return ret;
	if (find_tracked("backup", j->chain.volume, &j->dev))
		return fail_with(err, ENODEV, "%s: its volume '%s' is not there, or not tracked",
				 esc(dir), esc(j->chain.volume));
	if (b->nr == 1) {
		b->cut = j->resume->cut;
		return 0;
	}
	if (!cbw_cut_equal(&b->cut, &j->resume->cut)) {
		j->keep = true;
		return fail_with(err, EINVAL, "%s and %s are of two backups; name one of them",
				 esc(b->job[0].chain.dir), esc(dir));
	}
	return 0;
}

static int find_jobs(struct backup *b, const char *path, struct cbw_error *err)
{
	char **dirs;
	size_t nr, i;
	int ret;

	ret = chain_find_dirs(path, &dirs, &nr, err);
	if (ret)
		return ret;
	b->job = xcalloc(nr, sizeof(*b->job));
	for (i = 0; i < nr; i++) {
		if (!ret)
			ret = add_job(b, dirs[i], err);
		free(dirs[i]);
	}
	free(dirs);
	if (!ret && !b->nr)
		ret = fail_with(err, ENOENT, "%s: there is no interrupted backup to go on with; it has to be made with --resumable",
				esc(path));
	return ret;
}

/* What will not be another time. */
static bool for_good(int ret)
{
	return ret == -ENOENT || ret == -ESTALE || ret == -EIO || ret == -EUCLEAN ||
		ret == -ENODEV || ret == -ENXIO;
}

static int keep_all(struct backup *b)
{
	size_t i;

	for (i = 0; i < b->nr; i++)
		b->job[i].keep = true;
	return EXIT_FAILED;
}

int backup_resume(struct backup *b, const char *path)
{
	struct cbw_error err;
	size_t i, complete = 0;
	int ret;

	b->dir = path;
	b->resumable = true;
	ret = cbw_session_open(&b->session, &err);
	if (!ret)
		ret = find_jobs(b, path, &err);
	if (ret) {
		say("backup: %s", err.msg);
		(void)keep_all(b);
		return ret == -EUCLEAN ? EXIT_DISTRUST : EXIT_FAILED;
	}
	b->have_cut = b->detached = !cbw_cut_is_none(&b->cut);
	/* all of them first: what is given up is given up as a whole */
	for (i = 0; i < b->nr; i++)
		find_snapshot(b, &b->job[i]);
	for (i = 0; i < b->nr; i++) {
		ret = look_at(b, &b->job[i], &err);
		if (ret < 0 && !for_good(ret)) {
			say("backup: %s; it is not given up, and can be resumed another time",
			    err.msg);
			return keep_all(b);
		}
		if (ret < 0)
			return failed("backup: %s; it cannot be resumed and is given up, %s",
				      err.msg, backup_left(b));
		complete += ret == 1;
	}
	for (i = 0; i < b->nr && complete == b->nr; i++)
		if (b->job[i].decision.fallback)
			return EXIT_FULL;
	if (complete == b->nr)
		return EXIT_OK;
	for (i = 0; i < b->nr; i++)
		if (!b->job[i].saved && b->job[i].resume->done)
			say("%s: going on at %s of %s", esc(b->job[i].dev.name),
			    human(b->job[i].resume->done), human(b->job[i].dev.size));
	return backup_finish(b);
}
