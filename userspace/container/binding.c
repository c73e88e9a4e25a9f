// SPDX-License-Identifier: GPL-2.0-or-later
/* what tells a volume: as text, and compared */
#include <inttypes.h>
#include <stdarg.h>

#include "binding.h"
#include "cbw.h"

#define FIRST_LINE	"cbw-binding 1\n"

/* ---- text -------------------------------------------------------------- */

__attribute__((format(printf, 3, 4)))
static bool put(char *text, uint32_t *at, const char *fmt, ...)
{
	size_t room = CBW_BINDING_MAX - *at;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text + *at, room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= room)
		return false;
	*at += (uint32_t)n;
	return true;
}

int binding_print(const struct binding *b, char *text, uint32_t *len, struct cbw_error *err)
{
	uint32_t at = 0;
	unsigned int i;
	bool ok;

	ok = put(text, &at, FIRST_LINE "size %" PRIu64 "\n", b->size);
	for (i = 0; i < b->nr_ids && ok; i++)
		ok = put(text, &at, "id %s\n", b->id[i]);
	if (ok && b->instance)
		ok = put(text, &at, "written %" PRIu64 " %" PRIu64 "\n", b->instance, b->written);
	if (ok && b->uncounted)
		ok = put(text, &at, "uncounted\n");
	if (ok && b->open)
		ok = put(text, &at, "open\n");
	if (ok && b->stacked)
		ok = put(text, &at, "stacked\n");
	for (i = 0; i < b->nr_magics && ok; i++)
		ok = put(text, &at, "magic %" PRIu64 " %s %s %016" PRIx64 "\n", b->magic[i].offset,
			 b->magic[i].type, b->magic[i].uuid, b->magic[i].hash);
	if (!ok)
		return fail_with(err, EFBIG, "what tells the volume needs more than %u bytes",
				 CBW_BINDING_MAX);
	*len = at;
	return 0;
}

static bool printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || (unsigned char)*s > '~')
			return false;
	return true;
}

static int parse_line(const char *line, struct binding *b)
{
	int end = 0;

	if (!printable(line))
		return -EUCLEAN;
	if (!strncmp(line, "size ", 5)) {
		if (b->size || sscanf(line, "size %20" SCNu64 "%n", &b->size, &end) != 1 ||
		    line[end] || !b->size)
			return -EUCLEAN;
	} else if (!strncmp(line, "id ", 3)) {
		if (b->nr_ids == BINDING_IDS || strlen(line + 3) >= sizeof(b->id[0]) ||
		    !strchr(line + 3, ' '))
			return -EUCLEAN;
		strcpy(b->id[b->nr_ids++], line + 3);
	} else if (!strncmp(line, "written ", 8)) {
		if (b->instance || sscanf(line, "written %20" SCNu64 " %20" SCNu64 "%n",
					  &b->instance, &b->written, &end) != 2 || line[end])
			return -EUCLEAN;
	} else if (!strcmp(line, "uncounted")) {
		b->uncounted = true;
	} else if (!strcmp(line, "open")) {
		b->open = true;
	} else if (!strcmp(line, "stacked")) {
		b->stacked = true;
	} else if (!strncmp(line, "magic ", 6)) {
		struct binding_magic *m = &b->magic[b->nr_magics];

		if (b->nr_magics == BINDING_MAGICS ||
		    sscanf(line, "magic %20" SCNu64 " %39s %79s %16" SCNx64 "%n", &m->offset,
			   m->type, m->uuid, &m->hash, &end) != 4 || line[end])
			return -EUCLEAN;
		b->nr_magics++;
	}
	/* what is unknown comes from a newer cbw, which knows what it may leave out */
	return 0;
}

