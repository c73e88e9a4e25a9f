/* SPDX-License-Identifier: GPL-2.0-or-later */
/* LVM, by its own commands */
#ifndef CBW_LVM_H
#define CBW_LVM_H

#include "libcbw.h"

#define LVM_TAG		"cbw-store"	/* on the logical volumes that are ours */
#define LVM_NAME	"cbw_store_"	/* and how their names begin */

struct lvm_group {
	char *name;
	uint64_t free;		/* bytes */
	uint64_t extent;
};

/* The volume group of a device that is a logical volume; -ENOENT: it is none. */
int lvm_group_of(const struct cbw_dm_dev *dev, struct lvm_group *group, struct cbw_error *err);
void lvm_group_free(struct lvm_group *group);

/* Makes group/name, tagged, wiped at its beginning; its node in /dev/mapper, for free(). */
int lvm_create(const struct lvm_group *group, const char *name, uint64_t size, char **path,
	       struct cbw_error *err);
/* @lv: "group/name" */
int lvm_extend(const char *lv, uint64_t size, struct cbw_error *err);
int lvm_remove(const char *lv, struct cbw_error *err);
/* Whether it has our name and tag; if LVM does not say so, it is not. */
bool lvm_is_ours(const char *lv);

/* Calls @fn with "group/name" of each of ours in the group that nobody has open. */
int lvm_unused(const struct lvm_group *group, void (*fn)(const char *lv, void *arg), void *arg,
	       struct cbw_error *err);

#endif
