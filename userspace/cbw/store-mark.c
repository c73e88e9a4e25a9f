// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What tells a file that we made as a store from one that has such a name: a mark at its end.
 *
 * It is shorter than a sector and lies behind the last whole one, so the loop device, and who
 * uses that, knows nothing of it. It has the file's own name: who renames or copies one keeps it.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "store.h"

#define MARK_LEN	64
#define SECTOR		512

static void make_mark(const char *path, char mark[MARK_LEN])
{
	const char *name = strrchr(path, '/');

	memset(mark, 0, MARK_LEN);
	snprintf(mark, MARK_LEN, "store of cbw %s\n", name ? name + 1 : path);
}

/* The file gets longer by it, in one step: there is no moment when it is long and has no mark. */
int store_mark(const char *path, int fd, uint64_t size)
{
	char mark[MARK_LEN];
	ssize_t n;

	make_mark(path, mark);
	n = pwrite(fd, mark, sizeof(mark), (off_t)size);
	if (n == sizeof(mark))
		return 0;
	return n < 0 ? -errno : -ENOSPC;
}

bool store_marked(const char *path, int fd)
{
	char mark[MARK_LEN], found[MARK_LEN];
	const char *name = strrchr(path, '/');
	struct stat st;

	make_mark(path, mark);
	/* as mkostemp() names and makes it */
	return name && !strncmp(name + 1, STORE_NAME, sizeof(STORE_NAME) - 1) &&
		strlen(name + 1) == sizeof(STORE_NAME) - 1 + 6 && !fstat(fd, &st) &&
		S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) &&
		st.st_size % SECTOR == MARK_LEN &&
		pread(fd, found, sizeof(found), st.st_size - MARK_LEN) == sizeof(found) &&
		!memcmp(found, mark, sizeof(found));
}
