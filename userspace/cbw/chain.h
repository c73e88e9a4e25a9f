/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A chain: the directory DIR/<volume> with its qcow2 images and manifest.json.
 *
 * The manifest is the truth: an image that it does not name is a leftover of a
 * run that did not end, and goes with the next one. It is replaced by rename, after
 * the images it names are durable, so a crash leaves the old chain or the new one.
 * It is first written, without entries, before the first backup begins, so that
 * a second try takes up the same id and the same bitmap.
 */
#ifndef CBW_CHAIN_H
#define CBW_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libcbw.h"

#define CHAIN_MANIFEST	"manifest.json"
/* what a merge has to end with: details, as of an image merge.qcow2 */
#define CHAIN_MERGE_IMAGE	"merge.qcow2"
#define CHAIN_MERGE_SUMS	"merge.json"
#define CHAIN_ENTRIES_MAX	65536
/* images on top of each other: below QCOW2_MAX_CHAIN, room for one more */
#define CHAIN_DEPTH_MAX	250
/* header extension of our images: chain id, cut id, base: 48 bytes */
#define CHAIN_QCOW2_EXT	0x43425743u

enum entry_type {
	ENTRY_FULL,
	ENTRY_INCREMENTAL,
	ENTRY_DIFFERENTIAL,	/* what has changed since the full one that is its parent */
};

/** chain_type_text - "full", "incremental", "differential" */
const char *chain_type_text(enum entry_type type);

/**
 * struct entry - an image of the chain, a point in time
 * @id: counts up from 1, never used again
 * @type: full, or incremental or differential on top of @parent
 * @parent: id of the entry below, 0 for a full one
 * @cut: the point in time
 * @base: base of the bitmap before this backup; none: there was none. What the
 *	bitmap goes back to when the commit of @cut is lost.
 * @time: seconds since 1970
 * @size: of the volume
 * @copied: bytes in data clusters; @zero: bytes found to be zero
 * @granularity: of the bitmap
 * @crc: CRC-32C of the data clusters, see crc.h
 * @group: volumes that were cut together, 0: not known. The cut names the group.
 * @details_size: bytes of the image's details, see details.h; 0: it has none
 * @details_crc: CRC-32C of them
 * @file: name in the directory
 */
struct entry {
	uint32_t id;
	uint32_t parent;
	enum entry_type type;
	struct cbw_cut_id cut;
	struct cbw_cut_id base;
	int64_t time;
	uint64_t size;
	uint64_t copied;
	uint64_t zero;
	uint32_t granularity;
	uint32_t crc;
	uint32_t group;
	uint64_t details_size;
	uint32_t details_crc;
	char file[64];
};

enum merge_state {
	MERGE_NONE,
	MERGE_DATA,	/* the lower image takes in the upper one */
	MERGE_NAMES,	/* it has, and takes its place */
};

/**
 * struct chain_merge - the journal: a merge that has begun and not ended
 * @from: the entry below, whose point in time is given up. With %MERGE_DATA its image
 *	is changed in place, and good only below that of @into; with %MERGE_NAMES it has
 *	no entry any more.
 * @into: the entry on top of it, whose point in time stays
 * @punch: what was taken in is punched out of the upper image
 * @file: name that the image of @from had
 * @sums_size: bytes of the file with the checksums that the result will have; 0: an older
 *	version began it, and there is none
 * @sums_crc: CRC-32C of that
 * @zero: bytes in zero clusters that the result will have, if it stands on another image
 * @zero_known: whether that was written down
 * @doubt: what it ends with is damaged in part, or was not checked: who ends it says so
 */
struct chain_merge {
	enum merge_state state;
	uint32_t from, into;
	bool punch, doubt, zero_known;
	char file[64];
	uint64_t sums_size;
	uint32_t sums_crc;
	uint64_t zero;
};

/**
 * struct chain - what the manifest says
 * @dir: path, for messages
 * @dirfd: the directory
 * @id: of the chain, none: there is no manifest yet
 * @volume: name, raw bytes
 * @bitmap: its bitmap
 * @entry: in order of ids, the newest last
 * @merge: what the next command that locks the chain has to end
 * @doubtful: a merge with .doubt was ended since the chain was opened
 */
struct chain {
	char *dir;
	int dirfd;
	struct cbw_cut_id id;
	char *volume;
	char *bitmap;
	struct entry *entry;
	size_t nr;
	struct chain_merge merge;
	bool doubtful;
};

/**
 * chain_parse - read the text of a manifest
 * @chain: all but @dir and @dirfd is filled in
 *
 * The text is not trusted: any text gives 0 or -EUCLEAN with a reason.
 */
int chain_parse(const char *text, size_t len, struct chain *chain,
		struct cbw_error *err);

/** chain_format - the text of the manifest; for free() */
char *chain_format(const struct chain *chain);

/**
 * chain_open - open a chain's directory, read its manifest
 * @create: make the directory if it is not there; and take the lock that keeps
 *	a second run out. A chain without a manifest then is empty, no error.
 *
 * With the lock a merge that was cut off at its very end is ended first.
 *
 * Return: 0, -ENOENT no manifest, -EUCLEAN a manifest that makes no sense, -EBUSY
 */
