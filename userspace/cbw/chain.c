// SPDX-License-Identifier: GPL-2.0-or-later
/* manifests: text to struct and back */
#include <json-c/json.h>
#include <time.h>

#include "cbw.h"
#include "chain.h"
#include "details.h"

#define FORMAT	"cbw-chain"
#define VERSION	2
#define VERSION_MIN	1	/* without details, groups, journal */

/* ---- reading ----------------------------------------------------------- */

static struct json_object *member(struct json_object *o, const char *key,
				  json_type type)
{
	struct json_object *m;

	if (!json_object_object_get_ex(o, key, &m) ||
	    json_object_get_type(m) != type)
		return NULL;
	return m;
}

/* A text without NUL in it, NULL if it is not there. */
static const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *m = member(o, key, json_type_string);
	const char *s;

	if (!m)
		return NULL;
	s = json_object_get_string(m);
	return strlen(s) == (size_t)json_object_get_string_len(m) ? s : NULL;
}

static bool number_of(struct json_object *o, const char *key, uint64_t max,
		      uint64_t *v)
{
	struct json_object *m = member(o, key, json_type_int);

	if (!m)
		return false;
	/* negative ones come out as 0 here, so look at the sign too */
	if (json_object_get_int64(m) < 0)
		return false;
	*v = json_object_get_uint64(m);
	return *v <= max;
}

static bool cut_of(struct json_object *o, const char *key,
		   struct cbw_cut_id *cut)
{
	const char *s = text_of(o, key);

	return s && !cbw_cut_from_text(s, cut);
}

static const struct {
	const char *text, *suffix;
} types[] = {
	[ENTRY_FULL] = { "full", "full" },
	[ENTRY_INCREMENTAL] = { "incremental", "inc" },
	[ENTRY_DIFFERENTIAL] = { "differential", "diff" },
};

const char *chain_type_text(enum entry_type type)
{
	return types[type].text;
}

static bool type_of(const char *text, enum entry_type *type)
{
	size_t i;

	for (i = 0; text && i < sizeof(types) / sizeof(types[0]); i++) {
		if (strcmp(types[i].text, text))
			continue;
		*type = (enum entry_type)i;
		return true;
	}
	return false;
}

void chain_file_name(uint32_t id, enum entry_type type, char name[64])
{
	snprintf(name, 64, "%06u-%s.qcow2", id, types[type].suffix);
}

/* As we make them, so never a path out of here. */
static bool file_ok(const char *file, uint32_t id, enum entry_type type)
{
	char want[64];

	chain_file_name(id, type, want);
	return !strcmp(file, want);
}

/* As number_of(); one that is not there is 0. */
static bool number_if(struct json_object *o, const char *key, uint64_t max,
		      uint64_t *v)
{
	*v = 0;
	return !json_object_object_get_ex(o, key, NULL) ||
		number_of(o, key, max, v);
}

static bool size_ok(uint64_t size)
{
	return size && size <= INT64_MAX && !(size % 512);
}

static int parse_entry(struct json_object *o, const struct chain *chain,
		       struct entry *e, const char **why)
{
	const char *type = text_of(o, "type"), *file = text_of(o, "file");
	const struct entry *newest = chain_newest(chain);
	uint64_t id, parent = 0, granularity, crc, when, group;

