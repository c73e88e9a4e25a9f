// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * NBD servers as source and sink, by libnbd: a connection for each worker where the server
 * says that they see each other's writes, else one for all of them.
 *
 * A server may never answer, so nothing waits in libnbd: a signal ends each wait. What was asked
 * then is still under way, with our buffers, so its connection is not used any more. Only the
 * lookup of a server's name waits there, so it has a thread of its own.
 */
#include <libnbd.h>
#include <pthread.h>

#include "cbw.h"
#include "sink.h"
#include "source.h"

#define MAP_AT_ONCE	(1u << 30)	/* a request has 32 bits of length */
#define ZERO_AT_ONCE	(64u << 20)
#define TICK_MS		100	/* signals are looked for so often */
#define GOODBYE_MS	5000	/* a server gets as long to close a connection */

struct conn {
	struct nbd_handle *h;
	pthread_mutex_t lock;	/* one request at a time */
	bool left;		/* a request was given up */
	bool looking;		/* a thread may be in it for ever: it is not closed */
};

/**
 * struct nbd - connections to one export
 * @name: for messages
 * @most: bytes of a request
 */
struct nbd {
	const char *name;
	struct conn *conn;
	unsigned int nr;
	uint64_t size;
	uint32_t most;
	bool maps, zeroes, flushes;
};

static int nbd_fail(const struct nbd *n, const char *what, struct cbw_error *err)
{
	int code = nbd_get_errno();

	return fail_with(err, code ? code : EIO, "%s: %s: %s", esc(n->name), what,
			 nbd_get_error() ? nbd_get_error() : "it failed");
}

/* NULL: it is over */
static struct conn *take(struct nbd *n, unsigned int worker, struct cbw_error *err)
{
	struct conn *c = &n->conn[worker % n->nr];

	pthread_mutex_lock(&c->lock);
	if (!c->left && !stop_signal)
		return c;
	pthread_mutex_unlock(&c->lock);
	if (stop_signal)
		fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
	else
		fail_with(err, EIO, "%s: the connection has failed", esc(n->name));
	return NULL;
}

static void give(struct conn *c)
{
	pthread_mutex_unlock(&c->lock);
}

static int stopped(struct conn *c, struct cbw_error *err)
{
	c->left = true;
	return fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
}

/* One tick of waiting: 0, or an error. */
static int wait_tick(const struct nbd *n, struct conn *c, const char *what, struct cbw_error *err)
{
	if (stop_signal)
		return stopped(c, err);
	if (nbd_poll(c->h, TICK_MS) < 0 && nbd_get_errno() != EINTR)
		return nbd_fail(n, what, err);
	return 0;
}

/* For the end of a request that was begun: @cookie, -1: it could not be. */
static int finish(const struct nbd *n, struct conn *c, int64_t cookie, const char *what,
		  struct cbw_error *err)
{
	int done = cookie < 0 ? -1 : 0, ret;

	while (!done) {
		done = nbd_aio_command_completed(c->h, (uint64_t)cookie);
		ret = done ? 0 : wait_tick(n, c, what, err);
		if (ret) {
			c->left = true;
			return ret;
		}
	}
	return done < 0 ? nbd_fail(n, what, err) : 0;
}

/**
 * struct lookup - the beginning of a connection
 * @done: by the thread; or nobody waits any more, and it takes all with it
 * @code, @text: why it failed
 */
struct lookup {
	struct nbd_handle *h;
	char *uri;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool done, alone;
	int ret, code;
	char text[300];
};

static void free_lookup(struct lookup *l)
{
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->ended);
	free(l->uri);
	free(l);
}

static void *look_up(void *arg)
{
	struct lookup *l = arg;
	int ret = nbd_aio_connect_uri(l->h, l->uri);
	bool alone;

	pthread_mutex_lock(&l->lock);
	l->ret = ret;
	if (ret) {
		/* a thread has its own errors */
		l->code = nbd_get_errno();
		snprintf(l->text, sizeof(l->text), "%s",
			 nbd_get_error() ? nbd_get_error() : "it failed");
	}
	l->done = true;
	alone = l->alone;
	pthread_cond_signal(&l->ended);
	pthread_mutex_unlock(&l->lock);
	if (alone) {
		nbd_close(l->h);
		free_lookup(l);
	}
	return NULL;
}

