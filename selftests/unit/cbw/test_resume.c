// SPDX-License-Identifier: GPL-2.0-or-later
/* the record of an unfinished backup, hostile ones too */
#include "common.h"
#include "resume.h"

static const struct cbw_cut_id id = { { 1, 2, 3 } };

static struct resume sample(void)
{
	struct resume r = {
		.cut = { { 9, 8, 7 } },
		.snapshot = "cbw-snap-0123456789abcdef",
		.bitmap = xstrdup("a b\\c\n"),
		.decision = { .type = ENTRY_INCREMENTAL, .parent = 3, .fallback = false,
			.add = true, .enable = true, .replace = true,
			.second = SECOND_ROTATE, .reason = "because of 'x'\n" },
		.base = { { 5 } },
		.granularity = 65536, .id = 4, .time = 1700000000, .size = 1 << 20, .done = 65536,
		.store_kind = STORE_LV,
		.store = xstrdup("/dev/mapper/vg-cbw_store_1"),
		.lv = xstrdup("vg/cbw_store_1"),
		.store_most = UINT64_MAX,
		.compress = 19,
		.group = 2,
	};
	return r;
}

static void round_trip(void **state)
{
	struct resume r = sample(), got;
	struct cbw_error err;
	char *text = resume_format(&id, &r), *again;

	(void)state;
	again = xstrdup(text);
	assert_int_equal(resume_parse(again, &id, &got, &err), 0);
	free(again);
	again = resume_format(&id, &got);
	assert_string_equal(text, again);
	assert_string_equal(got.bitmap, r.bitmap);
	assert_string_equal(got.decision.reason, r.decision.reason);
	assert_int_equal(got.done, 65536);
	assert_int_equal(got.compress, 19);
	assert_int_equal(got.group, 2);
	assert_true(got.decision.enable && got.decision.replace);
	free(text);
	free(again);
	resume_free(&r);
	resume_free(&got);
}

/* Of a tool that did not write the last lines: it can be ended all the same. */
static void older_than(const char *line, int compress, uint32_t group)
{
	struct resume r = sample(), got;
	char *text = resume_format(&id, &r), *from = strstr(text, line);
	char *to = strstr(text, "end .");
	struct cbw_error err;

	memmove(from, to, strlen(to) + 1);
	assert_int_equal(resume_parse(text, &id, &got, &err), 0);
	assert_int_equal(got.compress, compress);
	assert_int_equal(got.group, group);
	assert_false(got.decision.enable || got.decision.replace);
	free(text);
	resume_free(&r);
	resume_free(&got);
}

static void older(void **state)
{
	(void)state;
	older_than("compress ", 0, 0);
	older_than("enable ", 19, 2);
}

/* What is replaced, and by what. */
static void hostile(void **state)
{
	static const struct {
		const char *from, *to;
	} t[] = {
		{ "cbw-resume 1", "cbw-resume 2" },
		{ "chain 01", "chain 02" },
		{ "snapshot cbw", "snapshot a/b" },
		{ "snapshot cbw-snap-0123456789abcdef", "snapshot " },
		{ "type 1", "type 3" },
		{ "type 1", "type 0" },		/* a full one with a parent */
		{ "parent 3", "parent 0" },
		{ "parent 3", "parent 4" },
		{ "granularity 65536", "granularity 65537" },
		{ "done 65536", "done 1048577" },
		{ "done 65536", "done -1" },
		{ "done 65536", "done " },
		{ "size 1048576", "size 1048577" },
		{ "store-kind 2", "store-kind 3" },
		{ "compress 19", "compress 23" },
		{ "compress 19\n", "" },
		{ "enable 1", "enable 2" },
		{ "enable 1\n", "" },
		{ "replace 1", "replace 2" },
		{ "replace 1\n", "" },
		/* what would be removed */
		{ "lv vg/cbw_store_1", "lv vg/data" },
		{ "lv vg/cbw_store_1", "lv " },
		{ "store-kind 2", "store-kind 1" },
		{ "end .", "" },
		{ "end .\n", "end .\nx" },
		{ "\\x5c", "\\xzz" },
	};
	struct resume r = sample(), got;
	struct cbw_error err;
	char *good = resume_format(&id, &r);
	size_t i, len = strlen(good);

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const char *at = strstr(good, t[i].from);
		char *text;

		assert_non_null(at);
		text = xasprintf("%.*s%s%s", (int)(at - good), good, t[i].to,
				 at + strlen(t[i].from));
		if (resume_parse(text, &id, &got, &err) != -EUCLEAN)
			fail_msg("accepted with '%s'", t[i].to);
		free(text);
	}
	for (i = 0; i < len; i++) {
		char *text = xstrdup(good);

		text[i] = '\0';
		assert_int_equal(resume_parse(text, &id, &got, &err), -EUCLEAN);
		free(text);
	}
	srand(7);
	for (i = 0; i < 20000; i++) {
		char *text = xstrdup(good);
		int n = 1 + rand() % 3;

		while (n--)
			text[(size_t)rand() % len] = (char)(1 + rand() % 255);
		if (!resume_parse(text, &id, &got, &err))
			resume_free(&got);
		free(text);
	}
	free(good);
	resume_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(older),
		cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
