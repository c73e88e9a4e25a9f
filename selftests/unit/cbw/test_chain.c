// SPDX-License-Identifier: GPL-2.0-or-later
/* manifests, hostile ones too; full or incremental; the directory of a chain */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain.h"
#include "common.h"

static const char good[] =
	"{\"format\":\"cbw-chain\",\"version\":1,"
	"\"chain\":\"0123456789abcdef0123456789abcdef\","
	"\"volume\":\"vg-lv\\\\x20x\",\"bitmap\":\"cbw-01234567\",\"entries\":["
	"{\"id\":1,\"type\":\"full\",\"parent\":0,\"file\":\"000001-full.qcow2\","
	"\"cut\":\"11111111111111111111111111111111\","
	"\"base\":\"00000000000000000000000000000000\",\"time\":1700000000,"
	"\"size\":1048576,\"copied\":65536,\"zero\":983040,"
	"\"granularity\":65536,\"crc32c\":4294967295},"
	"{\"id\":3,\"type\":\"incremental\",\"parent\":1,\"file\":\"000003-inc.qcow2\","
	"\"cut\":\"33333333333333333333333333333333\","
	"\"base\":\"11111111111111111111111111111111\",\"time\":1700000100,"
	"\"size\":1048576,\"copied\":0,\"zero\":0,"
	"\"granularity\":65536,\"crc32c\":0}]}";

static void drop(struct chain *c)
{
	free(c->volume);
	free(c->bitmap);
	free(c->entry);
	memset(c, 0, sizeof(*c));
}

static void round_trip(void **state)
{
	struct chain c = { 0 }, d = { 0 };
	struct cbw_error err;
	char *text, *again;

	(void)state;
	assert_int_equal(chain_parse(good, strlen(good), &c, &err), 0);
	assert_string_equal(c.volume, "vg-lv x");
	assert_string_equal(c.bitmap, "cbw-01234567");
	assert_int_equal(c.nr, 2);
	assert_int_equal(c.entry[0].crc, UINT32_MAX);
	assert_int_equal(c.entry[1].id, 3);
	assert_int_equal(c.entry[1].parent, 1);
	assert_int_equal(chain_depth(&c, chain_newest(&c)), 2);
	text = chain_format(&c);
	assert_int_equal(chain_parse(text, strlen(text), &d, &err), 0);
	again = chain_format(&d);
	assert_string_equal(text, again);
	assert_ptr_equal(chain_find(&c, "3"), &c.entry[1]);
	assert_ptr_equal(chain_find(&c, "11111111"), &c.entry[0]);
	assert_null(chain_find(&c, "2"));
	assert_null(chain_find(&c, "1111"));
	assert_null(chain_find(&c, "1K"));
	assert_null(chain_find(&c, ""));
	assert_null(chain_find(&c, "44444444"));
	drop(&c);
	drop(&d);
	free(text);
	free(again);
}

/* What version 2 has more: groups, details, the journal of a merge. */
static void version_2(void **state)
{
	struct chain c = { 0 }, d = { 0 };
	struct cbw_error err;
	char *text, *again;

	(void)state;
	assert_int_equal(chain_parse(good, strlen(good), &c, &err), 0);
	assert_int_equal(c.entry[0].details_size, 0);
	assert_int_equal(c.entry[0].group, 0);
	assert_int_equal(c.merge.state, MERGE_NONE);
	c.entry[0].group = 3;
	c.entry[0].details_size = 4711;
	c.entry[0].details_crc = 0x89abcdef;
	c.merge = (struct chain_merge){ .state = MERGE_DATA, .from = 1, .into = 3,
		.punch = true, .doubt = true, .sums_size = 9, .zero_known = true, .file = "000001-full.qcow2" };
	text = chain_format(&c);
	assert_non_null(strstr(text, "\"version\":2"));
	assert_int_equal(chain_parse(text, strlen(text), &d, &err), 0);
	assert_int_equal(d.entry[0].group, 3);
	assert_int_equal(d.entry[0].details_size, 4711);
	assert_int_equal(d.entry[0].details_crc, 0x89abcdef);
	assert_int_equal(d.merge.state, MERGE_DATA);
	assert_true(d.merge.punch && d.merge.from == 1 && d.merge.into == 3);
	assert_true(d.merge.doubt);
	assert_true(d.merge.zero_known && !d.merge.zero);
	assert_true(chain_giving_up(&d, &d.entry[0]));
	assert_false(chain_giving_up(&d, &d.entry[1]));
	again = chain_format(&d);
	assert_string_equal(text, again);
	free(text);
	free(again);
	drop(&d);
	/* and when the lower one has gone */
	chain_remove(&c, 1);
	assert_int_equal(c.nr, 1);
	c.entry[0].parent = 0;
	c.entry[0].type = ENTRY_FULL;
	chain_file_name(3, ENTRY_FULL, c.entry[0].file);
	c.merge.state = MERGE_NAMES;
	c.merge.doubt = c.merge.zero_known = false;
	text = chain_format(&c);
	assert_int_equal(chain_parse(text, strlen(text), &d, &err), 0);
	assert_int_equal(d.merge.state, MERGE_NAMES);
	assert_false(d.merge.doubt || d.merge.zero_known);
	free(text);
	drop(&c);
	drop(&d);
}

