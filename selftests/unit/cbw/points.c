// SPDX-License-Identifier: GPL-2.0-or-later
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "details.h"
#include "merge.h"
#include "points.h"
#include "progress.h"
#include "qcow2.h"
#include "restore.h"
#include "scan.h"

unsigned int points_beyond;

void __real_progress_tick(struct progress *p, uint64_t now);
void __wrap_progress_tick(struct progress *p, uint64_t now);

void __wrap_progress_tick(struct progress *p, uint64_t now)
{
	points_beyond += now > p->total;
	__real_progress_tick(p, now);
}

/* 64 bytes that name offset and generation; many of a kind, so that they compress */
static void stamp(unsigned char *buf, uint64_t offset, uint64_t len, unsigned int gen)
{
	uint64_t i;

	for (i = 0; i < len; i += 64)
		snprintf((char *)buf + i, 64, "offset %012llx generation %u ",
			 (ull)(offset + i), gen);
}

void points_init(struct points *p, const char *dir, uint64_t size)
{
	struct cbw_error err;
	struct chain c;

	*p = (struct points){ .size = size, .dir = strdup(dir) };
	assert_int_equal(chain_open(dir, true, &c, &err), 0);
	memset(&c.id, 0x42, sizeof(c.id));
	c.volume = xstrdup("vol");
	c.bitmap = xstrdup("cbw-42424242");
	assert_int_equal(chain_save(&c, NULL, &err), 0);
	chain_close(&c);
}

void points_free(struct points *p)
{
	size_t i;

	for (i = 0; i < POINTS_MAX; i++)
		free(p->data[i]);
	free(p->dir);
	*p = (struct points){ 0 };
}

static void put(struct qcow2_image *img, unsigned char *data, uint64_t at,
		uint64_t len, uint32_t cluster, unsigned int flags)
{
	unsigned int type = flags & POINT_ZSTD ? QCOW2_COMPRESSION_ZSTD :
		QCOW2_COMPRESSION_DEFLATE;
	unsigned char *whole, *out;
	struct qcow2_error err;
	size_t n;

	if (!(flags & (POINT_DEFLATE | POINT_ZSTD)) || !(rand() % 4)) {
		assert_int_equal(qcow2_write(img, at, data + at, len, &err), 0);
		return;
	}
	whole = calloc(1, cluster);
	out = malloc(cluster);
	memcpy(whole, data + at, len);
	if (qcow2_compress(type, 0, whole, cluster, out, &n))
		assert_int_equal(qcow2_write(img, at, data + at, len, &err), 0);
	else
		assert_int_equal(qcow2_write_compressed(img, at, out, n, &err), 0);
	free(whole);
	free(out);
}

/* Some of the clusters change: to data, some to zeros. */
static void change(struct points *p, struct qcow2_image *img, unsigned char *data,
		   uint32_t id, uint32_t cluster, unsigned int flags)
{
	uint64_t at, clusters = (p->size + cluster - 1) / cluster;
	unsigned int every = flags & POINT_FULL ? 2 : 3 + (unsigned int)(clusters / 64);
	struct qcow2_error err;

	every = flags & POINT_DENSE ? 1 : every;
	for (at = 0; at < p->size; at += cluster) {
		uint64_t len = p->size - at < cluster ? p->size - at : cluster, k;
		bool last = len < cluster || at + len == p->size;

		if ((unsigned int)rand() % every && !(last && id % 2))
			continue;
		if (!(rand() % 4) && !(flags & POINT_DENSE)) {
			memset(data + at, 0, len);
			if (!(flags & POINT_FULL))
				assert_int_equal(qcow2_set_zero(img, at, len, &err), 0);
			continue;
		}
		stamp(data + at, at, len, id);
		/* some of it zero, some random */
		for (k = 0; k < len && !(rand() % 3); k++)
			data[at + k] = (unsigned char)rand();
		if (!(rand() % 3))
			memset(data + at, 0, len / 2);
		put(img, data, at, len, cluster, flags);
	}
}

