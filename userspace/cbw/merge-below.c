// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a merge reads through the lower image, from those below: where the upper one has a part
 * of a cluster only. A checksum is made over it, so it has to be what it was.
 */
#include "cbw.h"
#include "details.h"
#include "merge-int.h"
#include "restore.h"

struct level {
	struct entry *e;
	char *shown;		/* path, printable; NULL: not opened yet */
	struct qcow2_image *img;
	struct scan_source src;
	struct details d;
	int lost;		/* what compare_zeros() said, and its text */
	struct cbw_error why;
};

struct merge_below {
	struct chain *chain;
	bool json;
	struct level *level;	/* the first is right below the lower image */
	size_t nr;
};

struct merge_below *merge_below_open(struct chain *chain, const struct entry *lower, bool json)
{
	struct merge_below *b = xcalloc(1, sizeof(*b));
	const struct entry *e = lower;

	b->chain = chain;
	b->json = json;
	b->level = xcalloc(chain->nr, sizeof(*b->level));
	while (e->parent && (e = chain_by_id(chain, e->parent)))
		b->level[b->nr++].e = (struct entry *)e;
	return b;
}

void merge_below_close(struct merge_below *b)
{
	size_t i;

	if (!b)
		return;
	for (i = 0; i < b->nr; i++) {
		struct level *l = &b->level[i];

		if (!l->shown)
			continue;
		scan_source_close(&l->src);
		qcow2_close(l->img);
		details_free(&l->d);
		free(l->shown);
	}
	free(b->level);
	free(b);
}

/* No checksum knows of its zero clusters, which hide what is below: but how many there are. */
static int compare_zeros(const struct chain *chain, const struct level *l, struct cbw_error *err)
{
	uint64_t at, size = qcow2_size(l->img), zeros = 0;
	struct qcow2_error qerr;
	struct qcow2_run run;

	for (at = 0; at < size; at += run.length) {
		int ret = qcow2_map_layer(l->img, 0, at, size - at, &run, &qerr);

		if (ret)
			return merge_qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_ZERO)
			zeros += run.length;
	}
	return scan_compare_zeros(chain, l->e, zeros, err);
}

static int open_level(struct merge_below *b, struct level *l, struct cbw_error *err)
{
	char *path;
	int ret;

	/* who goes on after an error asks for the next range: nothing of it is any better */
	if (l->shown)
		return l->lost ? fail_with(err, l->lost, "%s", l->why.msg) : 0;
	ret = details_need(b->chain, l->e, b->json, &l->d, err);
	if (ret)
		return ret;
	path = chain_path(b->chain, l->e->file);
	ret = open_alone(path, &l->img, err);
	if (ret) {
		details_free(&l->d);
	} else {
		l->shown = xstrdup(esc(path));
		scan_source_open(&l->src, l->img, l->shown);
		ret = l->lost = compare_zeros(b->chain, l, &l->why);
		if (ret)
			fail_with(err, ret, "%s", l->why.msg);
	}
	free(path);
	return ret;
}

/* What one of them has of a range, over what was below it. */
static int lay_level(const struct merge_below *b, const struct level *l, uint64_t nr, char *buf,
		     struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE, at, size = qcow2_size(l->img);
	uint64_t end = size - start < SUMS_RANGE ? size : start + SUMS_RANGE;
	struct qcow2_error qerr;
	struct scan_range r;
	struct qcow2_run run;
	int ret;

	ret = scan_one(&l->src, nr, buf, NULL, &r, err);
	if (ret)
		return ret;
	if (r.crc != l->d.sums.crc[nr])
		return merge_damaged(b->chain, l->e, start, end, err);
	for (at = start; at < end; at += run.length) {
		ret = qcow2_map_layer(l->img, 0, at, end - at, &run, &qerr);
		if (ret)
			return merge_qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_ZERO)
			memset(buf + (at - start), 0, (size_t)run.length);
	}
	return 0;
}

int merge_below_read(struct merge_below *b, uint64_t nr, size_t depth, char *buf,
		     struct cbw_error *err)
{
	int ret = 0;

	if (depth > b->nr)
		return fail_with(err, EUCLEAN, "%s: there are more images below each other than the manifest says",
				 esc(b->chain->dir));
	memset(buf, 0, SUMS_RANGE);
	while (depth-- && !ret) {
		ret = open_level(b, &b->level[depth], err);
		if (!ret)
			ret = lay_level(b, &b->level[depth], nr, buf, err);
	}
	return ret;
}
