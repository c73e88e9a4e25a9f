// SPDX-License-Identifier: GPL-2.0-or-later
/* a range of two images, of which one takes in the other: what there is, and what will be */
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "merge-int.h"

int merge_qfail(struct cbw_error *err, int ret, const struct qcow2_error *qerr)
{
	return fail_with(err, ret, "%s", qerr->msg);
}

bool merge_all_zero(const char *buf, size_t len)
{
	uint64_t first = 0;

	memcpy(&first, buf, sizeof(first));
	return !first && !memcmp(buf, buf + sizeof(first),
				 len - sizeof(first));
}

int merge_damaged(const struct chain *chain, const struct entry *e, uint64_t start, uint64_t end,
		  struct cbw_error *err)
{
	return fail_with(err, EUCLEAN,
			 "%s/%s: damaged: bytes %llu to %llu of the volume: the checksum does not fit",
			 esc(chain->dir), e->file, (ull)start, (ull)end - 1);
}

static enum content content_of(enum qcow2_run_type type)
{
	switch (type) {
	case QCOW2_RUN_ZERO:
		return ZEROS;
	case QCOW2_RUN_DATA:
		return PLAIN;
	case QCOW2_RUN_COMPRESSED:
		return COMPRESSED;
	default:
		return NOWHERE;
	}
}

/* What the lower image says of each of its clusters. */
static int map_lower(struct merge_run *m, uint64_t start, uint64_t end,
		     struct cbw_error *err)
{
	struct qcow2_error qerr;
	struct qcow2_run run;
	uint64_t at, c;

	for (at = start; at < end; at += run.length) {
		int ret = qcow2_map_layer(m->low, 0, at, end - at, &run, &qerr);

		if (ret)
			return merge_qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_ZERO)
			m->low_zeros += run.length;
		for (c = at - start; c < at - start + run.length; c += m->cluster)
			m->map[c / m->cluster] = (struct cluster){
				.content = content_of(run.type) };
	}
	return 0;
}

/* Which of them the upper image changes; the places of its data to m->moved. */
static int map_upper(struct merge_run *m, uint64_t start, uint64_t end,
		     bool *any, struct cbw_error *err)
{
	struct qcow2_error qerr;
	struct qcow2_run run;
	uint64_t at, from, to;

	*any = false;
	for (at = start; at < end; at += run.length) {
		int ret = qcow2_map_layer(m->up, 0, at, end - at, &run, &qerr);

		if (ret)
			return merge_qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_UNALLOCATED)
			continue;
		*any = true;
		/* zeros take no space, and tell a second try what the first has changed */
		if (run.type != QCOW2_RUN_ZERO)
			ranges_add(&m->moved, at, run.length);
		else
			m->up_zeros += run.length;
		for (from = at - start; from < at - start + run.length; from = to) {
			struct cluster *c = &m->map[from / m->cluster];

			to = (from / m->cluster + 1) * m->cluster;
			if (to > at - start + run.length)
				to = at - start + run.length;
			c->touched = true;
			c->packed |= run.type == QCOW2_RUN_COMPRESSED;
			c->covered += (uint32_t)(to - from);
		}
	}
	return 0;
}

/* Bytes of the range that the volume has in a cluster. */
static uint32_t valid_of(const struct merge_run *m, uint64_t at, uint64_t end)
{
	return end - at < m->cluster ? (uint32_t)(end - at) : m->cluster;
}

/* What the upper image has of a range but cannot give: less is covered by it. */
static void note_up_bad(struct merge_run *m, uint64_t start, uint64_t end)
{
	uint64_t at, to, stop;

	for (at = 0; at < end - start; at = stop) {
		stop = at + m->up_cluster < end - start ? at + m->up_cluster : end - start;
		for (; m->up_bad[at / m->up_cluster] && at < stop; at = to) {
			struct cluster *c = &m->map[at / m->cluster];

			to = (at / m->cluster + 1) * m->cluster;
			to = to < stop ? to : stop;
			c->covered -= (uint32_t)(to - at);
			c->up_bad += (uint32_t)(to - at);
		}
	}
}

