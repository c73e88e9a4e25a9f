// SPDX-License-Identifier: GPL-2.0-or-later
/* nbd: requests and their replies */
#include <endian.h>
#include <sys/socket.h>

#include "cbw.h"
#include "nbd.h"
#include "nbd-proto.h"

/* extents of one context in a reply; who wants more asks again */
#define EXTENTS_MAX	16384

/**
 * struct job - a request, in host order, and what its thread has for it
 * @buf: of NBD_PIECE
 */
struct job {
	struct nbd_conn *conn;
	uint64_t cookie;	/* as it came */
	uint16_t flags;
	uint16_t type;
	uint64_t offset;
	uint32_t length;
	void *buf;
};

/* ---- replies ---------------------------------------------------------------- */

static bool send_locked(struct nbd_conn *conn, const void *head, size_t head_len,
			const void *data, size_t len)
{
	bool ok;

	pthread_mutex_lock(&conn->send_lock);
	ok = nbd_send(conn, head, head_len, data, len);
	if (!ok)
		__atomic_store_n(&conn->cut_off, true, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&conn->send_lock);
	return ok;
}

static bool simple(const struct job *j, uint32_t error, const void *data, size_t len)
{
	const struct nbd_simple head = {
		.magic = htobe32(NBD_SIMPLE_MAGIC), .error = htobe32(error), .cookie = j->cookie,
	};

	return send_locked(j->conn, &head, sizeof(head), data, len);
}

/* A chunk of a structured reply: @fixed comes before @data. */
static bool chunk(const struct job *j, uint16_t flags, uint16_t type, const void *fixed,
		  size_t fixed_len, const void *data, size_t len)
{
	struct {
		struct nbd_chunk head;
		char fixed[24];
	} __attribute__((packed)) out = {
		.head = {
			.magic = htobe32(NBD_CHUNK_MAGIC), .flags = htobe16(flags),
			.type = htobe16(type), .cookie = j->cookie,
			.length = htobe32((uint32_t)(fixed_len + len)),
		},
	};

	if (fixed_len)
		memcpy(out.fixed, fixed, fixed_len);
	return send_locked(j->conn, &out, sizeof(out.head) + fixed_len, data, len);
}

/* @at: where it happened; UINT64_MAX: nowhere */
static bool fail(const struct job *j, uint32_t error, uint64_t at, const char *text)
{
	struct {
		uint32_t error;
		uint16_t len;
		char rest[520];
	} __attribute__((packed)) e;
	size_t len = strlen(text);

	if (!j->conn->structured)
		return simple(j, error, NULL, 0);
	e.error = htobe32(error);
	if (len > 500)
		len = 500;
	e.len = htobe16((uint16_t)len);
	memcpy(e.rest, text, len);
	if (at != UINT64_MAX) {
		memcpy(e.rest + len, &(uint64_t){ htobe64(at) }, 8);
		len += 8;
	}
	return chunk(j, NBD_REPLY_FLAG_DONE,
		     at == UINT64_MAX ? NBD_REPLY_TYPE_ERROR : NBD_REPLY_TYPE_ERROR_OFFSET,
		     NULL, 0, &e, 6 + len);
}

/*
 * What a source's error is called. ENODATA is no error of the storage: what was released,
 * or never protected, was not to be asked for. So it is none of EIO's, which means that the
 * data is lost; QEMU's server makes the same of it.
 */
static uint32_t nbd_error(int ret)
{
	switch (ret) {
	case -ENODATA:
	case -EINVAL:
		return NBD_EINVAL;
	case -ENOMEM:
		return NBD_ENOMEM;
	case -EPERM:
		return NBD_EPERM;
	default:
		return NBD_EIO;
	}
}

static bool source_failed(const struct job *j, int ret, uint64_t at, const char *text)
{
	struct nbd_server *server = j->conn->server;

	__atomic_fetch_add(&server->failures, 1, __ATOMIC_RELAXED);
	return fail(j, nbd_error(ret), at, text);
}

/* ---- reading ---------------------------------------------------------------- */

static void sent(const struct job *j, uint64_t offset, uint64_t length)
{
	const struct nbd_source *s = j->conn->server->source;

	if (s->served)
		s->served(s, offset, length);
}

static bool send_hole(const struct job *j, uint16_t flags, uint64_t at, uint32_t len)
{
	const struct {
		uint64_t offset;
		uint32_t length;
	} __attribute__((packed)) hole = { htobe64(at), htobe32(len) };

	return chunk(j, flags, NBD_REPLY_TYPE_OFFSET_HOLE, &hole, sizeof(hole), NULL, 0);
}

