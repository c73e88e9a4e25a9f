// SPDX-License-Identifier: LGPL-2.1-or-later
/* Errors, complete reads and writes, a small LRU cache of tables */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "qcow2-int.h"

int q2_err(struct qcow2_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
	}
	return -code;
}

char *q2_printable(const char *s)
{
	size_t len = strlen(s), i;
	char *out, *p;

	out = malloc(len * 4 + 1);
	if (!out)
		return NULL;
	for (i = 0, p = out; i < len; i++) {
		unsigned char c = s[i];

		if (c < ' ' || c > '~' || c == '\\')
			p += sprintf(p, "\\x%02x", c);
		else
			*p++ = c;
	}
	*p = '\0';
	return out;
}

/* the same, cut to a length that fits into a message */
struct q2_label q2_label(const char *s)
{
	struct q2_label out;
	size_t at = 0;

	for (; *s && at + 4 < sizeof(out.s) - 4; s++) {
		unsigned char c = (unsigned char)*s;

		at += (size_t)sprintf(out.s + at, c < ' ' || c > '~' || c == '\\' ? "\\x%02x" : "%c", c);
	}
	strcpy(out.s + at, *s ? "..." : "");
	return out;
}

/*
 * In a file that grows under us (a writable layer) what lies past the end was
 * allocated and not written yet: zeros. In any other the caller has checked the
 * range against the size, so the end of the file is an error.
 */
int q2_pread(struct q2_layer *l, void *buf, size_t len, uint64_t off,
	     const char *what, struct qcow2_error *err)
{
	char *p = buf;

	while (len) {
		ssize_t n = pread(l->fd, p, len < 1 << 30 ? len : 1 << 30, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return q2_err(err, errno, "%s: reading %s at %llu: %s", l->name,
				      what, (unsigned long long)off, strerror(errno));
		if (!n) {
			if (!l->w)
				return q2_err(err, EIO,
					      "%s: reading %s at %llu: the file ends there, it has become shorter",
					      l->name, what, (unsigned long long)off);
			memset(p, 0, len);
			return 0;
		}
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int q2_pwrite(struct q2_layer *l, const void *buf, size_t len, uint64_t off,
	      const char *what, struct qcow2_error *err)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(l->fd, p, len < 1 << 30 ? len : 1 << 30, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int e = n < 0 ? errno : EIO;

			return q2_err(err, e, "%s: writing %s at %llu: %s", l->name, what,
				      (unsigned long long)off, strerror(e));
		}
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int q2_sync(struct q2_layer *l, struct qcow2_error *err)
{
	if (fdatasync(l->fd))
		return q2_err(err, errno, "%s: fdatasync: %s", l->name, strerror(errno));
	return 0;
}

/* room for @bytes of buffers, at least four; buffers are made when first used */
int q2_cache_init(struct q2_cache *c, size_t bufsize, size_t bytes)
{
	unsigned int n = (unsigned int)(bytes / bufsize), size = 8;

	if (n < 4)
		n = 4;
	if (n > 4096)
		n = 4096;
	while (size < n * 2)
		size *= 2;
	memset(c, 0, sizeof(*c));
	c->bufsize = bufsize;
	c->max = n;
	c->mask = size - 1;
	c->lru.next = &c->lru;
	c->lru.prev = &c->lru;
	c->hash = calloc(size, sizeof(*c->hash));
	c->ents = calloc(n, sizeof(*c->ents));
	if (!c->hash || !c->ents) {
		free(c->hash);
		free(c->ents);
		c->hash = NULL;
		c->ents = NULL;
		c->max = 0;
		return -ENOMEM;
	}
	return 0;
}

void q2_cache_free(struct q2_cache *c)
{
	unsigned int i;

	for (i = 0; i < c->used; i++)
		free(c->ents[i].buf);
	free(c->ents);
	free(c->hash);
	memset(c, 0, sizeof(*c));
}

static struct q2_ent **q2_bucket(struct q2_cache *c, uint64_t key)
{
	return &c->hash[(key * 0x9e3779b97f4a7c15ull >> 32) & c->mask];
}

static void q2_lru_del(struct q2_ent *e)
{
	e->prev->next = e->next;
	e->next->prev = e->prev;
}

static void q2_lru_add(struct q2_ent *head, struct q2_ent *e)
{
	e->next = head->next;
	e->prev = head;
	head->next->prev = e;
	head->next = e;
}

struct q2_ent *q2_cache_find(struct q2_cache *c, uint64_t key)
{
	struct q2_ent *e;

	for (e = *q2_bucket(c, key); e; e = e->hnext) {
		if (e->key != key)
			continue;
		if (c->lru.next != e) {
			q2_lru_del(e);
			q2_lru_add(&c->lru, e);
		}
		return e;
	}
	return NULL;
}

/*
 * An entry to be filled: a fresh one, one that was dropped, or the one used
 * longest ago, which is still in the cache and may be dirty: the caller saves
 * it and then calls q2_cache_drop(). NULL: no memory.
 */
struct q2_ent *q2_cache_victim(struct q2_cache *c)
{
	struct q2_ent *e;

	if (c->lru.prev != &c->lru && (c->used == c->max || c->lru.prev->key == UINT64_MAX))
		return c->lru.prev;
	e = &c->ents[c->used];
	e->buf = malloc(c->bufsize);
	if (!e->buf)
		return NULL;
	e->key = UINT64_MAX;
	e->dirty = false;
	e->hnext = NULL;
	c->used++;
	q2_lru_add(c->lru.prev, e);
	return e;
}

/* forget what the entry holds; it is then the next victim */
void q2_cache_drop(struct q2_cache *c, struct q2_ent *e)
{
	struct q2_ent **pp;

	if (e->key != UINT64_MAX) {
		for (pp = q2_bucket(c, e->key); *pp != e; pp = &(*pp)->hnext)
			;
		*pp = e->hnext;
	}
	e->hnext = NULL;
	e->key = UINT64_MAX;
	e->dirty = false;
	q2_lru_del(e);
	q2_lru_add(c->lru.prev, e);
}

/* @e was dropped and now holds @key */
void q2_cache_insert(struct q2_cache *c, struct q2_ent *e, uint64_t key)
{
	struct q2_ent **pp = q2_bucket(c, key);

	e->key = key;
	e->hnext = *pp;
	*pp = e;
	q2_lru_del(e);
	q2_lru_add(&c->lru, e);
}