	*why = "id";
	if (!number_of(o, "id", 999999, &id) || !id ||
	    (newest && id <= newest->id))
		return -1;
	*why = "type";
	if (!type_of(type, &e->type))
		return -1;
	e->id = (uint32_t)id;
	*why = "parent";
	if (!number_of(o, "parent", id - 1, &parent) ||
	    (e->type == ENTRY_FULL) != !parent ||
	    (parent && !chain_by_id(chain, (uint32_t)parent)))
		return -1;
	if (e->type == ENTRY_DIFFERENTIAL &&
	    chain_by_id(chain, (uint32_t)parent)->type != ENTRY_FULL)
		return -1;
	e->parent = (uint32_t)parent;
	*why = "file";
	if (!file || !file_ok(file, e->id, e->type))
		return -1;
	snprintf(e->file, sizeof(e->file), "%s", file);
	*why = "cut";
	if (!cut_of(o, "cut", &e->cut) || cbw_cut_is_none(&e->cut))
		return -1;
	*why = "base";
	if (!cut_of(o, "base", &e->base))
		return -1;
	*why = "time";
	if (!number_of(o, "time", (uint64_t)1 << 40, &when))
		return -1;
	e->time = (int64_t)when;
	*why = "size";
	if (!number_of(o, "size", INT64_MAX, &e->size) || !size_ok(e->size))
		return -1;
	*why = "copied";
	if (!number_of(o, "copied", INT64_MAX, &e->copied))
		return -1;
	*why = "zero";
	if (!number_of(o, "zero", INT64_MAX, &e->zero))
		return -1;
	*why = "granularity";
	if (!number_of(o, "granularity", CBW_GRANULARITY_MAX, &granularity))
		return -1;
	e->granularity = (uint32_t)granularity;
	*why = "crc32c";
	if (!number_of(o, "crc32c", UINT32_MAX, &crc))
		return -1;
	e->crc = (uint32_t)crc;
	*why = "group";
	if (!number_if(o, "group", UINT32_MAX, &group))
		return -1;
	e->group = (uint32_t)group;
	*why = "details_size";
	if (!number_if(o, "details_size", DETAILS_MAX, &e->details_size))
		return -1;
	*why = "details_crc32c";
	if (!number_if(o, "details_crc32c", UINT32_MAX, &crc))
		return -1;
	e->details_crc = (uint32_t)crc;
	return 0;
}

/* The journal of a merge, if there is one. */
static int parse_merge(struct json_object *root, struct chain *chain)
{
	struct json_object *o, *punch, *doubt = NULL;
	struct chain_merge *m = &chain->merge;
	const struct entry *into, *from;
	const char *state, *file;
	uint64_t id;

	if (!json_object_object_get_ex(root, "merge", NULL))
		return 0;
	o = member(root, "merge", json_type_object);
	if (!o)
		return -1;
	state = text_of(o, "state");
	file = text_of(o, "file");
	punch = member(o, "punch", json_type_boolean);
	if (!state || !file || !punch ||
	    (strcmp(state, "data") && strcmp(state, "names")))
		return -1;
	m->punch = json_object_get_boolean(punch);
	if (!number_of(o, "into", 999999, &id))
		return -1;
	m->into = (uint32_t)id;
	if (!number_of(o, "from", id, &id) || !id || id == m->into)
		return -1;
	m->from = (uint32_t)id;
	if (!number_if(o, "sums_size", DETAILS_MAX, &m->sums_size) ||
	    !number_if(o, "sums_crc32c", UINT32_MAX, &id))
		return -1;
	m->sums_crc = (uint32_t)id;
	m->zero_known = json_object_object_get_ex(o, "zero", NULL);
	if (!number_if(o, "zero", INT64_MAX, &m->zero))
		return -1;
	if (json_object_object_get_ex(o, "doubt", &doubt) &&
	    json_object_get_type(doubt) != json_type_boolean)
		return -1;
	m->doubt = json_object_get_boolean(doubt);
	into = chain_by_id(chain, m->into);
	from = chain_by_id(chain, m->from);
	if (!into)
		return -1;
	/* until the end the images are as the entries say; then one has taken the other's place */
	if (*state == 'd' ? !from || into->parent != from->id ||
	    strcmp(file, from->file) :
	    from || !file_ok(file, m->from, into->type))
		return -1;
	m->state = *state == 'd' ? MERGE_DATA : MERGE_NAMES;
	snprintf(m->file, sizeof(m->file), "%s", file);
	return 0;
}

/* \xHH back to bytes; NULL if it is not well formed */
static char *unescape(const char *text)
{
	char *out = xcalloc(strlen(text) + 1, 1), *o = out;
	const char *p;

	for (p = text; *p; p++) {
		unsigned int byte;
		int end = 0;

		if (*p != '\\') {
			*o++ = *p;
			continue;
		}
		if (p[1] != 'x' || sscanf(p + 2, "%2x%n", &byte, &end) != 1 ||
		    end != 2 || !byte) {
			free(out);
			return NULL;
		}
		*o++ = (char)byte;
		p += 3;
	}
	return out;
}

int chain_parse(const char *text, size_t len, struct chain *chain,
		struct cbw_error *err)
{
	struct json_tokener *tok = json_tokener_new_ex(8);
	struct json_object *root = NULL, *list, *m;
	struct cbw_error name_err;
	const char *s, *why = "not JSON";
	uint64_t version;
	size_t i, nr;