/*
 * What begins at @at and is of one kind: how much of it goes into one chunk, and whether it
 * is zeros. A source that answers in small steps shall not make small reads.
 */
static int next_piece(const struct job *j, uint64_t at, uint64_t *len, bool *zero,
		      struct cbw_error *err)
{
	const struct nbd_source *s = j->conn->server->source;
	uint64_t left = j->offset + j->length - at, run;
	uint32_t state;

	*len = 0;
	while (*len < left && (*zero || *len < NBD_PIECE)) {
		int ret = s->status(s, NBD_BASE_ALLOCATION, at + *len, left - *len, &state, &run,
				    err);

		if (ret)
			return ret;
		if (*len && *zero != !!(state & NBD_STATE_ZERO))
			break;
		*zero = state & NBD_STATE_ZERO;
		*len += run;
	}
	if (!*zero && *len > NBD_PIECE)
		*len = NBD_PIECE;
	return 0;
}

/* In chunks as they come: zeros are said, not sent. */
static bool read_structured(const struct job *j)
{
	const struct nbd_source *s = j->conn->server->source;
	uint64_t at = j->offset, end = j->offset + j->length;
	struct cbw_error err;

	while (at < end) {
		bool zero = false, ok;
		uint16_t flags;
		uint64_t len;
		int ret = next_piece(j, at, &len, &zero, &err);

		if (!ret && !zero)
			ret = s->read(s, at, j->buf, len, &err);
		if (ret)
			return source_failed(j, ret, at, err.msg);
		flags = at + len == end ? NBD_REPLY_FLAG_DONE : 0;
		ok = zero ? send_hole(j, flags, at, (uint32_t)len) :
			chunk(j, flags, NBD_REPLY_TYPE_OFFSET_DATA, &(uint64_t){ htobe64(at) }, 8,
			      j->buf, len);
		if (!ok)
			return false;
		sent(j, at, len);
		at += len;
	}
	return true;
}

/* All of it has to be there before the reply begins, since that cannot say that it failed. */
static bool read_whole(const struct job *j, void *buf)
{
	const struct nbd_source *s = j->conn->server->source;
	struct cbw_error err;
	int ret = s->read(s, j->offset, buf, j->length, &err);
	bool ok = ret ? source_failed(j, ret, j->offset, err.msg) : simple(j, 0, buf, j->length);

	if (ok && !ret)
		sent(j, j->offset, j->length);
	return ok;
}

/* One at a time of a connection: else who asks, and takes nothing, has gigabytes of memory. */
static bool read_simple(const struct job *j)
{
	struct nbd_conn *conn = j->conn;
	bool ok = false;
	void *buf;

	if (j->length <= NBD_PIECE)
		return read_whole(j, j->buf);
	pthread_mutex_lock(&conn->big_lock);
	/* what was waited for may be that nobody takes it any more */
	if (!__atomic_load_n(&conn->cut_off, __ATOMIC_RELAXED)) {
		if (posix_memalign(&buf, 4096, j->length))
			buf = NULL;
		ok = buf ? read_whole(j, buf) : fail(j, NBD_ENOMEM, UINT64_MAX, "out of memory");
		free(buf);
	}
	pthread_mutex_unlock(&conn->big_lock);
	return ok;
}

/* ---- block status ----------------------------------------------------------- */

struct extent {
	uint32_t length;
	uint32_t flags;
} __attribute__((packed));

/* Neighbours that are alike are one. */
static int collect(const struct job *j, enum nbd_context c, struct extent *v, size_t *nr,
		   struct cbw_error *err)
{
	const struct nbd_source *s = j->conn->server->source;
	uint64_t at = j->offset, end = at + j->length;
	uint32_t flags, last = 0, length = 0;

	*nr = 0;
	while (at < end) {
		uint64_t run;
		int ret = s->status(s, c, at, end - at, &flags, &run, err);

		if (ret)
			return ret;
		if (!*nr || flags != last) {
			if (*nr == EXTENTS_MAX || (*nr && j->flags & NBD_CMD_FLAG_REQ_ONE))
				break;
			(*nr)++;
			length = 0;
		}
		last = flags;
		length += (uint32_t)run;
		v[*nr - 1] = (struct extent){ htobe32(length), htobe32(flags) };
		at += run;
	}
	return 0;
}

