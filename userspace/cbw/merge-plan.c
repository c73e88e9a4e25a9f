// SPDX-License-Identifier: GPL-2.0-or-later
/* merging: what the chain will be, steps 3 to 5, see merge.h */
#include <sys/mman.h>
#include <unistd.h>

#include "cbw.h"
#include "details.h"
#include "merge.h"
#include "qcow2.h"
#include "restore.h"

/* ---- steps 4 and 5: names ---------------------------------------------- */

/* Whether those are details that have no checksums of what the image has: see plan_child(). */
static bool header_only(const struct entry *e, const struct details *d)
{
	uint64_t i;

	for (i = 0; i < d->sums.nr; i++)
		if (d->sums.crc[i])
			return false;
	return e->crc != 0;
}

/* Of an image on top of it: not in a file that is not that image. */
static int put_child(const struct chain *chain, const struct entry *e, const struct details *d,
		     struct cbw_error *err)
{
	bool header, l1;
	int ret = header_same(chain, e->file, d, &header, &l1, err);

	if (ret || header)
		return ret;
	if (header_other(chain, e, d, l1))
		return fail_with(err, EUCLEAN, "%s/%s: it is not the image of point in time %u, and stays as it is",
				 esc(chain->dir), e->file, e->id);
	return header_put(chain, e->file, d, false, NULL, err);
}

/* Names and header; *bare: its details have served their purpose. */
static int settle_entry(const struct chain *chain, const struct entry *e, bool *bare,
			struct cbw_error *err)
{
	struct details d;
	int ret;

	*bare = false;
	ret = details_settle(chain, e, err);
	if (!ret)
		ret = details_load(chain, e, &d, err);
	if (ret)
		return ret;
	ret = e->id == chain->merge.into ? header_put(chain, e->file, &d, false, NULL, err) :
		put_child(chain, e, &d, err);
	*bare = !ret && header_only(e, &d);
	details_free(&d);
	return ret;
}

int merge_names(struct chain *chain, struct cbw_error *err)
{
	const struct entry *e = chain_by_id(chain, chain->merge.into);
	bool bare;
	size_t i;
	int ret = 0;
	/* of an incremental one that took in an incremental one; all others are called otherwise then */
	bool same_name = e->type == ENTRY_INCREMENTAL;

	/* once it has its new name there is none of the old one */
	if (renameat(chain->dirfd, chain->merge.file, chain->dirfd, e->file) &&
	    errno != ENOENT)
		return fail_with(err, errno, "%s/%s: cannot be renamed to %s: %s",
				 esc(chain->dir), chain->merge.file, e->file,
				 strerror(errno));
	ret = settle_entry(chain, e, &bare, err);
	for (i = 0; i < chain->nr && !ret && !same_name; i++) {
		struct entry *child = &chain->entry[i];

		if (child->parent != e->id || !child->details_size)
			continue;
		ret = settle_entry(chain, child, &bare, err);
		if (bare) {
			child->details_size = 0;
			child->details_crc = 0;
		}
		/* what is lost of one of them must not keep all others from being read */
		if (ret == -ENOENT || distrust(ret)) {
			say("%s; point in time %u cannot be read until that is repaired", err->msg,
			    child->id);
			ret = 0;
		}
	}
	if (!ret && fsync(chain->dirfd))
		ret = fail_with(err, errno, "%s: %s", esc(chain->dir), strerror(errno));
	if (ret)
		return ret;
	if (chain->merge.doubt) {
		say("%s: the merge of %u into %u has ended; what it took in is damaged in part, or was not checked: 'cbw verify %s' says what is known of that",
		    esc(chain->dir), chain->merge.from, chain->merge.into, esc(chain->dir));
		chain->doubtful = true;
	}
	chain->merge = (struct chain_merge){ 0 };
	ret = chain_save(chain, NULL, err);
	return ret ? ret : chain_clean(chain, NULL, err);
}

