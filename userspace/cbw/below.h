/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the parts of what finds what lies on a volume among themselves; store.h is for the others */
#ifndef CBW_BELOW_H
#define CBW_BELOW_H

#include "libcbw.h"

enum answer {
	NO,
	UNKNOWN,
	YES,
};

/* of two devices of one */
static inline enum answer either(enum answer a, enum answer b)
{
	return a > b ? a : b;
}

/**
 * struct mount - a line of the mount table
 * @id, @dev: of the mount, and what its files have but for those of btrfs
 * @at, @type, @source, @opts: for mount_free()
 */
struct mount {
	uint64_t id;
	struct cbw_devno dev;
	char *at, *type, *source, *opts;
};

/* by the id, not the device: files of btrfs have other device numbers than their mount */
bool mount_by_id(uint64_t id, struct mount *m);
bool mount_by_dev(struct cbw_devno dev, struct mount *m);
void mount_free(struct mount *m);

/* \040 and the like, as the mount table writes them, in place */
void unescape(char *s);
/* a device number out of a one-line file of sysfs */
bool read_devno(const char *path, struct cbw_devno *dev);
/* whether a btrfs, of which sysfs has @dir with its devices, has one */
bool btrfs_has(const char *dir, struct cbw_devno dev);
/* whether two paths may be in one file system, or one above the other that tells its figures */
bool same_figures(const char *a, const char *b);
/* whether they are, as far as that can be told: what is free is the same at the same time */
bool same_now(const char *a, const char *b);
/* of a file system: it is in memory, or on another machine */
bool has_no_device(const char *type);

/*
 * Whether the file system of @path may stand on a volume, by who uses that: NO, if nobody does
 * who could carry it, or it is others that do; else UNKNOWN. @path: NULL: it is not to be seen
 */
enum answer volume_carries(struct cbw_devno dev, const char *path);

#endif
