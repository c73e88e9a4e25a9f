// SPDX-License-Identifier: GPL-2.0-or-later
/* the file "resume" of a chain */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "lvm.h"
#include "resume.h"

#define MAGIC		"cbw-resume 1"
#define RESUME_TMP	RESUME_FILE ".tmp"
#define TEXT_MAX	65536

/* ---- text ---------------------------------------------------------------------- */

static char *escaped(const char *s)
{
	size_t len = 4 * strlen(s) + 1;
	char *out = xcalloc(len, 1);

	cbw_escape(s, out, len);
	return out;
}

char *resume_format(const struct cbw_cut_id *chain, const struct resume *r)
{
	char id[CBW_CUT_HEX], cut[CBW_CUT_HEX], base[CBW_CUT_HEX], *out;
	char *bitmap = escaped(r->bitmap), *store = escaped(r->store);
	char *lv = escaped(r->lv ? r->lv : ""), *snapshot = escaped(r->snapshot);
	char *reason = escaped(r->decision.reason);
	const struct decision *d = &r->decision;

	out = xasprintf(MAGIC "\nchain %s\ncut %s\nsnapshot %s\nbitmap %s\ntype %d\nparent %u\n"
			"fallback %d\nreason %s\nadd %d\nsecond %d\nbase %s\ngranularity %u\n"
			"id %u\ntime %lld\nsize %llu\ndone %llu\nstore-kind %d\nstore %s\nlv %s\n"
			"store-max %llu\ncompress %d\ngroup %u\nenable %d\nreplace %d\nend .\n",
			cbw_cut_to_text(chain, id), cbw_cut_to_text(&r->cut, cut), snapshot,
			bitmap, d->type, d->parent, d->fallback, reason, d->add, d->second,
			cbw_cut_to_text(&r->base, base), r->granularity, r->id, (long long)r->time,
			(ull)r->size, (ull)r->done, r->store_kind, store, lv, (ull)r->store_most,
			r->compress, r->group, d->enable, d->replace || d->second_replace);
	free(bitmap);
	free(store);
	free(lv);
	free(snapshot);
	free(reason);
	return out;
}

/* The value of the next line, which has to be @key; NULL: it is not. */
static char *value(char **at, const char *key)
{
	size_t len = strlen(key);
	char *line = *at, *end = line ? strchr(line, '\n') : NULL;

	if (!end || strncmp(line, key, len) || line[len] != ' ')
		return NULL;
	*end = '\0';
	*at = end + 1;
	return line + len + 1;
}

/* \xHH back to bytes, in place; false if it is not well formed */
static bool unescape(char *s)
{
	char *o = s, *p;

	for (p = s; *p; p++) {
		unsigned int byte;
		int end = 0;

		if (*p != '\\') {
			*o++ = *p;
			continue;
		}
		if (p[1] != 'x' || sscanf(p + 2, "%2x%n", &byte, &end) != 1 || end != 2 || !byte)
			return false;
		*o++ = (char)byte;
		p += 3;
	}
	*o = '\0';
	return true;
}

static bool text(char **at, const char *key, char **out)
{
	char *v = value(at, key);

	if (!v || !unescape(v))
		return false;
	*out = xstrdup(v);
	return true;
}

static bool text_in(char **at, const char *key, char *out, size_t room)
{
	char *v = value(at, key);

	if (!v || !unescape(v) || strlen(v) >= room)
		return false;
	strcpy(out, v);
	return true;
}

static bool number(char **at, const char *key, uint64_t max, uint64_t *out)
{
	char *v = value(at, key), *end;

	if (!v || *v < '0' || *v > '9')
		return false;
	errno = 0;
	*out = strtoull(v, &end, 10);
	return !errno && !*end && *out <= max;
}

static bool cut(char **at, const char *key, struct cbw_cut_id *out)
{
	char *v = value(at, key);

	return v && !cbw_cut_from_text(v, out);
}

static bool parse_decision(char **at, struct decision *d)
{
	uint64_t type, parent, fallback, add, second;

	if (!number(at, "type", ENTRY_DIFFERENTIAL, &type) ||
	    !number(at, "parent", 999999, &parent) || !number(at, "fallback", 1, &fallback) ||
	    !text_in(at, "reason", d->reason, sizeof(d->reason)) || !number(at, "add", 1, &add) ||
	    !number(at, "second", SECOND_COPY, &second) || (type == ENTRY_FULL) != !parent)
		return false;
	d->type = (enum entry_type)type;
	d->parent = (uint32_t)parent;
	d->fallback = fallback;
	d->add = add;
	d->second = (enum second_step)second;
	return true;
}

/* Not in those of an older tool, which did not know what it should. */
static bool parse_more(char **at, struct resume *r)
{
	uint64_t compress, group, enable, replace;

	if (strncmp(*at, "compress ", 9))
		return true;
	if (!number(at, "compress", 22, &compress) || !number(at, "group", UINT32_MAX, &group))
		return false;
	r->compress = (int)compress;
	r->group = (uint32_t)group;
	if (strncmp(*at, "enable ", 7))
		return true;
	if (!number(at, "enable", 1, &enable) || !number(at, "replace", 1, &replace))
		return false;
	r->decision.enable = enable;
	r->decision.replace = replace;
	return true;
}

/* What is removed by name has to be one of ours. */
static bool store_ok(const struct resume *r)
{
	const char *name = strrchr(r->store_kind == STORE_LV ? r->lv : r->store, '/');

	if (r->store_kind == STORE_GIVEN)
		return !*r->lv;
	return name && !strncmp(name + 1, r->store_kind == STORE_LV ? LVM_NAME : STORE_NAME,
				strlen(r->store_kind == STORE_LV ? LVM_NAME : STORE_NAME));
}

