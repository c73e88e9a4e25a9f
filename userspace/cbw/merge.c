// SPDX-License-Identifier: GPL-2.0-or-later
/* merging: from one manifest to the next, see merge.h */
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "cbw.h"
#include "details.h"
#include "merge.h"
#include "qcow2.h"
#include "restore.h"

/* checksums of ranges, in hex, must leave room for the rest of the details */
#define SIZE_MAX_MERGE	((uint64_t)DETAILS_MAX / 16 * SUMS_RANGE)

static struct entry *entry_of(struct chain *chain, uint32_t id)
{
	return (struct entry *)chain_by_id(chain, id);
}

int merge_possible(const struct chain *chain, uint32_t id, struct cbw_error *err)
{
	const struct entry *e = chain_by_id(chain, id), *parent;
	uint32_t other = 0;
	size_t i;

	if (!e)
		return fail_with(err, EINVAL, "%s: there is no point in time %u",
				 esc(chain->dir), id);
	parent = e->parent ? chain_by_id(chain, e->parent) : NULL;
	if (!parent)
		return fail_with(err, EINVAL, "%s: %u is a full image, there is nothing below that could take it in",
				 esc(chain->dir), id);
	for (i = 0; i < chain->nr; i++)
		if (chain->entry[i].parent == parent->id && chain->entry[i].id != id)
			other = chain->entry[i].id;
	if (other)
		return fail_with(err, EINVAL, "%s: %u stands on %u too, so that cannot take in %u; merge or remove %u first",
				 esc(chain->dir), other, parent->id, id, other);
	if (parent->size != e->size || e->size > SIZE_MAX_MERGE)
		return fail_with(err, EINVAL, "%s: %u is of %llu bytes, %u of %llu: that is too much, or not the same",
				 esc(chain->dir), id, (ull)e->size, parent->id,
				 (ull)parent->size);
	return 0;
}

/* ---- all of it --------------------------------------------------------- */

/* Details of an entry if it has them; NULL if not. */
static struct details *if_details(const struct chain *chain, const struct entry *e,
				  struct details *d)
{
	return details_load(chain, e, d, NULL) ? NULL : d;
}

/* Header and L1 table of an image as they are. */
static int take_header(const struct chain *chain, const char *file, struct details *d,
		       struct cbw_error *err)
{
	char *path = chain_path(chain, file);
	struct qcow2_image *img;
	int ret = open_alone(path, &img, err);

	if (!ret) {
		ret = details_take(img, path, d, err);
		qcow2_close(img);
	}
	free(path);
	return ret;
}

/*
 * The checksums to end with, of what is there: what is known to be damaged must be known when
 * all has been taken in, too, and that may need more than one try.
 */
static int write_guess(struct chain *chain, bool json, struct cbw_error *err)
{
	const struct entry *lower = chain_by_id(chain, chain->merge.from);
	const struct entry *upper = chain_by_id(chain, chain->merge.into);
	struct details lower_d = { 0 }, upper_d = { 0 }, header = { 0 };
	struct sums after = { 0 };
	int ret;

	ret = merge_guess(chain, lower, upper, if_details(chain, lower, &lower_d),
			  if_details(chain, upper, &upper_d), json, &after, err);
	if (!ret)
		ret = take_header(chain, lower->file, &header, err);
	if (!ret)
		ret = merge_sums_save(chain, upper, &after, &header, err);
	details_free(&lower_d);
	details_free(&upper_d);
	details_free(&header);
	sums_free(&after);
	return ret;
}

static int run(struct chain *chain, const struct merge_opts *opts, struct cbw_error *err)
{
	const struct entry lower = *chain_by_id(chain, chain->merge.from);
	const struct entry upper = *chain_by_id(chain, chain->merge.into);
	struct details lower_d = { 0 }, upper_d = { 0 }, *low, *up;
	struct merge_opts o = *opts;
	struct entry result = upper;
	struct sums after = { 0 };
	int ret;

	o.punch = chain->merge.punch;
	ret = merge_sums_load(chain, &after, err);
	if (ret)
		return ret;
	result.parent = lower.parent;
	result.type = lower.type;
	chain_file_name(result.id, result.type, result.file);
	low = if_details(chain, &lower, &lower_d);
	up = if_details(chain, &upper, &upper_d);
	ret = merge_data(chain, &lower, &upper, low, up, &after, &o, &result,
			 &chain->merge.doubt, err);
	if (!ret)
		ret = merge_plan(chain, &lower, &upper, &result, &after, opts->json, err);
	details_free(&lower_d);
	details_free(&upper_d);
	sums_free(&after);
	if (!ret)
		ret = chain_save(chain, NULL, err);
	return ret ? ret : merge_names(chain, err);
}

