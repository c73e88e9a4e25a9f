// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A backup, from the cut to the commit.
 *
 * The order is what makes it safe: image durable, its details, manifest, commit. Killed
 * before the manifest, the next run finds the old chain and the kernel merges the
 * bitmap back; killed between manifest and commit, the next run finds the new
 * chain and a bitmap whose base is the one the newest entry names as its own.
 */
#include <json-c/json.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"
#include "details.h"
#include "qcow2.h"

/* Where what is frozen is asked for; a snapshot may be gone, when its run is dead. */
static struct cbw_devno frozen_at(const struct job *j)
{
	return j->decision.type == ENTRY_FULL || !j->have_snap ? j->dev.dev : j->snap.dev;
}

int backup_commit(struct backup *b, struct job *j, struct cbw_error *err)
{
	if (!job_bitmap(j))
		return 0;
	/* what has changed since the full one is still to be in the next differential */
	return cbw_commit_cut(b->session, frozen_at(j), &b->cut,
			      j->decision.type == ENTRY_DIFFERENTIAL ? CBW_COMMIT_NEVER :
			      CBW_COMMIT_ON_SUCCESS, err);
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
void backup_drop_snapshot(struct job *j)
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
	/* what is ours goes as a whole */
	if (!status && j->store.kind == STORE_GIVEN)
		store_wipe(&j->store);
}

static void report(const struct backup *b, const struct job *j)
{
	struct json_object *o;

	if (b->single) {
		single_report(b, j);
		return;
	}
	if (!b->json) {
		printf("%s: %s backup %u, %s of data, %s zero, in %s/%s\n",
		       esc(j->dev.name), chain_type_text(j->entry.type), j->entry.id,
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

static int watch_stores(struct backup *b, struct cbw_error *err)
{
	size_t i;

	b->grow = xcalloc(b->nr, sizeof(*b->grow));
	for (i = 0; i < b->nr; i++)
		b->grow[i] = (struct grow){ &b->job[i].snap, &b->job[i].store,
					    b->job[i].dev.name };
	return grow_start(&b->grower, b->grow, b->nr, b->json, err);
}

/* Whether what there is is worth to be kept after an error: who resumes can go on with it. */
static bool can_go_on(struct backup *b)
{
	struct cbw_error err;
	size_t i;

	if (!b->detached)
		return false;
	for (i = 0; i < b->nr; i++)
		if (!b->job[i].saved && (backup_check_snapshot(b, &b->job[i], &err) ||
					 backup_check_frozen(b, &b->job[i], &err)))
			return false;
	return true;
}

/*
 * Nobody else will commit a cut that was detached, nor abort it: its bitmap would stay frozen. So
 * what was written down about it stays until that is done, for who resumes.
 */
static int commit_saved(struct backup *b, struct job *j, struct cbw_error *err)
{
	int ret = backup_commit(b, j, err);

	/* -ESTALE: there is no such cut any more */
	if (ret && b->detached && ret != -ESTALE)
		j->keep = true;
	return ret;
}

const char *backup_left(const struct backup *b)
{
	size_t i;

	for (i = 0; i < b->nr; i++)
		if (b->job[i].decision.replace || b->job[i].decision.second_replace)
			return "chain and bitmap are as they were, but for a bitmap that could not be trusted, which is gone";
	return "chain and bitmap are as they were";
}

static int give_up(struct backup *b, const struct cbw_error *err)
{
	struct cbw_error why;
	size_t i;

	for (i = 0; b->detached && i < b->nr; i++) {
		struct job *j = &b->job[i];

		if (j->saved && j->entry.id && commit_saved(b, j, &why))
			say("%s: the backup is complete, but its commit failed: %s",
			    esc(j->dev.name), why.msg);
	}

	if (!can_go_on(b))
		return failed("%s; the backup was given up, %s", err->msg,
			      !b->single ? backup_left(b) :
			      !b->bitmap ? "it is not complete" : b->job[0].decision.replace ?
			      "the bitmap, which could not be trusted, is gone" :
			      "the bitmap is as it was");
	for (i = 0; i < b->nr; i++)
		b->job[i].keep |= !b->job[i].saved;
	return failed("%s; the backup is not finished, 'cbw backup --resume %s' goes on with it",
		      err->msg, esc(b->nr == 1 ? b->job[0].chain.dir : b->dir));
}

/* The image gets the name that the manifest is to have, which makes it durable. */
static int name_image(struct job *j, struct cbw_error *err)
{
	char *path = chain_path(&j->chain, j->entry.file);

	if (j->resume && rename(j->img_path, path)) {
		fail_with(err, errno, "%s: %s", esc(j->img_path), strerror(errno));
		free(path);
		return -err->code;
	}
	free(j->img_path);
	j->img_path = path;
	return 0;
}

static int save_all(struct backup *b, struct cbw_error *err)
{
	size_t i;
	int ret;

	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		/* by the run that is resumed */
		if (j->saved)
			continue;
		if (b->single) {
			j->saved = true;
			continue;
		}
		ret = name_image(j, err);
		if (ret)
			return ret;
		chain_add(&j->chain, &j->entry);
		ret = chain_save(&j->chain, &j->saved, err);
		if (ret)
			return ret;
		j->saved = true;
	}
	return 0;
}

int backup_finish(struct backup *b)
{
	struct cbw_error err;
	int status = EXIT_OK;
	size_t i;

	if (watch_stores(b, &err))
		return give_up(b, &err);
	for (i = 0; i < b->nr; i++)
		if (!b->job[i].saved && backup_copy(b, &b->job[i], &err))
			return give_up(b, &err);
	/* all is read */
	grow_stop(&b->grower);
	if (save_all(b, &err))
		return b->detached ? give_up(b, &err) : failed("%s", err.msg);
	for (i = 0; i < b->nr; i++) {
		struct job *j = &b->job[i];

		if (j->entry.id && commit_saved(b, j, &err))
			status = failed("%s: the backup is complete, but its commit failed: %s; the next increment will be larger than needed",
					esc(j->dev.name), err.msg);
	}
	for (i = 0; i < b->nr; i++) {
		if (!b->job[i].keep)
			backup_drop_snapshot(&b->job[i]);
		if (b->job[i].entry.id)
			report(b, &b->job[i]);
		if (b->job[i].decision.fallback && status == EXIT_OK)
			status = EXIT_FULL;
	}
	return status;
}

int backup_run(struct backup *b)
{
	struct cbw_error err;
	size_t i;

	for (i = 0; i < b->nr; i++)
		if (b->job[i].decision.fallback)
			say("%s: a full backup, since %s is impossible: %s",
			    esc(b->job[i].dev.name), b->mode == MODE_DIFFERENTIAL ?
			    "a differential" : "an increment", b->job[i].decision.reason);
	if (backup_cut(b, &err))
		return b->single ? give_up(b, &err) : failed("%s", err.msg);
	return backup_finish(b);
}

/* What was added is of no use to anybody, and what did not record does not. */
void backup_undo_bitmaps(struct backup *b, struct job *j)
{
	struct cbw_txn *txn;

	if (!j->decision.add && !j->decision.enable && j->decision.second != SECOND_ADD)
		return;
	txn = cbw_txn_new();
	if (!txn)
		return;
	if (j->decision.add)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev,
			       j->chain.bitmap, NULL);
	if (j->decision.enable)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_DISABLE, j->dev.dev,
			       j->chain.bitmap, NULL);
	if (j->decision.second == SECOND_ADD)
		cbw_txn_bitmap(txn, CBW_ACTION_BITMAP_REMOVE, j->dev.dev, j->second, NULL);
	cbw_txn_run(b->session, txn, NULL, NULL);
	cbw_txn_free(txn);
}

