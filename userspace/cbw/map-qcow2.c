// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * map: a qcow2 image without data, over the volume, that has the bitmap
 *
 * It is read as the volume, and exports what has changed: qemu-nbd -r -B NAME FILE. The bitmap
 * does not record (QEMU refuses to export one that does read-only), and is not in use.
 */
#include <unistd.h>

#include "cbw.h"
#include "map.h"
#include "qcow2.h"

/**
 * struct map_bits - the bitmap on its way to the image, a cluster at a time
 * @host: where its clusters are, @nr of them
 * @cluster: the number of the one in @buf; what is before it is written
 */
struct map_bits {
	struct qcow2_image *img;
	struct qcow2_bitmaps_edit *edit;
	uint64_t host;
	uint64_t nr;
	uint64_t cluster;
	unsigned int shift;
	unsigned char buf[QCOW2_DEFAULT_CLUSTER];
};

#define BITS_PER_CLUSTER	(8ull * QCOW2_DEFAULT_CLUSTER)

static int bits_out(struct map_out *out, uint64_t upto, struct cbw_error *err)
{
	struct map_bits *b = out->bits;

	for (; b->cluster < upto; b->cluster++) {
		uint64_t at = b->host + b->cluster * sizeof(b->buf);
		size_t done = 0;

		while (done < sizeof(b->buf)) {
			ssize_t n = pwrite(qcow2_fd(b->img), b->buf + done,
					   sizeof(b->buf) - done, (off_t)(at + done));

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return fail_with(err, n ? errno : EIO, "%s: %s",
						 esc(out->path), strerror(n ? errno : EIO));
			done += (size_t)n;
		}
		memset(b->buf, 0, sizeof(b->buf));
	}
	return 0;
}

static int qcow2_begin(struct map_out *out, struct cbw_error *err)
{
	struct qcow2_create_opts o = {
		.virtual_size = out->info.size,
		.cluster_size = QCOW2_DEFAULT_CLUSTER,
		.backing_file = out->info.backing,
		.backing_format = out->info.backing_format,
		.flags = QCOW2_CREATE_NO_BACKING | QCOW2_CREATE_BITMAPS,
	};
	struct qcow2_error qerr;
	struct map_bits *b;
	int ret;

	if (!o.backing_file)
		return fail_with(err, EINVAL,
				 "it does not say which device its volume was; the other formats do not need that");
	b = out->bits = xcalloc(1, sizeof(*b));
	b->shift = (unsigned int)__builtin_ctz(out->info.granularity);
	ret = qcow2_create(out->tmp, &o, &b->img, &qerr);
	if (!ret)
		ret = qcow2_flush(b->img, &qerr);
	if (!ret)
		ret = qcow2_bitmaps_edit_begin(b->img, &b->edit, &qerr);
	if (!ret)
		ret = qcow2_edit_add(b->edit, out->info.name, strlen(out->info.name), b->shift,
				     0, &b->host, &qerr);
	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	b->nr = qcow2_edit_clusters(b->img, b->shift);
	return 0;
}

static int qcow2_put(struct map_out *out, const struct cbw_extent *e, struct cbw_error *err)
{
	struct map_bits *b = out->bits;
	uint64_t bit = e->offset >> b->shift, last = (e->offset + e->length - 1) >> b->shift;
	int ret;

	while (bit <= last) {
		uint64_t i = bit % BITS_PER_CLUSTER;

		ret = bits_out(out, bit / BITS_PER_CLUSTER, err);
		if (ret)
			return ret;
		/* whole bytes where there are some: a full bitmap has many */
		if (i % 8 == 0 && last - bit >= 7) {
			b->buf[i / 8] = 0xff;
			bit += 8;
		} else {
			b->buf[i / 8] |= (unsigned char)(1u << i % 8);
			bit++;
		}
	}
	return 0;
}

static int qcow2_end(struct map_out *out, struct cbw_error *err)
{
	struct map_bits *b = out->bits;
	struct qcow2_bitmaps_edit *edit = b->edit;
	struct qcow2_error qerr;
	int ret = bits_out(out, b->nr, err);

	if (ret)
		return ret;
	b->edit = NULL;
	ret = qcow2_edit_commit(edit, &qerr);
	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

const struct map_format map_qcow2 = {
	.name = "qcow2", .begin = qcow2_begin, .put = qcow2_put, .end = qcow2_end,
};

void map_close(struct map_out *out)
{
	if (out->bits) {
		qcow2_edit_abort(out->bits->edit);
		qcow2_close(out->bits->img);
		free(out->bits);
		out->bits = NULL;
	}
	if (out->f && out->f != stdout)
		fclose(out->f);
	out->f = NULL;
	if (out->tmp)
		unlink(out->tmp);
	free(out->tmp);
	out->tmp = NULL;
}
