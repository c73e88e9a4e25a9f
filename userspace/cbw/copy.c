// SPDX-License-Identifier: GPL-2.0-or-later
/* from a snapshot into one image */
#include "cbw.h"
#include "copy.h"
#include "crc.h"
#include "qcow2.h"
#include "xfer.h"

/* release after so much was copied: bounds what the store has to keep */
#define SYNC_BYTES	(64u << 20)

struct copy_run {
	struct copy *c;
	uint32_t cluster;
	size_t at;		/* range that is being read */
	uint64_t next;		/* offset that is to be read next */
	uint64_t done_bytes;
	struct ranges done;	/* written */
	struct ranges syncing;	/* the same, for the sync under way */
	struct progress progress;
};

void ranges_add(struct ranges *r, uint64_t offset, uint64_t length)
{
	struct cbw_range *last = r->nr ? &r->v[r->nr - 1] : NULL;

	if (!length)
		return;
	if (last && offset <= last->offset + last->length) {
		if (offset + length > last->offset + last->length)
			last->length = offset + length - last->offset;
		return;
	}
	if (r->nr == r->room) {
		struct cbw_range *more;

		r->room = r->room ? 2 * r->room : 64;
		more = xcalloc(r->room, sizeof(*more));
		if (r->nr)
			memcpy(more, r->v, r->nr * sizeof(*more));
		free(r->v);
		r->v = more;
	}
	r->v[r->nr++] = (struct cbw_range){ offset, length };
}

void ranges_free(struct ranges *r)
{
	free(r->v);
	*r = (struct ranges){ 0 };
}

void ranges_widen(struct ranges *r, uint64_t unit, uint64_t size)
{
	struct ranges out = { 0 };
	size_t i;

	for (i = 0; i < r->nr; i++) {
		uint64_t from = r->v[i].offset / unit * unit;
		uint64_t to = r->v[i].offset + r->v[i].length;

		to = to > size ? size : to;
		if (to % unit)
			to = to / unit * unit + unit;
		if (to > size)
			to = size;
		if (from < to)
			ranges_add(&out, from, to - from);
	}
	ranges_free(r);
	*r = out;
}

uint64_t ranges_total(const struct ranges *r)
{
	uint64_t total = 0;
	size_t i;

	for (i = 0; i < r->nr; i++)
		total += r->v[i].length;
	return total;
}

void ranges_take_whole(struct ranges *from, struct ranges *to, uint64_t chunk,
		       uint64_t size)
{
	struct ranges rest = { 0 };
	size_t i;

	for (i = 0; i < from->nr; i++) {
		uint64_t begin = from->v[i].offset, end = begin +
			from->v[i].length;
		uint64_t first = (begin + chunk - 1) / chunk * chunk;
		uint64_t last = end == size ? size : end / chunk * chunk;

		if (first < last)
			ranges_add(to, first, last - first);
		/* only the last range can still grow */
		if (i + 1 == from->nr && end > last)
			ranges_add(&rest, last > begin ? last : begin,
				   end - (last > begin ? last : begin));
	}
	ranges_free(from);
	*from = rest;
}

static int copy_next(void *ctx, struct xfer_piece *p, struct cbw_error *err)
{
	struct copy_run *r = ctx;
	const struct ranges *ranges = r->c->ranges;
	const struct cbw_range *range;
	uint64_t left;

	(void)err;
	if (r->at == ranges->nr)
		return 0;
	range = &ranges->v[r->at];
	if (r->next < range->offset)
		r->next = range->offset;
	left = range->offset + range->length - r->next;
	/* pieces end at multiples of their size: large requests stay aligned */
	p->length = XFER_PIECE - (uint32_t)(r->next % XFER_PIECE);
	if (p->length > left)
		p->length = (uint32_t)left;
	p->ask = p->length;
	p->offset = r->next;
	p->src_offset = r->next;
	p->fd = r->c->src;
	r->next += p->length;
	if (p->length == left)
		r->at++;
	return 1;
}

static bool all_zero(const char *buf, size_t len)
{
	uint64_t first;

	/* clusters are at least 512 bytes */
	memcpy(&first, buf, sizeof(first));
	return !first && !memcmp(buf, buf + sizeof(first),
				 len - sizeof(first));
}

/* Writes for a run of clusters with data. */
static int place_data(struct copy_run *r, uint64_t offset, uint32_t buf_offset,
		      uint32_t length, struct xfer_write *w, int nr,
		      struct cbw_error *err)
{
	uint64_t valid = r->c->size - offset;
	struct qcow2_error qerr;

