// SPDX-License-Identifier: LGPL-2.1-or-later
/* Compressed clusters: to and from their bytes */
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

/* what deflate clusters are made with: no header, a window of 4 KiB */
#define WINDOW_BITS	(-12)

static int deflate_cluster(int level, const void *in, size_t size, void *out, size_t max, size_t *len)
{
	z_stream z;
	int ret;

	memset(&z, 0, sizeof(z));
	ret = deflateInit2(&z, level ? level : Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_BITS, 9,
			   Z_DEFAULT_STRATEGY);
	if (ret != Z_OK)
		return ret == Z_MEM_ERROR ? -ENOMEM : -EINVAL;
	z.next_in = (Bytef *)in;
	z.avail_in = (uInt)size;
	z.next_out = out;
	z.avail_out = (uInt)max;
	ret = deflate(&z, Z_FINISH);
	*len = max - z.avail_out;
	deflateEnd(&z);
	return ret == Z_STREAM_END ? 0 : -E2BIG;
}

/* Making a context takes as long as some clusters do: each thread keeps its own. */
static pthread_key_t zstd_key;
static pthread_once_t zstd_once = PTHREAD_ONCE_INIT;
static bool have_zstd_key;

static void free_zstd(void *ctx)
{
	ZSTD_freeCCtx(ctx);
}

static void make_zstd_key(void)
{
	have_zstd_key = !pthread_key_create(&zstd_key, free_zstd);
}

static ZSTD_CCtx *zstd_context(void)
{
	ZSTD_CCtx *ctx;

	pthread_once(&zstd_once, make_zstd_key);
	ctx = have_zstd_key ? pthread_getspecific(zstd_key) : NULL;
	if (ctx)
		return ctx;
	ctx = ZSTD_createCCtx();
	if (!ctx || !have_zstd_key || pthread_setspecific(zstd_key, ctx)) {
		ZSTD_freeCCtx(ctx);
		return NULL;
	}
	return ctx;
}

static int zstd_cluster(int level, const void *in, size_t size, void *out, size_t max, size_t *len)
{
	ZSTD_CCtx *ctx = zstd_context();
	size_t ret;

	if (!ctx)
		return -ENOMEM;
	ret = ZSTD_compressCCtx(ctx, out, max, in, size, level ? level : ZSTD_CLEVEL_DEFAULT);
	if (ZSTD_isError(ret))
		return ZSTD_getErrorCode(ret) == ZSTD_error_dstSize_tooSmall ? -E2BIG : -ENOMEM;
	*len = ret;
	return 0;
}

int qcow2_compress(unsigned int type, int level, const void *in, size_t cluster_size, void *out,
		   size_t *out_len)
{
	size_t len;
	int ret;

	if (cluster_size < QCOW2_MIN_CLUSTER || cluster_size > QCOW2_MAX_CLUSTER || level < 0)
		return -EINVAL;
	if (type == QCOW2_COMPRESSION_DEFLATE && level <= Z_BEST_COMPRESSION)
		ret = deflate_cluster(level, in, cluster_size, out, cluster_size - 1, &len);
	else if (type == QCOW2_COMPRESSION_ZSTD && level <= ZSTD_maxCLevel())
		ret = zstd_cluster(level, in, cluster_size, out, cluster_size - 1, &len);
	else
		ret = -EINVAL;
	if (!ret)
		*out_len = len;
	return ret;
}

