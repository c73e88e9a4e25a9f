// SPDX-License-Identifier: GPL-2.0-or-later
/* from a source to a sink */
#include "cbw.h"
#include "crc.h"
#include "engine.h"
#include "qcow2.h"

#define BLOCK		4096u
#define SYNC_BYTES	(64u << 20)
#define QUICK		(128u << 10)
#define UNITS_MAX	256u	/* of a piece */

/* What becomes of a unit; else how many bytes it was compressed to. */
#define UNIT_ZERO	0u
#define UNIT_PLAIN	UINT32_MAX
#define UNIT_SAME	(UINT32_MAX - 1)	/* the target has it */

/**
 * struct verdict - what a worker has found out about a piece
 * @unit: of each unit: UNIT_*, or its compressed length, at the same place of the extra buffer
 * @crc, @crc_bytes: of the units with data
 * @lost: units that could not be read
 */
struct verdict {
	uint32_t unit[UNITS_MAX];
	uint32_t crc;
	uint64_t crc_bytes;
	unsigned int lost;
	bool lost_unit[UNITS_MAX];
	char why[160];
};

/**
 * struct run
 * @e: &@own, what the caller wants
 * @at: range that is being read, of @e->ranges; @zero_at: the same of @e->zero
 * @next: offset that is to be read next
 * @left: what is left there of the source's run
 * @done: written; @syncing: the same, for the sync under way
 */
struct run {
	struct engine *e;
	struct engine own;
	struct ranges all;
	const struct ranges *ranges;
	size_t at, zero_at;
	uint64_t next;
	uint64_t run_end;
	struct source_run run;
	uint32_t unit;
	uint32_t piece;		/* what pieces are cut at: at least O_DIRECT's block */
	uint64_t done_bytes;
	struct ranges done;
	struct ranges syncing;
	struct progress progress;
};

static uint32_t min32(uint64_t a, uint32_t b)
{
	return a < b ? (uint32_t)a : b;
}

/* ---- what comes next ------------------------------------------------------------ */

/* The next range of data or of zeros, whichever comes first; false: there is none. */
static bool next_range(struct run *r, uint64_t *end, bool *zero)
{
	const struct ranges *data = r->ranges, *none = r->e->zero;
	const struct cbw_range *d = r->at < data->nr ? &data->v[r->at] : NULL;
	const struct cbw_range *z = none && r->zero_at < none->nr ? &none->v[r->zero_at] : NULL;

	if (!d && !z)
		return false;
	*zero = !d || (z && z->offset < d->offset);
	if (*zero)
		d = z;
	if (r->next < d->offset)
		r->next = d->offset;
	*end = d->offset + d->length;
	return true;
}

static void advance(struct run *r, uint64_t length, uint64_t end, bool zero)
{
	r->next += length;
	if (r->next < end)
		return;
	if (zero)
		r->zero_at++;
	else
		r->at++;
}

/* A piece ends at a multiple of its size: large requests stay aligned. */
static uint64_t cut(const struct xfer_piece *p, uint64_t at, uint64_t left)
{
	uint64_t most = p->max - at % p->max;

	return left < most ? left : most;
}

/* As the source has it; what it cannot map is asked for, and then cannot be read. */
static int map(struct run *r, uint64_t end, struct cbw_error *err)
{
	struct engine *e = r->e;
	int ret;

	if (r->next < r->run_end)
		return 0;
	ret = e->src->ops->map(e->src, r->next, end - r->next, &r->run, err);
	if (ret && !e->salvage)
		return ret;
	if (ret)
		r->run = (struct source_run){ r->piece, SOURCE_CALL, XFER_CALL, -1, 0 };
	r->run_end = r->next + r->run.length;
	return 0;
}

