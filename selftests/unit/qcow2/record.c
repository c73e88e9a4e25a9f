// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "record.h"

#define SECTOR	512u

enum { OP_WRITE, OP_SYNC, OP_TRUNCATE };

struct op {
	int type;
	size_t off, len;
	uint8_t *data;
};

static struct op *ops;
static size_t nr_ops, max_ops;
static bool recording;
static char target[512];
static uint8_t *before;
static size_t before_len;

ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t off);
int __real_fdatasync(int fd);
int __real_ftruncate64(int fd, off_t len);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off);
int __wrap_fdatasync(int fd);
int __wrap_ftruncate64(int fd, off_t len);
int __real_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len);

static size_t fail_after;
static int fail_err;
static bool failed;

void record_fail(size_t n, int err)
{
	fail_after = n;
	fail_err = err;
	failed = false;
}

bool record_failed(void)
{
	return failed;
}

static bool fails(void)
{
	if (!fail_err || fail_after--)
		return false;
	errno = fail_err;
	fail_err = 0;
	failed = true;
	return true;
}

static bool wanted(int fd)
{
	struct stat a, b;

	return recording && !fstat(fd, &a) && !stat(target, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static void add(int type, size_t off, size_t len, const void *data)
{
	struct op *op;

	if (nr_ops == max_ops) {
		max_ops = max_ops ? max_ops * 2 : 1024;
		ops = realloc(ops, max_ops * sizeof(*ops));
		assert_non_null(ops);
	}
	op = &ops[nr_ops++];
	*op = (struct op){ .type = type, .off = off, .len = len };
	if (data) {
		op->data = malloc(len);
		assert_non_null(op->data);
		memcpy(op->data, data, len);
	}
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	if (fails())
		return -1;
	if (wanted(fd))
		add(OP_WRITE, (size_t)off, len, buf);
	return __real_pwrite64(fd, buf, len, off);
}

int __wrap_fdatasync(int fd)
{
	if (fails())
		return -1;
	/* the tests need no durability of their own, and the disk is slow */
	if (wanted(fd))
		add(OP_SYNC, 0, 0, NULL);
	return 0;
}

int __wrap_ftruncate64(int fd, off_t len)
{
	if (fails())
		return -1;
	if (wanted(fd))
		add(OP_TRUNCATE, (size_t)len, 0, NULL);
	return __real_ftruncate64(fd, len);
}

/* a hole is a write of zeros, which may be there in part */
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	if (fails())
		return -1;
	if (wanted(fd)) {
		uint8_t *zeros = calloc(1, (size_t)len);

		assert_non_null(zeros);
		add(OP_WRITE, (size_t)off, (size_t)len, zeros);
		free(zeros);
	}
	return __real_fallocate64(fd, mode, off, len);
}

void record_start(const char *path)
{
	assert_false(recording);
	strncpy(target, path, sizeof(target) - 1);
	if (!access(path, F_OK))
		before = read_file(path, &before_len);
	recording = true;
}

void record_stop(void)
{
	while (nr_ops)
		free(ops[--nr_ops].data);
	free(ops);
	ops = NULL;
	max_ops = 0;
	free(before);
	before = NULL;
	before_len = 0;
	recording = false;
}

size_t record_ops(void)
{
	return nr_ops;
}

void record_crash(size_t end, const char *path)
{
	size_t i, durable = 0, max = before_len, len = before_len, s;
	uint8_t *buf;

	assert_true(end <= nr_ops);
	for (i = 0; i < end; i++) {
		if (ops[i].type == OP_SYNC)
			durable = i;
		if (ops[i].off + ops[i].len > max)
			max = ops[i].off + ops[i].len;
	}
	buf = calloc(1, max + 1);
	assert_non_null(buf);
	if (before_len)
		memcpy(buf, before, before_len);
	/* the less is kept, the more is missing: vary that too */
	unsigned int keep = (unsigned int)rnd_below(9);

	for (i = 0; i < end; i++) {
		const struct op *op = &ops[i];

		if (op->type == OP_TRUNCATE && (i < durable || rnd_below(8) < keep)) {
			if (op->off < len)
				memset(buf + op->off, 0, len - op->off);
			len = op->off;
		}
		if (op->type != OP_WRITE)
			continue;
		for (s = 0; s < op->len; s += SECTOR) {
			size_t n = op->len - s < SECTOR ? op->len - s : SECTOR;

			if (i > durable && rnd_below(8) >= keep)
				continue;
			memcpy(buf + op->off + s, op->data + s, n);
			if (op->off + s + n > len)
				len = op->off + s + n;
		}
	}
	write_file(path, buf, len);
	free(buf);
}
