// SPDX-License-Identifier: GPL-2.0-or-later
/* details of an image: text to struct and back */
#include <json-c/json.h>
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "details.h"
#include "qcow2.h"

#define FORMAT	"cbw-image"
#define VERSION	1
/* at least the fixed part of the header of a version 3 image */
#define HEADER_MIN	104u

void details_free(struct details *d)
{
	sums_free(&d->sums);
	free(d->header);
	free(d->l1);
	*d = (struct details){ 0 };
}

static int read_part(int fd, const char *path, void *buf, size_t len,
		     uint64_t offset, const char *what, struct cbw_error *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done,
				  (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail_with(err, n ? errno : EUCLEAN,
					 "%s: reading the %s: %s", esc(path), what,
					 n ? strerror(errno) : "the file is cut short");
		done += (size_t)n;
	}
	return 0;
}

int details_take(struct qcow2_image *img, const char *path, struct details *d,
		 struct cbw_error *err)
{
	struct qcow2_layer l;
	uint8_t *header;
	int ret;

	if (qcow2_get_layer(img, 0, &l))
		return fail_with(err, EINVAL, "%s: no image", esc(path));
	header = xcalloc(l.cluster_size, 1);
	ret = read_part(l.fd, path, header, l.cluster_size, 0, "header", err);
	if (ret) {
		free(header);
		return ret;
	}
	d->header = header;
	d->header_bytes = l.cluster_size;
	while (d->header_bytes > HEADER_MIN && !header[d->header_bytes - 1])
		d->header_bytes--;
	d->l1_offset = l.l1_offset;
	d->l1_bytes = l.l1_bytes;
	d->l1 = xcalloc(l.l1_bytes, 1);
	return read_part(l.fd, path, d->l1, l.l1_bytes, l.l1_offset, "L1 table",
			 err);
}

/* ---- writing ----------------------------------------------------------- */

static char *to_hex(const uint8_t *p, size_t len, char *out)
{
	static const char digit[] = "0123456789abcdef";

	while (len--) {
		*out++ = digit[*p >> 4];
		*out++ = digit[*p++ & 15];
	}
	return out;
}

/* [[NUMBER OF THE FIRST, "HEX..."], ...] of those words that are not 0 */
static struct json_object *json_words(const uint8_t *words, uint64_t nr,
				      size_t width)
{
	static const uint8_t zero[8];
	struct json_object *list = json_object_new_array(), *run;
	uint64_t at, end;
	char *hex;

	for (at = 0; at < nr; at = end) {
		end = at + 1;
		if (!memcmp(words + at * width, zero, width))
			continue;
		while (end < nr && memcmp(words + end * width, zero, width))
			end++;
		run = json_object_new_array();
		json_object_array_add(run, json_object_new_uint64(at));
		hex = xcalloc((size_t)(end - at) * width * 2 + 1, 1);
		to_hex(words + at * width, (size_t)(end - at) * width, hex);
		json_object_array_add(run, json_object_new_string(hex));
		free(hex);
		json_object_array_add(list, run);
	}
	return list;
}

static void put_number(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_uint64(v));
}

/* A copy of a part of the file, and its checksum. */
static struct json_object *json_part(uint64_t offset, const uint8_t *data,
				     uint32_t len)
{
	struct json_object *o = json_object_new_object();

	put_number(o, "offset", offset);
	put_number(o, "length", len);
	put_number(o, "crc32c", crc32c(0, data, len));
	return o;
}