/* Nobody may have them open while they are changed; see image-lock.h. */
static int hold(const struct chain *chain, const struct entry *e, int *fd, struct cbw_error *err)
{
	*fd = openat(chain->dirfd, e->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (*fd < 0)
		return fail_with(err, errno, "%s/%s: %s", esc(chain->dir), e->file,
				 strerror(errno));
	if (!flock(*fd, LOCK_EX | LOCK_NB))
		return 0;
	return fail_with(err, errno == EWOULDBLOCK ? EBUSY : errno, errno == EWOULDBLOCK ?
			 "%s/%s: it is being read (restore, verify, export); try again when that is done" :
			 "%s/%s: it cannot be locked", esc(chain->dir), e->file);
}

enum {
	RUN_FRESH = 1,	/* there is no journal yet */
	RUN_SAVE = 2,	/* what is new in the journal is to be written first */
	RUN_LOST = 4,	/* without the checksums of the result */
};

/* Nobody reads them, then all of it. */
static int run_held(struct chain *chain, unsigned int how, const struct merge_opts *opts,
		    struct cbw_error *err)
{
	bool fresh = how & RUN_FRESH, named = false;
	int lower = -1, upper = -1, ret;

	ret = hold(chain, chain_by_id(chain, chain->merge.from), &lower, err);
	if (!ret)
		ret = hold(chain, chain_by_id(chain, chain->merge.into), &upper, err);
	if (!ret && how & RUN_LOST)
		ret = write_guess(chain, opts->json, err);
	/* only now is anything said to have begun */
	if (!ret && how & (RUN_FRESH | RUN_SAVE))
		ret = chain_save(chain, &named, err);
	if (ret && fresh) {
		/* a manifest that is there, if not durably, needs them */
		if (!named)
			merge_sums_remove(chain);
		chain->merge = (struct chain_merge){ 0 };
	}
	if (!ret)
		ret = run(chain, opts, err);
	if (lower >= 0)
		close(lower);
	if (upper >= 0)
		close(upper);
	return ret;
}

/* Whether header and L1 table are still those that the details have. */
static int as_written(const struct chain *chain, const struct entry *e, const struct details *d,
		      struct cbw_error *err)
{
	bool header, l1;
	int ret = header_same(chain, e->file, d, &header, &l1, err);

	if (ret || (header && l1))
		return ret;
	return fail_with(err, EUCLEAN, "%s/%s: its %s not what was written, it is not merged; 'cbw check -r %s' restores that",
			 esc(chain->dir), e->file, header ? "L1 table is" : l1 ? "header is" :
			 "header and its L1 table are", esc(chain->dir));
}

/*
 * What is damaged must not be taken in, nor is it known then what it was. Then what the
 * result has to be is written down, and noted in the journal, in memory.
 */
static int sound(struct chain *chain, struct entry *lower, struct entry *upper, bool json,
		 struct cbw_error *err)
{
	struct details lower_d, upper_d;
	struct qcow2_image *img;
	struct sums after = { 0 };
	int ret;

	/* they have to be what the manifest says before one of them is changed */
	ret = open_entry(chain, upper, &img, err);
	if (ret)
		return ret;
	qcow2_close(img);
	ret = details_need(chain, lower, json, &lower_d, err);
	if (ret)
		return ret;
	ret = details_need(chain, upper, json, &upper_d, err);
	if (!ret) {
		ret = as_written(chain, lower, &lower_d, err);
		if (!ret)
			ret = as_written(chain, upper, &upper_d, err);
		if (!ret)
			ret = merge_verify(chain, lower, upper, &lower_d, &upper_d, json, &after,
					   err);
		details_free(&upper_d);
	}
	if (!ret)
		ret = merge_sums_save(chain, upper, &after, &lower_d, err);
	sums_free(&after);
	details_free(&lower_d);
	return ret;
}

int merge_into(struct chain *chain, uint32_t id, const struct merge_opts *opts,
	       struct cbw_error *err)
{
	struct merge_opts o = *opts;
	struct entry *lower, *upper;
	int ret;

	ret = merge_possible(chain, id, err);
	if (ret)
		return ret;
	upper = entry_of(chain, id);
	lower = entry_of(chain, upper->parent);
	o.repair = false;
	ret = merge_children(chain, lower, upper, opts->json, err);
	if (!ret)
		ret = sound(chain, lower, upper, opts->json, err);
	if (ret) {
		merge_sums_remove(chain);
		chain->merge = (struct chain_merge){ 0 };
		return ret;
	}
	chain->merge.state = MERGE_DATA;
	chain->merge.from = lower->id;
	chain->merge.into = upper->id;
	chain->merge.punch = opts->punch;
	snprintf(chain->merge.file, sizeof(chain->merge.file), "%s", lower->file);
	return run_held(chain, RUN_FRESH, &o, err);
}

/*
 * Without the checksums that it has to end with. They can be made again as long as nothing was
 * changed; else only who asks for it gets what is there.
 */
static int resume_without(struct chain *chain, const struct merge_opts *opts,
			  struct cbw_error *err)
{
	struct entry *upper = entry_of(chain, chain->merge.into);
	struct cbw_error why = *err;
	int ret;

	ret = sound(chain, entry_of(chain, chain->merge.from), upper, opts->json, err);
	if (!ret)
		return run_held(chain, RUN_SAVE, opts, err);
	if (!distrust(ret) && ret != -ENOENT)
		return ret;
	if (!opts->repair)
		return fail_with(err, EUCLEAN, "%s: what the merge of %u into %u has to end with is not known%s (%s), and its images are not what they were before; %s'cbw check -r %s' ends the merge with what is there, unchecked",
				 esc(chain->dir), chain->merge.from, chain->merge.into,
				 chain->merge.sums_size ? " any more" : "", why.msg,
				 chain->merge.sums_size ? "put that file back, or " : "",
				 esc(chain->dir));
	say("%s: what the merge of %u into %u has to end with is not known any more (%s): it is ended with what is there, and nothing tells whether that is damaged",
	    esc(chain->dir), chain->merge.from, chain->merge.into, why.msg);
	chain->merge.doubt = true;
	return run_held(chain, RUN_SAVE | RUN_LOST, opts, err);
}

/*
 * Header and L1 table of the upper image stay what they were; but punching takes entries out of
 * the table. To who has lost them it looks as if it had all been taken in.
 */
static int keep_header(const struct chain *chain, const struct merge_opts *opts,
		       struct cbw_error *err)
{
	const struct entry *upper = chain_by_id(chain, chain->merge.into);
	bool with_l1 = !chain->merge.punch, header, l1;
	struct details d;
	int ret;

	if (details_load(chain, upper, &d, NULL))
		return 0;
	ret = header_same(chain, upper->file, &d, &header, &l1, err);
	if (ret || (header && (l1 || !with_l1)) || (!header && header_other(chain, upper, &d, l1)))
		goto out;
	if (!opts->repair) {
		ret = fail_with(err, EUCLEAN, "%s/%s: its %s not any more what it was when the merge began; put that back, or 'cbw check -r %s' does so and ends the merge",
				esc(chain->dir), upper->file, header ? "L1 table is" : "header is",
				esc(chain->dir));
		goto out;
	}
	ret = header_put(chain, upper->file, &d, with_l1, NULL, err);
	if (!ret)
		say("%s/%s: its %s not what was written, and was restored from its details",
		    esc(chain->dir), upper->file, header ? "L1 table is" : "header is");
out:
	details_free(&d);
	return ret;
}

static int resume_data(struct chain *chain, const struct merge_opts *opts,
		       struct cbw_error *err)
{
	bool more = opts->punch && !chain->merge.punch;
	struct qcow2_image *img;
	struct sums after;
	int ret;

	ret = keep_header(chain, opts, err);
	if (!ret)
		ret = open_entry(chain, chain_by_id(chain, chain->merge.into), &img, err);
	if (ret)
		return ret;
	qcow2_close(img);
	ret = merge_possible(chain, chain->merge.into, err);
	if (ret)
		return ret;
	/* who has no space any more may say so now; what was begun with it goes on so */
	chain->merge.punch |= opts->punch;
	ret = merge_sums_load(chain, &after, err);
	if (!ret) {
		sums_free(&after);
		return run_held(chain, more ? RUN_SAVE : 0, opts, err);
	}
	if (ret != -ENODATA && ret != -ENOENT && !distrust(ret) &&
	    !(opts->repair && (ret == -EIO || ret == -EACCES || ret == -ENXIO)))
		return ret;
	return resume_without(chain, opts, err);
}

int merge_resume(struct chain *chain, const struct merge_opts *opts,
		 struct cbw_error *err)
{
	switch (chain->merge.state) {
	case MERGE_DATA:
		return resume_data(chain, opts, err);
	case MERGE_NAMES:
		return merge_names(chain, err);
	default:
		/* the files of one that was cut off behind its end */
		return chain_clean(chain, NULL, err);
	}
}