static void finish(struct chain *c, struct entry *e, struct qcow2_image *img,
		   const char *path, unsigned int flags)
{
	struct details d = { .cut = e->cut, .size = e->size };
	struct cbw_error err;
	struct scan scan;

	assert_int_equal(scan_image(img, path, NULL, &scan, &err), 0);
	assert_int_equal(scan.nr_bad, 0);
	e->copied = scan.copied;
	e->zero = e->type == ENTRY_FULL ? e->size - scan.copied : scan.zeros;
	e->crc = scan.sums.total;
	assert_int_equal(details_take(img, path, &d, &err), 0);
	d.sums = scan.sums;
	scan.sums = (struct sums){ 0 };
	scan_free(&scan);
	if (!(flags & POINT_OLD))
		assert_int_equal(details_save(c, e, &d, false, &err), 0);
	details_free(&d);
	chain_add(c, e);
	assert_int_equal(chain_save(c, NULL, &err), 0);
}

void points_add(struct points *p, uint32_t parent, uint32_t cluster,
		unsigned int flags, int64_t when)
{
	struct chain c;
	struct cbw_error err;
	struct qcow2_error qerr;
	struct qcow2_image *img;
	const struct entry *below, *newest;
	struct entry e = { .size = p->size, .time = when, .granularity = cluster,
		.group = 1, .parent = parent };
	struct cbw_cut_id ids[3] = { { { 0 } } };
	struct qcow2_header_ext ext = { .type = CHAIN_QCOW2_EXT, .len = sizeof(ids),
		.data = ids };
	struct qcow2_create_opts o = { .virtual_size = p->size, .cluster_size = cluster,
		.ext = &ext, .ext_count = 1, .flags = QCOW2_CREATE_EXCL,
		.compression = flags & POINT_ZSTD ? QCOW2_COMPRESSION_ZSTD : 0 };
	char *path;

	assert_int_equal(chain_open(p->dir, true, &c, &err), 0);
	newest = chain_newest(&c);
	below = parent ? chain_by_id(&c, parent) : NULL;
	assert_true(!parent == !below);
	flags |= parent ? 0 : POINT_FULL;
	e.id = newest ? newest->id + 1 : 1;
	e.type = parent ? ENTRY_INCREMENTAL : ENTRY_FULL;
	memset(e.cut.b, (int)e.id, sizeof(e.cut.b));
	if (newest)
		e.base = newest->cut;
	chain_file_name(e.id, e.type, e.file);
	ids[0] = c.id;
	ids[1] = e.cut;
	if (below) {
		ids[2] = below->cut;
		o.backing_file = below->file;
		o.backing_format = "qcow2";
	}
	p->data[e.id] = calloc(1, p->size);
	if (below)
		memcpy(p->data[e.id], p->data[parent], p->size);
	path = chain_path(&c, e.file);
	assert_int_equal(qcow2_create(path, &o, &img, &qerr), 0);
	change(p, img, p->data[e.id], e.id, cluster, flags);
	assert_int_equal(qcow2_flush(img, &qerr), 0);
	qcow2_close(img);
	assert_int_equal(qcow2_open(path, 0, &img, &qerr), 0);
	finish(&c, &e, img, path, flags);
	qcow2_close(img);
	free(path);
	chain_close(&c);
}

void points_build(struct points *p, const char *dir, uint64_t size, unsigned int nr,
		  const uint32_t *cluster, const unsigned int *flags, size_t kinds)
{
	unsigned int i;

	points_init(p, dir, size);
	for (i = 0; i < nr; i++)
		points_add(p, i, cluster[i % kinds], flags[i % kinds], 1700000000 + i * 3600);
}

int points_merge(const char *dir, uint32_t id, uint32_t done, bool punch,
		 struct cbw_error *err)
{
	const struct merge_opts o = { .punch = punch };
	const struct entry *e;
	struct chain c;
	int ret;

	ret = chain_open_locked(dir, &c, err);
	if (ret)
		return ret;
	ret = merge_resume(&c, &o, err);
	e = chain_by_id(&c, id);
	assert_non_null(e);
	if (!ret && e->parent != done)
		ret = merge_into(&c, id, &o, err);
	chain_close(&c);
	return ret;
}