/* Until it has ended, or a signal comes; then false: it goes on alone. */
static bool wait_for(struct lookup *l)
{
	struct timespec end;
	bool done;

	pthread_mutex_lock(&l->lock);
	while (!l->done && !stop_signal) {
		clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_nsec += TICK_MS * 1000000l;
		end.tv_sec += end.tv_nsec / 1000000000l;
		end.tv_nsec %= 1000000000l;
		pthread_cond_clockwait(&l->ended, &l->lock, CLOCK_MONOTONIC, &end);
	}
	done = l->done;
	l->alone = !done;
	pthread_mutex_unlock(&l->lock);
	return done;
}

/* @c is not to be touched when a signal has come: a thread is in it */
static int begin_connect(const struct nbd *n, struct conn *c, struct cbw_error *err)
{
	struct lookup *l = xcalloc(1, sizeof(*l));
	pthread_t thread;
	int ret;

	l->h = c->h;
	l->uri = xstrdup(n->name);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->ended, NULL);
	ret = pthread_create(&thread, NULL, look_up, l);
	if (ret) {
		free_lookup(l);
		return fail_with(err, ret, "%s: connecting: no thread: %s", esc(n->name),
				 strerror(ret));
	}
	if (!wait_for(l)) {
		pthread_detach(thread);
		c->looking = true;
		return stopped(c, err);
	}
	pthread_join(thread, NULL);
	ret = l->ret ? fail_with(err, l->code ? l->code : EIO, "%s: connecting: %s", esc(n->name),
				 l->text) : 0;
	free_lookup(l);
	return ret;
}

static int connect_to(const struct nbd *n, struct conn *c, struct cbw_error *err)
{
	int ret = begin_connect(n, c, err);

	if (ret)
		return ret;
	while (!ret && nbd_aio_is_connecting(c->h))
		ret = wait_tick(n, c, "connecting", err);
	return ret || nbd_aio_is_ready(c->h) ? ret : nbd_fail(n, "connecting", err);
}

/* It says good-bye, and sees that the server has heard it. */
static void leave(struct conn *c)
{
	int waited = 0;

	if (!c->left && nbd_aio_is_ready(c->h) && !nbd_aio_disconnect(c->h, 0))
		while (!nbd_aio_is_closed(c->h) && !nbd_aio_is_dead(c->h) && !stop_signal &&
		       waited < GOODBYE_MS && nbd_poll(c->h, TICK_MS) >= 0)
			waited += TICK_MS;
	if (!c->looking)
		nbd_close(c->h);
	pthread_mutex_destroy(&c->lock);
}

