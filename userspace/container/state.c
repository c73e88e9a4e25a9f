// SPDX-License-Identifier: GPL-2.0-or-later
/* the state of a container: slots to structs and back */
#include <endian.h>
#include <inttypes.h>

#include "cbw.h"
#include "crc.h"
#include "state.h"

#define HEAD	sizeof(struct cbw_state)
#define ENTRY	sizeof(struct cbw_state_bitmap)

static size_t pad8(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

static bool power_of_two(uint64_t n)
{
	return n && !(n & (n - 1));
}

uint64_t bits_bytes(uint64_t size, uint64_t granularity)
{
	uint64_t bits = size / granularity + (size % granularity != 0);

	return bits / 8 + (bits % 8 != 0);
}

static bool place_ok(uint64_t offset, uint64_t length)
{
	return !(offset % STATE_ALIGN) && !(length % STATE_ALIGN) && length <= INT64_MAX &&
	       offset <= INT64_MAX - length;
}

/* -ENOENT, or the length that is in use. */
static int slot_length(const unsigned char *slot, uint32_t *length, struct cbw_error *err)
{
	struct cbw_state head;
	static const unsigned char none[4];
	const size_t at = offsetof(struct cbw_state, crc32c);
	uint32_t crc, len;

	memcpy(&head, slot, HEAD);
	if (le64toh(head.magic) != CBW_STATE_MAGIC)
		return fail_with(err, ENOENT, "it has no magic number");
	len = le32toh(head.length);
	if (len < HEAD || len > CBW_STATE_SLOT_SIZE)
		return fail_with(err, ENOENT, "its length is %u", len);
	crc = crc32c(0, slot, at);
	crc = crc32c(crc, none, sizeof(none));
	crc = crc32c(crc, slot + at + sizeof(none), len - at - sizeof(none));
	if (crc != le32toh(head.crc32c))
		return fail_with(err, ENOENT, "its checksum is wrong");
	if (le32toh(head.version) != CBW_STATE_VERSION)
		return fail_with(err, EUCLEAN, "it has version %u, this cbw knows %u",
				 le32toh(head.version), CBW_STATE_VERSION);
	*length = len;
	return 0;
}

static int parse_bitmap(const unsigned char *p, size_t left, const struct state *state,
			struct state_bitmap *b, size_t *size, struct cbw_error *err)
{
	struct cbw_state_bitmap e;
	uint32_t entry, len;

	if (left < ENTRY)
		return fail_with(err, EUCLEAN, "the list of bitmaps is cut short");
	memcpy(&e, p, ENTRY);
	entry = le32toh(e.entry_size);
	len = le32toh(e.name_len);
	if (entry < ENTRY || entry > left || entry % 8 || !len || len > CBW_NAME_MAX ||
	    len > entry - ENTRY)
		return fail_with(err, EUCLEAN, "a bitmap has an entry of %u bytes, a name of %u",
				 entry, len);
	memcpy(b->name, p + ENTRY, len);
	b->name[len] = '\0';
	if (memchr(b->name, '\0', len) || memchr(b->name, '/', len))
		return fail_with(err, EUCLEAN, "a bitmap's name has a NUL or a '/' in it");
	b->flags = le32toh(e.flags);
	b->granularity = le32toh(e.granularity);
	b->crc32c = le32toh(e.crc32c);
	b->offset = le64toh(e.offset);
	b->length = le64toh(e.length);
	memcpy(b->base.b, e.base, sizeof(e.base));
	if (b->flags & ~CBW_STATE_ENABLED)
		return fail_with(err, EUCLEAN, "bitmap '%s' has flags 0x%x", esc(b->name),
				 b->flags);
	if (!power_of_two(b->granularity) || b->granularity < CBW_GRANULARITY_MIN ||
	    b->granularity > CBW_GRANULARITY_MAX)
		return fail_with(err, EUCLEAN, "bitmap '%s' has granularity %u", esc(b->name),
				 b->granularity);
	if (!place_ok(b->offset, b->length) || !b->offset ||
	    b->length < bits_bytes(state->device_size, b->granularity))
		return fail_with(err, EUCLEAN, "bitmap '%s' has %" PRIu64 " bytes at %" PRIu64,
				 esc(b->name), b->length, b->offset);
	if (state_find(state, b->name))
		return fail_with(err, EUCLEAN, "there are two bitmaps '%s'", esc(b->name));
	*size = entry;
	return 0;
}

static int parse_head(const struct cbw_state *head, struct state *s, struct cbw_error *err)
{
	s->flags = le32toh(head->flags);
	s->seq = le64toh(head->seq);
	s->generation = le64toh(head->generation);
	memcpy(s->container.b, head->container, sizeof(head->container));
	memcpy(s->boot_id.b, head->boot_id, sizeof(head->boot_id));
	s->device_size = le64toh(head->device_size);
	s->written = le64toh(head->written);
	s->intent_offset[0] = le64toh(head->intent_offset[0]);
	s->intent_offset[1] = le64toh(head->intent_offset[1]);
	s->intent_length = le64toh(head->intent_length);
	s->region_shift = le32toh(head->region_shift);
	s->binding_length = le32toh(head->binding_length);
	if (s->flags & ~(CBW_STATE_CLEAN | CBW_STATE_UNTRACKED | CBW_STATE_ATTACHING))
		return fail_with(err, EUCLEAN, "it has flags 0x%x", s->flags);
	if (!s->device_size || s->device_size % 512 || s->device_size > INT64_MAX)
		return fail_with(err, EUCLEAN, "the volume has %" PRIu64 " bytes", s->device_size);
	if (s->region_shift < CBW_REGION_SHIFT_MIN || s->region_shift > CBW_REGION_SHIFT_MAX)
		return fail_with(err, EUCLEAN, "a region has 2^%u bytes", s->region_shift);
	if (!s->intent_length && s->flags & CBW_STATE_CLEAN)
		;	/* nobody needs them */
	else if (!place_ok(s->intent_offset[0], s->intent_length) || !s->intent_offset[0] ||
		 !place_ok(s->intent_offset[1], s->intent_length) || !s->intent_offset[1] ||
		 s->intent_length < bits_bytes(s->device_size, 1ull << s->region_shift))
		return fail_with(err, EUCLEAN,
				 "the intents have %" PRIu64 " bytes at %" PRIu64 " and %" PRIu64,
				 s->intent_length, s->intent_offset[0], s->intent_offset[1]);
	if (s->binding_length > CBW_BINDING_MAX)
		return fail_with(err, EUCLEAN, "its binding has %u bytes", s->binding_length);
	return 0;
}

int state_parse(const void *slot, struct state *state, struct cbw_error *err)
{
	const unsigned char *p = slot;
	struct state s = { 0 };
	struct cbw_state head;
	uint32_t length = 0, nr, i;
	size_t at = HEAD, size = 0;
	int ret = slot_length(p, &length, err);

	if (ret)
		return ret;
	memcpy(&head, p, HEAD);
	ret = parse_head(&head, &s, err);
	if (ret)
		return ret;
	nr = le32toh(head.nr_bitmaps);
	if (pad8(s.binding_length) > length - at)
		return fail_with(err, EUCLEAN, "its binding of %u bytes is cut short",
				 s.binding_length);
	s.binding = xcalloc(s.binding_length + 1, 1);
	memcpy(s.binding, p + at, s.binding_length);
	at += pad8(s.binding_length);
	if (nr > CBW_BITMAPS_MAX || nr > (length - at) / ENTRY) {
		ret = fail_with(err, EUCLEAN, "it cannot have %u bitmaps", nr);
		goto bad;
	}
	s.bitmap = xcalloc(nr, sizeof(*s.bitmap));
	for (i = 0; i < nr; i++) {
		ret = parse_bitmap(p + at, length - at, &s, &s.bitmap[i], &size, err);
		if (ret)
			goto bad;
		at += size;
		s.nr++;
	}
	*state = s;
	return 0;
bad:
	state_free(&s);
	return ret;
}

int state_build(const struct state *s, void *slot, struct cbw_error *err)
{
	struct cbw_state head = {
		.magic = htole64(CBW_STATE_MAGIC),
		.version = htole32(CBW_STATE_VERSION),
		.flags = htole32(s->flags),
		.seq = htole64(s->seq),
		.generation = htole64(s->generation),
		.device_size = htole64(s->device_size),
		.written = htole64(s->written),
		.intent_offset = { htole64(s->intent_offset[0]), htole64(s->intent_offset[1]) },
		.intent_length = htole64(s->intent_length),
		.region_shift = htole32(s->region_shift),
		.nr_bitmaps = htole32(s->nr),
		.binding_length = htole32(s->binding_length),
	};
	unsigned char *p = slot;
	size_t at = HEAD + pad8(s->binding_length);
	uint32_t i, crc;

	memset(p, 0, CBW_STATE_SLOT_SIZE);
	if (s->binding_length > CBW_BINDING_MAX || s->nr > CBW_BITMAPS_MAX)
		return fail_with(err, ENOSPC,
				 "a binding of %u bytes, or %u bitmaps, are too much for a container",
				 s->binding_length, s->nr);
	memcpy(head.container, s->container.b, sizeof(head.container));
	memcpy(head.boot_id, s->boot_id.b, sizeof(head.boot_id));
	if (s->binding_length)
		memcpy(p + HEAD, s->binding, s->binding_length);
	for (i = 0; i < s->nr; i++) {
		const struct state_bitmap *b = &s->bitmap[i];
		size_t len = strlen(b->name), size = ENTRY + pad8(len);
		struct cbw_state_bitmap e = {
			.entry_size = htole32((uint32_t)size),
			.flags = htole32(b->flags),
			.granularity = htole32(b->granularity),
			.name_len = htole32((uint32_t)len),
			.offset = htole64(b->offset),
			.length = htole64(b->length),
			.crc32c = htole32(b->crc32c),
		};

		if (size > CBW_STATE_SLOT_SIZE - at)
			return fail_with(err, ENOSPC,
					 "the names of %u bitmaps are too long for a container, which has %u bytes for them",
					 s->nr, CBW_STATE_SLOT_SIZE);
		memcpy(e.base, b->base.b, sizeof(e.base));
		memcpy(p + at, &e, ENTRY);
		memcpy(p + at + ENTRY, b->name, len);
		at += size;
	}
	head.length = htole32((uint32_t)at);
	memcpy(p, &head, HEAD);
	crc = htole32(crc32c(0, p, at));
	memcpy(p + offsetof(struct cbw_state, crc32c), &crc, sizeof(crc));
	return 0;
}

int state_newest(const void *slots, struct state *state, struct cbw_error *err)
{
	struct cbw_error why = { 0 };
	struct state found = { 0 };
	bool have = false;
	unsigned int i;

	for (i = 0; i < STATE_SLOTS; i++) {
		struct state s;
		int ret = state_parse((const char *)slots + i * CBW_STATE_SLOT_SIZE, &s, &why);

		/* right checksum, nonsense: nobody knows which of the two counts */
		if (ret && ret != -ENOENT) {
			state_free(&found);
			return fail_with(err, -ret, "state slot %u: %s", i, why.msg);
		}
		if (ret)
			continue;
		if (s.seq % STATE_SLOTS != i || (have && s.seq < found.seq)) {
			state_free(&s);
			continue;
		}
		state_free(&found);
		found = s;
		have = true;
	}
	if (!have)
		return fail_with(err, ENOENT, "it holds no valid state: %s", why.msg);
	*state = found;
	return 0;
}

/* ---- places ------------------------------------------------------------ */

struct range {
	uint64_t offset, length;
	const char *what;
};

static int by_offset(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int state_places(const struct state *s, uint64_t first, uint64_t bytes, uint64_t align,
		 struct cbw_error *err)
{
	struct range *r = xcalloc(s->nr + 2, sizeof(*r));
	size_t nr = 0, i;
	int ret = 0;

	if (s->intent_length) {
		r[nr++] = (struct range){ s->intent_offset[0], s->intent_length, "intent A" };
		r[nr++] = (struct range){ s->intent_offset[1], s->intent_length, "intent B" };
	}
	for (i = 0; i < s->nr; i++)
		r[nr++] = (struct range){ s->bitmap[i].offset, s->bitmap[i].length,
					  s->bitmap[i].name };
	qsort(r, nr, sizeof(*r), by_offset);
	for (i = 0; i < nr && !ret; i++) {
		if (r[i].offset < first || r[i].offset % align || r[i].offset > bytes ||
		    r[i].length > bytes - r[i].offset)
			ret = fail_with(err, EUCLEAN,
					"the %" PRIu64 " bytes of '%s' at %" PRIu64 " are not where bitmaps can be",
					r[i].length, esc(r[i].what), r[i].offset);
		else if (i && r[i].offset < r[i - 1].offset + r[i - 1].length)
			ret = fail_with(err, EUCLEAN, "'%s' and '%s' overlap at %" PRIu64,
					esc(r[i - 1].what), esc(r[i].what), r[i].offset);
	}
	free(r);
	return ret;
}

/* ---- the structs ------------------------------------------------------- */

struct state_bitmap *state_find(const struct state *state, const char *name)
{
	uint32_t i;

	for (i = 0; i < state->nr; i++)
		if (!strcmp(state->bitmap[i].name, name))
			return &state->bitmap[i];
	return NULL;
}

struct state_bitmap *state_add(struct state *state, const char *name)
{
	struct state_bitmap *more = xcalloc(state->nr + 1, sizeof(*more));

	if (state->nr)
		memcpy(more, state->bitmap, state->nr * sizeof(*more));
	free(state->bitmap);
	state->bitmap = more;
	more += state->nr++;
	snprintf(more->name, sizeof(more->name), "%s", name);
	return more;
}

void state_copy(struct state *to, const struct state *from)
{
	struct state s = *from;

	s.binding = xcalloc(s.binding_length + 1, 1);
	if (s.binding_length)
		memcpy(s.binding, from->binding, s.binding_length);
	s.bitmap = xcalloc(s.nr, sizeof(*s.bitmap));
	if (s.nr)
		memcpy(s.bitmap, from->bitmap, s.nr * sizeof(*s.bitmap));
	*to = s;
}

void state_free(struct state *state)
{
	free(state->binding);
	free(state->bitmap);
	memset(state, 0, sizeof(*state));
}
