/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_BACKUP_H
#define CBW_BACKUP_H

#include "chain.h"
#include "copy.h"
#include "grow.h"
#include "resume.h"
#include "store.h"
#include "target.h"

struct qcow2_image;

/* one volume of a backup */
struct job {
	struct cbw_dm_dev dev;
	struct store store;
	bool have_store;
	bool auto_store;		/* it is to be made by us */
	struct chain chain;
	bool have_chain;
	struct decision decision;
	struct cbw_bitmap before;	/* the bitmap before the cut */
	char *second;			/* name of that for differentials */
	struct cbw_dm_dev snap;
	bool have_snap;
	int snap_fd;
	uint32_t chunk;
	struct qcow2_image *img;
	int img_fd;
	char *img_path;
	struct target target;		/* instead of an image of the chain */
	struct entry entry;
	struct resume *resume;		/* NULL: it cannot be resumed */
	bool keep;			/* all of it stays, for who resumes it */
	bool complete;			/* image durable */
	bool saved;			/* manifest durable */
};

struct backup {
	struct job *job;
	size_t nr;
	const char *dir;
	const char *single;		/* instead of @dir: the target, which is no chain */
	struct target_opts target;
	const char *bitmap;		/* of the command line */
	enum backup_mode mode;
	const char *store_dir;		/* of --store auto; NULL, 0: the default */
	uint64_t store_size;
	uint64_t store_max;
	struct grower grower;
	struct grow *grow;
	uint64_t chunk;
	uint64_t rate;
	int compress;			/* level, 0: none */
	bool json;
	bool resumable;
	bool detached;			/* the cut does not end with us */
	bool freeze;			/* the file systems, for the cut */
	struct cbw_session *session;
	struct cbw_cut_id cut;
	bool have_cut;
};

/*
 * Opens the chains, decides what is to be done. EXIT_OK, EXIT_FAILED or, when an
 * increment was demanded and cannot be, EXIT_DISTRUST.
 */
int backup_plan(struct backup *b);

/* Makes the stores that are ours. */
int backup_stores(struct backup *b);

/* Snapshots, the cut, the copies, the commits. EXIT_OK, _FAILED or _FULL. */
int backup_run(struct backup *b);

/*
 * Instead of plan, stores and run: goes on with what an interrupted backup has left in a
 * directory, or one chain of it. EXIT_OK, _FAILED or _FULL.
 */
int backup_resume(struct backup *b, const char *path);

/*
 * Takes down what an interrupted backup of a volume has left in its chain: it is given up, or
 * if it was complete, committed. EXIT_OK or _FAILED.
 */
int backup_settle(const char *dir, const struct cbw_dm_dev *dev);

/* Gives everything back; what was not committed is aborted. */
void backup_free(struct backup *b);

#endif
