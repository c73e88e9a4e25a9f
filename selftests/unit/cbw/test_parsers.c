// SPDX-License-Identifier: GPL-2.0-or-later
/* sizes, names, cut ids, checksums, lists of ranges */
#include "common.h"
#include "copy.h"
#include "crc.h"

static void sizes(void **state)
{
	static const struct {
		const char *text;
		int ret;
		uint64_t size;
	} t[] = {
		{ "0", 0, 0 },
		{ "1", 0, 1 },
		{ "512", 0, 512 },
		{ "4K", 0, 4096 },
		{ "4k", 0, 4096 },
		{ "4KiB", 0, 4096 },
		{ "1M", 0, 1 << 20 },
		{ "3G", 0, 3ull << 30 },
		{ "2T", 0, 2ull << 40 },
		{ "007", 0, 7 },
		{ "18446744073709551615", 0, UINT64_MAX },
		{ "16777215T", 0, 16777215ull << 40 },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "16777216T", -ERANGE, 0 },
		{ "99999999999999999999999", -ERANGE, 0 },
		{ "", -EINVAL, 0 },
		{ "K", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 },
		{ "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 },
		{ "1 ", -EINVAL, 0 },
		{ "1.5G", -EINVAL, 0 },
		{ "0x10", -EINVAL, 0 },
		{ "1KK", -EINVAL, 0 },
		{ "1KB", -EINVAL, 0 },
		{ "1B", -EINVAL, 0 },
		{ "1P", -EINVAL, 0 },
		{ "1e3", -EINVAL, 0 },
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		uint64_t size = 0;

		if (parse_size(t[i].text, &size) != t[i].ret ||
		    size != t[i].size)
			fail_msg("'%s': %d, %llu", t[i].text,
				 parse_size(t[i].text, &size), (ull)size);
	}
}

static void names(void **state)
{
	static const struct {
		const char *name, *text;
	} t[] = {
		{ "plain", "plain" },
		{ "with blank", "with\\x20blank" },
		{ "back\\slash", "back\\x5cslash" },
		{ "\n\t\x7f", "\\x0a\\x09\\x7f" },
		{ "\xc3\xa4", "\\xc3\\xa4" },
		{ "\x1b[31m", "\\x1b[31m" },
		{ "", "" },
	};
	char buf[64], name[CBW_NAME_MAX + 3];
	struct cbw_error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		assert_string_equal(cbw_escape(t[i].name, buf, sizeof(buf)),
				    t[i].text);
	/* cut short, but never inside an escape */
	assert_string_equal(cbw_escape("ab cd", buf, 5), "ab");
	assert_string_equal(cbw_escape("ab cd", buf, 7), "ab\\x20");
	assert_string_equal(cbw_escape("abc", buf, 1), "");

	assert_int_equal(cbw_name_check("b", &err), 0);
	assert_int_equal(cbw_name_check("", &err), -EINVAL);
	assert_int_equal(cbw_name_check("a/b", &err), -EINVAL);
	assert_non_null(strstr(err.msg, "a/b"));
	memset(name, 'x', sizeof(name));
	name[CBW_NAME_MAX] = '\0';
	assert_int_equal(cbw_name_check(name, &err), 0);
	name[CBW_NAME_MAX] = 'x';
	name[CBW_NAME_MAX + 1] = '\0';
	assert_int_equal(cbw_name_check(name, &err), -EINVAL);
	assert_int_equal(err.code, EINVAL);
}