static int engine_next(void *ctx, struct xfer_piece *p, struct cbw_error *err)
{
	struct run *r = ctx;
	struct engine *e = r->e;
	uint64_t end, left, whole;
	bool zero;
	int ret;

	if (!next_range(r, &end, &zero))
		return 0;
	p->offset = r->next;
	left = end - r->next;
	if (zero) {
		p->how = XFER_NONE;
		p->length = left;
		advance(r, left, end, true);
		return 1;
	}
	ret = map(r, end, err);
	if (ret)
		return ret;
	/* the part of the run that is whole units; the volume's end is the end of one */
	whole = r->run_end - r->next;
	if (whole < left)
		whole = whole / r->piece * r->piece;
	else
		whole = left;
	if (!whole || r->run.kind == SOURCE_CALL || (r->run.kind == SOURCE_ZERO && e->only_changed)) {
		/* several runs meet in one unit, or it takes the source's own way */
		p->how = XFER_CALL;
		p->length = cut(p, r->next, whole ? whole : left);
	} else if (r->run.kind == SOURCE_ZERO) {
		p->how = XFER_NONE;
		p->length = whole;
	} else {
		p->how = r->run.how;
		p->fd = r->run.fd;
		p->src_offset = r->run.src_offset;
		p->length = cut(p, r->next, whole);
		/* whole blocks for O_DIRECT; images end with a whole cluster */
		p->ask = (uint32_t)((p->length + BLOCK - 1) / BLOCK * BLOCK);
		r->run.src_offset += p->length;
	}
	advance(r, p->length, end, false);
	return 1;
}

/* ---- in the workers -------------------------------------------------------------- */

static bool all_zero(const char *buf, size_t len)
{
	uint64_t first;

	/* units are at least 512 bytes */
	memcpy(&first, buf, sizeof(first));
	return !first && !memcmp(buf, buf + sizeof(first),
				 len - sizeof(first));
}

/* Unit by unit: what cannot be read becomes zeros, and is remembered. */
static void salvage(struct run *r, const struct xfer_piece *p, const struct xfer_bufs *bufs,
		    unsigned int worker)
{
	struct source *src = r->e->src;
	struct verdict *v = bufs->own;
	struct cbw_error err;
	uint32_t at;

	for (at = 0; at < p->length; at += r->unit) {
		uint32_t now = min32(p->length - at, r->unit);

		if (!src->ops->read(src, p->offset + at, bufs->data + at, now, worker, &err))
			continue;
		memset(bufs->data + at, 0, now);
		v->lost_unit[at / r->unit] = true;
		if (!v->lost++)
			snprintf(v->why, sizeof(v->why), "%.*s", (int)sizeof(v->why) - 1, err.msg);
	}
}

static int engine_read(void *ctx, const struct xfer_piece *p, const struct xfer_bufs *bufs,
		       unsigned int worker, struct cbw_error *err)
{
	struct run *r = ctx;
	struct source *src = r->e->src;
	int ret = src->ops->read(src, p->offset, bufs->data, (uint32_t)p->length, worker, err);

	if (!ret || !r->e->salvage)
		return ret;
	salvage(r, p, bufs, worker);
	return 0;
}

/* Whether the target has it: its data is read into the extra buffer. */
static int compare(struct run *r, const struct xfer_piece *p, const struct xfer_bufs *bufs,
		   unsigned int worker, struct cbw_error *err)
{
	struct sink *dst = r->e->dst;
	struct verdict *v = bufs->own;
	uint32_t at;
	int ret;

	ret = dst->ops->read(dst, p->offset, bufs->extra, (uint32_t)p->length, worker, err);
	if (ret)
		return ret;
	for (at = 0; at < p->length; at += r->unit)
		if (!memcmp(bufs->data + at, bufs->extra + at, min32(p->length - at, r->unit)))
			v->unit[at / r->unit] = UNIT_SAME;
	return 0;
}

static int engine_work(void *ctx, const struct xfer_piece *p, const struct xfer_bufs *bufs,
		       unsigned int worker, struct cbw_error *err)
{
	struct run *r = ctx;
	const struct sink *dst = r->e->dst;
	uint32_t unit = r->unit, at, padded;
	struct verdict *v = bufs->own;

	padded = (uint32_t)((p->length + unit - 1) / unit * unit);
	memset(bufs->data + p->length, 0, padded - p->length);
	v->crc = 0;
	v->crc_bytes = 0;
	for (at = 0; at < padded; at += unit) {
		uint32_t *u = &v->unit[at / unit];
		char *data = bufs->data + at;
		size_t len;

		if (all_zero(data, unit)) {
			*u = UNIT_ZERO;
			continue;
		}
		*u = UNIT_PLAIN;
		if (r->e->sums) {
			v->crc = crc_cluster(v->crc, p->offset + at, data, unit);
			v->crc_bytes += CRC_CLUSTER_BYTES(unit);
		}
		if (dst->compress && !qcow2_compress(dst->type, dst->compress, data, unit,
						     bufs->extra + at, &len))
			*u = (uint32_t)len;
	}
	return r->e->only_changed ? compare(r, p, bufs, worker, err) : 0;
}

