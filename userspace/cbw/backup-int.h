/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the parts of a backup among themselves; backup.h is for the others */
#ifndef CBW_BACKUP_INT_H
#define CBW_BACKUP_INT_H

#include "backup.h"

/*
 * The bitmap that says what is copied; that of a full one records for the next. NULL: none,
 * without a chain.
 */
static inline const char *job_bitmap(const struct job *j)
{
	return j->decision.type == ENTRY_DIFFERENTIAL ? j->second : j->chain.bitmap;
}

/* "DIR/<volume>", for free() */
char *backup_chain_dir(const char *dir, const struct cbw_dm_dev *dev);

/* Whether what is frozen is what the backup is of. */
int backup_check_frozen(struct backup *b, struct job *j, struct cbw_error *err);

/* Removes the snapshot, with a bound on what that takes. */
void backup_drop_snapshot(struct job *j);
/* The end of the frozen state, after the manifest: commit, or for a differential none. */
int backup_commit(struct backup *b, struct job *j, struct cbw_error *err);
/* Removes what the backup added. */
void backup_undo_bitmaps(struct backup *b, struct job *j);
/* What there is after a backup that was given up, in words. */
const char *backup_left(const struct backup *b);
/* Everything behind the cut. */
int backup_finish(struct backup *b);
/* What the snapshot's state says: 0, or -EIO with the reason it failed. */
int backup_check_snapshot(struct backup *b, struct job *j, struct cbw_error *err);

/* resumable: what is written down before the snapshot is made, at the cut, and while it copies */
int resume_begin(const struct backup *b, struct job *j, struct cbw_error *err);
int resume_cut(struct backup *b, struct cbw_error *err);
int resume_progress(struct job *j, uint64_t done, struct cbw_error *err);

/* Makes the snapshots and the cut; checks that what was planned still holds. */
int backup_cut(struct backup *b, struct cbw_error *err);

/* Bytes of a cluster of its image; when the snapshot is there. */
uint32_t backup_cluster(const struct job *j);
/* Copies one volume; its image is durable then. */
int backup_copy(struct backup *b, struct job *j, struct cbw_error *err);

/* without a chain: what plan, image and report are else */
int single_plan(struct backup *b, struct job *j);
/*
 * Before the cut: were the target opened, and so locked, after it, another run could cut later, write
 * its increment there and commit in between; an older state would then go over that, and what
 * changed from the one cut to the other would be in no increment.
 */
int single_open(struct backup *b, struct job *j, struct cbw_error *err);
/* behind the cut */
void single_entry(const struct backup *b, struct job *j);
void single_report(const struct backup *b, const struct job *j);

#endif
