// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An image takes in what the one on top of it has, range by range
 *
 * All of a range is read, of both images, twice: to see that nothing is damaged, which gives
 * the checksum that the range has to have in the end, and to write it.
 */
#include <unistd.h>

#include "cbw.h"
#include "copy.h"
#include "crc.h"
#include "details.h"
#include "merge.h"
#include "progress.h"
#include "qcow2.h"
#include "scan.h"

/* the space that is needed twice when it is punched */
#define BATCH	(64u << 20)

/* of a cluster of the lower image */
enum content {
	NOWHERE,	/* below */
	ZEROS,
	PLAIN,
	COMPRESSED,
};

struct cluster {
	enum content content;
	bool touched;		/* the upper image has something of it ... */
	bool packed;		/* ... compressed */
	uint32_t covered;	/* ... so many bytes */
};

struct merge_run {
	const struct chain *chain;
	const struct entry *lower, *upper;
	const struct details *lower_d, *upper_d;
	struct sums *after;
	bool lost;		/* .after has to be made from what is there */
	bool punch;
	bool repair;
	bool doubtful;
	bool backed;		/* the lower image has a backing file */
	bool same_packing;	/* compressed clusters can move as they are */
	struct qcow2_image *low, *up;
	unsigned int low_type;
	char *low_path, *up_path;	/* printable */
	struct scan_source low_src, up_src;
	uint32_t cluster;	/* of the lower image */
	uint64_t size;
	char *buf, *up_buf;
	void *packed;
	struct cluster *map;	/* of the range's clusters */
	struct ranges moved;	/* since the last flush */
	uint64_t moved_bytes, batch, done;
	struct progress progress;
};

static int qfail(struct cbw_error *err, int ret, const struct qcow2_error *qerr)
{
	return fail_with(err, ret, "%s", qerr->msg);
}

static bool all_zero(const char *buf, size_t len)
{
	uint64_t first;

	memcpy(&first, buf, sizeof(first));
	return !first && !memcmp(buf, buf + sizeof(first),
				 len - sizeof(first));
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

static int damaged(const struct merge_run *m, const struct entry *e, uint64_t nr,
		   uint64_t end, struct cbw_error *err)
{
	return fail_with(err, EUCLEAN,
			 "%s/%s: damaged: bytes %llu to %llu of the volume: the checksum does not fit; it is not merged",
			 esc(m->chain->dir), e->file, (ull)(nr * SUMS_RANGE),
			 (ull)end - 1);
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
			return qfail(err, ret, &qerr);
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
			return qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_UNALLOCATED)
			continue;
		*any = true;
		/* zeros take no space, and tell a second try what the first has changed */
		if (run.type != QCOW2_RUN_ZERO)
			ranges_add(&m->moved, at, run.length);
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

/* Under what the upper image has comes what was there: of it the buffer has data only. */
static int fill_base(struct merge_run *m, uint64_t start, uint64_t end,
		     struct cbw_error *err)
{
	struct qcow2_error qerr;
	uint64_t at;

	for (at = start; at < end; at += m->cluster) {
		struct cluster *c = &m->map[(at - start) / m->cluster];
		uint32_t valid = end - at < m->cluster ? (uint32_t)(end - at) :
			m->cluster;
		int ret;

		if (!c->touched || c->content == PLAIN || c->content == COMPRESSED)
			continue;
		memset(m->buf + (at - start), 0, m->cluster);
		if (c->content == ZEROS || c->covered == valid || !m->backed)
			continue;
		ret = qcow2_read(m->low, at, m->buf + (at - start), valid, &qerr);
		if (ret)
			return qfail(err, ret, &qerr);
	}
	return 0;
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
			return qfail(err, ret, &qerr);
		if (run.type == QCOW2_RUN_ZERO)
			memset(m->buf + (at - start), 0, (size_t)run.length);
		else if (run.type != QCOW2_RUN_UNALLOCATED)
			memcpy(m->buf + (at - start), m->up_buf + (at - start),
			       (size_t)run.length);
	}
	return 0;
}

static int put_plain(struct merge_run *m, uint64_t offset, const char *buf,
		     uint64_t len, struct cbw_error *err)
{
	while (len) {
		uint64_t host, got, whole, done;
		struct qcow2_error qerr;
		int ret = qcow2_alloc_write(m->low, offset, len, &host, &got, &qerr);

		if (ret)
			return qfail(err, ret, &qerr);
		whole = (got + m->cluster - 1) / m->cluster * m->cluster;
		for (done = 0; done < whole;) {
			ssize_t n = pwrite(qcow2_fd(m->low), buf + done, whole - done,
					   (off_t)(host + done));

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return fail_with(err, n ? errno : ENOSPC,
						 "%s: writing at %llu: %s", m->low_path,
						 (ull)(host + done),
						 n ? strerror(errno) : "no room");
			done += (uint64_t)n;
		}
		offset += got;
		buf += got;
		len -= got;
	}
	return 0;
}