static bool block_status(const struct job *j)
{
	const struct nbd_conn *conn = j->conn;
	struct extent *v = j->buf;
	struct cbw_error err;
	unsigned int left = 0, c;

	for (c = 0; c < NBD_CONTEXTS; c++)
		left += conn->context[c];
	if (!left)
		return fail(j, NBD_EINVAL, UINT64_MAX, "no metadata context was negotiated");
	for (c = 0; c < NBD_CONTEXTS; c++) {
		const uint32_t id = htobe32(c + 1);
		size_t nr;
		int ret;

		if (!conn->context[c])
			continue;
		ret = collect(j, c, v, &nr, &err);
		if (ret)
			return source_failed(j, ret, UINT64_MAX, err.msg);
		if (!chunk(j, --left ? 0 : NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_BLOCK_STATUS,
			   &id, sizeof(id), v, nr * sizeof(*v)))
			return false;
	}
	return true;
}

/* ---- requests --------------------------------------------------------------- */

static bool trim(const struct job *j)
{
	const struct nbd_source *s = j->conn->server->source;
	struct cbw_error err;
	int ret;

	if (!s->trim)
		return fail(j, NBD_EINVAL, UINT64_MAX,
			    "trim is not offered: 'cbw export' was started without --release");
	ret = s->trim(s, j->offset, j->length, &err);
	return ret ? source_failed(j, ret, UINT64_MAX, err.msg) : simple(j, 0, NULL, 0);
}

/* False: no more of this connection. */
static bool handle(const struct job *j)
{
	const struct nbd_source *s = j->conn->server->source;
	/* a trim is no write, so there is nothing that could be forced to the medium */
	const uint16_t known = j->type == NBD_CMD_BLOCK_STATUS ? NBD_CMD_FLAG_REQ_ONE :
		j->type == NBD_CMD_TRIM ? NBD_CMD_FLAG_FUA : 0;

	if (j->type == NBD_CMD_WRITE || j->type == NBD_CMD_WRITE_ZEROES)
		return fail(j, NBD_EPERM, UINT64_MAX, "a point in time is not written to");
	if (j->type != NBD_CMD_READ && j->type != NBD_CMD_TRIM && j->type != NBD_CMD_BLOCK_STATUS)
		return fail(j, NBD_EINVAL, UINT64_MAX, "this command is not known here");
	if (j->flags & ~known)
		return fail(j, NBD_EINVAL, UINT64_MAX, "a flag that is not known with this command");
	if (!j->length || j->offset > s->size || j->length > s->size - j->offset)
		return fail(j, NBD_EINVAL, UINT64_MAX, "nothing, or beyond the end of the export");
	switch (j->type) {
	case NBD_CMD_READ:
		if (j->length > NBD_LENGTH_MAX)
			return fail(j, NBD_EINVAL, UINT64_MAX, "more than 32 MiB at once");
		return j->conn->structured ? read_structured(j) : read_simple(j);
	case NBD_CMD_TRIM:
		return trim(j);
	default:
		return block_status(j);
	}
}

/* The next request of the connection; false: there is none. With recv_lock. */
static bool next(struct job *j)
{
	struct nbd_conn *conn = j->conn;
	struct nbd_request r;

	if (conn->done || !nbd_recv(conn, &r, sizeof(r)) || be32toh(r.magic) != NBD_REQUEST_MAGIC)
		return false;
	j->flags = be16toh(r.flags);
	j->type = be16toh(r.type);
	j->cookie = r.cookie;
	j->offset = be64toh(r.offset);
	j->length = be32toh(r.length);
	if (j->type == NBD_CMD_DISC) {
		conn->clean = true;
		return false;
	}
	/* its data comes whether we want it or not */
	return j->type != NBD_CMD_WRITE ||
		(j->length <= NBD_LENGTH_MAX && nbd_skip(conn, j->length));
}

void nbd_requests(struct nbd_conn *conn)
{
	struct job j = { .conn = conn };

	if (posix_memalign(&j.buf, 4096, NBD_PIECE))
		return;
	for (;;) {
		bool more;

		pthread_mutex_lock(&conn->recv_lock);
		more = next(&j);
		if (!more)
			conn->done = true;
		pthread_mutex_unlock(&conn->recv_lock);
		if (!more)
			break;
		if (handle(&j))
			continue;
		/* the stream of replies is broken; whoever waits for a request wakes */
		shutdown(conn->fd, SHUT_RDWR);
		pthread_mutex_lock(&conn->recv_lock);
		conn->done = true;
		conn->clean = false;
		pthread_mutex_unlock(&conn->recv_lock);
		break;
	}
	free(j.buf);
}