char *details_format(const struct details *d)
{
	struct json_object *root = json_object_new_object(), *o;
	uint8_t *sums = xcalloc((size_t)d->sums.nr, 4);
	char cut[CBW_CUT_HEX], *out;
	uint64_t i;

	/* most significant first, as one writes numbers */
	for (i = 0; i < d->sums.nr; i++) {
		uint32_t crc = d->sums.crc[i];

		sums[i * 4] = (uint8_t)(crc >> 24);
		sums[i * 4 + 1] = (uint8_t)(crc >> 16);
		sums[i * 4 + 2] = (uint8_t)(crc >> 8);
		sums[i * 4 + 3] = (uint8_t)crc;
	}
	json_object_object_add(root, "format", json_object_new_string(FORMAT));
	put_number(root, "version", VERSION);
	json_object_object_add(root, "cut", json_object_new_string(
			       cbw_cut_to_text(&d->cut, cut)));
	put_number(root, "size", d->size);
	put_number(root, "range", SUMS_RANGE);
	json_object_object_add(root, "sums", json_words(sums, d->sums.nr, 4));
	free(sums);
	o = json_part(0, d->header, d->header_bytes);
	out = xcalloc((size_t)d->header_bytes * 2 + 1, 1);
	to_hex(d->header, d->header_bytes, out);
	json_object_object_add(o, "data", json_object_new_string(out));
	free(out);
	json_object_object_add(root, "header", o);
	o = json_part(d->l1_offset, d->l1, d->l1_bytes);
	json_object_object_add(o, "entries",
			       json_words(d->l1, d->l1_bytes / 8, 8));
	json_object_object_add(root, "l1", o);
	out = xasprintf("%s\n", json_object_to_json_string_ext(root,
			JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(root);
	return out;
}

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

static bool number_is(struct json_object *m, uint64_t max, uint64_t *v)
{
	/* negative ones come out as 0 from the second call, so look at the sign too */
	if (json_object_get_type(m) != json_type_int ||
	    json_object_get_int64(m) < 0)
		return false;
	*v = json_object_get_uint64(m);
	return *v <= max;
}

static bool number_of(struct json_object *o, const char *key, uint64_t max,
		      uint64_t *v)
{
	struct json_object *m = member(o, key, json_type_int);

	return m && number_is(m, max, v);
}

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool from_hex(struct json_object *text, uint8_t *out, size_t len)
{
	const char *p;

	if (json_object_get_type(text) != json_type_string ||
	    (size_t)json_object_get_string_len(text) != len * 2)
		return false;
	for (p = json_object_get_string(text); len--; p += 2) {
		int hi = digit_of(p[0]), lo = digit_of(p[1]);

		if (hi < 0 || lo < 0)
			return false;
		*out++ = (uint8_t)(hi << 4 | lo);
	}
	return true;
}

/* The inverse of json_words(); @words is all zeros before. */
static bool words_of(struct json_object *o, const char *key, uint8_t *words,
		     uint64_t nr, size_t width)
{
	struct json_object *list = member(o, key, json_type_array), *run, *hex;
	uint64_t first, next = 0, n;
	size_t i;

	if (!list)
		return false;
	for (i = 0; i < json_object_array_length(list); i++) {
		run = json_object_array_get_idx(list, i);
		if (json_object_get_type(run) != json_type_array ||
		    json_object_array_length(run) != 2 ||
		    !number_is(json_object_array_get_idx(run, 0), nr, &first) ||
		    first < next)
			return false;
		hex = json_object_array_get_idx(run, 1);
		if (json_object_get_type(hex) != json_type_string)
			return false;
		n = (uint64_t)json_object_get_string_len(hex) / (2 * width);
		if (!n || n > nr - first ||
		    !from_hex(hex, words + first * width, (size_t)n * width))
			return false;
		next = first + n;
	}
	return true;
}

static bool sums_of(struct json_object *root, struct details *d)
{
	uint8_t *raw;
	uint64_t i;
	bool ok;

	sums_init(&d->sums, d->size);
	raw = xcalloc((size_t)d->sums.nr, 4);
	ok = words_of(root, "sums", raw, d->sums.nr, 4);
	for (i = 0; i < d->sums.nr; i++)
		d->sums.crc[i] = (uint32_t)raw[i * 4] << 24 |
			(uint32_t)raw[i * 4 + 1] << 16 |
			(uint32_t)raw[i * 4 + 2] << 8 | raw[i * 4 + 3];
	free(raw);
	return ok;
}

static bool header_of(struct json_object *root, struct details *d)
{
	struct json_object *o = member(root, "header", json_type_object), *hex;
	uint64_t len, crc;

	if (!o || !number_of(o, "length", QCOW2_MAX_CLUSTER, &len) ||
	    len < HEADER_MIN || !number_of(o, "crc32c", UINT32_MAX, &crc))
		return false;
	hex = member(o, "data", json_type_string);
	d->header = xcalloc((size_t)len, 1);
	d->header_bytes = (uint32_t)len;
	return hex && from_hex(hex, d->header, (size_t)len) &&
		crc32c(0, d->header, (size_t)len) == crc;
}

static bool l1_of(struct json_object *root, struct details *d)
{
	struct json_object *o = member(root, "l1", json_type_object);
	uint64_t len, crc;

	if (!o || !number_of(o, "length", QCOW2_MAX_L1_BYTES, &len) || len % 8 ||
	    !number_of(o, "offset", INT64_MAX - QCOW2_MAX_L1_BYTES,
		       &d->l1_offset) || !number_of(o, "crc32c", UINT32_MAX, &crc))
		return false;
	d->l1 = xcalloc((size_t)len, 1);
	d->l1_bytes = (uint32_t)len;
	return words_of(o, "entries", d->l1, len / 8, 8) &&
		crc32c(0, d->l1, (size_t)len) == crc;
}

static struct json_object *parse_text(const char *text, size_t len)
{
	struct json_tokener *tok = json_tokener_new_ex(8);
	struct json_object *root = NULL;

	if (!tok)
		return NULL;
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT);
	if (len <= DETAILS_MAX)
		root = json_tokener_parse_ex(tok, text, (int)len);
	/* one newline follows, as we write it */
	if (root && len - json_tokener_get_parse_end(tok) > 1) {
		json_object_put(root);
		root = NULL;
	}
	json_tokener_free(tok);
	return root;
}

int details_parse(const char *text, size_t len, struct details *d,
		  struct cbw_error *err)
{
	struct json_object *root = parse_text(text, len), *m;
	const char *why = "not JSON";
	uint64_t version, range;

	*d = (struct details){ 0 };
	if (!root || json_object_get_type(root) != json_type_object)
		goto bad;
	why = "'format' is not \"" FORMAT "\"";
	m = member(root, "format", json_type_string);
	if (!m || strcmp(json_object_get_string(m), FORMAT))
		goto bad;
	why = "'version' is not one that this program knows";
	if (!number_of(root, "version", UINT32_MAX, &version) ||
	    version != VERSION)
		goto bad;
	why = "'cut' is not an id";
	m = member(root, "cut", json_type_string);
	if (!m || cbw_cut_from_text(json_object_get_string(m), &d->cut))
		goto bad;
	why = "'size' is not a number of bytes";
	if (!number_of(root, "size", INT64_MAX, &d->size) || !d->size ||
	    d->size / SUMS_RANGE > DETAILS_MAX / 8)
		goto bad;
	why = "'range' is not one that this program knows";
	if (!number_of(root, "range", UINT32_MAX, &range) || range != SUMS_RANGE)
		goto bad;
	why = "'sums' are missing or not valid";
	if (!sums_of(root, d))
		goto bad;
	why = "'header' is missing or not valid";
	if (!header_of(root, d))
		goto bad;
	why = "'l1' is missing or not valid";
	if (!l1_of(root, d))
		goto bad;
	json_object_put(root);
	return 0;
bad:
	json_object_put(root);
	details_free(d);
	return fail_with(err, EUCLEAN, "%s", why);
}
