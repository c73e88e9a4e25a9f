// SPDX-License-Identifier: GPL-2.0-or-later
/* the state of a container: to a slot and back, and slots that lie */
#include <endian.h>

#include "common.h"
#include "container.h"
#include "crc.h"

#define MIB	(1ull << 20)

static void example(struct state *s)
{
	struct state_bitmap *b;

	*s = (struct state){
		.seq = 7,
		.generation = 3,
		.region_shift = 22,
		.device_size = 1024 * MIB + 512,
		.written = 99,
		.intent_offset = { 1 * MIB, 2 * MIB },
		.intent_length = 65536,
		.binding = xstrdup("some text"),
		.binding_length = 9,
	};
	memset(s->container.b, 0x11, 16);
	memset(s->boot_id.b, 0x22, 16);
	b = state_add(s, "daily");
	b->flags = CBW_STATE_ENABLED;
	b->granularity = 65536;
	b->offset = 3 * MIB;
	b->length = 65536;
	b->crc32c = 0x12345678;
	memset(b->base.b, 0x33, 16);
	b = state_add(s, "a name with blanks \xff");
	b->granularity = 512;
	b->offset = 4 * MIB;
	b->length = 5 * 65536;
}

static void seal(unsigned char *slot)
{
	struct cbw_state head;
	uint32_t crc;

	memcpy(&head, slot, sizeof(head));
	head.crc32c = 0;
	memcpy(slot, &head, sizeof(head));
	crc = htole32(crc32c(0, slot, le32toh(head.length)));
	memcpy(slot + offsetof(struct cbw_state, crc32c), &crc, 4);
}

static void there_and_back(void **unused)
{
	unsigned char *slot = xcalloc(1, CBW_STATE_SLOT_SIZE);
	struct state a, b;

	(void)unused;
	example(&a);
	assert_int_equal(state_build(&a, slot, NULL), 0);
	assert_int_equal(state_parse(slot, &b, NULL), 0);
	assert_int_equal(b.seq, 7);
	assert_int_equal(b.generation, 3);
	assert_int_equal(b.device_size, a.device_size);
	assert_int_equal(b.written, 99);
	assert_int_equal(b.intent_offset[1], 2 * MIB);
	assert_string_equal(b.binding, "some text");
	assert_int_equal(b.nr, 2);
	assert_string_equal(b.bitmap[0].name, "daily");
	assert_int_equal(b.bitmap[0].crc32c, 0x12345678);
	assert_true(cbw_cut_equal(&b.bitmap[0].base, &a.bitmap[0].base));
	assert_string_equal(b.bitmap[1].name, "a name with blanks \xff");
	assert_int_equal(b.bitmap[1].length, 5 * 65536);
	assert_int_equal(state_places(&b, 65536, 5 * MIB, 4096, NULL), 0);
	assert_int_equal(state_places(&b, 65536, 4 * MIB, 4096, NULL), -EUCLEAN);
	assert_int_equal(state_places(&b, 2 * MIB, 5 * MIB, 4096, NULL), -EUCLEAN);
	b.bitmap[0].offset = 2 * MIB;
	assert_int_equal(state_places(&b, 65536, 5 * MIB, 4096, NULL), -EUCLEAN);
	state_free(&a);
	state_free(&b);
	free(slot);
}

/* Every byte changed: never taken for what it was. */
static void every_byte(void **unused)
{
	unsigned char *slot = xcalloc(1, CBW_STATE_SLOT_SIZE);
	struct cbw_state head;
	struct state s;
	size_t i;

	(void)unused;
	example(&s);
	assert_int_equal(state_build(&s, slot, NULL), 0);
	state_free(&s);
	memcpy(&head, slot, sizeof(head));
	for (i = 0; i < le32toh(head.length); i++) {
		slot[i] ^= 0x40;
		assert_int_equal(state_parse(slot, &s, NULL), -ENOENT);
		slot[i] ^= 0x40;
	}
	assert_int_equal(state_parse(slot, &s, NULL), 0);
	state_free(&s);
	free(slot);
}

/* The same with a checksum that fits: an error or a state, and never a wild access. */
static void every_byte_sealed(void **unused)
{
	static const unsigned char values[] = { 0, 1, 0x7f, 0x80, 0xff };
	unsigned char *slot = xcalloc(1, CBW_STATE_SLOT_SIZE), old;
	struct cbw_state head;
	struct state s;
	size_t i, k;
	int ret;

	(void)unused;
	example(&s);
	assert_int_equal(state_build(&s, slot, NULL), 0);
	state_free(&s);
	memcpy(&head, slot, sizeof(head));
	for (i = 0; i < le32toh(head.length); i++) {
		/* the length is what the checksum is of */
		if (i >= offsetof(struct cbw_state, crc32c) && i < offsetof(struct cbw_state, flags))
			continue;
		old = slot[i];
		for (k = 0; k < sizeof(values); k++) {
			slot[i] = values[k];
			seal(slot);
			ret = state_parse(slot, &s, NULL);
			assert_true(ret == 0 || ret == -EUCLEAN || ret == -ENOENT);
			if (!ret) {
				(void)state_places(&s, 65536, 5 * MIB, 4096, NULL);
				state_free(&s);
			}
		}
		slot[i] = old;
	}
	free(slot);
}

