// SPDX-License-Identifier: GPL-2.0-or-later
/* what tells a volume: text, comparison, and when it is trusted */
#include "common.h"
#include "container.h"

static const char text[] =
	"cbw-binding 1\n"
	"size 1073741824\n"
	"id dm-uuid LVM-abc def\n"
	"id serial 1\n"
	"written 17 4242\n"
	"magic 0 ext4 0a1b-2c 0123456789abcdef\n"
	"magic 65536 btrfs - 0000000000000000\n"
	"from-the-future 1 2 3\n";

static void parse(const char *t, struct binding *b)
{
	struct cbw_error err;

	if (binding_parse(t, strlen(t), b, &err))
		fail_msg("%s", err.msg);
}

static void there_and_back(void **unused)
{
	char out[CBW_BINDING_MAX];
	struct binding a, b;
	uint32_t len;

	(void)unused;
	parse(text, &a);
	assert_int_equal(a.size, 1073741824);
	assert_int_equal(a.nr_ids, 2);
	assert_string_equal(a.id[0], "dm-uuid LVM-abc def");
	assert_int_equal(a.instance, 17);
	assert_int_equal(a.written, 4242);
	assert_int_equal(a.nr_magics, 2);
	assert_int_equal(a.magic[1].offset, 65536);
	assert_string_equal(a.magic[0].uuid, "0a1b-2c");
	assert_false(a.stacked);
	assert_false(a.uncounted || a.open);
	a.open = true;
	a.stacked = true;
	a.uncounted = true;
	assert_int_equal(binding_print(&a, out, &len, NULL), 0);
	assert_int_equal(binding_parse(out, len, &b, NULL), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(binding_compare(&a, &b, true, NULL), 0);
}

static void nonsense(void **unused)
{
	static const char *const bad[] = {
		"", "cbw-binding 1", "cbw-binding 2\nsize 1\n", "cbw-binding 1\n",
		"cbw-binding 1\nsize 0\n", "cbw-binding 1\nsize -\n", "cbw-binding 1\nsize 1",
		"cbw-binding 1\nsize 1\nsize 2\n", "cbw-binding 1\nsize 1 2\n",
		"cbw-binding 1\nsize 1\nid x\n", "cbw-binding 1\nsize 1\nmagic 1 2 3\n",
		"cbw-binding 1\nsize 1\nmagic 0 a b 12345678901234567\n",
		"cbw-binding 1\nsize 1\nwritten 1\n", "cbw-binding 1\nsize 1\nid a \x01\n",
	};
	struct binding b;
	char *big;
	size_t i;

	(void)unused;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (binding_parse(bad[i], strlen(bad[i]), &b, NULL) != -EUCLEAN)
			fail_msg("accepted: '%s'", bad[i]);
	assert_int_equal(binding_parse("cbw-binding 1\nsize 1\n\0x\n", 24, &b, NULL), -EUCLEAN);
	/* every beginning of a good one, without a wild access */
	for (i = 0; i < sizeof(text); i++)
		(void)binding_parse(text, i, &b, NULL);
	big = xcalloc(CBW_BINDING_MAX + 1, 1);
	memset(big, 'x', CBW_BINDING_MAX);
	memcpy(big, "cbw-binding 1\n", 14);
	assert_int_equal(binding_parse(big, CBW_BINDING_MAX, &b, NULL), -EUCLEAN);
	free(big);
}

static void expect(const struct binding *a, const struct binding *b, bool exact, const char *want)
{
	struct cbw_error err = { 0 };
	int ret = binding_compare(a, b, exact, &err);

	if (want ? ret != -EUCLEAN || !strstr(err.msg, want) : ret)
		fail_msg("%d '%s' instead of '%s'", ret, err.msg, want ? want : "");
}

static void differences(void **unused)
{
	struct binding a, b;

	(void)unused;
	parse(text, &a);
	b = a;
	b.size *= 2;
	expect(&a, &b, false, "resized from 1073741824 to 2147483648");
	b = a;
	strcpy(b.id[1], "serial 2");
	expect(&a, &b, false, "another volume: its serial is 2, and was 1");
	b = a;
	b.nr_ids = 1;
	expect(&a, &b, false, "it has no serial, and had 1");
	/* what it has in addition may be a newer kernel's */
	expect(&b, &a, true, NULL);
	b = a;
	b.magic[0].hash++;
	expect(&a, &b, true, "mounted or written since");
	expect(&a, &b, false, NULL);
	b = a;
	strcpy(b.magic[0].uuid, "other");
	expect(&a, &b, false, "has uuid other, and had 0a1b-2c");
	b = a;
	b.nr_magics = 1;
	expect(&a, &b, false, "btrfs (uuid -) at 65536 is gone");
	expect(&b, &a, true, "there is a btrfs at 65536 now");
	expect(&b, &a, false, NULL);
}

/* When bitmaps are trusted. */
static bool uncounted;

static void judge(const struct container *c, uint64_t instance, uint64_t written, bool same_boot,
		  const char *want, enum take take)
{
	struct cbw_cut_id boot = c->state.boot_id;
	struct cbw_error err = { 0 };
	struct binding now;
	enum take got;
	int ret;

	parse(text, &now);
	now.instance = instance;
	now.written = written;
	now.uncounted = uncounted;
	boot.b[0] ^= !same_boot;
	ret = container_judge(c, &now, &boot, &got, &err);
	if (want ? ret != -EUCLEAN || !strstr(err.msg, want) : ret || got != take)
		fail_msg("%d '%s' instead of '%s'", ret, err.msg, want ? want : "");
}

static void trust(void **unused)
{
	char t[sizeof(text)];
	struct container c = {
		.f = { .path = t },
		.phase = PHASE_CLEAN,
		.state = {
			.flags = CBW_STATE_CLEAN,
			.device_size = 1073741824,
			.written = 5000,
			.binding = t,
			.binding_length = sizeof(text) - 1,
		},
	};

	(void)unused;
	memcpy(t, text, sizeof(text));
	/* clean, the same device in the same boot: nothing was written since */
	judge(&c, 17, 5000, true, NULL, TAKE_EXACT);
	judge(&c, 17, 5001, true, "written to while detached", 0);
	judge(&c, 17, 4242, true, "written to while detached", 0);
	/* another instance of it, or another boot: nothing at all */
	judge(&c, 18, 0, true, NULL, TAKE_EXACT);
	judge(&c, 18, 8, true, "before it was attached", 0);
	judge(&c, 17, 0, false, NULL, TAKE_EXACT);
	judge(&c, 17, 5000, false, "before it was attached", 0);
	/* a count that says nothing */
	uncounted = true;
	judge(&c, 17, 5000, true, "statistics are switched off", 0);
	judge(&c, 17, 0, false, "statistics are switched off", 0);
	uncounted = false;
	memcpy(strstr(t, "from-the-future 1 2 3"), "uncounted\nfuture 1 2 ", 21);
	judge(&c, 17, 5000, true, "statistics were switched off", 0);
	judge(&c, 17, 0, false, NULL, TAKE_EXACT);
	/* in use when it was detached: only while the count goes on */
	memcpy(strstr(t, "uncounted\nfuture 1 2"), "open\nthe-future 1 2 3 ", 21);
	judge(&c, 17, 5000, true, NULL, TAKE_EXACT);
	judge(&c, 18, 0, true, "was in use when", 0);
	judge(&c, 17, 0, false, "was in use when", 0);
	/* the same for one that was never live; one that was had all recorded */
	c.phase = PHASE_OPEN;
	c.state.flags = CBW_STATE_ATTACHING;
	judge(&c, 17, 0, false, "was in use when", 0);
	judge(&c, 17, 4242, true, NULL, TAKE_RECOVER);
	c.state.flags = 0;
	judge(&c, 17, 0, false, NULL, TAKE_RECOVER);
	/* never live, and not in use: its superblocks are as they were */
	memcpy(t, text, sizeof(text));
	c.state.flags = CBW_STATE_ATTACHING;
	judge(&c, 17, 0, false, NULL, TAKE_RECOVER);
	memcpy(strstr(t, "0123456789abcdef"), "0123456789abcdee", 16);
	judge(&c, 17, 0, false, "mounted or written since", 0);
	c.state.flags = 0;
	judge(&c, 17, 0, false, NULL, TAKE_RECOVER);
	memcpy(t, text, sizeof(text));
	/* cut off */
	judge(&c, 17, 0, false, NULL, TAKE_RECOVER);
	judge(&c, 3, 8, false, "before it was attached", 0);
	judge(&c, 18, 0, true, "without 'cbw detach'", 0);
	/* the tool was killed before the volume got its target, and nobody wrote */
	judge(&c, 17, 4242, true, NULL, TAKE_RECOVER);
	judge(&c, 17, 4250, true, "written to while detached", 0);
	c.state.flags = CBW_STATE_UNTRACKED;
	judge(&c, 17, 0, false, "ran on without its container", 0);
	c.state.flags = 0;
	c.state.device_size = 4096;
	judge(&c, 17, 0, false, "resized from 4096", 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(nonsense),
		cmocka_unit_test(differences),
		cmocka_unit_test(trust),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
