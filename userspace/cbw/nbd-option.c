// SPDX-License-Identifier: GPL-2.0-or-later
/* nbd: the handshake, up to the first request */
#include <endian.h>

#include "cbw.h"
#include "nbd.h"
#include "nbd-proto.h"

/* names of exports and contexts have 4096 bytes at most; a few queries fit */
#define OPTION_MAX	(64u << 10)
#define BITMAP_PREFIX	"qemu:dirty-bitmap:"

/* What the client sent with an option, and where in it we are. */
struct option {
	struct nbd_conn *conn;
	uint32_t option;
	uint32_t len;
	uint32_t at;
	char *data;
};

uint16_t nbd_flags(const struct nbd_source *source)
{
	/* who trims must not be told that it is read-only: clients take that for all of it */
	return (uint16_t)(NBD_FLAG_HAS_FLAGS | NBD_FLAG_CAN_MULTI_CONN |
			  (source->trim ? NBD_FLAG_SEND_TRIM : NBD_FLAG_READ_ONLY));
}

static bool reply(const struct option *o, uint32_t type, const void *data, uint32_t len)
{
	const struct nbd_option_reply head = {
		.magic = htobe64(NBD_REP_MAGIC),
		.option = htobe32(o->option),
		.type = htobe32(type),
		.length = htobe32(len),
	};

	return nbd_send(o->conn, &head, sizeof(head), data, len);
}

static bool reply_error(const struct option *o, uint32_t type, const char *text)
{
	return reply(o, type, text, (uint32_t)strlen(text));
}

static bool take_u16(struct option *o, uint16_t *v)
{
	if (o->len - o->at < sizeof(*v))
		return false;
	memcpy(v, o->data + o->at, sizeof(*v));
	*v = be16toh(*v);
	o->at += sizeof(*v);
	return true;
}

static bool take_u32(struct option *o, uint32_t *v)
{
	if (o->len - o->at < sizeof(*v))
		return false;
	memcpy(v, o->data + o->at, sizeof(*v));
	*v = be32toh(*v);
	o->at += sizeof(*v);
	return true;
}

/* A length and so many bytes, which are a string for free(). */
static char *take_string(struct option *o)
{
	uint32_t len;
	char *s;

	if (!take_u32(o, &len) || len > o->len - o->at)
		return NULL;
	s = xcalloc(len + 1u, 1);
	memcpy(s, o->data + o->at, len);
	o->at += len;
	/* a NUL in it: no name that anybody has */
	if (strlen(s) != len) {
		free(s);
		return NULL;
	}
	return s;
}

static bool is_export(const struct nbd_conn *conn, const char *name)
{
	return !*name || !strcmp(name, conn->server->name);
}

/* The contexts that were chosen are for an export of that name. */
static void keep_contexts_of(struct nbd_conn *conn, const char *name)
{
	if (!conn->context_name || strcmp(conn->context_name, name))
		memset(conn->context, 0, sizeof(conn->context));
}

/* ---- options --------------------------------------------------------------- */

static bool export_info(const struct option *o)
{
	const struct nbd_source *s = o->conn->server->source;
	const struct {
		uint16_t type;
		uint64_t size;
		uint16_t flags;
	} __attribute__((packed)) info = {
		htobe16(NBD_INFO_EXPORT), htobe64(s->size), htobe16(nbd_flags(s)),
	};
	const struct {
		uint16_t type;
		uint32_t min, preferred, max;
	} __attribute__((packed)) block = {
		/* any byte can be read; it is only slower */
		htobe16(NBD_INFO_BLOCK_SIZE), htobe32(1),
		htobe32(s->block > 4096 ? s->block : 4096), htobe32(NBD_LENGTH_MAX),
	};

	return reply(o, NBD_REP_INFO, &info, sizeof(info)) &&
		reply(o, NBD_REP_INFO, &block, sizeof(block));
}

