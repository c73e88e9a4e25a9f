// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * maps in the formats of others: each is checked against the grammar of who reads it, and
 * says the same as the text (selftests/dm-cbw/map-check.py)
 */
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"
#include "map.h"

#define CHECK	MAP_CHECK	/* from Makefile.inc */

static const char *const formats[] = { "borg", "benji", "csi", "blocklist" };

struct piece {
	uint64_t offset, length;
	uint32_t flags;
};

#define DIRTY	CBW_EXTENT_DIRTY
#define GONE	(CBW_EXTENT_DIRTY | CBW_EXTENT_DISCARDED)
#define ZEROS	(CBW_EXTENT_DIRTY | MAP_ZERO)

static void write_map(const char *format, const char *file, const struct map_info *info,
		      const struct piece *v, size_t nr, uint64_t block)
{
	struct map_out out = {
		.format = map_format_find(format), .path = file, .block = block,
	};
	struct cbw_error err = { 0 };
	size_t i;
	int ret;

	assert_non_null(out.format);
	ret = map_open(&out, &err);
	if (!ret)
		ret = map_begin(&out, info, &err);
	for (i = 0; i < nr && !ret; i++) {
		struct cbw_extent e = {
			.offset = v[i].offset, .length = v[i].length, .flags = v[i].flags,
		};

		ret = map_put(&out, &e, &err);
	}
	if (!ret)
		ret = map_end(&out, &err);
	map_close(&out);
	if (ret)
		fail_msg("%s: %s", format, err.msg);
}

static void all_formats(const struct map_info *info, const struct piece *v, size_t nr)
{
	size_t i;

	write_map("text", fx_path("text"), info, v, nr, 0);
	for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		write_map(formats[i], fx_path(formats[i]), info, v, nr, 0);
	write_map("blocklist", fx_path("fine"), info, v, nr, 4096);
	write_map("blocklist", fx_path("coarse"), info, v, nr, info->granularity * 8ull);
	fx_shell("cd '%s' && '" CHECK "' text %llu borg borg benji benji csi csi blocklist:%u blocklist"
		 " blocklist:4096 fine blocklist:%llu coarse%s", fx_top, (ull)info->size,
		 info->granularity, info->granularity * 8ull, info->whole ? " --whole" : "");
}

static const struct map_info bitmap = {
	.size = FX_SIZE, .granularity = FX_CLUSTER, .name = "b",
};

static void empty(void **state)
{
	(void)state;
	all_formats(&bitmap, NULL, 0);
}

static void full(void **state)
{
	const struct piece v[] = { { 0, FX_SIZE, DIRTY } }, w[] = { { 0, FX_SIZE, GONE } };

	(void)state;
	all_formats(&bitmap, v, 1);
	all_formats(&bitmap, w, 1);
}

/* What comes in pieces, of one kind and of several, up to the odd end of the volume. */
static void pieces(void **state)
{
	const uint64_t c = FX_CLUSTER, last = FX_SIZE / c * c;
	const struct piece v[] = {
		{ 0, c, DIRTY }, { c, c, DIRTY }, { 2 * c, c, GONE }, { 3 * c, 2 * c, DIRTY },
		{ 7 * c, c, GONE }, { 9 * c, c, DIRTY }, { last, FX_SIZE - last, DIRTY },
	};
	const struct piece w[] = { { 5 * c, c, DIRTY }, { last, FX_SIZE - last, GONE } };

	(void)state;
	all_formats(&bitmap, v, sizeof(v) / sizeof(v[0]));
	all_formats(&bitmap, w, sizeof(w) / sizeof(w[0]));
}

/* Extents finer than the blocks of a list, each block once. */
static void fine(void **state)
{
	const struct map_info info = { .size = FX_SIZE, .granularity = 512, .name = "b" };
	const struct piece v[] = {
		{ 0, 512, DIRTY }, { 1024, 512, DIRTY }, { 3584, 1024, DIRTY }, { 8192, 512, GONE },
		{ 8704, 512, DIRTY }, { FX_SIZE - 512, 512, DIRTY },
	};

	(void)state;
	all_formats(&info, v, sizeof(v) / sizeof(v[0]));
}