static int engine_write(void *ctx, const struct xfer_write *w, unsigned int worker,
			struct cbw_error *err)
{
	struct sink *dst = ((struct run *)ctx)->e->dst;

	return dst->ops->write(dst, w, worker, err);
}

/* ---- where it goes ---------------------------------------------------------------- */

static int put_zeros(struct run *r, uint64_t offset, uint64_t length, struct cbw_error *err)
{
	struct sink *dst = r->e->dst;

	r->e->zeros += length;
	return dst->say_zero ? dst->ops->zero(dst, offset, length, err) : 0;
}

/* Units from @at on that are dealt with in one way: where they end. */
static uint32_t same_way(const struct run *r, const struct verdict *v, uint32_t at, uint32_t end)
{
	uint32_t first = v->unit[at / r->unit], to = at + r->unit;

	if (first == UNIT_ZERO || first == UNIT_PLAIN || first == UNIT_SAME)
		while (to < end && v->unit[to / r->unit] == first)
			to += r->unit;
	return to;
}

/* Zeros that are too few for a request of their own go as data do. */
static void few_zeros(const struct run *r, struct verdict *v, uint32_t end)
{
	uint32_t at, to, i;

	if (r->e->dst->zero_min <= r->unit)
		return;
	for (at = 0; at < end; at = to) {
		to = same_way(r, v, at, end);
		if (v->unit[at / r->unit] != UNIT_ZERO || to - at >= r->e->dst->zero_min)
			continue;
		for (i = at / r->unit; i < to / r->unit; i++)
			v->unit[i] = UNIT_PLAIN;
	}
}

static void tell_lost(struct run *r, const struct xfer_piece *p, struct verdict *v)
{
	uint32_t nr = (uint32_t)((p->length + r->unit - 1) / r->unit), i, n;

	for (i = 0; i < nr; i += n) {
		uint64_t from = p->offset + (uint64_t)i * r->unit, to;

		for (n = 0; i + n < nr && v->lost_unit[i + n]; n++)
			v->lost_unit[i + n] = false;
		if (!n) {
			n = 1;
			continue;
		}
		to = from + (uint64_t)n * r->unit;
		if (to > p->offset + p->length)
			to = p->offset + p->length;
		r->e->unreadable += to - from;
		if (r->e->lost)
			r->e->lost(r->e->arg, from, to - from, v->why);
	}
	v->lost = 0;
}

static int engine_place(void *ctx, const struct xfer_piece *p, const struct xfer_bufs *bufs,
			struct xfer_write *w, struct cbw_error *err)
{
	struct run *r = ctx;
	struct engine *e = r->e;
	struct sink *dst = e->dst;
	struct verdict *v = bufs->own;
	uint32_t at, to, padded;
	int nr = 0, ret;

	if (p->how == XFER_NONE)
		return put_zeros(r, p->offset, p->length, err);
	if (v->lost)
		tell_lost(r, p, v);
	padded = (uint32_t)((p->length + r->unit - 1) / r->unit * r->unit);
	if (e->sums && v->crc_bytes)
		sums_add(e->sums, p->offset, v->crc, v->crc_bytes);
	few_zeros(r, v, padded);
	for (at = 0; at < padded; at = to) {
		uint64_t offset = p->offset + at;
		uint32_t kind = v->unit[at / r->unit], length;

		to = same_way(r, v, at, padded);
		length = min32(p->length, to) - at;
		if (kind == UNIT_ZERO) {
			ret = put_zeros(r, offset, length, err);
		} else if (kind == UNIT_SAME) {
			e->unchanged += length;
			ret = 0;
		} else if (kind == UNIT_PLAIN) {
			ret = dst->ops->data(dst, offset, bufs->data + at, length, w + nr,
					     XFER_WRITES_MAX - (unsigned int)nr, err);
			e->copied += length;
		} else {
			ret = dst->ops->packed(dst, offset, bufs->extra + at, kind, err);
			e->copied += length;
		}
		if (ret < 0)
			return ret;
		nr += ret;
	}
	return nr;
}

/* ---- what has been done -------------------------------------------------------------- */

static int engine_done(void *ctx, const struct xfer_piece *p,
		       struct cbw_error *err)
{
	struct run *r = ctx;

	(void)err;
	if (r->e->durable)
		ranges_add(&r->done, p->offset, p->length);
	r->done_bytes += p->length;
	return 0;
}

