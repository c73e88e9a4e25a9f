// SPDX-License-Identifier: GPL-2.0-or-later
/* checks of a chain: do manifest, details and images fit each other */
#include <unistd.h>

#include "cbw.h"
#include "check-chain.h"
#include "details.h"
#include "merge.h"
#include "qcow2.h"
#include "restore.h"
#include "resume.h"

struct run {
	struct chain chain;
	bool fix;
	bool dirty;		/* the manifest has to be written */
	unsigned int left;	/* errors */
	unsigned int fixed;
	bool distrust;
};

/* An error that stays. */
static void error(struct run *r, const char *text)
{
	say("%s", text);
	r->left++;
}

static void done(struct run *r, const struct entry *e, const char *what)
{
	say("%s/%s: %s", esc(r->chain.dir), e->file, what);
	r->fixed++;
}

/* What is lost with an image: those on top of it too. */
static void say_lost(const struct run *r, const struct entry *e)
{
	const struct entry *up, *at;
	char ids[256] = "";
	size_t i, n = 0;

	for (i = 0; i < r->chain.nr && n < sizeof(ids) - 16; i++) {
		up = &r->chain.entry[i];
		for (at = up; at && at->id > e->id;)
			at = at->parent ? chain_by_id(&r->chain, at->parent) : NULL;
		if (at == e && up != e && n < sizeof(ids) - 16)
			n += (size_t)snprintf(ids + n, sizeof(ids) - n, " %u", up->id);
	}
	if (n)
		say("%s/%s: what stands on it cannot be restored either:%s",
		    esc(r->chain.dir), e->file, ids);
}

static void check_header(struct run *r, const struct entry *e,
			 const struct details *d)
{
	bool header, l1;
	struct cbw_error err;
	char *text;

	if (header_same(&r->chain, e->file, d, &header, &l1, &err)) {
		error(r, err.msg);
		return;
	}
	if (header && l1)
		return;
	if (!header && header_other(&r->chain, e, d, l1)) {
		/* check_image() says so */
		r->distrust = true;
		return;
	}
	text = xasprintf("%s/%s: its %s not what was written", esc(r->chain.dir),
			 e->file, header ? "L1 table is" : l1 ? "header is" :
			 "header and its L1 table are");
	if (!r->fix) {
		error(r, text);
		say("'cbw check -r' restores that from the details");
	} else if (header_put(&r->chain, e->file, d, true, NULL, &err)) {
		error(r, text);
		error(r, err.msg);
	} else {
		say("%s", text);
		done(r, e, "restored from its details");
	}
	free(text);
}

static void repair_leaks(struct run *r, const struct entry *e, const char *path)
{
	struct qcow2_check_report rep;
	struct qcow2_image *img;
	struct qcow2_error qerr;
	int ret;

	ret = qcow2_open(path, QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING, &img, &qerr);
	if (!ret) {
		ret = qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, &qerr);
		qcow2_close(img);
	}
	if (ret)
		error(r, qerr.msg);
	else
		done(r, e, "clusters that nothing uses were given back");
}

/* Structure and identity; whether the image is sound. */
static bool check_image(struct run *r, const struct entry *e)
{
	const struct entry *parent = e->parent ?
		chain_by_id(&r->chain, e->parent) : NULL;
	char *path = chain_path(&r->chain, e->file);
	struct qcow2_check_report rep = { 0 };
	struct qcow2_image *img;
	struct qcow2_error qerr;
	struct cbw_error err;
	unsigned int before = r->left;
	int ret;

	ret = qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &qerr);
	if (ret) {
		error(r, qerr.msg);
		goto out;
	}
	ret = check_layer(img, 0, &r->chain, e, parent, &err);
	if (ret) {
		error(r, err.msg);
		r->distrust = true;
	} else if (qcow2_check(img, 0, &rep, &qerr)) {
		error(r, qerr.msg);
	} else if (rep.corruptions) {
		fail_with(&err, EUCLEAN, "%s/%s: %llu corruptions, the first: %s",
			  esc(r->chain.dir), e->file, (ull)rep.corruptions, rep.first);
		error(r, err.msg);
	}
	qcow2_close(img);
	if (r->left == before && rep.leaks) {
		if (r->fix)
			repair_leaks(r, e, path);
		else
			say("%s/%s: %llu clusters are allocated but not used, which is harmless",
			    esc(r->chain.dir), e->file, (ull)rep.leaks);
	}
out:
	free(path);
	return r->left == before;
}

static void make_details(struct run *r, struct entry *e)
{
	struct cbw_error err;

	if (details_make(&r->chain, e, false, &err)) {
		error(r, err.msg);
		return;
	}
	r->dirty = true;
	done(r, e, "its details were made anew");
}