/* What is replaced in the good one, and by what; the text that is expected. */
static void hostile(void **state)
{
	static const struct {
		const char *from, *to, *why;
	} t[] = {
		{ "cbw-chain", "cbw-train", "format" },
		{ "\"version\":1", "\"version\":3", "version" },
		{ "\"version\":1", "\"version\":0", "version" },
		{ "\"crc32c\":0}", "\"crc32c\":0,\"group\":-1}", "'group'" },
		{ "\"crc32c\":0}", "\"crc32c\":0,\"details_size\":1073741825}",
		  "'details_size'" },
		{ "\"crc32c\":0}", "\"crc32c\":0,\"details_crc32c\":\"7\"}",
		  "'details_crc32c'" },
		{ "}]}", "}],\"merge\":7}", "journal" },
		{ "}]}", "}],\"merge\":{}}", "journal" },
		/* of an entry that is not there, not the parent, or itself; a file of another name */
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":2,\"into\":3,"
		  "\"file\":\"000002-full.qcow2\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":1,\"into\":4,"
		  "\"file\":\"000001-full.qcow2\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":3,\"into\":3,"
		  "\"file\":\"000003-inc.qcow2\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":1,\"into\":3,"
		  "\"file\":\"../x\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"names\",\"from\":1,\"into\":3,"
		  "\"file\":\"000001-full.qcow2\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"names\",\"from\":2,\"into\":3,"
		  "\"file\":\"../../etc/passwd\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":1,\"into\":3,"
		  "\"file\":\"000001-full.qcow2\",\"punch\":true,\"doubt\":1}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":1,\"into\":3,"
		  "\"file\":\"000001-full.qcow2\",\"punch\":true,\"zero\":-1}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"done\",\"from\":1,\"into\":3,"
		  "\"file\":\"000001-full.qcow2\",\"punch\":true}}", "journal" },
		{ "}]}", "}],\"merge\":{\"state\":\"data\",\"from\":1,\"into\":3,"
		  "\"file\":\"000001-full.qcow2\"}}", "journal" },
		{ "\"version\":1", "\"version\":\"1\"", "version" },
		{ "\"version\":1", "\"version\":1.0", "version" },
		{ "\"version\":1,", "", "version" },
		{ "0123456789abcdef0123456789abcdef", "0123", "chain" },
		{ "0123456789abcdef0123456789abcdef",
		  "00000000000000000000000000000000", "chain" },
		{ "vg-lv\\\\x20x", "", "volume" },
		{ "vg-lv\\\\x20x", "a\\\\x0", "volume" },
		{ "vg-lv\\\\x20x", "a\\\\x00b", "volume" },
		{ "vg-lv\\\\x20x", "a\\u0000b", "volume" },
		{ "\"cbw-01234567\"", "\"a/b\"", "bitmap" },
		{ "\"cbw-01234567\"", "\"\"", "bitmap" },
		{ "\"cbw-01234567\"", "7", "bitmap" },
		{ "\"id\":1,", "\"id\":0,", "'id'" },
		{ "\"id\":1,", "\"id\":-1,", "'id'" },
		{ "\"id\":1,", "\"id\":1000000,", "'id'" },
		{ "\"id\":3,", "\"id\":1,", "'id'" },
		{ "\"type\":\"full\"", "\"type\":\"fool\"", "'type'" },
		{ "\"type\":\"full\"", "\"type\":\"incremental\"", "'parent'" },
		{ "\"parent\":0", "\"parent\":1", "'parent'" },
		{ "\"parent\":1", "\"parent\":0", "'parent'" },
		{ "\"parent\":1", "\"parent\":2", "'parent'" },
		{ "\"parent\":1", "\"parent\":3", "'parent'" },
		/* on top of what is no full one */
		{ "\"id\":3,\"type\":\"incremental\",\"parent\":1,\"file\":\"000003-inc.qcow2\"",
		  "\"id\":2,\"type\":\"incremental\",\"parent\":1,\"file\":\"000002-inc.qcow2\","
		  "\"cut\":\"22222222222222222222222222222222\","
		  "\"base\":\"11111111111111111111111111111111\",\"time\":1,\"size\":1048576,"
		  "\"copied\":0,\"zero\":0,\"granularity\":65536,\"crc32c\":0},"
		  "{\"id\":3,\"type\":\"differential\",\"parent\":2,\"file\":\"000003-diff.qcow2\"",
		  "'parent'" },
		{ "000003-inc.qcow2", "000003-diff.qcow2", "'file'" },
		{ "000001-full.qcow2", "../../etc/passwd", "'file'" },
		{ "000001-full.qcow2", "/etc/passwd", "'file'" },
		{ "000001-full.qcow2", "000003-full.qcow2", "'file'" },
		{ "000001-full.qcow2", "000001-full.qcow2\\u0000x", "'file'" },
		{ "000003-inc.qcow2", "000003-full.qcow2", "'file'" },
		{ "\"cut\":\"11111111111111111111111111111111\"",
		  "\"cut\":\"00000000000000000000000000000000\"", "'cut'" },
		{ "\"cut\":\"11111111111111111111111111111111\",", "",
		  "'cut'" },
		{ "\"base\":\"00000000000000000000000000000000\"",
		  "\"base\":\"zz\"", "'base'" },
		{ "\"time\":1700000000", "\"time\":-5", "'time'" },
		{ "\"size\":1048576", "\"size\":0", "'size'" },
		{ "\"size\":1048576", "\"size\":1000", "'size'" },
		{ "\"size\":1048576", "\"size\":18446744073709551104", "'size'" },
		{ "\"size\":1048576", "\"size\":99999999999999999999999", "'size'" },
		{ "\"granularity\":65536", "\"granularity\":4294967296",
		  "'granularity'" },
		{ "\"crc32c\":4294967295", "\"crc32c\":4294967296", "'crc32c'" },
		{ "\"entries\":[", "\"entries\":[7,", "entry 1" },
		{ "\"entries\":[", "\"entries\":[null,", "entry 1" },
		{ "\"entries\"", "\"trees\"", "entries" },
		{ "}]}", "}]} x", "JSON" },
		{ "}]}", "}]", "JSON" },
		{ "}]}", "}]}{}", "JSON" },
	};
	struct cbw_error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		const char *at = strstr(good, t[i].from);
		struct chain c = { 0 };
		char *text;

		assert_non_null(at);
		text = xasprintf("%.*s%s%s", (int)(at - good), good, t[i].to,
				 at + strlen(t[i].from));
		if (chain_parse(text, strlen(text), &c, &err) != -EUCLEAN)
			fail_msg("accepted with %s", t[i].to);
		if (!strstr(err.msg, t[i].why))
			fail_msg("%s: says '%s', not %s", t[i].to, err.msg,
				 t[i].why);
		assert_null(c.entry);
		free(text);
	}
}

