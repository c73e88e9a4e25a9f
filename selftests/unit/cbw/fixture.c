// SPDX-License-Identifier: GPL-2.0-or-later
#include <sys/stat.h>
#include <unistd.h>

#include "chain.h"
#include "fixture.h"
#include "qcow2.h"

char fx_top[] = "/tmp/cbw-unit-XXXXXX";

int fx_begin(void **state)
{
	(void)state;
	return mkdtemp(fx_top) ? 0 : -1;
}

int fx_end(void **state)
{
	(void)state;
	fx_shell("rm -rf '%s'", fx_top);
	return 0;
}

char *fx_path(const char *name)
{
	static char ring[8][128];
	static int at;
	char *p = ring[at++ % 8];

	snprintf(p, sizeof(ring[0]), "%s/%s", fx_top, name);
	return p;
}

void fx_shell(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	assert_in_range(n, 1, sizeof(command) - 1);
	if (system(command))
		fail_msg("failed: %s", command);
}

static void ok(int ret, const struct qcow2_error *err)
{
	if (ret)
		fail_msg("%s", err ? err->msg : strerror(-ret));
}

static void put(struct qcow2_image *img, unsigned char *ref, unsigned int cluster,
		unsigned int nr)
{
	uint64_t at = (uint64_t)cluster * FX_CLUSTER, len = (uint64_t)nr * FX_CLUSTER, i;
	struct qcow2_error err;

	if (at + len > FX_SIZE)
		len = FX_SIZE - at;
	for (i = 0; i < len; i++)
		ref[at + i] = (unsigned char)(rand() | 1);
	ok(qcow2_write(img, at, ref + at, len, &err), &err);
}

static void zero(struct qcow2_image *img, unsigned char *ref, unsigned int cluster,
		 unsigned int nr)
{
	uint64_t at = (uint64_t)cluster * FX_CLUSTER, len = (uint64_t)nr * FX_CLUSTER;
	struct qcow2_error err;

	memset(ref + at, 0, len);
	ok(qcow2_set_zero(img, at, len, &err), &err);
}

static void packed(struct qcow2_image *img, unsigned char *ref, unsigned int cluster)
{
	static unsigned char out[2 * FX_CLUSTER];
	uint64_t at = (uint64_t)cluster * FX_CLUSTER;
	struct qcow2_error err;
	size_t len = sizeof(out);

	memset(ref + at, 0x5a, FX_CLUSTER);
	ok(qcow2_compress(QCOW2_COMPRESSION_ZSTD, 1, ref + at, FX_CLUSTER, out, &len), NULL);
	ok(qcow2_write_compressed(img, at, out, len, &err), &err);
}

static struct qcow2_image *image(const struct chain *c, const struct entry *e,
				 const struct entry *parent)
{
	struct cbw_cut_id ids[3] = { c->id, e->cut, { { 0 } } };
	const struct qcow2_header_ext ext = {
		.type = CHAIN_QCOW2_EXT, .len = sizeof(ids), .data = ids,
	};
	struct qcow2_create_opts o = {
		.virtual_size = FX_SIZE, .cluster_size = FX_CLUSTER, .ext = &ext, .ext_count = 1,
		.compression = QCOW2_COMPRESSION_ZSTD,
	};
	char *path = chain_path(c, e->file);
	struct qcow2_image *img;
	struct qcow2_error err;

	if (parent) {
		ids[2] = parent->cut;
		o.backing_file = parent->file;
		o.backing_format = "qcow2";
	}
	ok(qcow2_create(path, &o, &img, &err), &err);
	free(path);
	return img;
}

void fx_chain(unsigned char *newest)
{
	struct entry full = {
		.id = 1, .type = ENTRY_FULL, .cut = { { 1 } }, .size = FX_SIZE,
		.granularity = FX_CLUSTER, .file = "000001-full.qcow2",
	};
	struct entry inc = {
		.id = 2, .parent = 1, .type = ENTRY_INCREMENTAL, .cut = { { 2 } },
		.base = { { 1 } }, .size = FX_SIZE, .granularity = FX_CLUSTER,
		.file = "000002-inc.qcow2",
	};
	struct qcow2_error qerr;
	struct qcow2_image *img;
	struct cbw_error err;
	struct chain c;

	memset(newest, 0, FX_SIZE);
	assert_false(mkdir(fx_path("chain"), 0700));
	assert_int_equal(chain_open(fx_path("chain/vol"), true, &c, &err), 0);
	c.id = (struct cbw_cut_id){ { 7 } };
	c.volume = xstrdup("vol");
	c.bitmap = xstrdup("cbw-07000000");
	img = image(&c, &full, NULL);
	put(img, newest, 0, 4);
	put(img, newest, 5, 1);
	zero(img, newest, 8, 1);
	put(img, newest, FX_SIZE / FX_CLUSTER, 1);
	ok(qcow2_flush(img, &qerr), &qerr);
	qcow2_close(img);
	img = image(&c, &inc, &full);
	put(img, newest, 1, 1);
	put(img, newest, 6, 1);
	packed(img, newest, 7);
	zero(img, newest, 2, 2);
	ok(qcow2_flush(img, &qerr), &qerr);
	qcow2_close(img);
	chain_add(&c, &full);
	chain_add(&c, &inc);
	assert_int_equal(chain_save(&c, NULL, &err), 0);
	chain_close(&c);
}