static void check_entry(struct run *r, struct entry *e)
{
	struct details d = { 0 };
	struct cbw_error err;
	int ret;

	if (faccessat(r->chain.dirfd, e->file, F_OK, 0)) {
		fail_with(&err, errno, "%s/%s: %s", esc(r->chain.dir), e->file,
			  strerror(errno));
		error(r, err.msg);
		say_lost(r, e);
		return;
	}
	/* while it is merged it changes, and its details do not fit */
	if (r->chain.merge.state != MERGE_NONE &&
	    (e->id == r->chain.merge.from || e->id == r->chain.merge.into)) {
		check_image(r, e);
		return;
	}
	ret = details_load(&r->chain, e, &d, &err);
	if (!ret)
		check_header(r, e, &d);
	else if (ret == -ENODATA || r->fix)
		say("%s", err.msg);
	else
		error(r, err.msg);
	details_free(&d);
	if (!check_image(r, e))
		say_lost(r, e);
	else if (ret && r->fix)
		make_details(r, e);
}

static void check_merge(struct run *r)
{
	const struct merge_opts o = { .repair = true };
	struct cbw_error err;

	if (r->chain.merge.state == MERGE_NONE)
		return;
	if (resume_waits(&r->chain)) {
		fail_with(&err, EUCLEAN, "%s: a merge of %u into %u was cut off, and a backup was interrupted; 'cbw backup --resume %s' finishes that, or gives it up; then 'cbw check -r' ends the merge, or 'cbw chain merge'",
			  esc(r->chain.dir), r->chain.merge.from, r->chain.merge.into,
			  esc(r->chain.dir));
		error(r, err.msg);
	} else if (!r->fix) {
		fail_with(&err, EUCLEAN, "%s: a merge of %u into %u was cut off; 'cbw check -r' ends it, or 'cbw chain merge'",
			  esc(r->chain.dir), r->chain.merge.from, r->chain.merge.into);
		error(r, err.msg);
	} else if (merge_resume(&r->chain, &o, &err)) {
		error(r, err.msg);
	} else {
		say("%s: a merge that was cut off has been ended", esc(r->chain.dir));
		r->fixed++;
	}
}

static void check_leftovers(struct run *r)
{
	struct cbw_error err;
	unsigned int nr;

	/* an image without an entry may be its */
	if (resume_waits(&r->chain)) {
		say("%s: a backup was interrupted here and can be resumed (cbw backup --resume)",
		    esc(r->chain.dir));
		return;
	}
	if (chain_leftovers(&r->chain, r->fix, &nr, &err))
		error(r, err.msg);
	else if (nr && r->fix)
		say("%s: %u leftovers of interrupted runs were removed",
		    esc(r->chain.dir), nr);
	else if (nr)
		say("%s: %u files belong to a run that did not end, or has not yet; the next backup removes them",
		    esc(r->chain.dir), nr);
}

static int check_dir(const char *dir, bool fix)
{
	struct run r = { .fix = fix };
	struct cbw_error err;
	size_t i;
	int ret;

	ret = fix ? chain_open_locked(dir, &r.chain, &err) :
		chain_open(dir, false, &r.chain, &err);
	if (ret) {
		say("check: %s", err.msg);
		return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
	}
	check_merge(&r);
	/* it may have been ended when the chain was opened */
	r.distrust |= r.chain.doubtful;
	for (i = 0; i < r.chain.nr; i++)
		check_entry(&r, &r.chain.entry[i]);
	if (r.dirty && chain_save(&r.chain, NULL, &err))
		error(&r, err.msg);
	check_leftovers(&r);
	if (r.left)
		say("%s: %u errors are left%s", esc(dir), r.left, fix ?
		    ": they cannot be repaired from what is here" : "");
	else if (r.distrust)
		say("%s: %zu images fit each other, but what a merge has left there is damaged, or unchecked, as said above",
		    esc(dir), r.chain.nr);
	else
		printf("%s: good, %zu images%s\n", esc(dir), r.chain.nr, r.fixed ?
		       "; 'cbw verify' reads what they hold" : "");
	chain_close(&r.chain);
	return r.distrust ? EXIT_DISTRUST : r.left ? EXIT_FAILED : EXIT_OK;
}

int check_chains(const char *path, bool fix)
{
	int status = EXIT_OK, one;
	struct cbw_error err;
	char **dirs;
	size_t nr, i;

	catch_signals();
	if (chain_find_dirs(path, &dirs, &nr, &err))
		return failed("check: %s", err.msg);
	for (i = 0; i < nr; i++) {
		one = check_dir(dirs[i], fix);
		if (one > status)
			status = one;
		free(dirs[i]);
	}
	free(dirs);
	return status;
}