/* More than go into one message of csi; and at random. */
static void many(void **state)
{
	struct map_info info = { .size = (20ull << 30) + 512, .granularity = 4096, .name = "b" };
	static struct piece v[5000];
	unsigned int round;
	uint64_t at;
	size_t i;

	(void)state;
	for (round = 0; round < 4; round++) {
		size_t nr = (const size_t[]){ 1024, 1025, 2048, 5000 }[round];

		srand(round + 1);
		for (at = 0, i = 0; i < nr; i++) {
			v[i] = (struct piece){
				.offset = at + (uint64_t)(rand() % 3) * 4096,
				.length = (1 + (uint64_t)(rand() % 5)) * 4096,
				.flags = rand() % 4 || round < 3 ? DIRTY : GONE,
			};
			if (round < 3)	/* none that grows together */
				v[i].offset = at + 4096;
			at = v[i].offset + v[i].length;
		}
		all_formats(&info, v, nr);
	}
}

/* An image without a parent says all of the volume; csi leaves out what it has not. */
static void whole(void **state)
{
	const uint64_t c = FX_CLUSTER;
	const struct map_info info = {
		.size = FX_SIZE, .granularity = FX_CLUSTER, .name = "b", .image = true,
		.whole = true,
	};
	const struct piece v[] = {
		{ 0, c, DIRTY }, { c, 3 * c, ZEROS }, { 4 * c, c, DIRTY },
		{ 5 * c, FX_SIZE - 5 * c, ZEROS },
	};

	(void)state;
	all_formats(&info, v, sizeof(v) / sizeof(v[0]));
}

static void disorder(void **state)
{
	const struct cbw_extent bad[] = {
		{ .offset = 0, .length = 512, .flags = DIRTY },
		{ .offset = 4096, .length = FX_SIZE - 4095, .flags = DIRTY },
		{ .offset = UINT64_MAX - 511, .length = 1024, .flags = DIRTY },
	};
	struct cbw_error err;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct map_out out = {
			.format = map_format_find("borg"), .path = fx_path("bad"),
		};

		assert_int_equal(map_open(&out, &err), 0);
		assert_int_equal(map_begin(&out, &bitmap, &err), 0);
		assert_int_equal(map_put(&out, &(struct cbw_extent){
			.offset = 1024, .length = 512, .flags = DIRTY }, &err), 0);
		assert_int_equal(map_put(&out, &bad[i], &err), -EUCLEAN);
		map_close(&out);
	}
	/* nothing of that name, and nothing of another */
	fx_shell("! ls '%s' | grep -q bad", fx_top);
}

/* Bits over several clusters of the image, for QEMU to read. */
static void qcow2(void **state)
{
	struct map_info info = {
		.size = (6ull << 30) + 1024, .granularity = 4096, .name = "a b\\c",
		.backing = fx_path("raw"), .backing_format = "raw",
	};
	const struct piece v[] = {
		{ 0, 4096, DIRTY }, { 8192, 40960, DIRTY }, { 1ull << 30, 4ull << 30, GONE },
		{ (5ull << 30) + 4096, 8192, DIRTY }, { 6ull << 30, 1024, DIRTY },
	};
	size_t nr;

	(void)state;
	fx_shell("truncate -s %llu '%s'", (ull)info.size, info.backing);
	for (nr = 0; nr <= 5; nr += 5) {
		write_map("text", fx_path("text"), &info, v, nr, 0);
		write_map("qcow2", fx_path("q.qcow2"), &info, v, nr, 0);
		fx_shell("cd '%s' && '" CHECK "' --name 'a b\\c' text %llu qcow2 q.qcow2", fx_top,
			 (ull)info.size);
	}
}

/* ---- the command, on a chain -------------------------------------------- */