int binding_parse(const char *text, size_t len, struct binding *binding, struct cbw_error *err)
{
	const char *p = text, *end = text + len;
	struct binding b = { 0 };
	unsigned int nr = 1;
	char line[512];

	if (len < strlen(FIRST_LINE) || memcmp(p, FIRST_LINE, strlen(FIRST_LINE)))
		return fail_with(err, EUCLEAN, "the binding is not one that this cbw knows");
	for (p += strlen(FIRST_LINE); p < end; nr++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t n = nl ? (size_t)(nl - p) : 0;

		if (!nl || n >= sizeof(line) || memchr(p, '\0', n))
			return fail_with(err, EUCLEAN, "line %u of the binding has no end", nr + 1);
		memcpy(line, p, n);
		line[n] = '\0';
		if (parse_line(line, &b))
			return fail_with(err, EUCLEAN, "line %u of the binding makes no sense: '%s'",
					 nr + 1, esc(line));
		p = nl + 1;
	}
	if (!b.size)
		return fail_with(err, EUCLEAN, "the binding does not say how large the volume is");
	*binding = b;
	return 0;
}

/* ---- comparison -------------------------------------------------------- */

static const char *find_id(const struct binding *b, const char *id)
{
	size_t kind = (size_t)(strchr(id, ' ') - id) + 1;
	unsigned int i;

	for (i = 0; i < b->nr_ids; i++)
		if (!strncmp(b->id[i], id, kind))
			return b->id[i];
	return NULL;
}

static int compare_ids(const struct binding *was, const struct binding *now,
		       struct cbw_error *err)
{
	unsigned int i;

	for (i = 0; i < was->nr_ids; i++) {
		const char *id = find_id(now, was->id[i]), *old = strchr(was->id[i], ' ') + 1;
		int kind = (int)(old - was->id[i]) - 1;

		if (!id)
			return fail_with(err, EUCLEAN, "it is another volume: it has no %.*s, and had %s",
					 kind, was->id[i], esc(old));
		if (strcmp(id, was->id[i]))
			return fail_with(err, EUCLEAN, "it is another volume: its %.*s is %s, and was %s",
					 kind, id, esc(strchr(id, ' ') + 1), esc(old));
	}
	return 0;
}

static const struct binding_magic *find_magic(const struct binding *b,
					      const struct binding_magic *m)
{
	unsigned int i;

	for (i = 0; i < b->nr_magics; i++)
		if (b->magic[i].offset == m->offset && !strcmp(b->magic[i].type, m->type))
			return &b->magic[i];
	return NULL;
}

static int compare_magics(const struct binding *was, const struct binding *now, bool exact,
			  struct cbw_error *err)
{
	unsigned int i;

	for (i = 0; i < was->nr_magics; i++) {
		const struct binding_magic *a = &was->magic[i], *b = find_magic(now, a);

		if (!b)
			return fail_with(err, EUCLEAN,
					 "its content is another one: the %s (uuid %s) at %" PRIu64 " is gone",
					 esc(a->type), esc(a->uuid), a->offset);
		if (strcmp(a->uuid, b->uuid))
			return fail_with(err, EUCLEAN,
					 "its content is another one: the %s at %" PRIu64 " has uuid %s, and had %s",
					 esc(a->type), a->offset, esc(b->uuid), esc(a->uuid));
		if (exact && a->hash != b->hash)
			return fail_with(err, EUCLEAN,
					 "its file system was mounted or written since: the block at %" PRIu64 " with the superblock of the %s differs",
					 a->offset, esc(a->type));
	}
	for (i = 0; i < now->nr_magics; i++)
		if (exact && !find_magic(was, &now->magic[i]))
			return fail_with(err, EUCLEAN,
					 "its content is another one: there is a %s at %" PRIu64 " now",
					 esc(now->magic[i].type), now->magic[i].offset);
	return 0;
}

int binding_compare(const struct binding *was, const struct binding *now, bool exact,
		    struct cbw_error *err)
{
	int ret;

	if (was->size != now->size)
		return fail_with(err, EUCLEAN,
				 "it was resized from %" PRIu64 " to %" PRIu64 " bytes, or is another volume",
				 was->size, now->size);
	ret = compare_ids(was, now, err);
	return ret ? ret : compare_magics(was, now, exact, err);
}