	if (valid > length)
		valid = length;
	while (valid) {
		uint64_t host, got;
		uint32_t padded;
		int ret = qcow2_alloc_write(r->c->img, offset, valid, &host,
					    &got, &qerr);

		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
		if (nr == XFER_WRITES_MAX)
			return fail_with(err, EIO, "%s: more than %d places for %u bytes",
					 esc(r->c->target), XFER_WRITES_MAX,
					 XFER_PIECE);
		padded = (uint32_t)((got + r->cluster - 1) / r->cluster *
				    r->cluster);
		w[nr++] = (struct xfer_write){
			.buf_offset = buf_offset,
			.length = padded,
			.fd = r->c->img_fd,
			.dst_offset = host,
		};
		offset += got;
		buf_offset += (uint32_t)got;
		valid -= got;
	}
	return nr;
}

static int copy_place(void *ctx, const struct xfer_piece *p, void *buf,
		      struct xfer_write *w, struct cbw_error *err)
{
	struct copy_run *r = ctx;
	uint32_t cluster = r->cluster, padded, at, run;
	char *data = buf;
	int nr = 0;

	padded = (p->length + cluster - 1) / cluster * cluster;
	memset(data + p->length, 0, padded - p->length);
	for (at = 0; at < padded; at = run) {
		bool zero = all_zero(data + at, cluster);
		uint32_t length;

		for (run = at; run < padded &&
		     all_zero(data + run, cluster) == zero; run += cluster)
			if (!zero)
				sums_add(&r->c->sums, p->offset + run,
					 crc_cluster(0, p->offset + run, data + run, cluster),
					 CRC_CLUSTER_BYTES(cluster));
		length = (run < p->length ? run : p->length) - at;
		if (!zero) {
			nr = place_data(r, p->offset + at, at, run - at, w, nr,
					err);
			if (nr < 0)
				return nr;
			r->c->copied += length;
			continue;
		}
		r->c->zeros += length;
		if (r->c->backed) {
			struct qcow2_error qerr;
			int ret = qcow2_set_zero(r->c->img, p->offset + at,
						 length, &qerr);

			if (ret)
				return fail_with(err, ret, "%s", qerr.msg);
		}
	}
	return nr;
}

static int copy_done(void *ctx, const struct xfer_piece *p,
		     struct cbw_error *err)
{
	struct copy_run *r = ctx;

	(void)err;
	ranges_add(&r->done, p->offset, p->length);
	r->done_bytes += p->length;
	return 0;
}

static void copy_mark(void *ctx)
{
	struct copy_run *r = ctx;

	ranges_take_whole(&r->done, &r->syncing, r->c->chunk, r->c->size);
}

static int copy_synced(void *ctx, struct cbw_error *err)
{
	struct copy_run *r = ctx;
	int ret = 0;

	if (r->c->release && r->syncing.nr)
		ret = r->c->release(r->c->arg, &r->syncing, err);
	r->syncing.nr = 0;
	return ret;
}

static int copy_read_failed(void *ctx, const struct xfer_piece *p, int code,
			    struct cbw_error *err)
{
	struct copy_run *r = ctx;

	if (r->c->why)
		return r->c->why(r->c->arg, p->offset, code, err);
	return fail_with(err, code, "%s: reading %u bytes at offset %llu: %s",
			 esc(r->c->name), p->length, (ull)p->offset,
			 strerror(code));
}

static int copy_tick(void *ctx, struct cbw_error *err)
{
	struct copy_run *r = ctx;

	progress_tick(&r->progress, r->done_bytes);
	return r->c->check ? r->c->check(r->c->arg, err) : 0;
}

int copy_run(struct copy *copy, struct cbw_error *err)
{
	static const struct xfer_ops ops = {
		.next = copy_next,
		.place = copy_place,
		.done = copy_done,
		.mark = copy_mark,
		.synced = copy_synced,
		.read_failed = copy_read_failed,
		.tick = copy_tick,
	};
	struct copy_run r = {
		.c = copy,
		.cluster = qcow2_cluster_size(copy->img),
	};
	struct xfer_params params = {
		.target = copy->target,
		.sync_fd = qcow2_fd(copy->img),
		.sync_bytes = SYNC_BYTES,
		.rate = copy->rate,
	};
	int ret;

	copy->copied = 0;
	copy->zeros = 0;
	sums_init(&copy->sums, copy->size);
	progress_begin(&r.progress, "backup", copy->name,
		       ranges_total(copy->ranges), copy->json);
	ret = xfer_run(&ops, &r, &params, err);
	progress_end(&r.progress);
	ranges_free(&r.done);
	ranges_free(&r.syncing);
	if (ret)
		sums_free(&copy->sums);
	return ret;
}
