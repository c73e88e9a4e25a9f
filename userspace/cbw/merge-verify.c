// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a merge will end with: before it begins, when all that it reads has to be what it was;
 * and of one that has begun and lost that, from what is there.
 */
#include "cbw.h"
#include "details.h"
#include "merge-int.h"
#include "restore.h"

static uint64_t end_of(const struct merge_run *m, uint64_t nr)
{
	uint64_t start = nr * SUMS_RANGE;

	return m->size - start < SUMS_RANGE ? m->size : start + SUMS_RANGE;
}

/* Both images are only read, and what is below is compared; merge_open() comes next. */
static void begin(struct merge_run *m, struct chain *chain, const struct entry *lower,
		  const struct entry *upper, const char *what, bool json)
{
	m->chain = chain;
	m->lower = lower;
	m->upper = upper;
	m->size = upper->size;
	m->low_src.fd = m->up_src.fd = -1;
	m->buf = scan_buffer();
	m->up_buf = scan_buffer();
	m->below_buf = scan_buffer();
	m->below = merge_below_open(chain, lower, json);
	sums_init(m->after, upper->size);
	progress_begin(&m->progress, what, upper->file, upper->copied, json);
}

/* Those of the result have no checksum either: one that is lost meanwhile is missing at the end. */
static void note_zeros(struct chain *chain, const struct merge_run *m)
{
	chain->merge.zero = m->new_zeros;
	chain->merge.zero_known = m->backed;
}

/* ---- before it begins ---------------------------------------------------- */

static int verify_range(struct merge_run *m, uint64_t nr, struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE, end = end_of(m, nr);
	struct scan_range up, low;
	bool any;
	int ret;

	m->moved.nr = 0;
	m->after->crc[nr] = m->lower_d->sums.crc[nr];
	ret = merge_map(m, start, end, &any, err);
	if (ret)
		return ret;
	if (!any && !m->upper_d->sums.crc[nr]) {
		m->new_zeros += merge_new_zeros(m, start, end);
		return 0;
	}
	ret = scan_one(&m->up_src, nr, m->up_buf, NULL, &up, err);
	if (!ret && up.crc != m->upper_d->sums.crc[nr])
		ret = merge_damaged(m->chain, m->upper, start, end, err);
	if (!ret)
		ret = scan_one(&m->low_src, nr, m->buf, NULL, &low, err);
	if (!ret && low.crc != m->lower_d->sums.crc[nr])
		ret = merge_damaged(m->chain, m->lower, start, end, err);
	if (!ret)
		ret = merge_lay(m, start, end, err);
	if (!ret) {
		m->after->crc[nr] = merge_new_sum(m, start, end);
		m->new_zeros += merge_new_zeros(m, start, end);
	}
	m->done += up.copied;
	progress_tick(&m->progress, m->done);
	if (!ret && stop_signal)
		ret = fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
	return ret;
}

int merge_verify(struct chain *chain, const struct entry *lower, const struct entry *upper,
		 const struct details *lower_d, const struct details *upper_d, bool json,
		 struct sums *after, struct cbw_error *err)
{
	struct merge_run m = { .lower_d = lower_d, .upper_d = upper_d, .after = after };
	struct cbw_error why;
	uint64_t nr;
	int ret;

	begin(&m, chain, lower, upper, "verify", json);
	ret = merge_open(&m, 0, 0, &why);
	for (nr = 0; nr < after->nr && !ret; nr++)
		ret = verify_range(&m, nr, &why);
	/* no checksum knows of them, and one that is lost shows what is below */
	if (!ret)
		ret = scan_compare_zeros(chain, lower, m.low_zeros, &why);
	if (!ret)
		ret = scan_compare_zeros(chain, upper, m.up_zeros, &why);
	if (!ret)
		note_zeros(chain, &m);
	progress_end(&m.progress);
	merge_close(&m);
	if (distrust(ret))
		return fail_with(err, ret, "%s; the merge would read that: nothing is merged until a good copy of the file is put back, without which only a full backup begins anew",
				 why.msg);
	return ret ? fail_with(err, ret, "%s", why.msg) : 0;
}

/* ---- when that is lost --------------------------------------------------- */

/*
 * The sum of a range that is as it was has to be its old one. A range is that if the upper
 * image has nothing of it, and had no data, since zeros are not punched out.
 */
static bool as_it_was(const struct merge_run *m, uint64_t nr, bool any)
{
	return !any && m->lower_d && m->upper_d && !m->upper_d->sums.crc[nr];
}

/* Else its sum is all that there is; but what is known to be damaged gets one that it has not. */
static int guess_range(struct merge_run *m, uint64_t nr, struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE, end = end_of(m, nr);
	struct scan_range up;
	struct cbw_error why;
	bool any, bad = false;
	uint32_t crc;
	int ret;

	m->moved.nr = 0;
	ret = merge_map(m, start, end, &any, err);
	if (ret)
		return ret;
	if (as_it_was(m, nr, any)) {
		m->after->crc[nr] = m->lower_d->sums.crc[nr];
		m->new_zeros += merge_new_zeros(m, start, end);
		return 0;
	}
	ret = merge_read(m, nr, &up, err);
	if (ret)
		return ret;
	if (m->upper_d && !m->punch && up.crc != m->upper_d->sums.crc[nr]) {
		merge_damaged(m->chain, m->upper, start, end, &why);
		say("%s: 'cbw verify' goes on to say so", why.msg);
		bad = true;
	}
	ret = merge_lay(m, start, end, &why);
	if (ret && !distrust(ret))
		return fail_with(err, ret, "%s", why.msg);
	if (ret) {
		say("%s: bytes %llu to %llu of the volume in %u go on being known as damaged",
		    why.msg, (ull)start, (ull)end - 1, m->upper->id);
		bad = true;
	}
	crc = merge_new_sum(m, start, end);
	bad |= merge_losses(m, start, end, NULL);
	m->after->crc[nr] = bad ? ~crc : crc;
	m->new_zeros += merge_new_zeros(m, start, end);
	m->done += up.copied;
	progress_tick(&m->progress, m->done);
	return stop_signal ? fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal) : 0;
}

int merge_guess(struct chain *chain, const struct entry *lower, const struct entry *upper,
		const struct details *lower_d, const struct details *upper_d, bool json,
		struct sums *after, struct cbw_error *err)
{
	struct merge_run m = { .lower_d = lower_d, .upper_d = upper_d, .after = after };
	struct cbw_error why;
	uint64_t nr;
	int ret;

	m.punch = chain->merge.punch;
	begin(&m, chain, lower, upper, "read", json);
	ret = merge_open(&m, 0, 0, err);
	for (nr = 0; nr < after->nr && !ret; nr++)
		ret = guess_range(&m, nr, err);
	/* nothing punches them, and what is known to be damaged gets a number that no image has */
	if (!ret && scan_compare_zeros(chain, upper, m.up_zeros, &why)) {
		say("%s: %s", why.msg, m.backed ? "'cbw verify' goes on to say so" :
		    "what the lower image has shows in their place, and a full image tells nothing of that");
		m.new_zeros |= 1;
	}
	if (!ret)
		note_zeros(chain, &m);
	progress_end(&m.progress);
	merge_close(&m);
	return ret;
}
