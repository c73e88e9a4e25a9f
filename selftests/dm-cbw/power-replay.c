// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbw-power: what a device may hold when the power is cut at some event.
 */
#include "power.h"

#define CHUNK		512u	/* sectors of a table's part */

const char *const mode_names[MODES] = {
	"none", "all", "only-one", "all-but-one", "prefix", "whole", "torn", "mixed",
};

enum fate {
	GONE,
	THERE,
	PARTLY,
};

struct op {
	const struct powerlog_rec *r;
	uint64_t end;		/* it took effect up to here */
	bool durable;
	enum fate fate;
	uint64_t chance;	/* of a sector's being there, of 2^32 */
	uint64_t salt;
	uint64_t order;		/* salt of its key */
};

/* What is seen of a sector: the one with the largest key. */
struct cell {
	uint64_t key;
	uint32_t op;		/* from 1; 0: the base */
};

static struct mutation mutation_of(uint32_t id)
{
	struct mutation m = opt.all;
	int i;

	for (i = 0; i < opt.nof; i++)
		if (opt.of_id[i] == id) {
			m.flush |= opt.of[i].flush;
			m.fua |= opt.of[i].fua;
		}
	return m;
}

static struct op *ops_of(const struct image *im, uint32_t *nr)
{
	struct op *ops = malloc((plog.nr + 1) * sizeof(*ops));
	struct mutation m = mutation_of(im->id);
	const struct powerlog_rec *r;
	uint64_t i, flushed = 0;
	uint32_t n = 0;
	struct op *op;

	if (!ops)
		die(EXIT_IO, "no memory");
	/* records are in the order of submission: the last one counts */
	for (i = 0; i < plog.nr && plog.rec[i]->submit <= opt.at; i++) {
		r = plog.rec[i];
		if (r->id == im->id && is_flush(r) && completed(r, opt.at) && !m.flush)
			flushed = r->submit;
	}
	for (i = 0; i < plog.nr && plog.rec[i]->submit <= opt.at; i++) {
		r = plog.rec[i];
		if (r->id != im->id || r->type > POWERLOG_DISCARD)
			continue;
		if (r->sector + r->sectors > im->size / SECTOR)
			die(EXIT_IO, "%s is smaller than what was written to device %u", im->base, im->id);
		op = &ops[n++];
		op->r = r;
		op->end = r->complete && r->complete <= opt.at ? r->complete : opt.at + 1;
		op->durable = completed(r, opt.at) &&
			      ((r->flags & POWERLOG_FUA && !m.fua) || r->complete < flushed);
		op->salt = mix(mix(opt.seed, im->id), r->submit);
		op->order = opt.ordered ? mix(mix(opt.order, im->id), r->submit) : op->salt;
	}
	*nr = n;
	return ops;
}

/* A point of its time in flight; those of two that were not in flight together are in order. */
static uint64_t key_of(const struct op *op, uint64_t salt)
{
	uint64_t span = (op->end - op->r->submit) << 20;

	return (op->r->submit << 20) + mix(salt, 2) % (span + 1);
}

static enum mode draw(const struct image *im, struct op *ops, uint32_t nr)
{
	uint64_t state = mix(mix(opt.seed, im->id), 3), cut, p, c;
	enum mode mode = opt.mode >= 0 ? opt.mode : (int)(next(&state) % MODES);
	uint32_t i, loose = 0, one, k = 0;