static int map(const char *args, char *text)
{
	char line[512], *argv[16], *save, *word;
	int argc = 0;

	snprintf(line, sizeof(line), "map %s", args);
	for (word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	argv[argc] = NULL;
	return run_quiet(cmd_map, argc, argv, text);
}

static void chain(void **state)
{
	static unsigned char newest[FX_SIZE];
	static const char inc[] = "65536 65536 dirty\n131072 131072 dirty,zero\n"
		"393216 131072 dirty\n";
	static const char first[] = "0 262144 dirty\n262144 65536 dirty,zero\n327680 65536 dirty\n"
		"393216 2752512 dirty,zero\n3145728 1536 dirty\n";
	char text[4096], args[512];
	size_t i;
	int id;

	(void)state;
	fx_chain(newest);
	assert_int_equal(map(fx_path("chain"), text), EXIT_OK);
	assert_string_equal(text, inc);
	snprintf(args, sizeof(args), "%s --id 1", fx_path("chain/vol"));
	assert_int_equal(map(args, text), EXIT_OK);
	assert_string_equal(text, first);
	snprintf(args, sizeof(args), "%s --format json", fx_path("chain"));
	assert_int_equal(map(args, text), EXIT_OK);
	assert_string_equal(text, "{\"extents\":["
		"{\"offset\":65536,\"length\":65536,\"discarded\":false,\"zero\":false},"
		"{\"offset\":131072,\"length\":131072,\"discarded\":false,\"zero\":true},"
		"{\"offset\":393216,\"length\":131072,\"discarded\":false,\"zero\":false}]}\n");
	for (id = 1; id <= 2; id++) {
		snprintf(args, sizeof(args), "%s --id %d --output %s", fx_path("chain"), id,
			 fx_path("text"));
		assert_int_equal(map(args, text), EXIT_OK);
		for (i = 0; i < sizeof(formats) / sizeof(formats[0]) + 1; i++) {
			const char *format = i < 4 ? formats[i] : "qcow2";

			snprintf(args, sizeof(args), "%s --id %d --format %s --output %s",
				 fx_path("chain"), id, format, fx_path(format));
			assert_int_equal(map(args, text), EXIT_OK);
		}
		fx_shell("cd '%s' && '" CHECK "' --name cbw-07000000 text %u borg borg benji benji csi csi"
			 " blocklist:%u blocklist qcow2 qcow2%s", fx_top, FX_SIZE, FX_CLUSTER,
			 id == 1 ? " --whole" : "");
	}
	/* over the image, the small qcow2 is read as the volume at that time */
	fx_shell("qemu-img compare -q -f qcow2 -F qcow2 '%s' '%s'", fx_path("qcow2"),
		 fx_path("chain/vol/000002-inc.qcow2"));
	snprintf(args, sizeof(args), "%s --id 9", fx_path("chain"));
	assert_int_equal(map(args, text), EXIT_FAILED);
	assert_non_null(strstr(text, "no point in time '9'"));
	/* an image of another chain is not trusted, and a file that is there stays */
	fx_shell("cp '%s' '%s'", fx_path("chain/vol/000001-full.qcow2"),
		 fx_path("chain/vol/000002-inc.qcow2"));
	fx_shell("echo old >'%s'", fx_path("map"));
	snprintf(args, sizeof(args), "%s --format borg --output %s", fx_path("chain"),
		 fx_path("map"));
	assert_int_equal(map(args, text), EXIT_DISTRUST);
	fx_shell("[ $(cat '%s') = old ] && ! ls '%s' | grep -q 'map[.]'", fx_path("map"), fx_top);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty),
		cmocka_unit_test(full),
		cmocka_unit_test(pieces),
		cmocka_unit_test(fine),
		cmocka_unit_test(many),
		cmocka_unit_test(whole),
		cmocka_unit_test(disorder),
		cmocka_unit_test(qcow2),
		cmocka_unit_test(chain),
	};

	return cmocka_run_group_tests(tests, fx_begin, fx_end);
}