/* NBD_OPT_INFO and NBD_OPT_GO; *@go: the handshake is over */
static bool opt_go(struct option *o, bool *go)
{
	char *name = take_string(o);
	uint16_t nr, info;
	bool ok;

	if (!name)
		return reply_error(o, NBD_REP_ERR_INVALID, "the export's name is cut short");
	ok = take_u16(o, &nr);
	/* all that we know is sent anyway */
	for (; ok && nr; nr--)
		ok = take_u16(o, &info);
	if (!ok || o->at != o->len) {
		free(name);
		return reply_error(o, NBD_REP_ERR_INVALID, "its length does not fit");
	}
	if (!is_export(o->conn, name)) {
		free(name);
		return reply_error(o, NBD_REP_ERR_UNKNOWN, "there is no export of that name");
	}
	if (o->option == NBD_OPT_GO)
		keep_contexts_of(o->conn, name);
	free(name);
	ok = export_info(o) && reply(o, NBD_REP_ACK, NULL, 0);
	*go = ok && o->option == NBD_OPT_GO;
	return ok;
}

static bool opt_list(const struct option *o)
{
	const char *name = o->conn->server->name;
	const uint32_t len = (uint32_t)strlen(name);
	char *data;
	bool ok;

	if (o->len)
		return reply_error(o, NBD_REP_ERR_INVALID, "it has no data");
	data = xcalloc(4 + len, 1);
	memcpy(data, &(uint32_t){ htobe32(len) }, 4);
	memcpy(data + 4, name, len);
	ok = reply(o, NBD_REP_SERVER, data, 4 + len) && reply(o, NBD_REP_ACK, NULL, 0);
	free(data);
	return ok;
}

static char *context_name(const struct nbd_conn *conn, enum nbd_context c)
{
	const char *bitmap = conn->server->source->bitmap;

	if (c == NBD_BASE_ALLOCATION)
		return xstrdup("base:allocation");
	return bitmap ? xasprintf(BITMAP_PREFIX "%s", bitmap) : NULL;
}

/* A list may ask for all of a namespace, a choice names one. */
static bool matches(const struct option *o, const char *query, const char *name)
{
	size_t len = strlen(query);

	if (o->option == NBD_OPT_LIST_META_CONTEXT && len && query[len - 1] == ':' &&
	    !strncmp(query, name, len))
		return true;
	return !strcmp(query, name);
}

static bool send_context(const struct option *o, enum nbd_context c, const char *name)
{
	const uint32_t len = (uint32_t)strlen(name);
	char *data = xcalloc(4 + len, 1);
	bool ok;

	/* the number is of no meaning in a list */
	if (o->option == NBD_OPT_SET_META_CONTEXT)
		memcpy(data, &(uint32_t){ htobe32((uint32_t)c + 1) }, 4);
	memcpy(data + 4, name, len);
	ok = reply(o, NBD_REP_META_CONTEXT, data, 4 + len);
	free(data);
	return ok;
}

static bool parse_queries(struct option *o, bool wanted[NBD_CONTEXTS])
{
	uint32_t nr, i;

	if (!take_u32(o, &nr))
		return false;
	for (i = 0; i < NBD_CONTEXTS; i++)
		wanted[i] = !nr && o->option == NBD_OPT_LIST_META_CONTEXT;
	while (nr--) {
		char *query = take_string(o);

		if (!query)
			return false;
		for (i = 0; i < NBD_CONTEXTS; i++) {
			char *name = context_name(o->conn, i);

			if (name && matches(o, query, name))
				wanted[i] = true;
			free(name);
		}
		free(query);
	}
	return o->at == o->len;
}

/* NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT */
static bool opt_context(struct option *o)
{
	struct nbd_conn *conn = o->conn;
	bool set = o->option == NBD_OPT_SET_META_CONTEXT, ok = true;
	bool wanted[NBD_CONTEXTS];
	char *export;
	uint32_t i;

	if (set) {
		/* whatever comes of it, the old choice is gone */
		memset(conn->context, 0, sizeof(conn->context));
		if (!conn->structured)
			return reply_error(o, NBD_REP_ERR_INVALID,
					   "structured replies have to be negotiated first");
	}
	export = take_string(o);
	if (!export || !parse_queries(o, wanted)) {
		free(export);
		return reply_error(o, NBD_REP_ERR_INVALID, "its length does not fit");
	}
	if (!is_export(conn, export)) {
		free(export);
		return reply_error(o, NBD_REP_ERR_UNKNOWN, "there is no export of that name");
	}
	for (i = 0; i < NBD_CONTEXTS && ok; i++) {
		char *name = wanted[i] ? context_name(conn, i) : NULL;

		if (name)
			ok = send_context(o, i, name);
		if (set)
			conn->context[i] = name;
		free(name);
	}
	if (set) {
		free(conn->context_name);
		conn->context_name = export;
	} else {
		free(export);
	}
	return ok && reply(o, NBD_REP_ACK, NULL, 0);
}

/* The old way in: no reply but the size, or none at all. */
static bool opt_export_name(struct option *o, bool no_zeroes, bool *go)
{
	const struct nbd_source *s = o->conn->server->source;
	struct {
		uint64_t size;
		uint16_t flags;
		char zeroes[124];
	} __attribute__((packed)) out = {
		.size = htobe64(s->size), .flags = htobe16(nbd_flags(s)),
	};
	char *name = strndup(o->data, o->len);
	bool ok = name && is_export(o->conn, name);

	if (ok)
		keep_contexts_of(o->conn, name);
	free(name);
	*go = ok && nbd_send(o->conn, &out, no_zeroes ? 10 : sizeof(out), NULL, 0);
	return *go;
}

static bool one_option(struct option *o, bool no_zeroes, bool *go)
{
	switch (o->option) {
	case NBD_OPT_EXPORT_NAME:
		return opt_export_name(o, no_zeroes, go);
	case NBD_OPT_ABORT:
		reply(o, NBD_REP_ACK, NULL, 0);
		return false;
	case NBD_OPT_LIST:
		return opt_list(o);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return opt_go(o, go);
	case NBD_OPT_STRUCTURED_REPLY:
		if (o->len)
			return reply_error(o, NBD_REP_ERR_INVALID, "it has no data");
		o->conn->structured = true;
		return reply(o, NBD_REP_ACK, NULL, 0);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return opt_context(o);
	default:
		return reply_error(o, NBD_REP_ERR_UNSUP, "not known here");
	}
}

bool nbd_handshake(struct nbd_conn *conn)
{
	const struct {
		uint64_t magic, opts;
		uint16_t flags;
	} __attribute__((packed)) hello = {
		htobe64(NBD_MAGIC), htobe64(NBD_OPTS_MAGIC),
		htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
	};
	uint32_t flags;
	bool go = false, ok = true;

	if (!nbd_send(conn, &hello, sizeof(hello), NULL, 0) ||
	    !nbd_recv(conn, &flags, sizeof(flags)))
		return false;
	flags = be32toh(flags);
	if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
		return false;
	while (ok && !go) {
		struct nbd_option_head head;
		struct option o = { .conn = conn };

		if (!nbd_recv(conn, &head, sizeof(head)) ||
		    be64toh(head.magic) != NBD_OPTS_MAGIC)
			return false;
		o.option = be32toh(head.option);
		o.len = be32toh(head.length);
		if (o.len > OPTION_MAX) {
			ok = o.option != NBD_OPT_EXPORT_NAME && o.len <= NBD_LENGTH_MAX &&
				nbd_skip(conn, o.len) &&
				reply_error(&o, NBD_REP_ERR_TOO_BIG, "too long");
			continue;
		}
		o.data = xcalloc(o.len + 1u, 1);
		ok = nbd_recv(conn, o.data, o.len) &&
			one_option(&o, flags & NBD_FLAG_NO_ZEROES, &go);
		free(o.data);
	}
	return go;
}