/* ---- step 3: what will be ---------------------------------------------- */

/* The header of the image at @path as it will be goes to its details. */
static int plan_at(const char *path, const struct qcow2_header_change *change, bool take,
		   struct details *d, struct cbw_error *err)
{
	struct qcow2_image *img;
	struct qcow2_error qerr;
	void *header = NULL;
	size_t len;
	int ret = open_alone(path, &img, err);

	if (ret)
		return ret;
	ret = qcow2_plan_header(img, change, &header, &len, &qerr);
	if (ret)
		fail_with(err, ret, "%s", qerr.msg);
	else if (take)
		ret = details_take(img, path, d, err);
	qcow2_close(img);
	if (ret) {
		free(header);
		return ret;
	}
	while (len && !((uint8_t *)header)[len - 1])
		len--;
	free(d->header);
	d->header = header;
	d->header_bytes = (uint32_t)len;
	return 0;
}

static int plan(const struct chain *chain, const char *file,
		const struct qcow2_header_change *change, bool take,
		struct details *d, struct cbw_error *err)
{
	char *path = chain_path(chain, file);
	int ret = plan_at(path, change, take, d, err);

	free(path);
	return ret;
}

/* Of what the details have, whatever the image has become. */
static int plan_copy(const struct chain *chain, const char *file,
		     const struct qcow2_header_change *change, struct details *d,
		     struct cbw_error *err)
{
	struct cbw_error why;
	char path[40];
	int fd, ret;

	fd = memfd_create("cbw-header", MFD_CLOEXEC);
	if (fd < 0)
		return fail_with(err, errno, "memfd_create: %s", strerror(errno));
	ret = header_copy(fd, d);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (ret)
		fail_with(err, ret, "%s/%s: the copy of its header cannot be used: %s",
			  esc(chain->dir), file, strerror(-ret));
	else if ((ret = plan_at(path, change, false, d, &why)))
		fail_with(err, ret, "%s/%s: the copy of its header makes no sense: %s",
			  esc(chain->dir), file, why.msg);
	close(fd);
	return ret;
}

/* Of the image that has taken in the other: it will be the younger point in time. */
static int plan_result(const struct chain *chain, const struct entry *lower,
		       struct entry *result, struct sums *after,
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
	d.sums = *after;
	*after = (struct sums){ 0 };
	if (!ret)
		ret = details_save(chain, result, &d, true, err);
	details_free(&d);
	return ret;
}

/* ---- images on top of it -------------------------------------------------- */

/* Whether the file is the image that stands on @upper. */
static int is_child(const struct chain *chain, const struct entry *child,
		    const struct entry *upper, struct cbw_error *err)
{
	char *path = chain_path(chain, child->file);
	struct qcow2_image *img;
	int ret = open_alone(path, &img, err);

	if (!ret) {
		ret = check_layer(img, 0, chain, child, upper, err);
		qcow2_close(img);
	}
	free(path);
	return ret;
}

/* What is wrong with the file of one whose details are there: they know what it has to be. */
static int say_child(const struct chain *chain, const struct entry *child, const struct details *d,
		     struct cbw_error *err)
{
	bool header, l1;
	int ret;

	ret = header_same(chain, child->file, d, &header, &l1, err);
	if (!ret && !header && header_other(chain, child, d, l1))
		ret = fail_with(err, EUCLEAN, "%s/%s: it is not the image of point in time %u",
				esc(chain->dir), child->file, child->id);
	if (ret != -ENOENT && !distrust(ret))
		return ret;
	say("%s; the merge goes on, its details have what its header will be: 'cbw check -r' puts that there when the file is back",
	    err->msg);
	return 0;
}