/*
 * Where nothing of a cluster can be read it stays one that cannot, as a whole. Else what can
 * is kept, and in the rest that which was below.
 */
static void note_loss(struct merge_run *m, uint64_t start, uint64_t end)
{
	uint64_t at;

	for (at = start; at < end; at += m->cluster) {
		struct cluster *c = &m->map[(at - start) / m->cluster];

		c->bad = m->low_bad[(at - start) / m->cluster];
		if (c->up_bad == valid_of(m, at, end)) {
			c->loss = LOSS_ALL;
		} else if (c->up_bad) {
			c->loss = LOSS_OLD;
			c->touched = c->covered;
		}
		if (c->bad && !c->touched)
			c->loss = LOSS_ALL;
	}
}

int merge_read(struct merge_run *m, uint64_t nr, struct scan_range *up, struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE;
	uint64_t end = m->size - start < SUMS_RANGE ? m->size : start + SUMS_RANGE;
	struct scan_range low;
	int ret;

	memset(m->low_bad, 0, SUMS_RANGE / m->cluster);
	memset(m->up_bad, 0, SUMS_RANGE / m->up_cluster);
	ret = scan_one(&m->up_src, nr, m->up_buf, m->up_bad, up, err);
	if (!ret)
		ret = scan_one(&m->low_src, nr, m->buf, m->low_bad, &low, err);
	if (ret || (!up->nr_bad && !low.nr_bad))
		return ret;
	note_up_bad(m, start, end);
	note_loss(m, start, end);
	return 0;
}

/* Of the clusters with a loss: so many, and where the first is. */
static unsigned int count_losses(const struct merge_run *m, uint64_t start, uint64_t end,
				 enum loss loss, uint64_t *first)
{
	unsigned int nr = 0;
	uint64_t at;

	for (at = start; at < end; at += m->cluster)
		if (m->map[(at - start) / m->cluster].loss == loss && !nr++)
			*first = at;
	return nr;
}

bool merge_losses(const struct merge_run *m, uint64_t start, uint64_t end,
		  const struct entry *say_of)
{
	static const char *const what[] = {
		[LOSS_ALL] = "they stay what they are, and cannot be read",
		[LOSS_OLD] = "in the part that cannot be read stands what was below",
		[LOSS_ZERO] = "in the part that cannot be read stand zeros",
	};
	bool any = false;
	unsigned int nr;
	uint64_t first = 0;
	enum loss loss;

	for (loss = LOSS_ALL; loss <= LOSS_ZERO; loss++) {
		nr = count_losses(m, start, end, loss, &first);
		any |= nr;
		if (nr && say_of)
			say("%s: %u clusters of %u bytes, the first at %llu of the volume, cannot be decompressed, or a part of them: %s in %s",
			    esc(m->chain->dir), nr, m->cluster, (ull)first, what[loss],
			    say_of->file);
	}
	return any;
}

/* Whether what is below the lower image shows at the edges of what the upper one has. */
static bool shows_below(const struct merge_run *m, const struct cluster *c, uint32_t valid)
{
	return m->backed && c->touched && c->content == NOWHERE && c->covered < valid &&
		c->loss != LOSS_ALL;
}

/* How many images below the lower one have a say in that; 0: none. */
static int below_depth(struct merge_run *m, uint64_t start, uint64_t end, size_t *depth,
		       struct cbw_error *err)
{
	struct qcow2_error qerr;
	struct qcow2_run run;
	uint64_t at, in;

	*depth = 0;
	for (at = start; at < end; at += m->cluster) {
		uint32_t valid = valid_of(m, at, end);

		if (!shows_below(m, &m->map[(at - start) / m->cluster], valid))
			continue;
		for (in = 0; in < valid; in += run.length) {
			int ret = qcow2_map(m->low, at + in, valid - in, &run, &qerr);
			size_t layer;

			if (ret)
				return merge_qfail(err, ret, &qerr);
			layer = run.layer == QCOW2_LAYER_NONE ? qcow2_layers(m->low) - 1 : run.layer;
			*depth = layer > *depth ? layer : *depth;
		}
	}
	return 0;
}