/* Cut short anywhere, and with random bytes changed: an error or a chain. */
static void damaged(void **state)
{
	size_t len = strlen(good), i;
	struct cbw_error err;
	struct chain c = { 0 };

	(void)state;
	for (i = 0; i < len; i++) {
		assert_int_equal(chain_parse(good, i, &c, &err), -EUCLEAN);
		drop(&c);
	}
	srand(7);
	for (i = 0; i < 20000; i++) {
		char *text = strdup(good);
		int n = 1 + rand() % 3;

		while (n--)
			text[(size_t)rand() % len] = (char)(rand() % 256);
		chain_parse(text, len, &c, &err);
		drop(&c);
		free(text);
	}
	/* very deep */
	{
		char *deep = malloc(100000);

		memset(deep, '[', 100000);
		assert_int_equal(chain_parse(deep, 100000, &c, &err), -EUCLEAN);
		free(deep);
	}
	assert_int_equal(chain_parse("", 0, &c, &err), -EUCLEAN);
	assert_int_equal(chain_parse("[]", 2, &c, &err), -EUCLEAN);
	assert_int_equal(chain_parse("{}", 2, &c, &err), -EUCLEAN);
}

static void decide(void **state)
{
	struct cbw_cut_id none = { { 0 } }, one, three, other;
	struct chain c = { 0 }, empty = { .bitmap = "b" };
	struct cbw_error err;
	const uint64_t size = 1048576;
	struct decision d;
	struct cbw_bitmap b = { .name = "b", .flags = CBW_BITMAP_ENABLED,
		.granularity = 65536 };

	(void)state;
	cbw_cut_from_text("11111111111111111111111111111111", &one);
	cbw_cut_from_text("33333333333333333333333333333333", &three);
	cbw_cut_from_text("44444444444444444444444444444444", &other);
	assert_int_equal(chain_parse(good, strlen(good), &c, &err), 0);

#define CHECK(mode_, bitmap_, size_, type_, fallback_, add_, text_) do {	\
	chain_decide(&c, bitmap_, NULL, size_, mode_, &d);		\
	assert_int_equal(d.type, type_);				\
	assert_int_equal(d.fallback, fallback_);			\
	assert_int_equal(d.add, add_);					\
	assert_non_null(strstr(d.reason, text_));			\
} while (0)
	/* the base is the newest entry's cut */
	b.base = three;
	CHECK(MODE_AUTO, &b, size, ENTRY_INCREMENTAL, false, false, "");
	CHECK(MODE_INCREMENTAL, &b, size, ENTRY_INCREMENTAL, false, false, "");
	CHECK(MODE_FULL, &b, size, ENTRY_FULL, false, false, "");
	/* its commit was lost: larger than needed, and right */
	b.base = one;
	CHECK(MODE_AUTO, &b, size, ENTRY_INCREMENTAL, false, false, "");
	/* a backup is under way, or its abort: the kernel decides */
	b.flags |= CBW_BITMAP_BUSY;
	CHECK(MODE_AUTO, &b, size, ENTRY_INCREMENTAL, false, false, "");
	b.flags = CBW_BITMAP_ENABLED;
	/* of another chain, or none */
	b.base = other;
	CHECK(MODE_AUTO, &b, size, ENTRY_FULL, true, false, "the base of");
	CHECK(MODE_INCREMENTAL, &b, size, ENTRY_FULL, true, false, "44444444");
	CHECK(MODE_FULL, &b, size, ENTRY_FULL, false, false, "");
	b.base = none;
	CHECK(MODE_AUTO, &b, size, ENTRY_FULL, true, false, "no base");
	/* none equal to none must not count: the first entry has base none */
	c.nr = 1;
	CHECK(MODE_AUTO, &b, size, ENTRY_FULL, true, false, "no base");
	b.base = one;
	CHECK(MODE_AUTO, &b, size, ENTRY_INCREMENTAL, false, false, "");
	c.nr = 2;
	b.base = three;
	/* gaps */
	b.flags = 0;
	CHECK(MODE_AUTO, &b, size, ENTRY_FULL, true, false, "disabled");
	assert_true(d.enable && !d.replace);
	CHECK(MODE_FULL, &b, size, ENTRY_FULL, false, false, "");
	assert_true(d.enable && !d.replace);
	b.flags = CBW_BITMAP_ENABLED | CBW_BITMAP_INCONSISTENT;
	CHECK(MODE_AUTO, &b, size, ENTRY_FULL, true, true, "inconsistent");
	assert_true(d.replace && !d.enable);
	b.flags = CBW_BITMAP_ENABLED;
	/* resized */
	CHECK(MODE_AUTO, &b, size + 512, ENTRY_FULL, true, false, "bytes now");
	CHECK(MODE_AUTO, &b, size - 512, ENTRY_FULL, true, false, "bytes now");
	/* no bitmap */
	CHECK(MODE_AUTO, NULL, size, ENTRY_FULL, true, true, "no bitmap");
	assert_false(d.replace);
	CHECK(MODE_INCREMENTAL, NULL, size, ENTRY_FULL, true, true, "no bitmap");
	CHECK(MODE_FULL, NULL, size, ENTRY_FULL, false, true, "");
