// SPDX-License-Identifier: GPL-2.0-or-later
/* before a merge begins: is all that it reads what it was, and what will it end with */
#include "cbw.h"
#include "details.h"
#include "merge-int.h"

static int damaged(const struct merge_run *m, const struct entry *e, uint64_t nr,
		   uint64_t end, struct cbw_error *err)
{
	return fail_with(err, EUCLEAN,
			 "%s/%s: damaged: bytes %llu to %llu of the volume: the checksum does not fit; it is not merged",
			 esc(m->chain->dir), e->file, (ull)(nr * SUMS_RANGE),
			 (ull)end - 1);
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
	ret = merge_map(m, start, end, &any, err);
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
		ret = merge_lay(m, start, end, err);
	if (!ret)
		m->after->crc[nr] = merge_new_sum(m, start, end);
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
	ret = merge_open(&m, 0, 0, err);
	for (nr = 0; nr < after->nr && !ret; nr++)
		ret = verify_range(&m, nr, err);
	progress_end(&m.progress);
	merge_close(&m);
	return ret;
}