static int read_below(struct merge_run *m, uint64_t start, uint64_t end, struct cbw_error *err)
{
	size_t depth;
	int ret;

	if (!m->below)
		return 0;
	ret = below_depth(m, start, end, &depth, err);
	return ret || !depth ? ret :
		merge_below_read(m->below, start / SUMS_RANGE, depth, m->below_buf, err);
}

/* It need not be readable to end what was begun: the range will be known as damaged. */
static int read_shown(const struct merge_run *m, struct cluster *c, uint64_t at, char *to,
		      uint32_t valid, struct cbw_error *err)
{
	struct qcow2_error qerr;
	int ret = qcow2_read(m->low, at, to, valid, &qerr);

	if (ret != -EUCLEAN)
		return ret ? merge_qfail(err, ret, &qerr) : 0;
	memset(to, 0, valid);
	c->loss = c->loss == LOSS_ALL ? LOSS_ALL : LOSS_ZERO;
	return 0;
}

/* Under what the upper image has comes what was there: of it the buffer has data only. */
static int fill_base(struct merge_run *m, uint64_t start, uint64_t end,
		     struct cbw_error *err)
{
	uint64_t at;
	int ret = read_below(m, start, end, err);

	for (at = start; at < end && !ret; at += m->cluster) {
		struct cluster *c = &m->map[(at - start) / m->cluster];
		uint32_t valid = valid_of(m, at, end);
		char *to = m->buf + (at - start);

		/* of those that are bad scan_one() gives zeros */
		if (c->bad && c->covered < valid && c->loss != LOSS_ALL)
			c->loss = LOSS_ZERO;
		if (!c->touched || c->content == PLAIN || c->content == COMPRESSED)
			continue;
		memset(to, 0, m->cluster);
		if (!shows_below(m, c, valid))
			continue;
		if (m->below)
			memcpy(to, m->below_buf + (at - start), valid);
		else
			ret = read_shown(m, c, at, to, valid, err);
	}
	return ret;
}

static int lay_upper(struct merge_run *m, uint64_t start, uint64_t end,
		     struct cbw_error *err)
{
	struct qcow2_error qerr;
	struct qcow2_run run;
	uint64_t at;

	for (at = start; at < end; at += run.length) {
		int ret = qcow2_map_layer(m->up, 0, at, end - at, &run, &qerr);

		if (ret)
			return merge_qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_ZERO)
			memset(m->buf + (at - start), 0, (size_t)run.length);
		else if (run.type == QCOW2_RUN_DATA || (run.type == QCOW2_RUN_COMPRESSED &&
			 !m->up_bad[(at - start) / m->up_cluster]))
			memcpy(m->buf + (at - start), m->up_buf + (at - start),
			       (size_t)run.length);
	}
	return 0;
}

/* Of the range as it will be in the lower image. */
uint32_t merge_new_sum(const struct merge_run *m, uint64_t start, uint64_t end)
{
	uint32_t crc = 0;
	uint64_t at;

	for (at = start; at < end; at += m->cluster) {
		const struct cluster *c = &m->map[(at - start) / m->cluster];
		const char *buf = m->buf + (at - start);

		if (c->touched ? !merge_all_zero(buf, m->cluster) :
		    c->content == PLAIN || c->content == COMPRESSED)
			crc = crc_cluster(crc, at, buf, m->cluster);
	}
	return crc;
}

uint64_t merge_new_zeros(const struct merge_run *m, uint64_t start, uint64_t end)
{
	uint64_t at, zeros = 0;

	for (at = start; at < end; at += m->cluster) {
		const struct cluster *c = &m->map[(at - start) / m->cluster];

		if (c->loss != LOSS_ALL && (c->touched ?
		    merge_all_zero(m->buf + (at - start), m->cluster) : c->content == ZEROS))
			zeros += valid_of(m, at, end);
	}
	return zeros;
}

