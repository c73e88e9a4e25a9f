// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "faults.h"

#define SECTOR	512u

/* what a sector had when its file was synced the last time */
struct undo {
	int fd;
	dev_t dev;
	ino_t ino;
	off_t offset;
	unsigned char old[SECTOR];
};

/* a name that was changed since its directory was synced */
struct move {
	int dirfd;
	char from[64], to[64];	/* of a file that went: @to is empty */
	char kept[300];		/* what was replaced, or removed; empty: nothing */
};

static enum fault kind;
static unsigned int left, calls, kept;
static bool happened;
static char keep_dir[256];
static struct undo *undo;
static size_t nr_undo, max_undo;
static struct move moves[64];
static size_t nr_moves;

ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t off);
ssize_t __real_write(int fd, const void *buf, size_t len);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_ftruncate64(int fd, off_t len);
int __real_fallocate64(int fd, int mode, off_t off, off_t len);
int __real_renameat(int a, const char *from, int b, const char *to);
int __real_unlinkat(int dirfd, const char *name, int flags);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off);
ssize_t __wrap_write(int fd, const void *buf, size_t len);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_ftruncate64(int fd, off_t len);
int __wrap_fallocate64(int fd, int mode, off_t off, off_t len);
int __wrap_renameat(int a, const char *from, int b, const char *to);
int __wrap_unlinkat(int dirfd, const char *name, int flags);

void faults_begin(enum fault what, unsigned int nr, const char *dir)
{
	kind = what;
	left = nr;
	calls = 0;
	happened = false;
	nr_moves = 0;
	snprintf(keep_dir, sizeof(keep_dir), "%s", dir ? dir : "");
}

unsigned int faults_end(void)
{
	size_t i;

	for (i = 0; i < nr_undo; i++)
		close(undo[i].fd);
	free(undo);
	undo = NULL;
	nr_undo = max_undo = 0;
	kind = FAULT_NONE;
	return calls;
}

bool faults_happened(void)
{
	return happened;
}

/* a disk writes its cache in any order; a file system its journal in order */
static void power_off(void)
{
	size_t i, last = nr_moves;
	unsigned int part = (unsigned int)rand() % 9;

	for (i = 0; i < nr_undo; i++)
		if ((unsigned int)rand() % 8 >= part &&
		    __real_pwrite64(undo[i].fd, undo[i].old, SECTOR, undo[i].offset) < 0)
			_exit(1);
	for (last = nr_moves ? (size_t)rand() % (nr_moves + 1) : 0; nr_moves > last;) {
		struct move *m = &moves[--nr_moves];

		if (*m->to && __real_renameat(m->dirfd, m->to, m->dirfd, m->from))
			_exit(1);
		/* what was made under its name since then is undone, too */
		if (!*m->to)
			__real_unlinkat(m->dirfd, m->from, 0);
		if (*m->kept && linkat(AT_FDCWD, m->kept, m->dirfd,
				       *m->to ? m->to : m->from, 0))
			_exit(1);
	}
}

/* true: this call fails */
static bool fault(void)
{
	if (kind == FAULT_NONE || happened) {
		calls++;
		return false;
	}
	calls++;
	if (left--)
		return false;
	happened = true;
	switch (kind) {
	case FAULT_POWER:
		power_off();
		/* fall through */
	case FAULT_KILL:
		_exit(FAULT_EXIT);
	default:
		errno = EIO;
		return true;
	}
}

static void remember(int fd, off_t off, off_t len)
{
	struct stat st;
	off_t at;
	size_t i;

	if (kind != FAULT_POWER || fstat(fd, &st) || !S_ISREG(st.st_mode))
		return;
	for (at = off / SECTOR * SECTOR; at < off + len; at += SECTOR) {
		struct undo *u;
		char path[40];

		for (i = 0; i < nr_undo; i++)
			if (undo[i].ino == st.st_ino && undo[i].dev == st.st_dev &&
			    undo[i].offset == at)
				break;
		if (i < nr_undo)
			continue;
		if (nr_undo == max_undo) {
			max_undo = max_undo ? 2 * max_undo : 1024;
			undo = realloc(undo, max_undo * sizeof(*undo));
			assert_non_null(undo);
		}
		u = &undo[nr_undo++];
		*u = (struct undo){ .dev = st.st_dev, .ino = st.st_ino, .offset = at };
		/* one descriptor for a file is enough */
		for (i = 0; i < nr_undo - 1 && undo[i].ino != st.st_ino; i++)
			;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		u->fd = i < nr_undo - 1 ? dup(undo[i].fd) : open(path, O_RDWR);
		assert_true(u->fd >= 0);
		assert_true(pread(u->fd, u->old, SECTOR, at) >= 0);
	}
}

static void synced(int fd)
{
	struct stat st;
	size_t i, k;

	if (kind != FAULT_POWER || fstat(fd, &st))
		return;
	if (S_ISDIR(st.st_mode))
		nr_moves = 0;
	for (i = 0, k = 0; i < nr_undo; i++) {
		if (undo[i].ino == st.st_ino && undo[i].dev == st.st_dev)
			close(undo[i].fd);
		else
			undo[k++] = undo[i];
	}
	nr_undo = k;
}

static void moved(int dirfd, const char *from, const char *to)
{
	struct move *m = &moves[nr_moves];

	if (kind != FAULT_POWER)
		return;
	assert_true(nr_moves < sizeof(moves) / sizeof(moves[0]));
	*m = (struct move){ .dirfd = dirfd };
	snprintf(m->from, sizeof(m->from), "%s", from);
	snprintf(m->to, sizeof(m->to), "%s", to ? to : "");
	snprintf(m->kept, sizeof(m->kept), "%s/%d.%u", keep_dir, getpid(), kept++);
	if (linkat(dirfd, to ? to : from, AT_FDCWD, m->kept, 0))
		*m->kept = '\0';
	nr_moves++;
}

ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t off)
{
	if (fault())
		return -1;
	remember(fd, off, (off_t)len);
	return __real_pwrite64(fd, buf, len, off);
}

ssize_t __wrap_write(int fd, const void *buf, size_t len)
{
	struct stat st;

	/* messages do not count */
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && fd > STDERR_FILENO) {
		if (fault())
			return -1;
		remember(fd, lseek(fd, 0, SEEK_CUR), (off_t)len);
	}
	return __real_write(fd, buf, len);
}

int __wrap_fsync(int fd)
{
	if (fault())
		return -1;
	/* the tests need no durability of their own, and the disk is slow */
	synced(fd);
	return 0;
}

int __wrap_fdatasync(int fd)
{
	return __wrap_fsync(fd);
}

int __wrap_ftruncate64(int fd, off_t len)
{
	return fault() ? -1 : __real_ftruncate64(fd, len);
}

int __wrap_fallocate64(int fd, int mode, off_t off, off_t len)
{
	if (fault())
		return -1;
	remember(fd, off, len);
	return __real_fallocate64(fd, mode, off, len);
}

int __wrap_renameat(int a, const char *from, int b, const char *to)
{
	int ret;

	if (fault())
		return -1;
	if (faccessat(a, from, F_OK, 0))
		return __real_renameat(a, from, b, to);
	moved(a, from, to);
	ret = __real_renameat(a, from, b, to);
	return ret;
}

int __wrap_unlinkat(int dirfd, const char *name, int flags)
{
	if (fault())
		return -1;
	if (!faccessat(dirfd, name, F_OK, 0))
		moved(dirfd, name, NULL);
	return __real_unlinkat(dirfd, name, flags);
}