/* 0, an error, or -E2BIG: it does not pay */
static int put_packed(struct merge_run *m, uint64_t offset, const char *buf,
		      struct cluster *c, struct cbw_error *err)
{
	struct qcow2_error qerr;
	size_t len;
	int ret;

	if (c->packed && m->same_packing)
		ret = qcow2_read_compressed(m->up, 0, offset, m->packed,
					    m->cluster - 1, &len, &qerr);
	else
		ret = qcow2_compress(m->low_type, 0, buf, m->cluster, m->packed, &len);
	if (ret == -E2BIG)
		return ret;
	if (ret)
		return fail_with(err, ret, "%s: a cluster at %llu of the volume cannot be compressed: %s",
				 m->low_path, (ull)offset, strerror(-ret));
	ret = qcow2_write_compressed(m->low, offset, m->packed, len, &qerr);
	if (!ret)
		c->content = COMPRESSED;
	return ret ? qfail(err, ret, &qerr) : 0;
}

/* Writes clusters from @at on that are of one kind; *end: behind them. */
static int put_some(struct merge_run *m, uint64_t start, uint64_t end, uint64_t at,
		    uint64_t *to, struct cbw_error *err)
{
	struct cluster *c = &m->map[(at - start) / m->cluster], *n;
	const char *buf = m->buf + (at - start);
	bool zero = all_zero(buf, m->cluster);
	struct qcow2_error qerr;
	uint64_t next = at + m->cluster;
	int ret;

	*to = next;
	if (!c->touched)
		return 0;
	if (!zero && (c->packed || c->content == COMPRESSED)) {
		ret = put_packed(m, at, buf, c, err);
		if (ret != -E2BIG)
			return ret;
		c->content = PLAIN;
		return put_plain(m, at, buf, end < next ? end - at : m->cluster, err);
	}
	for (;; next += m->cluster) {
		c->content = zero ? ZEROS : PLAIN;
		if (next >= end)
			break;
		n = c + 1;
		if (!n->touched || zero != all_zero(m->buf + (next - start), m->cluster) ||
		    (!zero && (n->packed || n->content == COMPRESSED)))
			break;
		c = n;
	}
	*to = next;
	if (next > end)
		next = end;
	if (!zero)
		return put_plain(m, at, buf, next - at, err);
	ret = qcow2_discard(m->low, at, next - at, 0, &qerr);
	return ret ? qfail(err, ret, &qerr) : 0;
}

/* Of the range as it will be in the lower image. */
static uint32_t new_sum(const struct merge_run *m, uint64_t start, uint64_t end)
{
	uint32_t crc = 0;
	uint64_t at;

	for (at = start; at < end; at += m->cluster) {
		const struct cluster *c = &m->map[(at - start) / m->cluster];
		const char *buf = m->buf + (at - start);

		if (c->touched ? !all_zero(buf, m->cluster) :
		    c->content == PLAIN || c->content == COMPRESSED)
			crc = crc_cluster(crc, at, buf, m->cluster);
	}
	return crc;
}

/* What was taken in is durable; now the upper image may lose it. */
static int settle(struct merge_run *m, struct cbw_error *err)
{
	struct qcow2_error qerr;
	size_t i;
	int ret;

	ret = qcow2_flush(m->low, &qerr);
	for (i = 0; m->punch && i < m->moved.nr && !ret; i++)
		ret = qcow2_discard(m->up, m->moved.v[i].offset,
				    m->moved.v[i].length, QCOW2_DISCARD_BACKING,
				    &qerr);
	if (!ret && m->punch && m->moved.nr)
		ret = qcow2_flush(m->up, &qerr);
	m->moved.nr = 0;
	m->moved_bytes = 0;
	return ret ? qfail(err, ret, &qerr) : 0;
}

/* What the lower image will have, to the buffer, when both were read. */
static int lay_both(struct merge_run *m, uint64_t start, uint64_t end, struct cbw_error *err)
{
	int ret = fill_base(m, start, end, err);

	return ret ? ret : lay_upper(m, start, end, err);
}

/* What is to become of a range that is not what it was when the merge began. */
static int not_as_begun(struct merge_run *m, uint64_t start, uint64_t end, struct cbw_error *err)
{
	const char *dir = esc(m->chain->dir);

	if (!m->repair)
		return fail_with(err, EUCLEAN, "%s: bytes %llu to %llu of the volume are not any more in %s and %s what they were when the merge began; put back the one that is damaged, or 'cbw check -r %s' ends the merge with what is there, and the range stays known as damaged",
				 dir, (ull)start, (ull)end - 1, m->lower->file,
				 m->upper->file, dir);
	say("%s: bytes %llu to %llu of the volume were damaged while they were merged into %u: 'cbw verify' goes on to say so",
	    dir, (ull)start, (ull)end - 1, m->upper->id);
	m->doubtful = true;
	return 0;
}

