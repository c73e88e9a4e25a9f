// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An image takes in what the one on top of it has, range by range
 *
 * All of a range is read, of both images, twice: to see that nothing is damaged, which gives
 * the checksum that the range has to have in the end, and to write it.
 */
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "details.h"
#include "merge-int.h"

/* the space that is needed twice when it is punched */
#define BATCH	(64u << 20)

static int put_plain(struct merge_run *m, uint64_t offset, const char *buf,
		     uint64_t len, struct cbw_error *err)
{
	while (len) {
		uint64_t host, got, whole, done;
		struct qcow2_error qerr;
		int ret = qcow2_alloc_write(m->low, offset, len, &host, &got, &qerr);

		if (ret)
			return merge_qfail(err, ret, &qerr);
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
	return ret ? merge_qfail(err, ret, &qerr) : 0;
}

/*
 * What could not be decompressed as it is, where that can be, else something that cannot be
 * either: for zstd that is no frame, for deflate a block of a type that there is not.
 */
static int put_bad(struct merge_run *m, uint64_t offset, struct cluster *c, struct cbw_error *err)
{
	static const char never[] = "\x07 cbw: this could not be decompressed when it was merged";
	struct qcow2_error qerr;
	size_t len = sizeof(never);
	int ret = 0;

	if (m->same_packing)
		ret = qcow2_peek_compressed(m->up, 0, offset, m->packed, m->cluster - 1, &len, &qerr);
	else
		memcpy(m->packed, never, len);
	if (!ret)
		ret = qcow2_write_compressed(m->low, offset, m->packed, len, &qerr);
	if (ret)
		return merge_qfail(err, ret, &qerr);
	c->content = COMPRESSED;
	return 0;
}

/* Writes clusters from @at on that are of one kind; *end: behind them. */
static int put_some(struct merge_run *m, uint64_t start, uint64_t end, uint64_t at,
		    uint64_t *to, struct cbw_error *err)
{
	struct cluster *c = &m->map[(at - start) / m->cluster], *n;
	const char *buf = m->buf + (at - start);
	bool zero = merge_all_zero(buf, m->cluster);
	struct qcow2_error qerr;
	uint64_t next = at + m->cluster;
	int ret;

	*to = next;
	if (!c->touched)
		return 0;
	if (c->loss == LOSS_ALL)
		return put_bad(m, at, c, err);
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
		if (!n->touched || n->loss == LOSS_ALL || zero != merge_all_zero(m->buf + (next - start), m->cluster) ||
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
	return ret ? merge_qfail(err, ret, &qerr) : 0;
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
	return ret ? merge_qfail(err, ret, &qerr) : 0;
}

/* What is to become of a range that is not what it was when the merge began. */
static int not_as_begun(struct merge_run *m, uint64_t start, uint64_t end, struct cbw_error *err)
{
	const char *dir = esc(m->chain->dir);

	if (!m->repair)
		return fail_with(err, EUCLEAN, "%s: bytes %llu to %llu of the volume are not any more in %s, in %s or below them what they were when the merge began; put back the one that is damaged, or 'cbw check -r %s' ends the merge with what is there, and the range stays known as damaged",
				 dir, (ull)start, (ull)end - 1, m->lower->file,
				 m->upper->file, dir);
	say("%s: bytes %llu to %llu of the volume were damaged while they were merged into %u: 'cbw verify' goes on to say so",
	    dir, (ull)start, (ull)end - 1, m->upper->id);
	m->doubtful = true;
	return 0;
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
	struct scan_range up = { 0 };
	bool any;
	int ret;

	ret = merge_map(m, start, end, &any, err);
	if (ret || (!any && !was_taken(m, nr)))
		return ret;
	ret = merge_read(m, nr, &up, err);
	if (!ret)
		ret = merge_lay(m, start, end, err);
	if (ret)
		return ret;
	if (merge_losses(m, start, end, m->repair ? m->upper : NULL) ||
	    merge_new_sum(m, start, end) != m->after->crc[nr])
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

/*
 * Zero clusters over what is below have no checksum. Of one that was lost since the merge began
 * the range is as it has to be, and what is below shows.
 */
static int compare_zeros(struct merge_run *m, uint64_t zeros, struct entry *result,
			 struct cbw_error *err)
{
	const struct chain_merge *merge = &m->chain->merge;
	const char *dir = esc(m->chain->dir);

	if (!m->backed || !merge->zero_known || zeros == merge->zero)
		return 0;
	if (!m->repair)
		return fail_with(err, EUCLEAN, "%s: zero clusters of %s or %s are not any more what they were when the merge began: %llu bytes, not %llu; put back the one that is damaged, or 'cbw check -r %s' ends the merge with what is there, and the image stays known as damaged",
				 dir, m->lower->file, m->upper->file, (ull)zeros, (ull)merge->zero,
				 dir);
	say("%s: zero clusters were damaged while they were merged into %u: 'cbw verify' goes on to say so",
	    dir, m->upper->id);
	result->zero = merge->zero;
	m->doubtful = true;
	return 0;
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
				return merge_qfail(err, ret, &qerr);
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
	return compare_zeros(m, zeros, result, err);
}

int merge_data(const struct chain *chain, const struct entry *lower,
	       const struct entry *upper, const struct details *lower_d,
	       const struct details *upper_d, const struct sums *after,
	       const struct merge_opts *opts, struct entry *result, bool *doubt,
	       struct cbw_error *err)
{
	struct merge_run m = {
		.chain = chain, .lower = lower, .upper = upper,
		.lower_d = lower_d, .upper_d = upper_d, .size = upper->size,
		.after = (struct sums *)after,
		.punch = opts->punch, .repair = opts->repair,
		.batch = opts->batch ? opts->batch : BATCH,
		.low_src.fd = -1, .up_src.fd = -1,
		.buf = scan_buffer(), .up_buf = scan_buffer(),
	};
	uint64_t nr;
	int ret;

	progress_begin(&m.progress, "merge", upper->file, upper->copied, opts->json);
	ret = merge_open(&m, QCOW2_OPEN_WRITE | QCOW2_OPEN_REUSE | QCOW2_OPEN_PUNCH,
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
	merge_close(&m);
	*doubt |= m.doubtful;
	return ret;
}
