// SPDX-License-Identifier: GPL-2.0-or-later
/* a volume as a stream */
#include <json-c/json.h>
#include <endian.h>
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "stream.h"

#define MAGIC		"cbw stream 1\n"
#define MAGIC_LEN	(sizeof(MAGIC) - 1)
#define TYPE_DATA	0x61746164u	/* "data" */
#define TYPE_END	0x2e646e65u	/* "end." */

struct record {
	uint32_t type;
	uint32_t length;
	uint64_t offset;
};

/* ---- out --------------------------------------------------------------------- */

struct stream_sink {
	struct sink s;
	int fd;
	uint64_t size;
	uint64_t records;
	uint32_t crc;		/* of the checksums */
	bool begun;
};

/* A reader that is slow keeps us waiting here, and so all of the copy. */
static int put(struct stream_sink *o, const void *buf, size_t len, struct cbw_error *err)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(o->fd, p, len);

		if (n < 0 && errno == EINTR && !stop_signal)
			continue;
		if (n < 0 && errno == EINTR)
			return fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
		if (n <= 0)
			return fail_with(err, errno, "%s: %s", esc(o->s.name), strerror(errno));
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int put_head(struct stream_sink *o, struct cbw_error *err)
{
	uint64_t size = htole64(o->size);
	int ret;

	if (o->begun)
		return 0;
	ret = put(o, MAGIC, MAGIC_LEN, err);
	if (!ret)
		ret = put(o, &size, sizeof(size), err);
	o->begun = !ret;
	return ret;
}

static int put_record(struct stream_sink *o, uint32_t type, uint32_t length, uint64_t offset,
		      struct cbw_error *err)
{
	struct record r = { htole32(type), htole32(length), htole64(offset) };

	return put(o, &r, sizeof(r), err);
}

static int stream_data(struct sink *s, uint64_t offset, void *data, uint32_t length,
		       struct xfer_write *w, unsigned int room, struct cbw_error *err)
{
	struct stream_sink *o = (struct stream_sink *)s;
	uint32_t crc = htole32(crc32c(0, data, length));
	int ret = put_head(o, err);

	(void)w;
	(void)room;
	if (!ret)
		ret = put_record(o, TYPE_DATA, length, offset, err);
	if (!ret)
		ret = put(o, data, length, err);
	if (!ret)
		ret = put(o, &crc, sizeof(crc), err);
	o->crc = crc32c(o->crc, &crc, sizeof(crc));
	o->records++;
	return ret;
}

static int stream_flush(struct sink *s, struct cbw_error *err)
{
	struct stream_sink *o = (struct stream_sink *)s;
	uint32_t crc = htole32(o->crc);
	int ret = put_head(o, err);

	if (!ret)
		ret = put_record(o, TYPE_END, 0, o->records, err);
	return ret ? ret : put(o, &crc, sizeof(crc), err);
}

static void stream_close(struct sink *s)
{
	free(s);
}

static const struct sink_ops stream_ops = {
	.data = stream_data,
	.flush = stream_flush,
	.close = stream_close,
};

struct sink *sink_stream(int fd, uint64_t size)
{
	struct stream_sink *o = xcalloc(1, sizeof(*o));

	o->s = (struct sink){
		.ops = &stream_ops,
		.name = xstrdup("standard output"),
		.unit = 65536,
		.zero_min = 65536,
		.sync_fd = -1,
	};
	o->fd = fd;
	o->size = size;
	return &o->s;
}

/* ---- in ------------------------------------------------------------------------ */