static int check_child(const struct chain *chain, struct entry *child, const struct entry *upper,
		       const char *file, bool json, struct cbw_error *err)
{
	const struct qcow2_header_change change = {
		.set_backing = true,
		.backing_file = file,
		.backing_format = "qcow2",
	};
	struct details d;
	int ret;

	ret = details_load(chain, child, &d, err);
	if (ret == -ENODATA || ret == -ENOENT || distrust(ret)) {
		ret = is_child(chain, child, upper, err);
		if (!ret)
			ret = details_need(chain, child, json, &d, err);
	}
	if (ret)
		return ret;
	ret = say_child(chain, child, &d, err);
	if (!ret)
		ret = plan_copy(chain, child->file, &change, &d, err);
	details_free(&d);
	return ret;
}

int merge_children(struct chain *chain, const struct entry *lower, const struct entry *upper,
		   bool json, struct cbw_error *err)
{
	struct cbw_error why;
	char file[64];
	size_t i;
	int ret = 0;

	chain_file_name(upper->id, lower->type, file);
	if (!strcmp(file, upper->file))
		return 0;
	for (i = 0; i < chain->nr && !ret; i++) {
		struct entry *child = &chain->entry[i];

		if (child->parent != upper->id)
			continue;
		ret = check_child(chain, child, upper, file, json, &why);
		if (ret)
			fail_with(err, ret, "%s: %s, which stands on %u, could not get its new backing file; nothing is merged until a good copy of it is put back",
				  why.msg, child->file, upper->id);
	}
	return ret;
}

/* While its details still tell a damaged header from another image's: see put_child(). */
static void restore_child(const struct chain *chain, const struct entry *e, const struct details *d)
{
	bool header, l1;

	if (header_same(chain, e->file, d, &header, &l1, NULL) || header ||
	    header_other(chain, e, d, l1) || header_put(chain, e->file, d, false, NULL, NULL))
		return;
	say("%s/%s: its header was not what was written, and was restored from its details",
	    esc(chain->dir), e->file);
}

/*
 * Of an image on top of it, whose backing file will have another name. It may be damaged, or
 * missing: what the details have goes on being what it has to be. One that has lost
 * its details and is damaged gets its new header all the same, by details without checksums
 * that go afterwards: so nothing vouches for it, as before.
 */
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
	bool bare;
	int ret;

	ret = details_need(chain, child, json, &d, err);
	bare = ret == -ENOENT || distrust(ret);
	if (ret && !bare)
		return ret;
	if (bare) {
		say("%s; it stays as it is, and the merge goes on", err->msg);
		d = (struct details){ .cut = child->cut, .size = child->size };
		sums_init(&d.sums, d.size);
	}
	if (!bare)
		restore_child(chain, child, &d);
	ret = bare ? plan(chain, child->file, &change, true, &d, err) :
		plan_copy(chain, child->file, &change, &d, err);
	if (!ret)
		ret = details_save(chain, child, &d, true, err);
	/* there is no image in which a header could be changed: merge_names() says so */
	else if (bare && (ret == -ENOENT || distrust(ret)))
		ret = 0;
	details_free(&d);
	return ret;
}

int merge_plan(struct chain *chain, const struct entry *lower,
	       const struct entry *upper, struct entry *result,
	       struct sums *after, bool json, struct cbw_error *err)
{
	bool renamed = strcmp(result->file, upper->file);
	struct chain_merge merge = chain->merge;
	size_t i;
	int ret;

	ret = plan_result(chain, lower, result, after, err);
	for (i = 0; i < chain->nr && renamed && !ret; i++)
		if (chain->entry[i].parent == result->id)
			ret = plan_child(chain, &chain->entry[i], result, json, err);
	if (ret)
		return ret;
	merge.state = MERGE_NAMES;
	merge.sums_size = 0;
	merge.sums_crc = 0;
	snprintf(merge.file, sizeof(merge.file), "%s", lower->file);
	chain_remove(chain, merge.from);
	*(struct entry *)chain_by_id(chain, result->id) = *result;
	chain->merge = merge;
	return 0;
}