#undef CHECK
	/* the first backup: no fallback, but no increment either */
	chain_decide(&empty, NULL, NULL, size, MODE_AUTO, &d);
	assert_true(d.type == ENTRY_FULL && !d.fallback && d.add);
	chain_decide(&empty, &b, NULL, size, MODE_AUTO, &d);
	assert_true(d.type == ENTRY_FULL && !d.fallback && !d.add);
	chain_decide(&empty, NULL, NULL, size, MODE_INCREMENTAL, &d);
	assert_true(d.fallback && strstr(d.reason, "empty"));
	drop(&c);
}

/* "1f" full, "2i1" increment on 1, "3d1" differential on 1; each with its own cut. */
static void grow_chain(struct chain *c, const char *text, const char *base)
{
	struct entry e = { .size = 512, .id = (uint32_t)(text[0] - '0'),
		.type = text[1] == 'f' ? ENTRY_FULL :
			text[1] == 'i' ? ENTRY_INCREMENTAL : ENTRY_DIFFERENTIAL,
		.parent = text[2] ? (uint32_t)(text[2] - '0') : 0 };

	memset(&e.cut, text[0], sizeof(e.cut));
	if (*base)
		memset(&e.base, *base, sizeof(e.base));
	chain_file_name(e.id, e.type, e.file);
	chain_add(c, &e);
}