static void undo_job(struct backup *b, struct job *j)
{
	if (!b->have_cut || j->saved)
		return;
	cbw_abort_cut(b->session, frozen_at(j), &b->cut, NULL);
	backup_undo_bitmaps(b, j);
}

static void free_job(struct backup *b, struct job *j)
{
	if (!j->keep) {
		undo_job(b, j);
		backup_drop_snapshot(j);
	}
	if (j->snap_fd >= 0)
		close(j->snap_fd);
	target_close(&j->target, !j->saved);
	qcow2_close(j->img);
	if (j->img_fd >= 0)
		close(j->img_fd);
	if (j->img_path && !j->saved && !j->keep) {
		unlink(j->img_path);
		details_remove(&j->chain, &j->entry);
	}
	free(j->img_path);
	free(j->second);
	if (j->have_store && j->keep)
		store_leave(&j->store);
	else if (j->have_store)
		store_drop(&j->store);
	/* last of all: until here it says what there is to take down */
	if (j->resume && !j->keep)
		resume_drop(&j->chain, j->resume);
	if (j->resume)
		resume_free(j->resume);
	free(j->resume);
	if (j->have_chain)
		chain_close(&j->chain);
}

void backup_free(struct backup *b)
{
	size_t i;

	grow_stop(&b->grower);
	free(b->grow);
	for (i = 0; i < b->nr; i++)
		free_job(b, &b->job[i]);
	cbw_session_close(b->session);
	free(b->job);
}