static void engine_mark(void *ctx)
{
	struct run *r = ctx;

	ranges_take_whole(&r->done, &r->syncing, r->e->chunk, r->e->src->size);
}

static int engine_synced(void *ctx, struct cbw_error *err)
{
	struct run *r = ctx;
	int ret = 0;

	if (r->e->quiet)
		ret = r->e->dst->ops->flush(r->e->dst, err);
	if (!ret && r->syncing.nr)
		ret = r->e->durable(r->e->arg, &r->syncing, err);
	r->syncing.nr = 0;
	return ret;
}

static int engine_read_failed(void *ctx, const struct xfer_piece *p, const struct xfer_bufs *bufs,
			      int code, struct cbw_error *err)
{
	struct run *r = ctx;

	if (r->e->salvage) {
		salvage(r, p, bufs, 0);
		return 0;
	}
	if (r->e->why)
		return r->e->why(r->e->arg, p->offset, code, err);
	return fail_with(err, code, "%s: reading %llu bytes at offset %llu: %s",
			 esc(r->e->src->name), (ull)p->length, (ull)p->offset,
			 code == EUCLEAN ? "the file is cut short" : strerror(code));
}

static int engine_tick(void *ctx, struct cbw_error *err)
{
	struct run *r = ctx;

	progress_tick(&r->progress, r->done_bytes);
	return r->e->check ? r->e->check(r->e->arg, err) : 0;
}

/* The longest piece there can be, a power of two, so that no buffers are made for longer ones. */
static uint32_t longest(const struct run *r)
{
	uint64_t most = XFER_PIECE;
	uint64_t bytes = r->piece;
	size_t i;

	/* every other unit may need a write of its own, and a place may be split once more */
	if ((uint64_t)XFER_WRITES_MAX * r->unit < most)
		most = (uint64_t)XFER_WRITES_MAX * r->unit;
	for (i = 0; i < r->ranges->nr && bytes < most; i++)
		while (bytes < r->ranges->v[i].length && bytes < most)
			bytes *= 2;
	return (uint32_t)(bytes < most ? bytes : most);
}

int engine_run(struct engine *caller, struct cbw_error *err)
{
	struct engine *e = caller;
	struct xfer_ops ops = {
		.next = engine_next,
		.read = engine_read,
		.work = engine_work,
		.place = engine_place,
		.write = engine_write,
		.done = engine_done,
		.mark = e->durable ? engine_mark : NULL,
		.synced = e->durable ? engine_synced : NULL,
		.read_failed = engine_read_failed,
		.tick = engine_tick,
	};
	struct xfer_params params = {
		.target = e->dst->name,
		.sync_fd = e->quiet ? -1 : e->dst->sync_fd,
		.sync_bytes = e->sync_bytes ? e->sync_bytes : SYNC_BYTES,
		.rate = e->rate,
		.extra = e->dst->compress || e->only_changed,
		.own_size = sizeof(struct verdict),
		.piece_min = e->dst->unit,
		.workers = e->workers,
	};
	/* not on the stack: a worker that hangs may outlive us */
	struct run *r = xcalloc(1, sizeof(*r));
	int ret;

	r->own = *e;
	e = r->e = &r->own;
	r->ranges = e->ranges;
	r->unit = e->dst->unit;
	r->piece = e->dst->unit > BLOCK ? e->dst->unit : BLOCK;
	if (!r->ranges) {
		ranges_add(&r->all, 0, e->src->size);
		r->ranges = &r->all;
	}
	params.piece_max = longest(r);
	params.bytes = ranges_total(r->ranges);
	/* to look for zeros takes less than to hand it to a thread */
	if (!e->dst->compress && !e->sums && !e->only_changed)
		params.quick = QUICK;
	e->copied = e->unchanged = e->zeros = e->unreadable = 0;
	progress_begin(&r->progress, e->what, e->name,
		       ranges_total(r->ranges) + (e->zero ? ranges_total(e->zero) : 0), e->json);
	if (e->src->memory && e->dst->memory && !e->durable && !e->sums && !e->rate &&
	    !e->check && !e->why)
		ret = xfer_run_mem(&ops, r, &params, err);
	else
		ret = xfer_run(&ops, r, &params, &e->stuck, err);
	progress_end(&r->progress);
	*caller = r->own;
	ranges_free(&r->all);
	ranges_free(&r->done);
	ranges_free(&r->syncing);
	if (e->stuck)
		e->src->stuck = e->dst->stuck = true;
	else
		free(r);
	return ret;
}
