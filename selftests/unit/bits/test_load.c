// SPDX-License-Identifier: GPL-2.0-or-later
/* bits that go out as bytes and come in again, whole and in parts */
#include "common.h"

static struct twin from, to;

static void pair(sector_t len, unsigned int shift)
{
	twin_alloc(&from, len, shift, shift);
	twin_alloc(&to, len, shift, shift);
	mark_some(&from, 1 + rnd(20));
}

static void same_words(void)
{
	twin_check_words(&from);
	assert_memory_equal(to.bits->words, from.bits->words, to.bits->bytes);
}

static void basic(void **state)
{
	unsigned long *data;
	unsigned int i;
	u64 g, words;

	(void)state;
	rnd_seed("basic", 1);
	for (i = 0; i < 100; i++) {
		pair(1 + rnd(3000), rnd(5));
		words = from.bits->bytes / 8;
		data = calloc(words, 8);
		assert_non_null(data);
		cbw_bits_read(from.bits, 0, data, words);
		for (g = 0; g < from.bits->nr; g++)
			assert_int_equal(((u8 *)data)[g / 8] >> g % 8 & 1, bits_test(from.bits, g));
		assert_int_equal(cbw_bits_load(to.bits, 0, data, words), 0);
		same_words();
		free(data);
		twin_free(&from);
		twin_free(&to);
	}
}

/* Word by word in any order, some of them twice. */
static void part(void **state)
{
	unsigned long data[3];
	unsigned int i;
	u64 word, words;

	(void)state;
	rnd_seed("part", 1);
	for (i = 0; i < 50; i++) {
		pair(1 + rnd(5000), rnd(3));
		words = from.bits->bytes / 8;
		for (word = words; word--;) {
			u64 nr = 1 + rnd(3);

			nr = min(nr, words - word);
			cbw_bits_read(from.bits, word, data, nr);
			assert_int_equal(cbw_bits_load(to.bits, word, data, nr), 0);
		}
		same_words();
		twin_free(&from);
		twin_free(&to);
	}
}

/* What is there already stays. */
static void added(void **state)
{
	unsigned long data = 0;

	(void)state;
	twin_alloc(&to, 100, 0, 0);
	twin_mark(&to, 10, 3);
	assert_int_equal(cbw_bits_load(to.bits, 0, &data, 1), 0);
	twin_check(&to);
	data = htole64(1ul << 40);
	assert_int_equal(cbw_bits_load(to.bits, 0, &data, 1), 0);
	twin_mark(&to, 10, 3);
	assert_true(bits_test(to.bits, 40) && bits_test(to.bits, 12) && !bits_test(to.bits, 13));
	twin_free(&to);
}

/* A bit behind the end: nothing is added. Zeroes there are none. */
static void beyond(void **state)
{
	unsigned long data[3] = { htole64(1), htole64(1ul << 36), 0 };

	(void)state;
	twin_alloc(&to, 100, 0, 0);
	assert_int_equal(cbw_bits_load(to.bits, 0, data, 2), -EINVAL);
	twin_check(&to);
	data[1] = htole64(1ul << 35);
	data[2] = htole64(1);
	assert_int_equal(cbw_bits_load(to.bits, 0, data, 3), -EINVAL);
	assert_int_equal(cbw_bits_load(to.bits, 2, data, 1), -EINVAL);
	twin_check(&to);
	data[2] = 0;
	assert_int_equal(cbw_bits_load(to.bits, 0, data, 3), 0);
	assert_true(bits_test(to.bits, 0) && bits_test(to.bits, 99));
	twin_free(&to);
	/* the last word is a whole one */
	twin_alloc(&to, 128, 0, 0);
	data[0] = data[1] = ~0ul;
	assert_int_equal(cbw_bits_load(to.bits, 0, data, 2), 0);
	assert_int_equal(cbw_bits_dirty_bytes(to.bits, NULL), 128 * 512);
	twin_free(&to);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		bits_test_case(basic),
		bits_test_case(part),
		bits_test_case(added),
		bits_test_case(beyond),
	};

	bits_args(argc, argv);
	return cmocka_run_group_tests_name("bits-load", tests, NULL, NULL);
}