static struct cbw_bitmap *with_base(struct cbw_bitmap *b, char base)
{
	*b = (struct cbw_bitmap){ .name = "b", .flags = CBW_BITMAP_ENABLED };
	if (base)
		memset(&b->base, base, sizeof(b->base));
	return b;
}

/* What each kind goes on top of, and with which bitmap. */
static void differential(void **state)
{
	struct chain c = { .bitmap = "b" };
	struct cbw_bitmap b, s;
	struct decision d;

	(void)state;
#define DECIDE(mode_, b_, s_) chain_decide(&c, b_, s_, 512, mode_, &d)
#define IS(type_, parent_, fallback_, second_) do {			\
	assert_int_equal(d.type, type_);				\
	assert_int_equal(d.parent, parent_);				\
	assert_int_equal(d.fallback, fallback_);			\
	assert_int_equal(d.second, second_);				\
} while (0)
	/* the first backup is a full one, and the second bitmap begins with it */
	DECIDE(MODE_DIFFERENTIAL, NULL, NULL);
	IS(ENTRY_FULL, 0, false, SECOND_ADD);
	assert_true(d.add && !d.second_replace);
	/* nobody else has the second one */
	DECIDE(MODE_AUTO, NULL, NULL);
	IS(ENTRY_FULL, 0, false, SECOND_LEAVE);
	grow_chain(&c, "1f", "");
	/* one that has none yet: from the other one */
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '1'), NULL);
	IS(ENTRY_DIFFERENTIAL, 1, false, SECOND_COPY);
	assert_false(d.second_replace);
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '1'), with_base(&s, '1'));
	IS(ENTRY_DIFFERENTIAL, 1, false, SECOND_LEAVE);
	/* the other one is not needed */
	DECIDE(MODE_DIFFERENTIAL, NULL, with_base(&s, '1'));
	IS(ENTRY_DIFFERENTIAL, 1, false, SECOND_LEAVE);
	grow_chain(&c, "2d1", "1");
	/* nothing goes on top of a differential */
	DECIDE(MODE_AUTO, with_base(&b, '1'), NULL);
	IS(ENTRY_INCREMENTAL, 1, false, SECOND_LEAVE);
	DECIDE(MODE_AUTO, with_base(&b, '2'), NULL);
	IS(ENTRY_FULL, 0, true, SECOND_LEAVE);
	DECIDE(MODE_DIFFERENTIAL, NULL, with_base(&s, '2'));
	IS(ENTRY_FULL, 0, true, SECOND_ROTATE);
	grow_chain(&c, "3i1", "1");
	grow_chain(&c, "4i3", "3");
	/* increments do not count for a differential, and the other bitmap has too little now */
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '4'), with_base(&s, '1'));
	IS(ENTRY_DIFFERENTIAL, 1, false, SECOND_LEAVE);
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '4'), NULL);
	IS(ENTRY_FULL, 0, true, SECOND_ADD);
	assert_non_null(strstr(d.reason, "no bitmap 'cbw-00000000-d'"));
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '4'), with_base(&s, '4'));
	IS(ENTRY_FULL, 0, true, SECOND_ROTATE);
	/* the newest cut, or that one's base, is what an increment wants */
	grow_chain(&c, "5d1", "1");
	DECIDE(MODE_AUTO, with_base(&b, '4'), with_base(&s, '1'));
	IS(ENTRY_INCREMENTAL, 4, false, SECOND_LEAVE);
	DECIDE(MODE_AUTO, with_base(&b, '3'), with_base(&s, '1'));
	IS(ENTRY_INCREMENTAL, 4, false, SECOND_LEAVE);
	DECIDE(MODE_AUTO, with_base(&b, '1'), with_base(&s, '1'));
	IS(ENTRY_FULL, 0, true, SECOND_ROTATE);
	/* another full one: that is where differentials go; its lost commit does no harm */
	grow_chain(&c, "6f", "4");
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '6'), with_base(&s, '6'));
	IS(ENTRY_DIFFERENTIAL, 6, false, SECOND_LEAVE);
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '4'), with_base(&s, '1'));
	IS(ENTRY_DIFFERENTIAL, 6, false, SECOND_LEAVE);
	/* it is being merged: what it was has ended */
	c.merge = (struct chain_merge){ .state = MERGE_DATA, .from = 6, .into = 7 };
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '6'), with_base(&s, '6'));
	IS(ENTRY_FULL, 0, true, SECOND_ROTATE);
	assert_non_null(strstr(d.reason, "being merged"));
	c.merge.state = MERGE_NONE;
	/* gaps */
	with_base(&s, '6')->flags = 0;
	DECIDE(MODE_DIFFERENTIAL, NULL, &s);
	IS(ENTRY_FULL, 0, true, SECOND_ADD);
	assert_true(d.second_replace && strstr(d.reason, "disabled"));
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, '6'), &s);
	IS(ENTRY_DIFFERENTIAL, 6, false, SECOND_COPY);
	assert_true(d.second_replace);
	DECIDE(MODE_FULL, with_base(&b, '6'), &s);
	IS(ENTRY_FULL, 0, false, SECOND_ADD);
	assert_true(d.second_replace && !d.replace);
	with_base(&b, '6')->flags = 0;
	DECIDE(MODE_DIFFERENTIAL, &b, NULL);
	IS(ENTRY_FULL, 0, true, SECOND_ADD);
	assert_true(d.enable && !d.add && !d.replace);
	DECIDE(MODE_DIFFERENTIAL, with_base(&b, 0), with_base(&s, 0));
	IS(ENTRY_FULL, 0, true, SECOND_ROTATE);
	/* resized */
	chain_decide(&c, with_base(&b, '6'), with_base(&s, '6'), 1024, MODE_DIFFERENTIAL, &d);
	IS(ENTRY_FULL, 0, true, SECOND_ROTATE);
	assert_non_null(strstr(d.reason, "bytes now"));
	assert_int_equal(chain_depth(&c, chain_by_id(&c, 5)), 2);
