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

/* ---- steps 4 and 5: names ---------------------------------------------- */

static int settle_entry(const struct chain *chain, const struct entry *e,
			struct cbw_error *err)
{
	struct details d;
	int ret;

	ret = details_settle(chain, e, err);
	if (!ret)
		ret = details_load(chain, e, &d, err);
	if (ret)
		return ret;
	ret = header_put(chain, e->file, &d, false, NULL, err);
	details_free(&d);
	return ret;
}

int merge_names(struct chain *chain, struct cbw_error *err)
{
	const struct entry *e = chain_by_id(chain, chain->merge.into);
	size_t i;
	int ret = 0;

	/* once it has its new name there is none of the old one */
	if (renameat(chain->dirfd, chain->merge.file, chain->dirfd, e->file) &&
	    errno != ENOENT)
		return fail_with(err, errno, "%s/%s: cannot be renamed to %s: %s",
				 esc(chain->dir), chain->merge.file, e->file,
				 strerror(errno));
	ret = settle_entry(chain, e, err);
	for (i = 0; i < chain->nr && !ret; i++) {
		const struct entry *child = &chain->entry[i];

		if (child->parent != e->id || !child->details_size)
			continue;
		ret = settle_entry(chain, child, err);
		/* what is lost of one of them must not keep all others from being read */
		if (ret == -ENOENT || ret == -EUCLEAN) {
			say("%s; point in time %u cannot be read until that is repaired", err->msg,
			    child->id);
			ret = 0;
		}
	}
	if (!ret && fsync(chain->dirfd))
		ret = fail_with(err, errno, "%s: %s", esc(chain->dir), strerror(errno));
	if (ret)
		return ret;
	chain->merge = (struct chain_merge){ 0 };
	ret = chain_save(chain, NULL, err);
	return ret ? ret : chain_clean(chain, NULL, err);
}

/* ---- step 3: what will be ---------------------------------------------- */

/* The header of an image as it will be goes to its details. */
static int plan(const struct chain *chain, const char *file,
		const struct qcow2_header_change *change, bool take,
		struct details *d, struct cbw_error *err)
{
	char *path = chain_path(chain, file);
	struct qcow2_image *img;
	struct qcow2_error qerr;
	void *header;
	size_t len;
	int ret;

	ret = qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &qerr);
	if (ret) {
		fail_with(err, ret, "%s", qerr.msg);
		goto out;
	}
	ret = qcow2_plan_header(img, change, &header, &len, &qerr);
	if (ret)
		fail_with(err, ret, "%s", qerr.msg);
	else if (take)
		ret = details_take(img, path, d, err);
	qcow2_close(img);
	if (ret)
		goto out;
	while (len && !((uint8_t *)header)[len - 1])
		len--;
	free(d->header);
	d->header = header;
	d->header_bytes = (uint32_t)len;
out:
	free(path);
	return ret;
}

/* Of the image that has taken in the other: it will be the younger point in time. */
static int plan_result(const struct chain *chain, const struct entry *lower,
		       struct entry *result, struct details *lower_d,
		       struct cbw_error *err)
{
	const struct entry *below = lower->parent ?
		chain_by_id(chain, lower->parent) : NULL;
	struct cbw_cut_id ids[3] = { chain->id, result->cut, { { 0 } } };
	const struct qcow2_header_ext ext = {
		.type = CHAIN_QCOW2_EXT,
		.len = sizeof(ids),
		.data = ids,
	};
	const struct qcow2_header_change change = { .ext = &ext };
	struct details d = { .cut = result->cut, .size = result->size };
	int ret;

	if (below)
		ids[2] = below->cut;
	ret = plan(chain, lower->file, &change, true, &d, err);
	d.sums = lower_d->sums;
	lower_d->sums = (struct sums){ 0 };
	if (!ret)
		ret = details_save(chain, result, &d, true, err);
	details_free(&d);
	return ret;
}

/* Details, or those that can be made when there are none. */
static int need_details(const struct chain *chain, struct entry *e, bool json,
			struct details *d, struct cbw_error *err)
{
	int ret = details_load(chain, e, d, err);

	if (ret != -ENODATA && ret != -ENOENT && ret != -EUCLEAN)
		return ret;
	ret = details_make(chain, e, json, err);
	return ret ? ret : details_load(chain, e, d, err);
}

/* Of an image on top of it, whose backing file will have another name. */
static int plan_child(const struct chain *chain, struct entry *child,
		      const struct entry *result, bool json,
		      struct cbw_error *err)
{
	const struct qcow2_header_change change = {
		.set_backing = true,
		.backing_file = result->file,
		.backing_format = "qcow2",
	};
	struct details d;
	int ret;

	ret = need_details(chain, child, json, &d, err);
	if (ret)
		return ret;
	ret = plan(chain, child->file, &change, false, &d, err);
	if (!ret)
		ret = details_save(chain, child, &d, true, err);
	details_free(&d);
	return ret;
}