int resume_parse(char *at, const struct cbw_cut_id *chain, struct resume *r,
		 struct cbw_error *err)
{
	uint64_t granularity, id, when, kind;
	struct cbw_cut_id of;
	struct cbw_error e;
	size_t len = strlen(MAGIC "\n");

	*r = (struct resume){ 0 };
	if (strncmp(at, MAGIC "\n", len))
		return fail_with(err, EUCLEAN, "it does not begin with '" MAGIC "'");
	at += len;
	if (!cut(&at, "chain", &of) || !cbw_cut_equal(&of, chain))
		return fail_with(err, EUCLEAN, "it is of another chain");
	if (!cut(&at, "cut", &r->cut) ||
	    !text_in(&at, "snapshot", r->snapshot, sizeof(r->snapshot)) || !*r->snapshot ||
	    strchr(r->snapshot, '/') || !text(&at, "bitmap", &r->bitmap) ||
	    cbw_name_check(r->bitmap, &e) || !parse_decision(&at, &r->decision) ||
	    !cut(&at, "base", &r->base) ||
	    !number(&at, "granularity", CBW_GRANULARITY_MAX, &granularity) || !granularity ||
	    (granularity & (granularity - 1)) || !number(&at, "id", 999999, &id) || !id ||
	    r->decision.parent >= id || !number(&at, "time", (uint64_t)1 << 40, &when) ||
	    !number(&at, "size", INT64_MAX, &r->size) || !r->size || r->size % 512 ||
	    !number(&at, "done", r->size, &r->done) ||
	    !number(&at, "store-kind", STORE_LV, &kind) || !text(&at, "store", &r->store) ||
	    !text(&at, "lv", &r->lv) ||
	    !number(&at, "store-max", UINT64_MAX, &r->store_most) || !parse_more(&at, r) ||
	    !value(&at, "end") || *at) {
		resume_free(r);
		return fail_with(err, EUCLEAN, "a line is missing or not valid");
	}
	r->granularity = (uint32_t)granularity;
	r->id = (uint32_t)id;
	r->time = (int64_t)when;
	r->store_kind = (enum store_kind)kind;
	if (!store_ok(r)) {
		resume_free(r);
		return fail_with(err, EUCLEAN, "the store is none that cbw makes");
	}
	return 0;
}

void resume_free(struct resume *r)
{
	free(r->bitmap);
	free(r->store);
	free(r->lv);
	*r = (struct resume){ 0 };
}

/* ---- the file -------------------------------------------------------------------- */

int resume_save(const struct chain *chain, const struct resume *r, struct cbw_error *err)
{
	char *out = resume_format(&chain->id, r);
	int fd, ret = 0;

	fd = openat(chain->dirfd, RESUME_TMP,
		    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		ret = -errno;
	if (!ret)
		ret = write_all(fd, out, strlen(out));
	if (!ret && fsync(fd))
		ret = -errno;
	if (fd >= 0 && close(fd) && !ret)
		ret = -errno;
	if (!ret && (renameat(chain->dirfd, RESUME_TMP, chain->dirfd, RESUME_FILE) ||
		     fsync(chain->dirfd)))
		ret = -errno;
	free(out);
	if (ret)
		return fail_with(err, -ret, "%s/" RESUME_FILE ": %s", esc(chain->dir),
				 strerror(-ret));
	return 0;
}

bool resume_waits(const struct chain *chain)
{
	return !faccessat(chain->dirfd, RESUME_FILE, F_OK, 0);
}

void resume_clean(const struct chain *chain)
{
	unlinkat(chain->dirfd, RESUME_TMP, 0);
}

int resume_load(const struct chain *chain, struct resume *r, struct cbw_error *err)
{
	struct cbw_error why;
	char *buf;
	ssize_t n;
	int fd, ret;

	fd = openat(chain->dirfd, RESUME_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return fail_with(err, errno, "%s/" RESUME_FILE ": %s", esc(chain->dir),
				 strerror(errno));
	buf = xcalloc(TEXT_MAX, 1);
	n = read(fd, buf, TEXT_MAX - 1);
	ret = n < 0 ? -errno : 0;
	close(fd);
	if (ret)
		fail_with(err, -ret, "%s/" RESUME_FILE ": %s", esc(chain->dir), strerror(-ret));
	else if (strlen(buf) != (size_t)n)
		ret = fail_with(err, EUCLEAN, "%s/" RESUME_FILE ": not a text", esc(chain->dir));
	else if (resume_parse(buf, &chain->id, r, &why))
		ret = fail_with(err, EUCLEAN, "%s/" RESUME_FILE ": %s", esc(chain->dir), why.msg);
	free(buf);
	return ret;
}

char *resume_image(const struct chain *chain, const struct resume *r)
{
	char name[64];

	chain_file_name(r->id, r->decision.type, name);
	return xasprintf("%s/%s.part", chain->dir, name);
}

void resume_drop(const struct chain *chain, const struct resume *r)
{
	char *image = resume_image(chain, r);

	if (unlink(image) && errno != ENOENT)
		say("%s: %s", esc(image), strerror(errno));
	free(image);
	unlinkat(chain->dirfd, RESUME_TMP, 0);
	if (unlinkat(chain->dirfd, RESUME_FILE, 0) && errno != ENOENT)
		say("%s/" RESUME_FILE ": %s", esc(chain->dir), strerror(errno));
}