#undef DECIDE
#undef IS
	free(c.entry);
}

static void too_deep(void **state)
{
	struct chain c = { .bitmap = "b" };
	struct cbw_bitmap b = { .name = "b", .flags = CBW_BITMAP_ENABLED };
	struct entry e = { .size = 512 };
	struct decision d;
	uint32_t id;

	(void)state;
	for (id = 1; id <= CHAIN_DEPTH_MAX; id++) {
		e.id = id;
		e.parent = id - 1;
		e.type = id == 1 ? ENTRY_FULL : ENTRY_INCREMENTAL;
		memcpy(e.cut.b, &id, sizeof(id));
		chain_add(&c, &e);
		b.base = e.cut;
		chain_decide(&c, &b, NULL, 512, MODE_AUTO, &d);
		assert_int_equal(d.type, id < CHAIN_DEPTH_MAX ?
				 ENTRY_INCREMENTAL : ENTRY_FULL);
	}
	assert_non_null(strstr(d.reason, "on top of each other"));
	free(c.entry);
}

static void put(const char *dir, const char *name)
{
	char *path = xasprintf("%s/%s", dir, name);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
	free(path);
}

static bool is_there(const char *dir, const char *name)
{
	char *path = xasprintf("%s/%s", dir, name);
	bool there = !access(path, F_OK);

	free(path);
	return there;
}

