// SPDX-License-Identifier: GPL-2.0-or-later
/* files that are written to: two at once, what a run that is dead left, what could not be made */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "qcow2.h"
#include "stream.h"
#include "target.h"

#define SIZE	(1u << 20)

static char top[] = "/tmp/cbw-unit-XXXXXX";

static char *path_of(const char *name)
{
	return path_in(top, name);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static bool has(const char *path, const char *text)
{
	char buf[64] = "";
	int fd = open(path, O_RDONLY);
	bool same;

	assert_true(fd >= 0);
	same = read(fd, buf, strlen(text)) == (ssize_t)strlen(text) &&
		!memcmp(buf, text, strlen(text));
	close(fd);
	return same;
}

/* The second one is refused, and the first one is complete all the same. */
static void at_once(const char *name, const struct target_opts *a, const struct target_opts *b)
{
	struct target t, u;
	struct cbw_error err;

	assert_int_equal(target_open(&t, path_of(name), a, SIZE, &err), 0);
	assert_int_equal(target_open(&u, path_of(name), b, SIZE, &err), -EBUSY);
	assert_non_null(strstr(err.msg, "another run writes to it"));
	target_close(&u, true);
	if (!t.img)
		assert_int_equal(pwrite(t.sink->sync_fd, "abc", 3, 0), 3);
	assert_int_equal(target_sync(&t, &err), 0);
	target_close(&t, false);
	assert_true(has(path_of(name), t.img ? "QFI" : "abc"));
	/* it is free again */
	assert_int_equal(target_open(&u, path_of(name), b, SIZE, &err), 0);
	target_close(&u, true);
}

static void two_runs(void **state)
{
	const struct target_opts backup = { .part = true, .force = true };
	const struct target_opts copy = { .force = true }, increment = { .keep = true };

	(void)state;
	at_once("a.raw", &backup, &backup);
	at_once("b.raw", &copy, &copy);
	put(path_of("b.raw"), "abc");
	at_once("b.raw", &increment, &increment);
	at_once("b.raw", &increment, &copy);
}

static void two_images(void **state)
{
	const struct target_opts backup = { .part = true, .force = true }, copy = { .force = true };
	struct target t, u;
	struct cbw_error err;

	(void)state;
	assert_int_equal(target_open(&t, path_of("a.qcow2"), &backup, SIZE, &err), 0);
	assert_int_equal(target_open(&u, path_of("a.qcow2"), &backup, SIZE, &err), -EBUSY);
	target_close(&u, true);
	assert_int_equal(target_sync(&t, &err), 0);
	target_close(&t, false);
	assert_true(has(path_of("a.qcow2"), "QFI"));
	/* in place: the one that is there is not emptied */
	assert_int_equal(target_open(&t, path_of("a.qcow2"), &copy, SIZE, &err), 0);
	assert_int_equal(target_sync(&t, &err), 0);
	assert_int_equal(target_open(&u, path_of("a.qcow2"), &copy, SIZE, &err), -EBUSY);
	target_close(&u, true);
	assert_true(has(path_of("a.qcow2"), "QFI"));
	target_close(&t, false);
	assert_true(has(path_of("a.qcow2"), "QFI"));
}

/* What gets its name in the end replaces nothing that another run has written meanwhile. */
static void replaced(void **state)
{
	const struct target_opts full = { .part = true, .force = true }, copy = { .force = true };
	const struct target_opts increment = { .keep = true }, first = { .part = true };
	struct cbw_error err;
	struct target t, u;

	(void)state;
	put(path_of("g.raw"), "abc");
	at_once("g.raw", &full, &increment);
	put(path_of("g.qcow2"), "abc");
	assert_int_equal(target_open(&t, path_of("g.qcow2"), &first, SIZE, &err), -EEXIST);
	target_close(&t, true);
	assert_true(has(path_of("g.qcow2"), "abc"));
	/* it was not there in the beginning */
	assert_int_equal(target_open(&t, path_of("h.raw"), &full, SIZE, &err), 0);
	assert_int_equal(target_open(&u, path_of("h.raw"), &copy, SIZE, &err), 0);
	assert_int_equal(pwrite(u.sink->sync_fd, "new", 3, 0), 3);
	assert_int_equal(target_sync(&u, &err), 0);
	target_close(&u, false);
	assert_int_equal(target_sync(&t, &err), -EEXIST);
	target_close(&t, true);
	assert_true(has(path_of("h.raw"), "new"));
	assert_int_equal(access(path_of("h.raw.part"), F_OK), -1);
	assert_int_equal(symlink(path_of("nothing"), path_of("l.raw")), 0);
	assert_int_equal(target_open(&t, path_of("l.raw"), &copy, SIZE, &err), -ENOENT);
	target_close(&t, true);
}

static void dead_run(void **state)
{
	const struct target_opts o = { .part = true };
	struct cbw_error err;
	struct target t;
	int fd;

	(void)state;
	put(path_of("d.raw.part"), "old");
	assert_int_equal(target_open(&t, path_of("d.raw"), &o, SIZE, &err), 0);
	assert_false(has(path_of("d.raw.part"), "old"));
	assert_int_equal(target_sync(&t, &err), 0);
	target_close(&t, false);
	assert_int_equal(access(path_of("d.raw.part"), F_OK), -1);
	assert_int_equal(access(path_of("d.raw"), F_OK), 0);
	/* one that is not dead, of whoever it is */
	put(path_of("e.raw.part"), "old");
	fd = open(path_of("e.raw.part"), O_RDONLY);
	assert_int_equal(flock(fd, LOCK_SH), 0);
	assert_int_equal(target_open(&t, path_of("e.raw"), &o, SIZE, &err), -EBUSY);
	target_close(&t, true);
	assert_true(has(path_of("e.raw.part"), "old"));
	close(fd);
	/* no file of ours: it is not written through */
	put(path_of("other"), "old");
	assert_int_equal(symlink(path_of("other"), path_of("f.raw.part")), 0);
	assert_int_equal(target_open(&t, path_of("f.raw"), &o, SIZE, &err), 0);
	target_close(&t, true);
	assert_true(has(path_of("other"), "old"));
}

/* What was made for nothing is gone. */
static void not_made(void **state)
{
	const struct target_opts o = { 0 };
	struct cbw_error err;
	struct target t;

	(void)state;
	assert_int_equal(target_open(&t, path_of("x.raw"), &o, 1ull << 62, &err), -EFBIG);
	target_close(&t, true);
	assert_int_equal(access(path_of("x.raw"), F_OK), -1);
}

/* What was there before is not ours to remove, nor is the link that leads to it. */
static void not_ours(void **state)
{
	const struct target_opts o = { .force = true };
	struct cbw_error err;
	struct target t;
	struct stat st;

	(void)state;
	put(path_of("n.qcow2"), "abc");
	assert_int_equal(symlink("n.qcow2", path_of("link.qcow2")), 0);
	assert_int_equal(target_open(&t, path_of("link.qcow2"), &o, SIZE, &err), 0);
	target_close(&t, true);
	assert_int_equal(lstat(path_of("link.qcow2"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(access(path_of("n.qcow2"), F_OK), 0);
	/* to nothing: as for a raw file, nothing is made there */
	assert_int_equal(unlink(path_of("n.qcow2")), 0);
	assert_int_equal(target_open(&t, path_of("link.qcow2"), &o, SIZE, &err), -EEXIST);
	assert_non_null(strstr(err.msg, "a link to what is not there"));
	target_close(&t, true);
	assert_int_equal(access(path_of("n.qcow2"), F_OK), -1);
	/* and what is ours goes */
	assert_int_equal(unlink(path_of("link.qcow2")), 0);
	assert_int_equal(target_open(&t, path_of("n.qcow2"), &o, SIZE, &err), 0);
	assert_int_equal(access(path_of("n.qcow2"), F_OK), 0);
	target_close(&t, true);
	assert_int_equal(access(path_of("n.qcow2"), F_OK), -1);
}

/* A stream that is cut off: a file that was made for it goes. */
static void restore_fails(void **state)
{
	char *argv[] = { "restore", "-", "--to", path_of("r.raw"), "--force", NULL };
	char data[4096] = "data", text[4096];
	int fd = open(path_of("stream"), O_CREAT | O_RDWR, 0600), in = dup(STDIN_FILENO);
	struct sink *s = sink_stream(fd, SIZE);
	struct xfer_write w;
	struct cbw_error err;

	(void)state;
	assert_true(fd >= 0 && in >= 0);
	assert_int_equal(s->ops->data(s, 0, data, sizeof(data), &w, 1, &err), 0);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(dup2(fd, STDIN_FILENO), STDIN_FILENO);
	assert_int_equal(run_quiet(cmd_restore, 4, argv, text), EXIT_DISTRUST);
	assert_null(strstr(text, "is incomplete now"));
	assert_int_equal(access(argv[3], F_OK), -1);
	/* one that was there stays, and that is said */
	put(argv[3], "old");
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	assert_int_equal(run_quiet(cmd_restore, 5, argv, text), EXIT_DISTRUST);
	assert_non_null(strstr(text, "is incomplete now"));
	assert_true(has(argv[3], "data"));
	assert_int_equal(dup2(in, STDIN_FILENO), STDIN_FILENO);
	close(in);
	sink_close(s);
	close(fd);
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
		cmocka_unit_test(two_runs),
		cmocka_unit_test(two_images),
		cmocka_unit_test(replaced),
		cmocka_unit_test(dead_run),
		cmocka_unit_test(not_made),
		cmocka_unit_test(not_ours),
		cmocka_unit_test(restore_fails),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
