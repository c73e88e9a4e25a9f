// SPDX-License-Identifier: GPL-2.0-or-later
/* which backup it is to be, before anything is touched */
#include <sys/random.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"
#include "qcow2.h"
#include "restore.h"

char *backup_chain_dir(const char *dir, const struct cbw_dm_dev *dev)
{
	size_t len = 4 * strlen(dev->name) + 1;
	char *name = xcalloc(len, 1), *path;

	path = xasprintf("%s/%s", dir, cbw_escape(dev->name, name, len));
	free(name);
	return path;
}

static int plan_chain(struct backup *b, struct job *j, struct cbw_error *err)
{
	char *dir = backup_chain_dir(b->dir, &j->dev);
	int ret;

	if (b->mode == MODE_INCREMENTAL && access(dir, F_OK)) {
		/* an increment to nothing: nothing is made for it */
		j->chain = (struct chain){ .dir = dir, .dirfd = -1 };
		j->have_chain = true;
		return 0;
	}
	ret = chain_open(dir, true, &j->chain, err);
	free(dir);
	if (ret)
		return ret;
	j->have_chain = true;
	if (j->chain.volume && strcmp(j->chain.volume, j->dev.name))
		return fail_with(err, EUCLEAN,
				 "%s: this is a chain of volume '%s', not of '%s'",
				 esc(j->chain.dir), esc(j->chain.volume),
				 esc(j->dev.name));
	return 0;
}

/* A chain that was not there yet gets its id and the name of its bitmap. */
static int new_chain(struct job *j, struct cbw_error *err)
{
	if (!cbw_cut_is_none(&j->chain.id))
		return 0;
	if (getrandom(&j->chain.id, sizeof(j->chain.id), 0) !=
	    sizeof(j->chain.id))
		return fail_with(err, EIO, "getrandom gave no random number");
	j->chain.volume = xstrdup(j->dev.name);
	j->chain.bitmap = xasprintf("cbw-%02x%02x%02x%02x", j->chain.id.b[0],
				    j->chain.id.b[1], j->chain.id.b[2],
				    j->chain.id.b[3]);
	return 0;
}

/* What the device has of a bitmap; @have: NULL when there is none. */
static int find_bitmap(const struct backup *b, const struct job *j, const char *name,
		       struct cbw_bitmap *bitmap, const struct cbw_bitmap **have)
{
	struct cbw_error err;
	int ret = cbw_bitmap_find(b->session, j->dev.dev, name, bitmap, &err);

	*have = ret ? NULL : bitmap;
	if (ret && ret != -ENOENT)
		return failed("%s: %s", esc(j->dev.name), err.msg);
	return EXIT_OK;
}

/* What it would be put on has to be there, and be what it is said to be. */
static int check_parent(struct job *j)
{
	struct qcow2_image *img;
	struct cbw_error err;

	if (!j->decision.parent)
		return EXIT_OK;
	if (j->chain.merge.state != MERGE_NONE && j->decision.parent == j->chain.merge.from)
		return failed("%s: a merge that was cut off changes the image that this backup would be on top of; end it first: cbw chain merge %s",
			      esc(j->dev.name), esc(j->chain.dir));
	if (open_entry(&j->chain, chain_by_id(&j->chain, j->decision.parent), &img, &err)) {
		say("%s: no increment is possible on a chain that cannot be read: %s; repair it, or use --full",
		    esc(j->dev.name), err.msg);
		return EXIT_DISTRUST;
	}
	qcow2_close(img);
	return EXIT_OK;
}

static int plan_job(struct backup *b, struct job *j)
{
	const struct cbw_bitmap *have, *have_second;
	struct cbw_bitmap second;
	struct cbw_error err;
	int ret, status;

	ret = plan_chain(b, j, &err);
	if (ret == -EUCLEAN) {
		say("%s", err.msg);
		return EXIT_DISTRUST;
	}
	if (!ret)
		ret = new_chain(j, &err);
	if (ret)
		return failed("%s", err.msg);
	if (b->bitmap) {
		free(j->chain.bitmap);
		j->chain.bitmap = xstrdup(b->bitmap);
	}
	j->second = chain_second(&j->chain);
	status = find_bitmap(b, j, j->chain.bitmap, &j->before, &have);
	if (status == EXIT_OK)
		status = find_bitmap(b, j, j->second, &second, &have_second);
	if (status != EXIT_OK)
		return status;
	if (!have && b->bitmap)
		return failed("%s: it has no bitmap '%s'; add it (cbw bitmap add), or leave --bitmap out",
			      esc(j->dev.name), esc(b->bitmap));
	chain_decide(&j->chain, have, have_second, j->dev.size, b->mode, &j->decision);
	/* a copy is made of what the other one is now */
	if (j->decision.type == ENTRY_DIFFERENTIAL && j->decision.second != SECOND_COPY)
		j->before = second;
	if (j->chain.nr >= CHAIN_ENTRIES_MAX)
		return failed("%s: the chain is full (%zu backups); take another directory",
			      esc(j->chain.dir), j->chain.nr);
	status = check_parent(j);
	if (status == EXIT_OK && b->mode == MODE_INCREMENTAL && j->decision.fallback) {
		say("%s: no increment is possible: %s", esc(j->dev.name),
		    j->decision.reason);
		status = EXIT_DISTRUST;
	}
	return status;
}

int backup_plan(struct backup *b)
{
	struct cbw_error err;
	int status;
	size_t i;

	if (cbw_session_open(&b->session, &err))
		return failed("%s", err.msg);
	for (i = 0; i < b->nr; i++) {
		status = b->single ? single_plan(b, &b->job[i]) : plan_job(b, &b->job[i]);
		if (status)
			return status;
	}
	return EXIT_OK;
}

/* ---- stores ------------------------------------------------------------ */

/*
 * Not more than what is protected comes into a store; a little more, as its places are
 * given back late.
 */
static uint64_t most_needed(const struct backup *b, const struct job *j)
{
	uint64_t most = j->dev.size, dirty = j->before.dirty_bytes;
	uint64_t chunk = b->chunk ? b->chunk : 4096;

	if (j->decision.type != ENTRY_FULL && j->before.granularity >= chunk && dirty < most)
		most = dirty;
	return most + most / 8 + STORE_ALIGN;
}

int backup_stores(struct backup *b)
{
	struct cbw_dm_dev *volumes = xcalloc(b->nr, sizeof(*volumes));
	int status = EXIT_OK;
	struct cbw_error err;
	size_t i;

	for (i = 0; i < b->nr; i++)
		volumes[i] = b->job[i].dev;
	for (i = 0; i < b->nr && status == EXIT_OK; i++) {
		struct job *j = &b->job[i];
		struct store_wish wish = { .dir = b->store_dir };

		if (!j->auto_store)
			continue;
		/* more may become dirty until the cut, so that bounds the first size only */
		wish.most = b->store_max ? b->store_max : j->dev.size + j->dev.size / 8;
		wish.first = b->store_size ? b->store_size :
			store_first_size(j->dev.size, most_needed(b, j));
		if (wish.first > wish.most)
			wish.first = wish.most;
		wish.least = b->store_size || wish.first < STORE_FIRST_MIN ? wish.first :
			STORE_FIRST_MIN;
		if (store_auto(&j->dev, volumes, b->nr, &wish, &j->store, &err))
			status = failed("backup: %s: no store for it: %s; name one with --store, or a directory with --store-dir",
					esc(j->dev.name), err.msg);
		else
			j->have_store = true;
	}
	free(volumes);
	return status;
}