/* The chain as it will be, in memory. */
static int plan_chain(struct chain *chain, const struct entry *lower,
		      const struct entry *upper, struct entry *result,
		      struct details *lower_d, bool json, struct cbw_error *err)
{
	bool renamed = strcmp(result->file, upper->file);
	struct chain_merge merge = chain->merge;
	size_t i;
	int ret;

	ret = plan_result(chain, lower, result, lower_d, err);
	for (i = 0; i < chain->nr && renamed && !ret; i++)
		if (chain->entry[i].parent == result->id)
			ret = plan_child(chain, &chain->entry[i], result, json, err);
	if (ret)
		return ret;
	merge.state = MERGE_NAMES;
	snprintf(merge.file, sizeof(merge.file), "%s", lower->file);
	chain_remove(chain, merge.from);
	*entry_of(chain, result->id) = *result;
	chain->merge = merge;
	return 0;
}

/* ---- all of it --------------------------------------------------------- */

static int run(struct chain *chain, bool again, const struct merge_opts *opts,
	       struct cbw_error *err)
{
	const struct entry lower = *chain_by_id(chain, chain->merge.from);
	const struct entry upper = *chain_by_id(chain, chain->merge.into);
	const struct merge_opts o = { .punch = chain->merge.punch,
		.json = opts->json, .batch = opts->batch };
	struct details lower_d, upper_d;
	struct entry result = upper;
	int ret;

	ret = details_load(chain, &lower, &lower_d, err);
	if (ret)
		return ret;
	ret = details_load(chain, &upper, &upper_d, err);
	if (ret) {
		details_free(&lower_d);
		return ret;
	}
	result.parent = lower.parent;
	result.type = lower.type;
	chain_file_name(result.id, result.type, result.file);
	ret = merge_data(chain, &lower, &upper, &lower_d, &upper_d, again, &o,
			 &result, err);
	if (!ret)
		ret = plan_chain(chain, &lower, &upper, &result, &lower_d,
				 opts->json, err);
	details_free(&lower_d);
	details_free(&upper_d);
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

static int run_held(struct chain *chain, bool again, const struct merge_opts *opts,
		    struct cbw_error *err)
{
	int lower = -1, upper = -1, ret;

	ret = hold(chain, chain_by_id(chain, chain->merge.from), &lower, err);
	if (!ret)
		ret = hold(chain, chain_by_id(chain, chain->merge.into), &upper, err);
	/* only now is anything said to have begun */
	if (!ret && !again)
		ret = chain_save(chain, NULL, err);
	if (!ret)
		ret = run(chain, again, opts, err);
	else if (!again)
		chain->merge = (struct chain_merge){ 0 };
	if (lower >= 0)
		close(lower);
	if (upper >= 0)
		close(upper);
	return ret;
}

/* What is damaged must not be taken in, nor is it known then what it was. */
static int sound(const struct chain *chain, struct entry *lower,
		 struct entry *upper, bool json, struct cbw_error *err)
{
	struct details lower_d, upper_d;
	struct qcow2_image *img;
	int ret;

	/* they have to be what the manifest says before one of them is changed */
	ret = open_entry(chain, upper, &img, err);
	if (ret)
		return ret;
	qcow2_close(img);
	ret = need_details(chain, lower, json, &lower_d, err);
	if (ret)
		return ret;
	ret = need_details(chain, upper, json, &upper_d, err);
	if (!ret) {
		ret = merge_verify(chain, lower, upper, &lower_d, &upper_d, json, err);
		details_free(&upper_d);
	}
	details_free(&lower_d);
	return ret;
}

int merge_into(struct chain *chain, uint32_t id, const struct merge_opts *opts,
	       struct cbw_error *err)
{
	struct entry *lower, *upper;
	int ret;

	ret = merge_possible(chain, id, err);
	if (ret)
		return ret;
	upper = entry_of(chain, id);
	lower = entry_of(chain, upper->parent);
	ret = sound(chain, lower, upper, opts->json, err);
	if (ret)
		return ret;
	chain->merge = (struct chain_merge){
		.state = MERGE_DATA,
		.from = lower->id,
		.into = upper->id,
		.punch = opts->punch,
	};
	snprintf(chain->merge.file, sizeof(chain->merge.file), "%s", lower->file);
	return run_held(chain, false, opts, err);
}

int merge_resume(struct chain *chain, const struct merge_opts *opts,
		 struct cbw_error *err)
{
	struct qcow2_image *img;
	int ret;

	switch (chain->merge.state) {
	case MERGE_DATA:
		ret = open_entry(chain, chain_by_id(chain, chain->merge.into), &img,
				 err);
		if (ret)
			return ret;
		qcow2_close(img);
		ret = merge_possible(chain, chain->merge.into, err);
		return ret ? ret : run_held(chain, true, opts, err);
	case MERGE_NAMES:
		return merge_names(chain, err);
	default:
		/* the files of one that was cut off behind its end */
		return chain_clean(chain, NULL, err);
	}
}