/*
 * The sum of a range that is as it was has to be its old one, else @crc is all that there is.
 * A range is that if the upper image has nothing of it, and had no data, since zeros are
 * not punched out. What is known to be damaged gets one that it does not have.
 */
static void sum_what_is(struct merge_run *m, uint64_t nr, bool any, uint32_t up, uint32_t crc)
{
	uint64_t start = nr * SUMS_RANGE;
	uint64_t end = m->size - start < SUMS_RANGE ? m->size : start + SUMS_RANGE;
	bool as_it_was = !any && m->lower_d && m->upper_d && !m->upper_d->sums.crc[nr];

	m->after->crc[nr] = as_it_was ? m->lower_d->sums.crc[nr] : crc;
	if (!m->upper_d || m->chain->merge.punch || up == m->upper_d->sums.crc[nr])
		return;
	say("%s/%s: damaged: bytes %llu to %llu of the volume: 'cbw verify' goes on to say so",
	    esc(m->chain->dir), m->upper->file, (ull)start, (ull)end - 1);
	m->after->crc[nr] = ~crc;
}

/*
 * Of a range that the upper image has nothing of: that is so because it was taken in before, or
 * because a table of it was damaged. What the lower one has from the beginning is not looked at.
 */
static bool was_taken(const struct merge_run *m, uint64_t nr)
{
	return !m->lower_d || m->lower_d->sums.crc[nr] != m->after->crc[nr];
}

static int merge_range(struct merge_run *m, uint64_t nr, struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE, at, to;
	uint64_t end = m->size - start < SUMS_RANGE ? m->size : start + SUMS_RANGE;
	struct scan_range up = { 0 }, low;
	bool any;
	int ret;

	ret = map_lower(m, start, end, err);
	if (!ret)
		ret = map_upper(m, start, end, &any, err);
	if (ret || (!any && !m->lost && !was_taken(m, nr)))
		return ret;
	ret = scan_one(&m->up_src, nr, m->up_buf, &up, err);
	if (!ret)
		ret = scan_one(&m->low_src, nr, m->buf, &low, err);
	if (!ret)
		ret = lay_both(m, start, end, err);
	if (ret)
		return ret;
	if (m->lost)
		sum_what_is(m, nr, any, up.crc, new_sum(m, start, end));
	else if (new_sum(m, start, end) != m->after->crc[nr])
		ret = not_as_begun(m, start, end, err);
	for (at = start; at < end && !ret; at = to)
		ret = put_some(m, start, end, at, &to, err);
	if (ret)
		return ret;
	m->moved_bytes += up.copied;
	m->done += up.copied;
	progress_tick(&m->progress, m->done);
	return m->moved_bytes >= m->batch ? settle(m, err) : 0;
}

/* Whatever the lower image has now, all of it. */
static int count(struct merge_run *m, struct entry *result, struct cbw_error *err)
{
	uint64_t at, end, nr, bytes, copied = 0, zeros = 0;
	struct qcow2_error qerr;
	struct qcow2_run run;
	uint32_t total = 0;

	for (nr = 0, at = 0; at < m->size; nr++) {
		end = m->size - at < SUMS_RANGE ? m->size : at + SUMS_RANGE;
		for (bytes = 0; at < end; at += run.length) {
			int ret = qcow2_map_layer(m->low, 0, at, end - at, &run, &qerr);

			if (ret)
				return qfail(err, ret, &qerr);
			if (run.type == QCOW2_RUN_ZERO)
				zeros += run.length;
			if (run.type != QCOW2_RUN_DATA &&
			    run.type != QCOW2_RUN_COMPRESSED)
				continue;
			copied += run.length;
			bytes += (run.length + m->cluster - 1) / m->cluster *
				CRC_CLUSTER_BYTES(m->cluster);
		}
		total = crc32c_combine(total, m->after->crc[nr], bytes);
	}
	result->copied = copied;
	result->zero = m->backed ? zeros : m->size - copied;
	result->crc = total;
	return 0;
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
		return qfail(err, ret, &qerr);
	ret = qcow2_check(*img, 0, &rep, &qerr);
	/* what a merge that was cut off has left */
	if (!ret && !rep.corruptions && rep.leaks && flags & QCOW2_OPEN_WRITE)
		ret = qcow2_repair(*img, QCOW2_REPAIR_LEAKS, &rep, &qerr);
	if (ret)
		return qfail(err, ret, &qerr);
	if (rep.corruptions)
		return fail_with(err, EUCLEAN, "%s: %llu corruptions, the first: %s",
				 shown, (ull)rep.corruptions, rep.first);
	return 0;
}