static int get(const struct stream_in *in, void *buf, size_t len, struct cbw_error *err)
{
	char *p = buf;

	while (len) {
		ssize_t n = read(in->fd, p, len);

		if (n < 0 && errno == EINTR && !stop_signal)
			continue;
		if (n < 0 && errno == EINTR)
			return fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
		if (n < 0)
			return fail_with(err, errno, "the stream: %s", strerror(errno));
		if (!n)
			return fail_with(err, EUCLEAN, "the stream ends too early");
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int stream_open(struct stream_in *in, int fd, struct cbw_error *err)
{
	char magic[MAGIC_LEN];
	uint64_t size;
	int ret;

	*in = (struct stream_in){ .fd = fd };
	ret = get(in, magic, sizeof(magic), err);
	if (!ret && memcmp(magic, MAGIC, MAGIC_LEN))
		ret = fail_with(err, EUCLEAN, "standard input is no stream of cbw");
	if (!ret)
		ret = get(in, &size, sizeof(size), err);
	if (ret)
		return ret;
	in->size = le64toh(size);
	if (in->size > INT64_MAX)
		return fail_with(err, EUCLEAN, "the stream is of a volume of %llu bytes, which cannot be",
				 (ull)in->size);
	return 0;
}

/* What the sink wants to have written is written at once. */
static int write_data(struct sink *dst, uint64_t offset, char *buf, uint32_t length,
		      struct cbw_error *err)
{
	struct xfer_write w[XFER_WRITES_MAX];
	int nr = dst->ops->data(dst, offset, buf, length, w, XFER_WRITES_MAX, err), i;

	for (i = 0; i < nr; i++) {
		const char *p = w[i].data;
		uint64_t at = w[i].dst_offset;
		size_t left = w[i].length;

		if (w[i].how == XFER_CALL) {
			int ret = dst->ops->write(dst, &w[i], 0, err);

			if (ret)
				return ret;
			continue;
		}
		while (left) {
			ssize_t n = pwrite(w[i].fd, p, left, (off_t)at);

			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return fail_with(err, n ? errno : EIO,
						 "%s: writing at offset %llu: %s", esc(dst->name),
						 (ull)at, n ? strerror(errno) : "nothing was written");
			p += n;
			at += (uint64_t)n;
			left -= (size_t)n;
		}
	}
	return nr < 0 ? nr : 0;
}

static int get_data(struct stream_in *in, struct sink *dst, const struct record *r, char *buf,
		    uint32_t *all, struct cbw_error *err)
{
	uint32_t crc;
	int ret = get(in, buf, r->length, err);

	if (!ret)
		ret = get(in, &crc, sizeof(crc), err);
	if (ret)
		return ret;
	*all = crc32c(*all, &crc, sizeof(crc));
	if (crc32c(0, buf, r->length) != le32toh(crc))
		return fail_with(err, EUCLEAN,
				 "the stream is damaged: %u bytes for offset %llu have another checksum",
				 r->length, (ull)r->offset);
	return write_data(dst, r->offset, buf, r->length, err);
}

static int skip(struct sink *dst, uint64_t from, uint64_t to, struct cbw_error *err)
{
	return dst->say_zero && to > from ? dst->ops->zero(dst, from, to - from, err) : 0;
}

static int restore(struct stream_in *in, struct sink *dst, char *buf, struct cbw_error *err)
{
	uint64_t at = 0, records = 0;
	uint32_t all = 0, crc;
	struct record r;
	int ret;

	for (;;) {
		if (stop_signal)
			return fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
		ret = get(in, &r, sizeof(r), err);
		if (ret)
			return ret;
		r = (struct record){ le32toh(r.type), le32toh(r.length), le64toh(r.offset) };
		if (r.type == TYPE_END)
			break;
		if (r.type != TYPE_DATA || !r.length || r.length > STREAM_PIECE ||
		    r.offset < at || r.offset > in->size || r.length > in->size - r.offset ||
		    r.offset % 4096)
			return fail_with(err, EUCLEAN,
					 "the stream is damaged: behind offset %llu there is no record",
					 (ull)at);
		ret = skip(dst, at, r.offset, err);
		if (!ret)
			ret = get_data(in, dst, &r, buf, &all, err);
		if (ret)
			return ret;
		at = r.offset + r.length;
		records++;
	}
	ret = get(in, &crc, sizeof(crc), err);
	if (ret)
		return ret;
	if (r.length || r.offset != records || le32toh(crc) != all)
		return fail_with(err, EUCLEAN, "the stream is damaged: some of it is missing");
	return skip(dst, at, in->size, err);
}

int stream_restore(struct stream_in *in, struct sink *dst, struct cbw_error *err)
{
	char *buf;
	int ret;

	if (posix_memalign((void **)&buf, 4096, STREAM_PIECE))
		return fail_with(err, ENOMEM, "out of memory");
	ret = restore(in, dst, buf, err);
	free(buf);
	return ret;
}

void json_copied(uint64_t data, uint64_t unchanged, uint64_t zero, uint64_t unreadable)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "event", json_object_new_string("done"));
	json_object_object_add(o, "copied", json_object_new_uint64(data));
	json_object_object_add(o, "unchanged", json_object_new_uint64(unchanged));
	json_object_object_add(o, "zero", json_object_new_uint64(zero));
	json_object_object_add(o, "unreadable", json_object_new_uint64(unreadable));
	json_line(o);
}

void json_lost(uint64_t offset, uint64_t length, const char *why)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "event", json_object_new_string("unreadable"));
	json_object_object_add(o, "offset", json_object_new_uint64(offset));
	json_object_object_add(o, "length", json_object_new_uint64(length));
	json_object_object_add(o, "reason", json_object_new_string(why));
	json_line(o);
}
