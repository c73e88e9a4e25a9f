// SPDX-License-Identifier: GPL-2.0-or-later
/* which backup it is to be, before anything is touched */
#include <sys/random.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"
#include "qcow2.h"
#include "restore.h"

static int plan_chain(struct backup *b, struct job *j, struct cbw_error *err)
{
	char *name = xcalloc(4 * strlen(j->dev.name) + 1, 1), *dir;
	int ret;

	cbw_escape(j->dev.name, name, 4 * strlen(j->dev.name) + 1);
	dir = xasprintf("%s/%s", b->dir, name);
	free(name);
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

static int plan_job(struct backup *b, struct job *j)
{
	const struct cbw_bitmap *have = NULL;
	struct cbw_error err;
	int ret;

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
	ret = cbw_bitmap_find(b->session, j->dev.dev, j->chain.bitmap,
			      &j->before, &err);
	if (!ret)
		have = &j->before;
	else if (ret != -ENOENT)
		return failed("%s: %s", esc(j->dev.name), err.msg);
	if (!have && b->bitmap)
		return failed("%s: it has no bitmap '%s'; add it (cbw bitmap add), or leave --bitmap out",
			      esc(j->dev.name), esc(b->bitmap));
	chain_decide(&j->chain, have, j->dev.size, b->mode, &j->decision);
	if (j->chain.nr >= CHAIN_ENTRIES_MAX)
		return failed("%s: the chain is full (%zu backups); take another directory",
			      esc(j->chain.dir), j->chain.nr);
	if (j->decision.type == ENTRY_INCREMENTAL) {
		/* what it would be put on has to be there, and be what it is said to be */
		struct qcow2_image *img;

		if (open_entry(&j->chain, &j->chain.entry[j->chain.nr - 1], &img,
			       &err)) {
			say("%s: no increment is possible on a chain that cannot be read: %s; repair it, or use --full",
			    esc(j->dev.name), err.msg);
			return EXIT_DISTRUST;
		}
		qcow2_close(img);
	}
	if (b->mode == MODE_INCREMENTAL && j->decision.fallback) {
		say("%s: no increment is possible: %s", esc(j->dev.name),
		    j->decision.reason);
		return EXIT_DISTRUST;
	}
	return EXIT_OK;
}

int backup_plan(struct backup *b)
{
	struct cbw_error err;
	int status;
	size_t i;

	if (cbw_session_open(&b->session, &err))
		return failed("%s", err.msg);
	for (i = 0; i < b->nr; i++) {
		status = plan_job(b, &b->job[i]);
		if (status)
			return status;
	}
	return EXIT_OK;
}