int merge_map(struct merge_run *m, uint64_t start, uint64_t end, bool *any,
	      struct cbw_error *err)
{
	int ret = map_lower(m, start, end, err);

	return ret ? ret : map_upper(m, start, end, any, err);
}

/* What the lower image will have, to the buffer, when both were read. */
int merge_lay(struct merge_run *m, uint64_t start, uint64_t end, struct cbw_error *err)
{
	int ret = fill_base(m, start, end, err);

	return ret ? ret : lay_upper(m, start, end, err);
}

/*
 * Refcounts are relied on when clusters are given out, and free ones are punched out. What is
 * only read stays as it is: what looks like leaks then may be all that a damaged table had.
 */
static int open_sound(const char *path, unsigned int flags, const char *shown,
		      struct qcow2_image **img, struct cbw_error *err)
{
	struct qcow2_check_report rep;
	struct qcow2_error qerr;
	int ret;

	ret = qcow2_open(path, QCOW2_OPEN_SAME_DIR | flags, img, &qerr);
	if (ret)
		return merge_qfail(err, ret, &qerr);
	ret = qcow2_check(*img, 0, &rep, &qerr);
	/* what a merge that was cut off has left */
	if (!ret && !rep.corruptions && rep.leaks && flags & QCOW2_OPEN_WRITE)
		ret = qcow2_repair(*img, QCOW2_REPAIR_LEAKS, &rep, &qerr);
	if (ret)
		return merge_qfail(err, ret, &qerr);
	if (rep.corruptions)
		return fail_with(err, EUCLEAN, "%s: %llu corruptions, the first: %s",
				 shown, (ull)rep.corruptions, rep.first);
	return 0;
}

int merge_open(struct merge_run *m, unsigned int low_flags, unsigned int up_flags,
		     struct cbw_error *err)
{
	char *low = chain_path(m->chain, m->lower->file);
	char *up = chain_path(m->chain, m->upper->file);
	struct qcow2_layer l, u;
	int ret;

	m->low_path = xstrdup(esc(low));
	m->up_path = xstrdup(esc(up));
	ret = open_sound(low, low_flags, m->low_path, &m->low, err);
	if (!ret)
		ret = open_sound(up, QCOW2_OPEN_NO_BACKING | up_flags, m->up_path, &m->up, err);
	if (!ret && (qcow2_get_layer(m->low, 0, &l) || qcow2_get_layer(m->up, 0, &u)))
		ret = fail_with(err, EINVAL, "%s: no image", m->low_path);
	if (!ret && (l.virtual_size != m->size || u.virtual_size != m->size))
		ret = fail_with(err, EUCLEAN, "%s: it is not of %llu bytes, as the manifest says",
				m->low_path, (ull)m->size);
	if (!ret) {
		m->backed = l.backing_file;
		m->low_type = l.compression;
		m->cluster = l.cluster_size;
		m->up_cluster = u.cluster_size;
		m->same_packing = l.compression == u.compression &&
			l.cluster_size == u.cluster_size;
		m->packed = xcalloc(m->cluster, 1);
		m->map = xcalloc(SUMS_RANGE / m->cluster, sizeof(*m->map));
		m->low_bad = xcalloc(SUMS_RANGE / m->cluster, sizeof(*m->low_bad));
		m->up_bad = xcalloc(SUMS_RANGE / m->up_cluster, sizeof(*m->up_bad));
		scan_source_open(&m->low_src, m->low, m->low_path);
		scan_source_open(&m->up_src, m->up, m->up_path);
	}
	free(low);
	free(up);
	return ret;
}

void merge_close(struct merge_run *m)
{
	scan_source_close(&m->low_src);
	scan_source_close(&m->up_src);
	qcow2_close(m->low);
	qcow2_close(m->up);
	ranges_free(&m->moved);
	free(m->low_path);
	free(m->up_path);
	free(m->packed);
	free(m->map);
	free(m->low_bad);
	free(m->up_bad);
	free(m->buf);
	free(m->up_buf);
	free(m->below_buf);
	merge_below_close(m->below);
}
