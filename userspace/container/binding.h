/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what tells a volume: kept in the container's state, compared at attach */
#ifndef CBW_BINDING_H
#define CBW_BINDING_H

#include "libcbw.h"

#define BINDING_IDS	8
#define BINDING_MAGICS	48

/**
 * struct binding_magic - a superblock or partition table on the volume
 * @offset: of the 4096 bytes in which its magic number lies
 * @type: as libblkid calls it
 * @uuid: as libblkid says it, or "-"
 * @hash: FNV-1a of those bytes. No CRC: ext4's superblock ends with its own CRC-32C, so that of
 *	both is always the same
 */
struct binding_magic {
	uint64_t offset;
	char type[40];
	char uuid[80];
	uint64_t hash;
};

/**
 * struct binding - see Documentation/formats.rst
 * @id: "dm-uuid LVM-..." and the like; those that the volume has
 * @instance: tells the device from another one that has its number later; 0: unknown
 * @written: sectors written and discarded on the device of that instance
 * @uncounted: its statistics are switched off, so @written says nothing
 * @open: it was in use then, and nothing tracked it any more, or yet
 * @stacked: that device is the origin, below the one that was tracked
 */
struct binding {
	uint64_t size;
	char id[BINDING_IDS][200];
	unsigned int nr_ids;
	struct binding_magic magic[BINDING_MAGICS];
	unsigned int nr_magics;
	uint64_t instance;
	uint64_t written;
	bool uncounted;
	bool open;
	bool stacked;
};

/* Looks at block device @dev, which is opened as @path. */
int binding_take(const char *path, struct cbw_devno dev, struct binding *binding,
		 struct cbw_error *err);
/* Its instance, and what was written to it until now. */
int binding_statistics(struct cbw_devno dev, uint64_t *instance, uint64_t *written,
		       struct cbw_error *err);

/* @text: CBW_BINDING_MAX bytes; its length in @len */
int binding_print(const struct binding *binding, char *text, uint32_t *len,
		  struct cbw_error *err);
/* Reads hostile text; -EUCLEAN. */
int binding_parse(const char *text, size_t len, struct binding *binding, struct cbw_error *err);

/*
 * -EUCLEAN with what differs. @exact: also the content of superblocks; after a crash they
 * may have changed.
 */
int binding_compare(const struct binding *was, const struct binding *now, bool exact,
		    struct cbw_error *err);

#endif
