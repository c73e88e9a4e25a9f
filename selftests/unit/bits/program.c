// SPDX-License-Identifier: GPL-2.0-or-later
#include "model.h"
#include "program.h"

#define NR	4u
#define CELLS	2500u

struct program {
	const u8 *data;
	size_t left;
	unsigned int unit;	/* a cell has 2^unit sectors */
	sector_t len;
	struct twin twin[NR];	/* without bits: none */
};

/* Zeroes when there is no more. */
static unsigned int take(struct program *p, unsigned int bytes)
{
	unsigned int n = 0;

	while (bytes--) {
		n = n << 8 | (p->left ? *p->data : 0);
		p->data += !!p->left;
		p->left -= !!p->left;
	}
	return n;
}

/* Any sector up to @cells cells; the ends of cells are the more interesting ones. */
static sector_t take_sectors(struct program *p, u64 cells)
{
	u64 cell = 1ull << p->unit, n = take(p, 2) % (cells + 1) * cell;
	unsigned int odd = take(p, 1);

	if (odd & 1)
		n += odd * 0x9e3779b1ull % cell;
	else if (odd & 2)
		n -= !!n;
	return n;
}

static void op_alloc(struct program *p, struct twin *t)
{
	unsigned int shift = p->unit + take(p, 1) % 9;

	if (t->bits)
		twin_free(t);
	twin_alloc(t, p->len, min(shift, 22u), p->unit);
}

/* No memory, or more than the limit: as if it had not been asked for. */
static void op_refused(struct program *p)
{
	unsigned int how = take(p, 1);
	u64 words = shim_words, structs = shim_structs;
	struct cbw_bits *bits;

	if (how % 3) {
		shim_calls = 0;
		shim_fail_at = how % 3;
		bits = cbw_bits_alloc(p->len, p->unit);
		shim_fail_at = 0;
	} else {
		*shim_bitmap_limit_mib = 1;
		bits = cbw_bits_alloc((8ull << 20) + 1 + how, 0);
		*shim_bitmap_limit_mib = 0;
	}
	if (bits || shim_words != words || shim_structs != structs)
		shim_fail("not refused, or something is left");
}

static void op_mark(struct program *p, struct twin *t)
{
	/* Some lie behind the end, wholly or in part. */
	sector_t sector = take_sectors(p, t->nr_cells + 20);
	sector_t nr = take_sectors(p, take(p, 1) % 4 ? 300 : t->nr_cells);

	twin_mark(t, sector, nr ? nr : 1);
}

/* A write or a discard; and now and then the memory to tell them apart, or none any more. */
static void op_plane(struct program *p, struct twin *t)
{
	sector_t sector = take_sectors(p, t->nr_cells);
	sector_t nr = take_sectors(p, take(p, 1) % 4 ? 300 : t->nr_cells);
	unsigned int how = take(p, 1);

	/* What is sent to a device lies within it. */
	if (sector >= t->bits->len)
		sector = t->bits->len - 1;
	nr = min(nr ? nr : 1, t->bits->len - sector);
	if (how % 8 == 7)
		twin_add_plane(t);
	else if (how == 254)
		cbw_bits_forget_discards(t->bits);
	else if (how & 1)
		twin_discard(t, sector, nr);
	else
		twin_write(t, sector, nr);
}

static void op_two(struct twin *a, struct twin *b, bool merge, bool discards)
{
	if (!a->bits || !b->bits)
		return;
	if (a->bits->shift == b->bits->shift) {
		twin_check_bytes(a, b);
		if (!merge)
			twin_or(a, b, discards);
	}
	if (merge)
		twin_merge(a, b, discards);
}

static void step(struct program *p)
{
	unsigned int op = take(p, 1);
	struct twin *t = &p->twin[op / 64];

	op %= 64;
	if (!t->bits || op == 0) {
		op_alloc(p, t);
		return;
	}
	switch (op % 16) {
	case 0:
		twin_check_runs(t);
		twin_check_extents(t);
		break;
	case 1:
		twin_check(t);
		break;
	case 2:
		twin_check_bytes(t, NULL);
		break;
	case 3:
		cbw_bits_put(cbw_bits_get(t->bits));
		break;
	case 4:
		op_refused(p);
		break;
	case 5 ... 7:
		op_two(t, &p->twin[take(p, 1) % NR], true, op & 1);
		twin_check_words(t);
		break;
	case 8:
		op_two(t, &p->twin[take(p, 1) % NR], false, op & 16);
		break;
	case 9 ... 12:
		op_plane(p, t);
		twin_check_words(t);
		break;
	default:
		op_mark(p, t);
		if (op & 1)
			twin_check_words(t);
	}
	if (shim_accounted != (s64)shim_words)
		shim_fail("%lld bytes accounted for, not %llu", shim_accounted, shim_words);
}

void program_run(const u8 *data, size_t size)
{
	struct program p = { .data = data, .left = size };
	unsigned int i;

	shim_reset();
	p.unit = take(&p, 1) % 21;
	/* A device does not end with a granule, nor with a cell. */
	p.len = (1 + take(&p, 2) % CELLS) << p.unit;
	p.len -= take(&p, 3) % (1u << p.unit);
	while (p.left)
		step(&p);
	for (i = 0; i < NR; i++) {
		if (!p.twin[i].bits)
			continue;
		twin_check(&p.twin[i]);
		twin_free(&p.twin[i]);
	}
	if (shim_words || shim_structs || shim_accounted)
		shim_fail("memory is left");
	shim_warnings = 0;
}