static void check_sums(const struct chain *c, const struct entry *e,
		       struct qcow2_image *img)
{
	struct details d;
	struct cbw_error err;
	struct scan scan;
	uint64_t i;
	bool header, l1;

	assert_int_equal(scan_image(img, e->file, NULL, &scan, &err), 0);
	assert_int_equal(scan.nr_bad, 0);
	if (scan.sums.total != e->crc || scan.copied != e->copied)
		fail_msg("%s: checksum %08x of %llu bytes, not %08x of %llu", e->file,
			 scan.sums.total, (ull)scan.copied, e->crc, (ull)e->copied);
	if (e->details_size) {
		if (details_load(c, e, &d, &err))
			fail_msg("%s", err.msg);
		for (i = 0; i < d.sums.nr; i++)
			if (d.sums.crc[i] != scan.sums.crc[i])
				fail_msg("%s: range %llu has checksum %08x, not %08x",
					 e->file, (ull)i, scan.sums.crc[i], d.sums.crc[i]);
		assert_int_equal(header_same(c, e->file, &d, &header, &l1, &err), 0);
		assert_true(header && l1);
		details_free(&d);
	}
	scan_free(&scan);
}

static void check_entry(const struct points *p, const struct chain *c,
			const struct entry *e, bool deep)
{
	unsigned char *buf = malloc(p->size);
	struct qcow2_check_report rep;
	struct qcow2_image *img;
	struct qcow2_error qerr;
	struct cbw_error err;
	uint64_t i;
	char *cmd;
	FILE *f;

	assert_non_null(p->data[e->id]);
	if (open_entry(c, e, &img, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(qcow2_read(img, 0, buf, p->size, &qerr), 0);
	for (i = 0; i < p->size; i++)
		if (buf[i] != p->data[e->id][i])
			fail_msg("id %u: byte %llu is %02x, not %02x", e->id, (ull)i,
				 buf[i], p->data[e->id][i]);
	assert_int_equal(qcow2_check(img, 0, &rep, &qerr), 0);
	if (rep.corruptions || rep.leaks)
		fail_msg("%s: %llu corruptions, %llu leaks: %s", e->file,
			 (ull)rep.corruptions, (ull)rep.leaks, rep.first);
	check_sums(c, e, img);
	qcow2_close(img);
	free(buf);
	if (!deep)
		return;
	cmd = xasprintf("%s/../ref", p->dir);
	f = fopen(cmd, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(p->data[e->id], 1, p->size, f), p->size);
	assert_int_equal(fclose(f), 0);
	free(cmd);
	cmd = xasprintf("cd %s && qemu-img check -q -f qcow2 %s && qemu-img compare -q -f raw -F qcow2 ../ref %s",
			p->dir, e->file, e->file);
	if (system(cmd))
		fail_msg("qemu-img does not agree with %s", e->file);
	free(cmd);
}

void points_check(const struct points *p, bool deep)
{
	struct chain c;
	struct cbw_error err;
	unsigned int removed;
	size_t i;

	if (chain_open(p->dir, true, &c, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(c.merge.state, MERGE_NONE);
	for (i = 0; i < c.nr; i++)
		check_entry(p, &c, &c.entry[i], deep);
	assert_int_equal(chain_clean(&c, &removed, &err), 0);
	assert_int_equal(removed, 0);
	chain_close(&c);
}

void points_ids(const struct points *p, char text[256])
{
	struct chain c;
	struct cbw_error err;
	size_t i, at = 0;

	if (chain_open(p->dir, true, &c, &err))
		fail_msg("%s", err.msg);
	*text = '\0';
	for (i = 0; i < c.nr && at < 250; i++)
		at += (size_t)snprintf(text + at, 256 - at, "%s%u", i ? " " : "", c.entry[i].id);
	chain_close(&c);
}

void points_are(const struct points *p, const char *want)
{
	char text[256];

	points_ids(p, text);
	assert_string_equal(text, want);
}
