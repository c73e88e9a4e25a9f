/* SPDX-License-Identifier: GPL-2.0-or-later */
/* where preserved data goes: a block device, or a file through a loop device */
#ifndef CBW_STORE_H
#define CBW_STORE_H

#include "libcbw.h"

struct store {
	char *path;
	struct cbw_devno dev;	/* of the block device */
	uint64_t size;
	int fd;			/* keeps a loop device of ours alive */
	int loop;		/* its number, -1: none of ours */
	int lock;		/* a file: locked, from store_check() to store_close() */
};

/*
 * Looks at @path and refuses, before anything is touched: what is neither block
 * device nor file, is in use, is smaller than a chunk, holds a file system or
 * partition table (unless @force), or lies on one of the tracked volumes.
 * A file is given a loop device only by store_ready().
 */
int store_check(const char *path, const struct cbw_dm_dev *volumes, size_t nr,
		bool force, struct store *store, struct cbw_error *err);
/* Forgets what lies at the store's ends, so that it looks blank the next time. */
void store_wipe(const struct store *store);
/* Sets up the loop device of a file. It goes with its last user. */
int store_ready(struct store *store, struct cbw_error *err);
/* Closes; to be called when the snapshot has the store open, or is gone. */
void store_close(struct store *store);

/* -EEXIST with a text if libblkid knows what is on it; @what would overwrite it */
int check_blank(const char *path, int fd, const char *what, struct cbw_error *err);

/* -EBUSY with a text if what @path lies on is, or stands on, one of the volumes */
int check_not_on(const char *path, const char *what,
		 const struct cbw_dm_dev *volumes, size_t nr,
		 struct cbw_error *err);

#endif
