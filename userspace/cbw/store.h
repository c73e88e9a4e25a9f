/* SPDX-License-Identifier: GPL-2.0-or-later */
/* where preserved data goes: a block device, or a file through a loop device */
#ifndef CBW_STORE_H
#define CBW_STORE_H

#include "libcbw.h"

enum store_kind {
	STORE_GIVEN,		/* by who runs us */
	STORE_FILE,		/* ours, and gone at the end */
	STORE_LV,		/* the same */
};

/* store_auto(): where files go, unless one says something else */
#define STORE_DIR	"/var/tmp"
#define STORE_NAME	"cbw-store-"	/* and how their names begin */
#define STORE_ALIGN	(4ull << 20)
#define STORE_FIRST_MIN	(256ull << 20)
#define STORE_FIRST_MAX	(8ull << 30)
/* a store grows before it is full in so many seconds */
#define STORE_AHEAD_S	4

struct store {
	enum store_kind kind;
	char *path;
	char *lv;		/* STORE_LV: "group/name" */
	uint64_t most;		/* ours: it does not grow beyond that */
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
/* The loop device that has the file, -1: none, or it is not known. */
int store_loop(const char *path);
/* -EBUSY: another run has the file (takes the lock that tells), or a loop device */
int store_file_free(const char *path, int fd, struct cbw_error *err);
/* Forgets what lies at the store's ends, so that it looks blank the next time. */
void store_wipe(const struct store *store);
/* Sets up the loop device of a file. It goes with its last user. */
int store_ready(struct store *store, struct cbw_error *err);
/* Closes; to be called when the snapshot has the store open, or is gone. */
void store_close(struct store *store);

/**
 * struct store_wish - what store_auto() shall make
 * @dir: a file in it; NULL: a logical volume if there is room, else a file in STORE_DIR
 * @first: bytes to begin with
 * @least: this much will do, if there is no more room
 * @most: bytes that it may grow to
 */
struct store_wish {
	const char *dir;
	uint64_t first;
	uint64_t least;
	uint64_t most;
};

/* A store for @vol; leftovers of dead runs go. To be given back with store_drop(). */
int store_auto(const struct cbw_dm_dev *vol, const struct cbw_dm_dev *volumes, size_t nr,
	       const struct store_wish *wish, struct store *store, struct cbw_error *err);
/* Removes what store_auto() made, when the snapshot is gone, and closes it. */
void store_drop(struct store *store);
/* Closes it, and lets it be: a snapshot goes on with it. */
void store_leave(struct store *store);
/* Makes one of ours larger, by less if there is not so much room, -ENOSPC: by nothing. */
int store_grow(struct store *store, uint64_t size, struct cbw_error *err);
/*
 * A store that a run which is dead has made, or was given, and that a snapshot still has:
 * what store_drop(), store_grow() and store_wipe() need of it. What is not marked as one
 * of ours is one that was given.
 */
void store_again(enum store_kind kind, const char *path, const char *lv, uint64_t most,
		 struct store *store);
/* The same of a fixed size, all of it set aside: for a snapshot that stays. (store-kept.c) */
int store_auto_kept(const struct cbw_dm_dev *vol, const struct cbw_dm_dev *volumes, size_t nr,
		    uint64_t size, struct store *store, struct cbw_error *err);
/* Whether a snapshot has such a one: then what store_drop() needs when that is gone. */
bool store_kept_by(const struct cbw_dm_dev *snap, struct store *store);
/*
 * A file that is ours has a mark at its end, behind the @size bytes that its loop device has: only
 * such a one is ever removed. @fd: of @path; -errno. (store-mark.c)
 */
int store_mark(const char *path, int fd, uint64_t size);
bool store_marked(const char *path, int fd);
/* What to begin with, for a volume, and at most @most. */
uint64_t store_first_size(uint64_t volume, uint64_t most);
/* The size that is wanted when so much is used, and @rate bytes come per second. */
uint64_t store_next_size(uint64_t size, uint64_t used, uint64_t rate, uint64_t most);

/* -EEXIST with a text if libblkid knows what is on it; @what would overwrite it */
int check_blank(const char *path, int fd, const char *what, struct cbw_error *err);

/*
 * -EBUSY with a text if what @path lies on is, or stands on, one of the volumes, or may, as far as
 * can be told; but for assume_elsewhere(): what cannot be told does not
 */
void assume_elsewhere(void);
int check_not_on(const char *path, const char *what,
		 const struct cbw_dm_dev *volumes, size_t nr,
		 struct cbw_error *err);

#endif
