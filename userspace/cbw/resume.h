/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a backup that can be resumed writes down, in the file "resume" of its chain: what
 * there is to go on with, or to take down. It is there before the first of these things is
 * made, and goes after the last.
 */
#ifndef CBW_RESUME_H
#define CBW_RESUME_H

#include "chain.h"
#include "store.h"

#define RESUME_FILE	"resume"

/**
 * struct resume - an unfinished backup of one volume
 * @cut: none: it has not come to the cut
 * @snapshot: its name in /dev/mapper
 * @bitmap: what is frozen
 * @second: name of the second bitmap
 * @decision: type, parent, fallback with its reason, what was added and enabled; read again,
 *	@replace is that of either bitmap
 * @base, @granularity: of the bitmap
 * @id, @time, @size: of the entry
 * @done: what was to be copied in front of this offset is durable in the image. Nothing
 *	behind it has been released.
 * @compress: level, 0: none; @group: volumes that were cut together
 * @store: what it is; only kind, path, lv, most are kept
 */
struct resume {
	struct cbw_cut_id cut;
	char snapshot[CBW_DM_NAME_MAX + 1];
	char *bitmap;
	struct decision decision;
	struct cbw_cut_id base;
	uint32_t granularity;
	uint32_t id;
	int64_t time;
	uint64_t size;
	uint64_t done;
	int compress;
	uint32_t group;
	enum store_kind store_kind;
	char *store;
	char *lv;
	uint64_t store_most;
};

/* Replaces the file, durably. */
int resume_save(const struct chain *chain, const struct resume *r, struct cbw_error *err);
/* Whether there is one: then the chain has to stay as it is, with what it does not name. */
bool resume_waits(const struct chain *chain);
/* -ENOENT: there is none, -EUCLEAN: it makes no sense */
int resume_load(const struct chain *chain, struct resume *r, struct cbw_error *err);
/* What a run that was killed while it wrote the file has left beside it. */
void resume_clean(const struct chain *chain);
/* Removes the file, and an image that it was about. */
void resume_drop(const struct chain *chain, const struct resume *r);
void resume_free(struct resume *r);

/* text to struct and back; any text gives 0 or -EUCLEAN */
int resume_parse(char *text, const struct cbw_cut_id *chain, struct resume *r,
		 struct cbw_error *err);
char *resume_format(const struct cbw_cut_id *chain, const struct resume *r);

/* Name of the unfinished image: none that a manifest could have. For free() */
char *resume_image(const struct chain *chain, const struct resume *r);

#endif
