/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The calls of /dev/cbw-control and of device-mapper that programs make which
 * make many of them: no text in between and nothing that forks.  All return 0
 * or a negative errno.
 */
#ifndef CTL_H
#define CTL_H

#include <linux/dm-cbw.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A bitmap's name; any bytes, not NUL terminated. */
struct ctl_name {
	const char *s;
	uint32_t len;
};

static inline bool ctl_cut_same(const struct cbw_cut_id *a, const struct cbw_cut_id *b)
{
	return !__builtin_memcmp(a->b, b->b, sizeof(a->b));
}

static inline bool ctl_cut_none(const struct cbw_cut_id *cut)
{
	static const struct cbw_cut_id none;

	return ctl_cut_same(cut, &none);
}

/* A descriptor of the control device: a session. */
int ctl_open(void);
int ctl_devno(const char *path, struct cbw_devno *dev);

/* @failed: which action did, @nr: none of them; may be NULL, as may @cut. */
int ctl_transaction(int fd, const struct cbw_action *actions, uint32_t nr,
		    struct cbw_cut_id *cut, uint32_t *failed);
int ctl_commit(int fd, struct cbw_devno dev, const struct cbw_cut_id *cut, uint32_t mode);
int ctl_abort(int fd, struct cbw_devno dev, const struct cbw_cut_id *cut);
int ctl_detach(int fd, const struct cbw_cut_id *cut);

/*
 * All extents from @from on, @room in each call; the caller frees *@extents.  @cut: all zero
 * for the recording half.
 */
int ctl_extents(int fd, struct cbw_devno dev, struct ctl_name name,
		const struct cbw_cut_id *cut, uint64_t from, uint32_t room,
		struct cbw_extent **extents, size_t *nr, uint32_t *granularity);

/* All bitmaps; the caller frees *@buf.  Go through them with ctl_list_next(). */
int ctl_list(int fd, struct cbw_devno dev, struct cbw_bitmap_entry **buf,
	     uint32_t *nr, uint64_t *device_size);

static inline struct cbw_bitmap_entry *ctl_list_next(struct cbw_bitmap_entry *e)
{
	return (void *)((char *)e + e->entry_size);
}

/* ---- device-mapper ------------------------------------------------------------ */

#define DM_WITHOUT_FLUSH	(1u << 0)	/* suspend: give back what is held */
#define DM_WITHOUT_FS		(1u << 1)	/* suspend: freeze no filesystem */

int dm_make(const char *name, struct cbw_devno *dev);
/* One target: "<start> <length> <type> <arguments>". */
int dm_load(const char *name, const char *table);
int dm_unload(const char *name);
int dm_suspend(const char *name, unsigned int how);
int dm_resume(const char *name);
int dm_remove(const char *name);
/* The table line as loaded now. */
int dm_table(const char *name, char *line, size_t size);
/* @reply may be NULL. */
int dm_message(const char *name, const char *words, char *reply, size_t size);

#endif
