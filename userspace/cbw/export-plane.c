// SPDX-License-Identifier: GPL-2.0-or-later
/* export: bits of a volume */
#include "cbw.h"
#include "export.h"

int plane_init(struct plane *p, uint64_t size, uint64_t unit, struct cbw_error *err)
{
	p->shift = (unsigned int)__builtin_ctzll(unit);
	p->bits = (size >> p->shift) + !!(size & (unit - 1));
	/* pages that no bit is set in are never there */
	p->word = calloc(p->bits / 64 + 1, sizeof(*p->word));
	return p->word ? 0 : fail_with(err, ENOMEM, "no memory for a map of %s",
				       human(p->bits / 8));
}

void plane_free(struct plane *p)
{
	free(p->word);
	p->word = NULL;
}

/* Bits @from to @to - 1. */
static void set(struct plane *p, uint64_t from, uint64_t to)
{
	while (from < to) {
		unsigned int bit = from % 64;
		uint64_t n = to - from < 64 - bit ? to - from : 64 - bit;
		uint64_t mask = n == 64 ? ~0ull : ((1ull << n) - 1) << bit;

		__atomic_fetch_or(&p->word[from / 64], mask, __ATOMIC_RELAXED);
		from += n;
	}
}

void plane_set_inside(struct plane *p, uint64_t offset, uint64_t length, uint64_t size)
{
	const uint64_t unit = 1ull << p->shift;
	uint64_t end = offset + length;

	set(p, (offset + unit - 1) >> p->shift, end == size ? p->bits : end >> p->shift);
}

void plane_set_touched(struct plane *p, uint64_t offset, uint64_t length)
{
	if (length)
		set(p, offset >> p->shift, ((offset + length - 1) >> p->shift) + 1);
}

bool plane_run(const struct plane *p, uint64_t offset, uint64_t length, uint64_t *run)
{
	uint64_t bit = offset >> p->shift, last = (offset + length - 1) >> p->shift, at = bit;
	uint64_t w = __atomic_load_n(&p->word[bit / 64], __ATOMIC_RELAXED);
	bool is = w >> bit % 64 & 1;

	/* the words as if the bit were 0: the run ends at the next 1 */
	w = (is ? ~w : w) >> bit % 64 << bit % 64;
	while (!w) {
		at = (at / 64 + 1) * 64;
		if (at > last)
			break;
		w = __atomic_load_n(&p->word[at / 64], __ATOMIC_RELAXED);
		w = is ? ~w : w;
	}
	if (w)
		at = at / 64 * 64 + (unsigned int)__builtin_ctzll(w);
	*run = at > last ? length : (at << p->shift) - offset;
	return is;
}
