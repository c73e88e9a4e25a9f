// SPDX-License-Identifier: GPL-2.0-or-later
/* Sets of sectors: see model.h.  Simple rather than fast. */
#include "model.h"

static uint64_t words(const struct set *s)
{
	return (s->nr + 63) / 64;
}

struct set *set_new(uint64_t nr)
{
	struct set *s = calloc(1, sizeof(*s) + (nr + 63) / 64 * 8);

	if (!s)
		die(EXIT_IO, "no memory");
	s->nr = nr;
	return s;
}

struct set *set_clone(const struct set *s)
{
	struct set *c;

	if (!s)
		return NULL;
	c = set_new(s->nr);
	set_copy(c, s);
	return c;
}

void set_copy(struct set *to, const struct set *from)
{
	memcpy(to->w, from->w, words(from) * 8);
}

void set_empty(struct set *s)
{
	memset(s->w, 0, words(s) * 8);
}

void set_mark(struct set *s, uint64_t first, uint64_t nr, unsigned int shift)
{
	uint64_t i, end = (((first + nr - 1) >> shift) + 1) << shift;

	if (end > s->nr)
		end = s->nr;
	i = first >> shift << shift;
	while (i < end) {
		if (i % 64 == 0 && end - i >= 64) {
			s->w[i / 64] = ~0ull;
			i += 64;
		} else {
			s->w[i / 64] |= 1ull << i % 64;
			i++;
		}
	}
}

void set_or(struct set *to, const struct set *from)
{
	uint64_t i;

	for (i = 0; i < words(to); i++)
		to->w[i] |= from->w[i];
}

void set_or_rounded(struct set *to, const struct set *from, unsigned int shift)
{
	uint64_t start, end = 0;

	while (set_next(from, &start, &end))
		set_mark(to, start, end - start, shift);
}

uint64_t set_count(const struct set *s)
{
	return set_count_either(s, s);
}

uint64_t set_count_either(const struct set *a, const struct set *b)
{
	uint64_t i, n = 0;

	for (i = 0; i < words(a); i++)
		n += __builtin_popcountll(a->w[i] | b->w[i]);
	return n;
}

static bool has(const struct set *s, uint64_t i)
{
	return s->w[i / 64] >> i % 64 & 1;
}

bool set_next(const struct set *s, uint64_t *start, uint64_t *end)
{
	uint64_t i = *end;

	while (i < s->nr && !has(s, i))
		i += i % 64 == 0 && !s->w[i / 64] ? 64 : 1;
	if (i >= s->nr)
		return false;
	*start = i;
	while (i < s->nr && has(s, i))
		i++;
	*end = i;
	return true;
}

bool set_missing(const struct set *a, const struct set *b, const struct set *c,
		 uint64_t *first)
{
	uint64_t i, miss;

	for (i = 0; i < words(a); i++) {
		miss = a->w[i] & ~b->w[i];
		if (c)
			miss &= ~c->w[i];
		if (miss) {
			*first = i * 64 + __builtin_ctzll(miss);
			return true;
		}
	}
	return false;
}
