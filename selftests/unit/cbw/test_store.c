// SPDX-License-Identifier: GPL-2.0-or-later
/* how large a store is, when it has to grow, and which files are ours to remove */
#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "store.h"

#define MIB	(1ull << 20)

static void first(void **state)
{
	(void)state;
	assert_int_equal(store_first_size(100 * MIB, 100 * MIB), 100 * MIB);
	assert_int_equal(store_first_size(10240 * MIB, 10240 * MIB), 320 * MIB);
	assert_int_equal(store_first_size(1024 * MIB, 1024 * MIB), STORE_FIRST_MIN);
	assert_int_equal(store_first_size(1ull << 50, 1ull << 50), STORE_FIRST_MAX);
	/* an increment of little */
	assert_int_equal(store_first_size(1ull << 40, 3 * MIB), STORE_ALIGN);
	assert_int_equal(store_first_size(1ull << 40, 0), STORE_ALIGN);
}

static void next(void **state)
{
	uint64_t size, most = 1000 * MIB;

	(void)state;
	/* less than four fifths, and nothing comes */
	assert_int_equal(store_next_size(100 * MIB, 79 * MIB, 0, most), 100 * MIB);
	assert_true(store_next_size(100 * MIB, 80 * MIB, 0, most) >= 150 * MIB);
	/* by what comes */
	assert_int_equal(store_next_size(100 * MIB, 10 * MIB, 20 * MIB, most), 100 * MIB);
	assert_true(store_next_size(100 * MIB, 30 * MIB, 20 * MIB, most) > 100 * MIB);
	assert_true(store_next_size(100 * MIB, 10 * MIB, 100 * MIB, most) >= 900 * MIB);
	/* up to the limit, and not beyond, and never less */
	assert_int_equal(store_next_size(900 * MIB, 890 * MIB, 0, most), most);
	assert_int_equal(store_next_size(most, most, 100 * MIB, most), most);
	assert_int_equal(store_next_size(2 * most, 2 * most, 0, most), 2 * most);
	for (size = STORE_ALIGN; size < most;) {
		uint64_t more = store_next_size(size, size, 0, most);

		assert_true(more > size);
		size = more;
	}
}

static char top[] = "/tmp/cbw-unit-XXXXXX";

static void make(struct store *store)
{
	const struct store_wish wish = { .dir = top, .first = MIB + 100, .least = MIB, .most = 4 * MIB };
	const struct cbw_dm_dev none = { 0 };
	struct cbw_error err;

	if (store_auto(&none, &none, 0, &wish, store, &err))
		fail_msg("%s", err.msg);
}

static void put(const char *name, const void *text, size_t len)
{
	int fd = open(path_in(top, name), O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, text, len), 0);
	close(fd);
}

static size_t files(void)
{
	char *pattern = xasprintf("%s/*", top);
	size_t nr;
	glob_t g;

	nr = glob(pattern, 0, NULL, &g) ? 0 : g.gl_pathc;
	globfree(&g);
	free(pattern);
	return nr;
}

/* A name is no proof: what somebody else has made stays, whatever it is called. */
static void others(void **state)
{
	struct store ours, next;
	char *path, buf[64];
	struct stat st;
	int fd;

	(void)state;
	make(&ours);
	assert_true(store_marked(ours.path, ours.lock));
	assert_int_equal(fstat(ours.lock, &st), 0);
	/* the loop device has no more than was asked for */
	assert_int_equal(st.st_size / 512 * 512, ours.size);
	path = xstrdup(ours.path);
	/* a store of a name like ours; an empty file; a copy of the mark of another */
	put("cbw-store-mine01", "data", 4);
	put("cbw-store-empty1", "", 0);
	put("cbw-store-of-my-own", "data", 4);
	assert_int_equal(pread(ours.lock, buf, 64, (off_t)ours.size), 64);
	put("cbw-store-copied", buf, 64);
	/* dead */
	store_leave(&ours);
	make(&next);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(files(), 5);
	/* and one that a snapshot is said to have */
	store_again(STORE_FILE, path_in(top, "cbw-store-mine01"), NULL, 0, &ours);
	assert_int_equal(ours.kind, STORE_GIVEN);
	store_wipe(&ours);
	store_drop(&ours);
	fd = open(path_in(top, "cbw-store-mine01"), O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf)), 4);
	assert_memory_equal(buf, "data", 4);
	close(fd);
	free(path);
	path = xstrdup(next.path);
	store_leave(&next);
	store_again(STORE_FILE, path, NULL, 0, &next);
	assert_int_equal(next.kind, STORE_FILE);
	assert_int_equal(next.size, MIB);
	store_drop(&next);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(files(), 4);
	/* one that another has taken the place of */
	make(&next);
	free(path);
	path = xstrdup(next.path);
	assert_int_equal(unlink(path), 0);
	put(strrchr(path, '/') + 1, "data", 4);
	store_drop(&next);
	assert_int_equal(access(path, F_OK), 0);
	free(path);
}

static int begin(void **state)
{
	(void)state;
	return !mkdtemp(top);
}

static int end(void **state)
{
	char *cmd = xasprintf("rm -rf %s", top);
	int ret = system(cmd);

	(void)state;
	free(cmd);
	return ret;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first),
		cmocka_unit_test(next),
		cmocka_unit_test(others),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