	chain->volume = NULL;
	chain->bitmap = NULL;
	chain->entry = NULL;
	chain->nr = 0;
	chain->merge = (struct chain_merge){ 0 };
	chain->doubtful = false;
	if (!tok)
		return fail_with(err, ENOMEM, "out of memory");
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT);
	if (len <= INT32_MAX)
		root = json_tokener_parse_ex(tok, text, (int)len);
	if (root && json_tokener_get_parse_end(tok) < len) {
		const char *p = text + json_tokener_get_parse_end(tok);

		/* blanks and newlines may follow, nothing else */
		if (strspn(p, " \t\r\n") < len - (size_t)(p - text)) {
			json_object_put(root);
			root = NULL;
		}
	}
	json_tokener_free(tok);
	if (!root || json_object_get_type(root) != json_type_object)
		goto bad;
	why = "'format' is not \"" FORMAT "\"";
	s = text_of(root, "format");
	if (!s || strcmp(s, FORMAT))
		goto bad;
	why = "'version' is not one that this program knows";
	if (!number_of(root, "version", UINT32_MAX, &version) ||
	    version < VERSION_MIN || version > VERSION)
		goto bad;
	why = "'chain' is not an id";
	if (!cut_of(root, "chain", &chain->id) || cbw_cut_is_none(&chain->id))
		goto bad;
	why = "'volume' is not a name";
	s = text_of(root, "volume");
	if (s)
		chain->volume = unescape(s);
	if (!chain->volume || !*chain->volume)
		goto bad;
	why = "'bitmap' is not a name";
	s = text_of(root, "bitmap");
	if (s)
		chain->bitmap = unescape(s);
	if (!chain->bitmap || cbw_name_check(chain->bitmap, &name_err))
		goto bad;
	why = "'entries' is not a list of at most 65536 images";
	list = member(root, "entries", json_type_array);
	nr = list ? json_object_array_length(list) : 0;
	if (!list || nr > CHAIN_ENTRIES_MAX)
		goto bad;
	chain->entry = xcalloc(nr, sizeof(*chain->entry));
	for (i = 0; i < nr; i++) {
		m = json_object_array_get_idx(list, i);
		if (json_object_get_type(m) != json_type_object ||
		    parse_entry(m, chain, &chain->entry[i], &why)) {
			fail_with(err, EUCLEAN,
				  "entry %zu: '%s' is missing or not valid", i + 1,
				  why);
			json_object_put(root);
			goto drop;
		}
		chain->nr++;
	}
	why = "'merge' is not the journal of a merge of two of the entries";
	if (parse_merge(root, chain))
		goto bad;
	json_object_put(root);
	return 0;
bad:
	fail_with(err, EUCLEAN, "%s", why);
	json_object_put(root);
drop:
	free(chain->volume);
	free(chain->bitmap);
	free(chain->entry);
	chain->volume = NULL;
	chain->bitmap = NULL;
	chain->entry = NULL;
	chain->nr = 0;
	chain->merge = (struct chain_merge){ 0 };
	chain->id = (struct cbw_cut_id){ 0 };
	return -EUCLEAN;
}

/* ---- writing ----------------------------------------------------------- */

static void put_text(struct json_object *o, const char *key, const char *v)
{
	json_object_object_add(o, key, json_object_new_string(v));
}

static void put_number(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_uint64(v));
}

static void put_name(struct json_object *o, const char *key, const char *name)
{
	size_t len = 4 * strlen(name) + 1;
	char *buf = xcalloc(len, 1);

	put_text(o, key, cbw_escape(name, buf, len));
	free(buf);
}

struct json_object *json_entry(const struct entry *e)
{
	struct json_object *o = json_object_new_object();
	char text[CBW_CUT_HEX];

	put_number(o, "id", e->id);
	put_text(o, "type", chain_type_text(e->type));
	put_number(o, "parent", e->parent);
	put_text(o, "file", e->file);
	put_text(o, "cut", cbw_cut_to_text(&e->cut, text));
	put_text(o, "base", cbw_cut_to_text(&e->base, text));
	put_number(o, "time", (uint64_t)e->time);
	put_number(o, "size", e->size);
	put_number(o, "copied", e->copied);
	put_number(o, "zero", e->zero);
	put_number(o, "granularity", e->granularity);
	put_number(o, "crc32c", e->crc);
	put_number(o, "group", e->group);
	if (e->details_size) {
		put_number(o, "details_size", e->details_size);
		put_number(o, "details_crc32c", e->details_crc);
	}
	return o;
}