static void refuse(void (*spoil)(struct state *s), const char *what)
{
	unsigned char *slot = xcalloc(1, CBW_STATE_SLOT_SIZE);
	struct cbw_error err = { 0 };
	struct state a, b;

	example(&a);
	spoil(&a);
	assert_int_equal(state_build(&a, slot, NULL), 0);
	assert_int_equal(state_parse(slot, &b, &err), -EUCLEAN);
	if (!strstr(err.msg, what))
		fail_msg("'%s' instead of '%s'", err.msg, what);
	state_free(&a);
	free(slot);
}

static void twice(struct state *s) { strcpy(s->bitmap[1].name, "daily"); }
static void slash(struct state *s) { strcpy(s->bitmap[1].name, "a/b"); }
static void short_place(struct state *s) { s->bitmap[1].length = 4096; }
static void odd_place(struct state *s) { s->bitmap[1].offset += 512; }
static void far_place(struct state *s) { s->bitmap[1].offset = UINT64_MAX - 4095; }
static void granularity(struct state *s) { s->bitmap[1].granularity = 3; }
static void region(struct state *s) { s->region_shift = 40; }
static void intents(struct state *s) { s->intent_length = 0; }
static void size(struct state *s) { s->device_size = 0; }

static void lies(void **unused)
{
	(void)unused;
	refuse(twice, "two bitmaps 'daily'");
	refuse(slash, "a '/'");
	refuse(short_place, "4096 bytes at");
	refuse(odd_place, "bytes at");
	refuse(far_place, "bytes at");
	refuse(granularity, "granularity 3");
	refuse(region, "2^40 bytes");
	refuse(intents, "the intents have");
	refuse(size, "the volume has 0 bytes");
}

static void newest(void **unused)
{
	unsigned char *slots = xcalloc(1, STATE_BYTES);
	struct state s, found;

	(void)unused;
	assert_int_equal(state_newest(slots, &found, NULL), -ENOENT);
	example(&s);
	assert_int_equal(state_build(&s, slots + CBW_STATE_SLOT_SIZE, NULL), 0);
	assert_int_equal(state_newest(slots, &found, NULL), 0);
	assert_int_equal(found.seq, 7);
	state_free(&found);
	s.seq = 8;
	assert_int_equal(state_build(&s, slots, NULL), 0);
	assert_int_equal(state_newest(slots, &found, NULL), 0);
	assert_int_equal(found.seq, 8);
	state_free(&found);
	/* torn: the one before counts */
	slots[200] ^= 1;
	assert_int_equal(state_newest(slots, &found, NULL), 0);
	assert_int_equal(found.seq, 7);
	state_free(&found);
	/* an odd number does not belong into the first slot */
	s.seq = 9;
	assert_int_equal(state_build(&s, slots, NULL), 0);
	assert_int_equal(state_newest(slots, &found, NULL), 0);
	assert_int_equal(found.seq, 7);
	state_free(&found);
	state_free(&s);
	free(slots);
}

static void too_long(void **unused)
{
	unsigned char *slot = xcalloc(1, CBW_STATE_SLOT_SIZE);
	struct cbw_error err = { 0 };
	struct state s;
	char name[CBW_NAME_MAX + 1];
	int i;

	(void)unused;
	example(&s);
	memset(name, 'x', CBW_NAME_MAX);
	name[CBW_NAME_MAX] = '\0';
	for (i = 0; i < 40; i++) {
		name[0] = (char)('A' + i);
		state_add(&s, name)->granularity = 65536;
	}
	assert_int_equal(state_build(&s, slot, &err), -ENOSPC);
	assert_non_null(strstr(err.msg, "too long"));
	state_free(&s);
	free(slot);
}

/* Regions of intents over granules that are smaller, equal, larger. */
static void expand(void **unused)
{
	unsigned char intent[64] = { 0x05 }, buf[64];
	uint64_t n;

	(void)unused;
	/* regions 0 and 2 of 1 MiB, granules of 64 KiB: 16 each */
	memset(buf, 0, sizeof(buf));
	buf[0] = 1;
	n = bits_expand(buf, 64, 0, 100, 16, intent, 7, 20);
	assert_int_equal(n, 31);
	assert_int_equal(buf[0], 0xff);
	assert_int_equal(buf[1], 0xff);
	assert_int_equal(buf[2], 0);
	assert_int_equal(buf[4], 0xff);
	assert_int_equal(buf[6], 0);
	/* granules of 2 MiB: 0 and 1 */
	memset(buf, 0, sizeof(buf));
	assert_int_equal(bits_expand(buf, 8, 0, 4, 21, intent, 7, 20), 2);
	assert_int_equal(buf[0], 3);
	/* the end of the volume cuts region 2 and the granules */
	memset(buf, 0, sizeof(buf));
	assert_int_equal(bits_expand(buf, 8, 0, 33, 16, intent, 3, 20), 17);
	assert_int_equal(buf[4], 1);
	/* a piece from the middle */
	memset(buf, 0, sizeof(buf));
	assert_int_equal(bits_expand(buf, 2, 4, 100, 16, intent, 7, 20), 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(every_byte),
		cmocka_unit_test(every_byte_sealed),
		cmocka_unit_test(lies),
		cmocka_unit_test(newest),
		cmocka_unit_test(too_long),
		cmocka_unit_test(expand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