static int open_both(struct merge_run *m, unsigned int low_flags, unsigned int up_flags,
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
		m->same_packing = l.compression == u.compression &&
			l.cluster_size == u.cluster_size;
		m->packed = xcalloc(m->cluster, 1);
		m->map = xcalloc(SUMS_RANGE / m->cluster, sizeof(*m->map));
		scan_source_open(&m->low_src, m->low, m->low_path);
		scan_source_open(&m->up_src, m->up, m->up_path);
	}
	free(low);
	free(up);
	return ret;
}

static void close_both(struct merge_run *m)
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
	free(m->buf);
	free(m->up_buf);
}

static int verify_range(struct merge_run *m, uint64_t nr, struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE;
	uint64_t end = m->size - start < SUMS_RANGE ? m->size : start + SUMS_RANGE;
	struct scan_range r;
	bool any;
	int ret;

	m->moved.nr = 0;
	m->after->crc[nr] = m->lower_d->sums.crc[nr];
	ret = map_lower(m, start, end, err);
	if (!ret)
		ret = map_upper(m, start, end, &any, err);
	if (ret || (!any && !m->upper_d->sums.crc[nr]))
		return ret;
	ret = scan_one(&m->up_src, nr, m->up_buf, &r, err);
	if (!ret && r.crc != m->upper_d->sums.crc[nr])
		ret = damaged(m, m->upper, nr, end, err);
	if (!ret)
		ret = scan_one(&m->low_src, nr, m->buf, &r, err);
	if (!ret && r.crc != m->lower_d->sums.crc[nr])
		ret = damaged(m, m->lower, nr, end, err);
	if (!ret)
		ret = lay_both(m, start, end, err);
	if (!ret)
		m->after->crc[nr] = new_sum(m, start, end);
	m->done += r.copied;
	progress_tick(&m->progress, m->done);
	if (!ret && stop_signal)
		ret = fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
	return ret;
}

int merge_verify(const struct chain *chain, const struct entry *lower,
		 const struct entry *upper, const struct details *lower_d,
		 const struct details *upper_d, bool json, struct sums *after,
		 struct cbw_error *err)
{
	struct merge_run m = {
		.chain = chain, .lower = lower, .upper = upper,
		.lower_d = lower_d, .upper_d = upper_d, .size = upper->size,
		.after = after, .low_src.fd = -1, .up_src.fd = -1,
		.buf = scan_buffer(), .up_buf = scan_buffer(),
	};
	uint64_t nr;
	int ret;

	sums_init(after, upper->size);
	progress_begin(&m.progress, "verify", upper->file, upper->copied, json);
	ret = open_both(&m, 0, 0, err);
	for (nr = 0; nr < after->nr && !ret; nr++)
		ret = verify_range(&m, nr, err);
	progress_end(&m.progress);
	close_both(&m);
	return ret;
}

int merge_data(const struct chain *chain, const struct entry *lower,
	       const struct entry *upper, const struct details *lower_d,
	       const struct details *upper_d, struct sums *after, bool lost,
	       const struct merge_opts *opts, struct entry *result,
	       struct cbw_error *err)
{
	struct merge_run m = {
		.chain = chain, .lower = lower, .upper = upper,
		.lower_d = lower_d, .upper_d = upper_d, .size = upper->size,
		.after = after, .lost = lost, .doubtful = lost,
		.punch = opts->punch, .repair = opts->repair,
		.batch = opts->batch ? opts->batch : BATCH,
		.low_src.fd = -1, .up_src.fd = -1,
		.buf = scan_buffer(), .up_buf = scan_buffer(),
	};
	uint64_t nr;
	int ret;

	progress_begin(&m.progress, "merge", upper->file, upper->copied, opts->json);
	ret = open_both(&m, QCOW2_OPEN_WRITE | QCOW2_OPEN_REUSE | QCOW2_OPEN_PUNCH,
			m.punch ? QCOW2_OPEN_WRITE | QCOW2_OPEN_PUNCH : 0, err);
	for (nr = 0; nr < after->nr && !ret; nr++) {
		ret = merge_range(&m, nr, err);
		if (!ret && stop_signal)
			ret = fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
	}
	if (!ret)
		ret = settle(&m, err);
	/* nothing becomes free now, but what did so in the last flush is durable then */
	if (!ret)
		ret = settle(&m, err);
	if (!ret)
		ret = count(&m, result, err);
	progress_end(&m.progress);
	close_both(&m);
	if (m.doubtful && opts->doubtful)
		*opts->doubtful = true;
	return ret;
}