int chain_open(const char *dir, bool create, struct chain *chain,
	       struct cbw_error *err);
/** chain_open_locked - the same, with the lock, of a directory that is there */
int chain_open_locked(const char *dir, struct chain *chain,
		      struct cbw_error *err);
void chain_close(struct chain *chain);

/** chain_clean - remove images and details the manifest does not name; how many */
int chain_clean(struct chain *chain, unsigned int *removed,
		struct cbw_error *err);

/** chain_leftovers - how many of them there are; with @remove as chain_clean() */
int chain_leftovers(const struct chain *chain, bool remove, unsigned int *nr,
		    struct cbw_error *err);

/**
 * chain_save - replace the manifest, durably
 * @named: set once the new one is there, maybe not yet durable; may be NULL
 */
int chain_save(const struct chain *chain, bool *named, struct cbw_error *err);

/** chain_add - append an entry (to memory) */
void chain_add(struct chain *chain, const struct entry *entry);

/** chain_remove - take an entry out (of memory) */
void chain_remove(struct chain *chain, uint32_t id);

/** chain_file_name - "000001-full.qcow2": the name an image has to have */
void chain_file_name(uint32_t id, enum entry_type type, char name[64]);

/** chain_giving_up - whether a merge has begun that ends the entry's point in time */
bool chain_giving_up(const struct chain *chain, const struct entry *entry);

/** chain_newest - NULL: the chain is empty */
const struct entry *chain_newest(const struct chain *chain);
const struct entry *chain_by_id(const struct chain *chain, uint32_t id);

/** chain_find - by id, or by 8 or more first digits of the cut; NULL: none, or several */
const struct entry *chain_find(const struct chain *chain, const char *text);

/** chain_depth - images from @entry down to its full one; 0: the chain is broken */
unsigned int chain_depth(const struct chain *chain, const struct entry *entry);

/** chain_path - path of a file of the chain; for free() */
char *chain_path(const struct chain *chain, const char *file);

/**
 * chain_find_dirs - the chains under @path: itself, or its sub-directories
 * @dirs: paths, each for free(), and the array too
 */
int chain_find_dirs(const char *path, char ***dirs, size_t *nr,
		    struct cbw_error *err);

/* ---- which kind of backup ---------------------------------------------- */

enum backup_mode {
	MODE_AUTO,
	MODE_FULL,
	MODE_INCREMENTAL,
	MODE_DIFFERENTIAL,
};

/**
 * enum second_step - what becomes of the second bitmap, the one of differentials
 * @SECOND_LEAVE: nothing
 * @SECOND_ROTATE: a full one begins it anew, at the same instant
 * @SECOND_ADD: it is added and rotated
 * @SECOND_COPY: it is made from the first one, before the cut
 */
enum second_step {
	SECOND_LEAVE,
	SECOND_ROTATE,
	SECOND_ADD,
	SECOND_COPY,
};

/**
 * struct decision - what a backup is to be
 * @type: full, incremental or differential
 * @parent: id of the entry it goes on top of; 0: full
 * @fallback: full although something else was wanted, or cannot be (@reason)
 * @add: the bitmap has to be added
 * @enable: it has to record again from the cut on, which takes the base that it may have
 * @replace: it has to be removed at the cut: it is inconsistent, and no base of it must
 *	ever count again
 * @second: what becomes of the second bitmap
 * @second_replace: the second one has to be removed before it is added or copied
 * @reason: in words; empty if there is nothing to say
 */
struct decision {
	enum entry_type type;
	uint32_t parent;
	bool fallback;
	bool add;
	bool enable;
	bool replace;
	enum second_step second;
	bool second_replace;
	char reason[256];
};

/**
 * chain_decide - full, incremental or differential
 * @bitmap: as the kernel has it, NULL: it has none
 * @second: the same of the one for differentials
 * @size: of the volume now
 *
 * An increment goes on top of the newest entry that is no differential, and only if the
 * bitmap has recorded without a gap since then, or longer: its base is that entry's cut or,
 * when the commit of that cut was lost, the base it had before.
 *
 * A differential goes on top of the newest full one, if the second bitmap has recorded
 * without a gap since its cut, or since that of an older full one (when a commit was lost). It
 * never becomes the base of anything, so increments and differentials do not know of each
 * other. The second bitmap is there for who makes differentials: the first one makes it,
 * from the other bitmap as long as that has the full one's cut for its base.
 */
void chain_decide(const struct chain *chain, const struct cbw_bitmap *bitmap,
		  const struct cbw_bitmap *second, uint64_t size, enum backup_mode mode,
		  struct decision *d);

/**
 * chain_decide_alone - full or incremental, where there is no chain
 * @bitmap: of the user, as the kernel has it; NULL: there is none
 * @name: its name
 * @mode: no differential
 *
 * What the target has is not known: an increment goes on top of what it got when the
 * bitmap was committed last.
 */
void chain_decide_alone(const struct cbw_bitmap *bitmap, const char *name,
			enum backup_mode mode, struct decision *d);

/** chain_second - name of the second bitmap; for free() */
char *chain_second(const struct chain *chain);

struct json_object;
/** json_entry - an entry as in the manifest */
struct json_object *json_entry(const struct entry *e);

#endif