static int inflate_bytes(struct q2_layer *l, const uint8_t *in, size_t len, size_t *used,
			 const char **why, uint32_t *missing)
{
	z_stream z;
	int ret;

	memset(&z, 0, sizeof(z));
	z.next_in = (Bytef *)in;
	z.avail_in = (uInt)len;
	z.next_out = l->zbuf;
	z.avail_out = l->cluster_size;
	if (inflateInit2(&z, WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	*why = z.msg ? z.msg : "ends early";
	*missing = z.avail_out;
	*used = z.total_in;
	return z.avail_out || (ret != Z_STREAM_END && ret != Z_BUF_ERROR) ? -EUCLEAN : 0;
}

static bool is_frame(const uint8_t *in, size_t len)
{
	uint32_t magic;

	if (len < sizeof(magic))
		return false;
	memcpy(&magic, in, sizeof(magic));
	magic = le32toh(magic);
	return magic == ZSTD_MAGICNUMBER || (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

/*
 * One frame or, as QEMU allows, several, then bytes of no meaning: lengths in L2
 * entries are whole sectors. The end of a frame is looked for first, so that it
 * can be decoded straight into the cluster, which is then all the window a frame
 * gets, whatever its header asks for.
 */
static int unzstd_bytes(struct q2_layer *l, const uint8_t *in, size_t len, size_t *used,
			const char **why, uint32_t *missing)
{
	size_t done = 0, size, ret, all = len;

	if (!l->zctx)
		l->zctx = ZSTD_createDCtx();
	if (!l->zctx)
		return -ENOMEM;
	do {
		*missing = l->cluster_size - (uint32_t)done;
		/* nothing but this format: decoders of earlier ones may be in the library */
		if (!is_frame(in, len)) {
			*why = "no zstd frame";
			return -EUCLEAN;
		}
		size = ZSTD_findFrameCompressedSize(in, len);
		if (ZSTD_isError(size) || size > len || !size) {
			*why = ZSTD_isError(size) ? ZSTD_getErrorName(size) : "no zstd frame";
			return -EUCLEAN;
		}
		ret = ZSTD_decompressDCtx(l->zctx, l->zbuf + done, l->cluster_size - done, in, size);
		if (ZSTD_isError(ret)) {
			if (ZSTD_getErrorCode(ret) == ZSTD_error_memory_allocation)
				return -ENOMEM;
			*why = ZSTD_getErrorName(ret);
			return -EUCLEAN;
		}
		done += ret;
		in += size;
		len -= size;
	} while (done < l->cluster_size);
	*used = all - len;
	return 0;
}

/*
 * The cluster that @entry, which was checked, tells of: to l->zbuf. @in is what the file has
 * of it, for free(), with @used bytes that it takes.
 */
static int unpack(struct q2_layer *l, uint64_t guest, uint64_t entry, uint8_t **in, size_t *used,
		  struct qcow2_error *err)
{
	const char *why = "";
	uint32_t missing = 0;
	uint64_t off, len;
	int ret;

	l->zkey = 0;
	if (!l->zbuf)
		l->zbuf = malloc(l->cluster_size);
	q2_compressed_place(l, entry, &off, &len);
	len = q2_min(len, l->file_size - off);
	/* at most two clusters: the length has cluster_bits - 8 bits of sectors */
	*in = malloc(len);
	if (!l->zbuf || !*in)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	ret = q2_pread(l, *in, len, off, "compressed data", err);
	if (ret)
		return ret;
	if (l->compression == QCOW2_COMPRESSION_ZSTD)
		ret = unzstd_bytes(l, *in, len, used, &why, &missing);
	else
		ret = inflate_bytes(l, *in, len, used, &why, &missing);
	if (ret == -ENOMEM)
		q2_err(err, ENOMEM, "%s: out of memory to decompress a cluster", l->name);
	else if (ret)
		q2_err(err, EUCLEAN,
		       "%s: compressed data of guest offset %llu at %llu does not %s to a cluster (%s, %u bytes short)",
		       l->name, ull(guest), ull(off),
		       l->compression == QCOW2_COMPRESSION_ZSTD ? "decompress" : "inflate", why, missing);
	else
		l->zkey = entry;
	return ret;
}

int q2_decompress(struct q2_layer *l, uint64_t guest, uint64_t entry, struct qcow2_error *err)
{
	uint8_t *in = NULL;
	size_t used;
	int ret;

	if (l->zkey == entry)
		return 0;
	ret = unpack(l, guest, entry, &in, &used, err);
	free(in);
	return ret;
}

static int packed_entry(struct q2_layer *l, uint64_t guest, uint64_t *entry, struct qcow2_error *err)
{
	struct q2_extent x;
	int ret = q2_map_layer(l, guest, q2_min(l->cluster_size, l->size - guest), &x, err);

	if (!ret && x.type != QCOW2_RUN_COMPRESSED)
		return q2_err(err, EINVAL, "%s: guest offset %llu is not compressed", l->name, ull(guest));
	*entry = ret ? 0 : x.entry;
	return ret;
}

static int read_compressed(struct q2_layer *l, uint64_t guest, void *buf, size_t room, size_t *len,
			   struct qcow2_error *err)
{
	uint8_t *in = NULL;
	uint64_t entry;
	size_t used = 0;
	int ret;

	ret = packed_entry(l, guest, &entry, err);
	if (!ret)
		ret = unpack(l, guest, entry, &in, &used, err);
	if (!ret && used > room)
		ret = q2_err(err, E2BIG, "%s: compressed data of guest offset %llu has %zu bytes, more than %zu", l->name,
			     ull(guest), used, room);
	if (!ret) {
		memcpy(buf, in, used);
		*len = used;
	}
	free(in);
	return ret;
}

static int peek_compressed(struct q2_layer *l, uint64_t guest, void *buf, size_t room, size_t *len,
			   struct qcow2_error *err)
{
	uint64_t entry, off, n;
	int ret;

	ret = packed_entry(l, guest, &entry, err);
	if (ret)
		return ret;
	q2_compressed_place(l, entry, &off, &n);
	n = q2_min(q2_min(n, l->file_size - off), room);
	ret = q2_pread(l, buf, n, off, "compressed data", err);
	if (!ret)
		*len = n;
	return ret;
}

typedef int (*read_fn)(struct q2_layer *, uint64_t, void *, size_t, size_t *, struct qcow2_error *);

static int of_layer(struct qcow2_image *img, unsigned int layer, uint64_t off, void *buf, size_t room,
		    size_t *len, read_fn fn, struct qcow2_error *err)
{
	struct q2_layer *l;
	int ret;

	if (layer >= img->nr_layers)
		return q2_err(err, EINVAL, "%s: layer %u of %u", img->layers[0]->name, layer, img->nr_layers);
	l = img->layers[layer];
	if (l->format != QCOW2_FORMAT_QCOW2 || off >= l->size || !q2_aligned(l, off))
		return q2_err(err, EINVAL, "%s: guest offset %llu is not a multiple of the cluster size %u, or not below the size %llu",
			      l->name, ull(off), l->cluster_size, ull(l->size));
	pthread_mutex_lock(&img->lock);
	ret = fn(l, off, buf, room, len, err);
	pthread_mutex_unlock(&img->lock);
	return ret;
}

int qcow2_read_compressed(struct qcow2_image *img, unsigned int layer, uint64_t off, void *buf, size_t room,
			  size_t *len, struct qcow2_error *err)
{
	return of_layer(img, layer, off, buf, room, len, read_compressed, err);
}

int qcow2_peek_compressed(struct qcow2_image *img, unsigned int layer, uint64_t off, void *buf, size_t room,
			  size_t *len, struct qcow2_error *err)
{
	return of_layer(img, layer, off, buf, room, len, peek_compressed, err);
}

void q2_decompress_free(struct q2_layer *l)
{
	ZSTD_freeDCtx(l->zctx);
	free(l->zbuf);
}