static void cuts(void **state)
{
	const char *good = "00112233445566778899aabbccddeeff";
	struct cbw_cut_id cut, other;
	char text[CBW_CUT_HEX];

	(void)state;
	assert_int_equal(cbw_cut_from_text(good, &cut), 0);
	assert_string_equal(cbw_cut_to_text(&cut, text), good);
	assert_int_equal(cbw_cut_from_text("00112233445566778899AABBCCDDEEFF",
					   &other), 0);
	assert_true(cbw_cut_equal(&cut, &other));
	assert_false(cbw_cut_is_none(&cut));
	assert_int_equal(cbw_cut_from_text("", &cut), -EINVAL);
	assert_int_equal(cbw_cut_from_text("0011", &cut), -EINVAL);
	assert_int_equal(cbw_cut_from_text("00112233445566778899aabbccddeef",
					   &cut), -EINVAL);
	assert_int_equal(cbw_cut_from_text("00112233445566778899aabbccddeeff0",
					   &cut), -EINVAL);
	assert_int_equal(cbw_cut_from_text("0011223344556677 899aabbccddeeff",
					   &cut), -EINVAL);
	assert_int_equal(cbw_cut_from_text("00112233445566778899aabbccddee-1",
					   &cut), -EINVAL);
	/* left alone by a failure */
	assert_true(cbw_cut_equal(&cut, &other));
}

static void checksum(void **state)
{
	char buf[600];
	uint32_t one, two;
	size_t i, cut;

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283u);
	memset(buf, 0, 32);
	assert_int_equal(crc32c(0, buf, 32), 0x8a9136aau);
	for (i = 0; i < sizeof(buf); i++)
		buf[i] = (char)(i * 7 + i / 13);
	one = crc32c(0, buf, sizeof(buf));
	for (cut = 0; cut < 20; cut++) {
		two = crc32c(0, buf, cut);
		two = crc32c(two, buf + cut, sizeof(buf) - cut);
		assert_int_equal(one, two);
	}
	/* the same data elsewhere is something else */
	assert_int_not_equal(crc_cluster(0, 0, buf, 512),
			     crc_cluster(0, 512, buf, 512));
}

#define UNITS	64

/* Against one byte per unit. */
static void ranges(void **state)
{
	unsigned int round;

	(void)state;
	srand(42);
	for (round = 0; round < 3000; round++) {
		uint64_t chunk = 1u << rand() % 4, size = UNITS - rand() % 7;
		struct ranges r = { 0 }, out = { 0 };
		char have[UNITS] = { 0 }, taken[UNITS] = { 0 };
		uint64_t at = 0, i, k;
		size_t n;

		while (at < size) {
			uint64_t len = 1 + (uint64_t)rand() % 9;

			if (at + len > size)
				len = size - at;
			if (rand() % 3) {
				ranges_add(&r, at, len);
				memset(have + at, 1, len);
			}
			at += len;
			/* what is whole by now goes */
			if (rand() % 4)
				continue;
			ranges_take_whole(&r, &out, chunk, size);
		}
		ranges_take_whole(&r, &out, chunk, size);
		for (n = 0; n < out.nr; n++) {
			assert_int_equal(out.v[n].offset % chunk, 0);
			assert_true(!(out.v[n].length % chunk) ||
				    out.v[n].offset + out.v[n].length == size);
			for (i = 0; i < out.v[n].length; i++)
				taken[out.v[n].offset + i]++;
		}
		for (i = 0; i < size; i += chunk) {
			uint64_t end = i + chunk < size ? i + chunk : size;
			int whole = 1;

			for (k = i; k < end; k++)
				whole &= have[k];
			for (k = i; k < end; k++)
				assert_int_equal(taken[k], whole);
		}
		ranges_free(&r);
		ranges_free(&out);
	}
}

static void widened(void **state)
{
	struct ranges r = { 0 };

	(void)state;
	ranges_add(&r, 512, 512);
	ranges_add(&r, 3000, 100);
	ranges_add(&r, 9000, 10);
	ranges_add(&r, 9010, 10);
	ranges_widen(&r, 4096, 10240);
	assert_int_equal(r.nr, 2);
	assert_int_equal(r.v[0].offset, 0);
	assert_int_equal(r.v[0].length, 4096);
	assert_int_equal(r.v[1].offset, 8192);
	assert_int_equal(r.v[1].length, 2048);
	assert_int_equal(ranges_total(&r), 6144);
	ranges_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(names),
		cmocka_unit_test(cuts),
		cmocka_unit_test(checksum),
		cmocka_unit_test(ranges),
		cmocka_unit_test(widened),
	};

	return cmocka_run_group_tests_name("cbw parsers", tests, NULL, NULL);
}