static struct json_object *json_merge(const struct chain_merge *m)
{
	struct json_object *o = json_object_new_object();

	put_text(o, "state", m->state == MERGE_DATA ? "data" : "names");
	put_number(o, "from", m->from);
	put_number(o, "into", m->into);
	put_text(o, "file", m->file);
	json_object_object_add(o, "punch", json_object_new_boolean(m->punch));
	if (m->doubt)
		json_object_object_add(o, "doubt", json_object_new_boolean(true));
	if (m->sums_size) {
		put_number(o, "sums_size", m->sums_size);
		put_number(o, "sums_crc32c", m->sums_crc);
		if (m->zero_known)
			put_number(o, "zero", m->zero);
	}
	return o;
}

char *chain_format(const struct chain *chain)
{
	struct json_object *root = json_object_new_object(), *list;
	char text[CBW_CUT_HEX], *out;
	size_t i;

	put_text(root, "format", FORMAT);
	put_number(root, "version", VERSION);
	put_text(root, "chain", cbw_cut_to_text(&chain->id, text));
	put_name(root, "volume", chain->volume);
	put_name(root, "bitmap", chain->bitmap);
	list = json_object_new_array();
	for (i = 0; i < chain->nr; i++)
		json_object_array_add(list, json_entry(&chain->entry[i]));
	json_object_object_add(root, "entries", list);
	if (chain->merge.state != MERGE_NONE)
		json_object_object_add(root, "merge", json_merge(&chain->merge));
	out = xasprintf("%s\n", json_object_to_json_string_ext(root,
			JSON_C_TO_STRING_PRETTY |
			JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(root);
	return out;
}

/* ---- entries ----------------------------------------------------------- */

void chain_add(struct chain *chain, const struct entry *entry)
{
	struct entry *more = xcalloc(chain->nr + 1, sizeof(*more));

	if (chain->nr)
		memcpy(more, chain->entry, chain->nr * sizeof(*more));
	more[chain->nr] = *entry;
	free(chain->entry);
	chain->entry = more;
	chain->nr++;
}

void chain_remove(struct chain *chain, uint32_t id)
{
	size_t i;

	for (i = 0; i < chain->nr && chain->entry[i].id != id; i++)
		;
	if (i == chain->nr)
		return;
	chain->nr--;
	memmove(&chain->entry[i], &chain->entry[i + 1],
		(chain->nr - i) * sizeof(*chain->entry));
}

bool chain_giving_up(const struct chain *chain, const struct entry *entry)
{
	return chain->merge.state == MERGE_DATA && entry->id == chain->merge.from;
}

const struct entry *chain_newest(const struct chain *chain)
{
	return chain->nr ? &chain->entry[chain->nr - 1] : NULL;
}

const struct entry *chain_by_id(const struct chain *chain, uint32_t id)
{
	size_t lo = 0, hi = chain->nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (chain->entry[mid].id == id)
			return &chain->entry[mid];
		if (chain->entry[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

const struct entry *chain_find(const struct chain *chain, const char *text)
{
	const struct entry *found = NULL;
	size_t len = strlen(text), i;
	uint64_t id;

	if (len < 8)
		return !parse_size(text, &id) && id <= UINT32_MAX &&
			strspn(text, "0123456789") == len ?
			chain_by_id(chain, (uint32_t)id) : NULL;
	for (i = 0; i < chain->nr; i++) {
		char cut[CBW_CUT_HEX];

		if (strncasecmp(cbw_cut_to_text(&chain->entry[i].cut, cut),
				text, len))
			continue;
		if (found)
			return NULL;
		found = &chain->entry[i];
	}
	return found;
}

unsigned int chain_depth(const struct chain *chain, const struct entry *entry)
{
	unsigned int depth = 1;

	while (entry->type != ENTRY_FULL) {
		entry = chain_by_id(chain, entry->parent);
		if (!entry)
			return 0;
		depth++;
	}
	return depth;
}