	for (i = 0; i < nr; i++)
		loose += !ops[i].durable;
	one = loose ? next(&state) % loose : 0;
	p = (1 + next(&state) % 7) << 29;
	/* so that those that are not durable are cut, not the whole log */
	cut = 0;
	for (i = 0; i < nr; i++)
		if (!ops[i].durable && k++ == one)
			cut = ops[i].end;
	for (i = 0, k = 0; i < nr; i++) {
		struct op *op = &ops[i];

		c = mix(op->salt, 5);
		op->fate = THERE;
		if (op->durable)
			goto discards;
		switch (mode) {
		case NONE:
			op->fate = GONE;
			break;
		case ONLY_ONE:
			op->fate = k == one ? THERE : GONE;
			break;
		case ALL_BUT_ONE:
			op->fate = k == one ? GONE : THERE;
			break;
		case PREFIX:
			op->fate = op->end <= cut ? THERE : GONE;
			break;
		case WHOLE:
			op->fate = (c & 0xffffffff) < p ? THERE : GONE;
			break;
		case TORN:
			op->fate = PARTLY;
			break;
		case MIXED:
			op->fate = c % 4 == 0 ? GONE : c % 4 == 1 ? THERE : PARTLY;
			break;
		default:
			break;
		}
		/* mostly half of it, but also nearly all and nearly nothing */
		op->chance = (1 + (c >> 40) % 15) << 28;
		k++;
discards:
		if (op->r->type == POWERLOG_DISCARD && !opt.discard_zeros && mix(op->salt, 6) % 2)
			op->fate = GONE;
	}
	return mode;
}

static struct cell *cell_of(struct cell **table, uint64_t sector)
{
	struct cell **part = &table[sector / CHUNK];

	if (!*part)
		*part = calloc(CHUNK, sizeof(**part));
	if (!*part)
		die(EXIT_IO, "no memory");
	return &(*part)[sector % CHUNK];
}

static void place(struct cell **table, const struct op *op, uint32_t nr)
{
	uint64_t s = op->r->sector, end = s + op->r->sectors, unit = opt.sector / SECTOR, stop, salt;
	uint64_t key = key_of(op, op->order);
	struct cell *c;

	for (; s < end; s = stop) {
		stop = (s / unit + 1) * unit;
		if (stop > end)
			stop = end;
		/* each unit for itself where it is torn */
		if (op->fate == PARTLY) {
			salt = mix(op->salt, s / unit + 100);
			if ((salt & 0xffffffff) >= op->chance)
				continue;
			if (!opt.ordered)
				key = key_of(op, salt);
		}
		for (; s < stop; s++) {
			c = cell_of(table, s);
			if (key >= c->key)
				*c = (struct cell){ key, nr };
		}
	}
}

static void write_run(struct image *im, const struct op *op, uint64_t s, uint64_t n)
{
	const char *data = op->r->type == POWERLOG_WRITE ?
		data_of(op->r) + (s - op->r->sector) * SECTOR : NULL;

	image_patch(im, data, n * SECTOR, s * SECTOR);
}

/* Runs of sectors of the same operation. */
static void write_table(struct image *im, struct cell **table, const struct op *ops)
{
	uint64_t parts = (im->size / SECTOR + CHUNK - 1) / CHUNK, i, s, start = 0;
	uint32_t in = 0, op;

	for (i = 0; i <= parts; i++)
		for (s = i * CHUNK; s < (i + 1) * CHUNK; s++) {
			op = i < parts && table[i] ? table[i][s % CHUNK].op : 0;
			if (op != in) {
				if (in)
					write_run(im, &ops[in - 1], start, s - start);
				in = op;
				start = s;
			}
			if (i == parts || !table[i])
				break;
		}
}

void replay(struct image *im)
{
	uint64_t parts = (im->size / SECTOR + CHUNK - 1) / CHUNK, i;
	struct cell **table = calloc(parts + 1, sizeof(*table));
	uint32_t nr, n, durable = 0, fates[3] = { 0 };
	struct op *ops = ops_of(im, &nr);
	enum mode mode = draw(im, ops, nr);

	if (!table)
		die(EXIT_IO, "no memory");
	image_revert(im);
	for (n = 0; n < nr; n++) {
		durable += ops[n].durable;
		if (!ops[n].durable)
			fates[ops[n].fate]++;
		if (ops[n].fate != GONE)
			place(table, &ops[n], n + 1);
	}
	write_table(im, table, ops);
	printf("id=%u mode=%s durable=%u there=%u torn=%u gone=%u\n", im->id, mode_names[mode],
	       durable, fates[THERE], fates[PARTLY], fates[GONE]);
	for (i = 0; i < parts; i++)
		free(table[i]);
	free(table);
	free(ops);
}