static int add(struct nbd *n, struct cbw_error *err)
{
	struct conn *c = &n->conn[n->nr];

	c->h = nbd_create();
	if (!c->h)
		return nbd_fail(n, "no handle", err);
	pthread_mutex_init(&c->lock, NULL);
	n->nr++;
	if (nbd_add_meta_context(c->h, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return nbd_fail(n, "connecting", err);
	return connect_to(n, c, err);
}

static void nbd_end(struct nbd *n)
{
	unsigned int i;

	for (i = 0; i < n->nr; i++)
		leave(&n->conn[i]);
	free(n->conn);
}

/* @write: to be written to */
static int nbd_begin(struct nbd *n, const char *uri, unsigned int workers, bool write,
		     struct cbw_error *err)
{
	int64_t size, most;
	int ret;

	n->name = uri;
	n->conn = xcalloc(workers ? workers : 1, sizeof(*n->conn));
	ret = add(n, err);
	if (ret)
		goto bad;
	size = nbd_get_size(n->conn[0].h);
	if (size < 0) {
		ret = nbd_fail(n, "its size", err);
		goto bad;
	}
	if (write && nbd_is_read_only(n->conn[0].h)) {
		ret = fail_with(err, EROFS, "%s: the server allows no writes", esc(uri));
		goto bad;
	}
	most = nbd_get_block_size(n->conn[0].h, LIBNBD_SIZE_MAXIMUM);
	n->most = most > 0 && most < XFER_PIECE ? (uint32_t)most : XFER_PIECE;
	n->size = (uint64_t)size;
	n->maps = nbd_can_meta_context(n->conn[0].h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
	n->zeroes = nbd_can_zero(n->conn[0].h) > 0;
	n->flushes = nbd_can_flush(n->conn[0].h) > 0;
	/*
	 * Who only reads needs no promise about writes, but a server that gives none may take no
	 * other client, and let us wait for ever.
	 */
	if (nbd_can_multi_conn(n->conn[0].h) > 0)
		while (!ret && n->nr < workers)
			ret = add(n, err);
	/* a server that wants only so many connections: those that there are will do */
	if (ret && n->nr > 1) {
		leave(&n->conn[--n->nr]);
		ret = 0;
	}
	if (!ret)
		return 0;
bad:
	nbd_end(n);
	return ret;
}

static int nbd_get(struct nbd *n, uint64_t offset, void *buf, uint32_t length,
		   unsigned int worker, struct cbw_error *err)
{
	struct conn *c = take(n, worker, err);
	char *p = buf;
	int ret = 0;

	if (!c)
		return -err->code;
	while (length && !ret) {
		uint32_t now = length < n->most ? length : n->most;

		ret = finish(n, c, nbd_aio_pread(c->h, p, now, offset, NBD_NULL_COMPLETION, 0),
			     "reading", err);
		p += now;
		offset += now;
		length -= now;
	}
	give(c);
	return ret;
}

/* ---- source ---------------------------------------------------------------------- */

struct nbd_source {
	struct source s;
	struct nbd n;
};

/* What block status says of the first extents: how much of it is alike. */
struct status {
	uint64_t length;
	bool zero, end;
};

static int on_extents(void *arg, const char *context, uint64_t offset, uint32_t *entries,
		      size_t nr, int *error)
{
	struct status *st = arg;
	size_t i;

	(void)offset;
	(void)error;
	if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return 0;
	for (i = 0; i + 1 < nr && !st->end; i += 2) {
		bool zero = entries[i + 1] & LIBNBD_STATE_ZERO;

		if (st->length && zero != st->zero)
			st->end = true;
		else
			st->length += entries[i];
		if (!st->end)
			st->zero = zero;
	}
	return 0;
}

static int nbd_map(struct source *s, uint64_t offset, uint64_t length, struct source_run *run,
		   struct cbw_error *err)
{
	struct nbd *n = &((struct nbd_source *)s)->n;
	struct status st = { 0 };
	nbd_extent_callback cb = { .callback = on_extents, .user_data = &st };
	struct conn *c;
	int ret;

	*run = (struct source_run){ length, SOURCE_CALL, XFER_CALL, -1, 0 };
	if (!n->maps)
		return 0;
	c = take(n, 0, err);
	if (!c)
		return -err->code;
	ret = finish(n, c, nbd_aio_block_status(c->h, length < MAP_AT_ONCE ? length : MAP_AT_ONCE,
						offset, cb, NBD_NULL_COMPLETION, 0),
		     "block status", err);
	give(c);
	/* a server may answer with nothing of use: then it is data */
	if (ret || !st.length)
		return ret;
	run->kind = st.zero ? SOURCE_ZERO : SOURCE_CALL;
	if (st.length < length)
		run->length = st.length;
	else if (length > MAP_AT_ONCE)
		run->length = MAP_AT_ONCE;
	return 0;
}

static int nbd_source_read(struct source *s, uint64_t offset, void *buf, uint32_t length,
			   unsigned int worker, struct cbw_error *err)
{
	return nbd_get(&((struct nbd_source *)s)->n, offset, buf, length, worker, err);
}

static void nbd_source_close(struct source *s)
{
	nbd_end(&((struct nbd_source *)s)->n);
	free(s);
}

static const struct source_ops nbd_source_ops = {
	.map = nbd_map,
	.read = nbd_source_read,
	.close = nbd_source_close,
};

int source_nbd(const char *uri, unsigned int workers, struct source **s, struct cbw_error *err)
{
	struct nbd_source *o = xcalloc(1, sizeof(*o));
	int ret;

	o->s = (struct source){ .ops = &nbd_source_ops, .name = xstrdup(uri) };
	ret = nbd_begin(&o->n, o->s.name, workers, false, err);
	if (ret) {
		free(o->s.name);
		free(o);
		return ret;
	}
	o->s.size = o->n.size;
	*s = &o->s;
	return 0;
}

/* ---- sink ------------------------------------------------------------------------ */

struct nbd_sink {
	struct sink s;
	struct nbd n;
};

static int nbd_data(struct sink *s, uint64_t offset, void *data, uint32_t length,
		    struct xfer_write *w, unsigned int room, struct cbw_error *err)
{
	if (!room)
		return fail_with(err, EIO, "%s: more places than there is room for",
				 esc(s->name));
	w[0] = (struct xfer_write){ data, length, XFER_CALL, -1, offset };
	return 1;
}

static int nbd_put(struct sink *s, const struct xfer_write *w, unsigned int worker,
		   struct cbw_error *err)
{
	struct nbd *n = &((struct nbd_sink *)s)->n;
	struct conn *c = take(n, worker, err);
	uint64_t at = w->dst_offset;
	uint32_t left = w->length;
	const char *p = w->data;
	int ret = 0;

	if (!c)
		return -err->code;
	while (left && !ret) {
		uint32_t now = left < n->most ? left : n->most;

		ret = finish(n, c, nbd_aio_pwrite(c->h, p, now, at, NBD_NULL_COMPLETION, 0),
			     "writing", err);
		p += now;
		at += now;
		left -= now;
	}
	give(c);
	return ret;
}

static int nbd_put_zero(struct sink *s, uint64_t offset, uint64_t length, struct cbw_error *err)
{
	static const char zeros[XFER_PIECE_MIN];
	struct nbd *n = &((struct nbd_sink *)s)->n;
	struct conn *c = take(n, 0, err);
	int ret = 0;

	if (!c)
		return -err->code;
	while (length && !ret) {
		uint64_t most = n->zeroes ? ZERO_AT_ONCE :
			n->most < sizeof(zeros) ? n->most : sizeof(zeros);
		uint64_t now = length < most ? length : most;

		ret = finish(n, c, n->zeroes ?
			     nbd_aio_zero(c->h, now, offset, NBD_NULL_COMPLETION, 0) :
			     nbd_aio_pwrite(c->h, zeros, now, offset, NBD_NULL_COMPLETION, 0),
			     "writing zeros", err);
		if (!ret && stop_signal)
			ret = fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
		offset += now;
		length -= now;
	}
	give(c);
	return ret;
}

static int nbd_sink_read(struct sink *s, uint64_t offset, void *buf, uint32_t length,
			 unsigned int worker, struct cbw_error *err)
{
	return nbd_get(&((struct nbd_sink *)s)->n, offset, buf, length, worker, err);
}

static int nbd_sink_flush(struct sink *s, struct cbw_error *err)
{
	struct nbd *n = &((struct nbd_sink *)s)->n;
	struct conn *c;
	int ret;

	if (!n->flushes)
		return 0;
	/* one is enough: there are several only where the server says that it is */
	c = take(n, 0, err);
	if (!c)
		return -err->code;
	ret = finish(n, c, nbd_aio_flush(c->h, NBD_NULL_COMPLETION, 0), "flushing", err);
	give(c);
	return ret;
}

static void nbd_sink_close(struct sink *s)
{
	nbd_end(&((struct nbd_sink *)s)->n);
	free(s);
}

static const struct sink_ops nbd_sink_ops = {
	.data = nbd_data,
	.zero = nbd_put_zero,
	.write = nbd_put,
	.read = nbd_sink_read,
	.flush = nbd_sink_flush,
	.close = nbd_sink_close,
};

int sink_nbd(const char *uri, uint64_t size, unsigned int workers, struct sink **s,
	     struct cbw_error *err)
{
	struct nbd_sink *o = xcalloc(1, sizeof(*o));
	int ret;

	o->s = (struct sink){
		.ops = &nbd_sink_ops,
		.name = xstrdup(uri),
		.unit = 65536,
		.zero_min = 65536,
		/* what a server has where nothing was written nobody knows */
		.say_zero = true,
		.sync_fd = -1,
	};
	ret = nbd_begin(&o->n, o->s.name, workers, true, err);
	if (!ret && o->n.size < size) {
		ret = fail_with(err, ENOSPC, "%s: the export has %llu bytes, %llu are needed",
				esc(uri), (ull)o->n.size, (ull)size);
		nbd_end(&o->n);
	}
	if (ret) {
		free(o->s.name);
		free(o);
		return ret;
	}
	o->s.no_flush = !o->n.flushes;
	*s = &o->s;
	return 0;
}