static void directory(void **state)
{
	char top[] = "/tmp/cbw-unit-XXXXXX", *dir, *cmd;
	struct chain c, d, model = { 0 };
	struct cbw_error err;
	unsigned int removed;
	char **dirs;
	size_t nr;

	(void)state;
	assert_non_null(mkdtemp(top));
	dir = xasprintf("%s/vol", top);
	assert_int_equal(chain_find_dirs(top, &dirs, &nr, &err), -ENOENT);
	assert_int_equal(chain_open(dir, false, &c, &err), -ENOENT);
	assert_int_equal(chain_open(dir, true, &c, &err), 0);
	/* a second run is kept out, a reader is not */
	assert_int_equal(chain_open(dir, true, &d, &err), -EBUSY);
	assert_int_equal(chain_parse(good, strlen(good), &model, &err), 0);
	c.id = model.id;
	c.volume = model.volume;
	c.bitmap = model.bitmap;
	c.entry = model.entry;
	c.nr = model.nr;
	assert_int_equal(chain_save(&c, NULL, &err), 0);
	assert_int_equal(chain_open(dir, false, &d, &err), 0);
	assert_int_equal(d.nr, 2);
	chain_close(&d);
	/* leftovers go, everything else stays */
	put(dir, "000001-full.qcow2");
	put(dir, "000003-inc.qcow2");
	put(dir, "000004-inc.qcow2");
	put(dir, "manifest.json.tmp");
	put(dir, "000005-foo.qcow2");
	put(dir, "0000006-inc.qcow2");
	put(dir, "notes");
	/* details only if the manifest knows of them */
	put(dir, "000001-full.json");
	put(dir, "000003-inc.json");
	put(dir, "000003-inc.json.new");
	put(dir, "000003-inc.json.old");
	c.entry[1].details_size = 1;
	assert_int_equal(chain_clean(&c, &removed, &err), 0);
	assert_int_equal(removed, 4);
	assert_false(is_there(dir, "000001-full.json"));
	assert_false(is_there(dir, "000003-inc.json.new"));
	assert_true(is_there(dir, "000003-inc.json"));
	assert_true(is_there(dir, "000003-inc.json.old"));
	assert_false(is_there(dir, "000004-inc.qcow2"));
	assert_false(is_there(dir, "manifest.json.tmp"));
	assert_true(is_there(dir, "000001-full.qcow2"));
	assert_true(is_there(dir, "000003-inc.qcow2"));
	assert_true(is_there(dir, "000005-foo.qcow2"));
	assert_true(is_there(dir, "0000006-inc.qcow2"));
	assert_true(is_there(dir, "notes"));
	assert_int_equal(chain_find_dirs(top, &dirs, &nr, &err), 0);
	assert_int_equal(nr, 1);
	assert_string_equal(dirs[0], dir);
	free(dirs[0]);
	free(dirs);
	chain_close(&c);
	cmd = xasprintf("rm -r %s", top);
	assert_int_equal(system(cmd), 0);
	free(cmd);
	free(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(version_2),
		cmocka_unit_test(hostile),
		cmocka_unit_test(damaged),
		cmocka_unit_test(decide),
		cmocka_unit_test(differential),
		cmocka_unit_test(too_deep),
		cmocka_unit_test(directory),
	};

	return cmocka_run_group_tests_name("cbw chains", tests, NULL, NULL);
}
