// SPDX-License-Identifier: GPL-2.0-or-later
/* Edits of bitmaps that a crash or an error cuts off leave the old ones or the new ones */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bitmaps.h"
#include "record.h"

static struct qcow2_image *create(const char *path, uint64_t size, uint32_t cs)
{
	struct qcow2_image *img = NULL;

	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = cs,
			.flags = QCOW2_CREATE_BITMAPS }, &img, err));
	return img;
}

static struct qcow2_image *open_rw(const char *path, unsigned int more)
{
	struct qcow2_image *img = NULL;

	ok(qcow2_open(path, QCOW2_OPEN_WRITE | more, &img, err));
	return img;
}

/* every operation of some commits, in a session that reuses what the ones before freed */
static void crashes(void **state)
{
	static const uint32_t cs[] = { 512, 4096, 65536 };
	const char *path = scratch("c.qcow2");
	unsigned int i, k, n, old_seen = 0, new_seen = 0;
	char crashed[512];

	(void)state;
	rnd_seed(53);
	snprintf(crashed, sizeof(crashed), "%s", scratch("crashed.qcow2"));
	for (i = 0; i < 3; i++) {
		struct models was = { .nr = 0 }, now = { .nr = 0 };
		struct qcow2_image *img = create(path, 3 * MIB, cs[i]);
		struct qcow2_image *c = NULL;

		ok(qcow2_write(img, 0, "guest", 5, err));
		ok(qcow2_edit_commit(random_edit(img, &now), err));
		qcow2_close(img);
		record_start(path);
		img = open_rw(path, QCOW2_OPEN_REUSE);
		for (k = 0; k < 5; k++) {
			size_t from = record_ops(), to, at;

			models_copy(&was, &now);
			ok(qcow2_edit_commit(random_edit(img, &now), err));
			assert_true(models_match(img, &now, true));
			to = record_ops();
			for (at = from; at <= to; at++) {
				for (n = 0; n < 3; n++) {
					struct qcow2_check_report rep;
					char buf[5];
					bool o, w;

					record_crash(at, crashed);
					ok(qcow2_open(crashed, 0, &c, err));
					o = models_match(c, &was, false);
					w = models_match(c, &now, false);
					if (!o && !w)
						fail_msg("after operation %zu of %zu the bitmaps are neither old nor new", at - from,
							 to - from);
					old_seen += o;
					new_seen += w;
					ok(qcow2_read(c, 0, buf, 5, err));
					assert_memory_equal(buf, "guest", 5);
					ok(qcow2_check(c, 0, &rep, err));
					if (rep.corruptions)
						fail_msg("after operation %zu of %zu: %s", at - from, to - from, rep.first);
					qcow2_close(c);
					if (n == 0)
						run_ok("qemu-img check -q '%s'; s=$?; [ $s = 0 -o $s = 3 ]", crashed);
				}
			}
		}
		/* the leaks of the last crash can be given back */
		c = open_rw(crashed, 0);
		ok(qcow2_repair(c, QCOW2_REPAIR_LEAKS, &(struct qcow2_check_report){ 0 }, err));
		qcow2_close(c);
		check_clean(crashed);
		qcow2_close(img);
		record_stop();
		models_free(&was);
		models_free(&now);
	}
	printf("# %u times old, %u times new\n", old_seen, new_seen);
	assert_true(old_seen > 50 && new_seen > 10);
}

/* each write or sync of a commit fails in turn: old or new, and a text that says so */
static void any_call_fails(void **state)
{
	const char *path = scratch("f.qcow2");
	unsigned int n, failed = 0;

	(void)state;
	rnd_seed(54);
	for (n = 0; n < 40; n++) {
		struct models was = { .nr = 0 }, now = { .nr = 0 };
		struct qcow2_image *img = create(path, 3 * MIB, 4096);
		struct qcow2_bitmaps_edit *edit;
		struct qcow2_check_report rep;
		struct qcow2_error e = { 0 };
		int ret;

		ok(qcow2_edit_commit(random_edit(img, &now), err));
		ok(qcow2_edit_commit(random_edit(img, &now), err));
		models_copy(&was, &now);
		edit = random_edit(img, &now);
		record_fail(n / 2, n & 1 ? EIO : ENOSPC);
		ret = qcow2_edit_commit(edit, &e);
		record_fail(0, 0);
		failed += ret != 0;
		assert_true(!ret || strstr(e.msg, "f.qcow2"));
		qcow2_close(img);
		img = open_rw(path, 0);
		if (!models_match(img, &now, false) && (!ret || !models_match(img, &was, false)))
			fail_msg("round %u: neither old nor new: %s", n, e.msg);
		ok(qcow2_check(img, 0, &rep, err));
		if (rep.corruptions)
			fail_msg("round %u: %s", n, rep.first);
		qcow2_close(img);
		models_free(&was);
		models_free(&now);
	}
	printf("# %u of %u failed\n", failed, n);
	assert_true(failed > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crashes),
		cmocka_unit_test(any_call_fails),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-bitmap-crash", tests, scratch_setup, scratch_teardown);
}
