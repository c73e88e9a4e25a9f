// SPDX-License-Identifier: GPL-2.0-or-later
/* the file or block device that a container is */
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cbw.h"
#include "cfile.h"
#include "sysfs.h"

#define STEP	(1u << 20)

/* The loop device that has this file, if there is one. */
static void find_loop(const struct stat *st, struct cbw_devno *dev)
{
	struct loop_info64 info;
	struct stat ls;
	glob_t g;
	size_t i;
	int fd;

	*dev = (struct cbw_devno){ 0 };
	if (glob("/dev/loop[0-9]*", 0, NULL, &g))
		return;
	for (i = 0; i < g.gl_pathc && !dev->major; i++) {
		fd = open(g.gl_pathv[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (!ioctl(fd, LOOP_GET_STATUS64, &info) && info.lo_inode == st->st_ino &&
		    info.lo_device == st->st_dev && !fstat(fd, &ls)) {
			dev->major = major(ls.st_rdev);
			dev->minor = minor(ls.st_rdev);
		}
		close(fd);
	}
	globfree(&g);
}

/* Opened once with, once without O_DIRECT: tmpfs has none. */
static int open_direct(const char *path, int flags)
{
	int fd = open(path, flags | O_DIRECT, 0600);

	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags & ~O_EXCL, 0600);
	return fd;
}

static int fill_in(struct cfile *f, unsigned int flags, struct cbw_error *err)
{
	struct stat st;
	int ro = 0;

	/* before anything is looked at that another run may be changing */
	if (flags & CFILE_LOCK && flock(f->fd, LOCK_EX | LOCK_NB))
		return fail_with(err, errno == EWOULDBLOCK ? EBUSY : errno,
				 "%s: the container is in use by another run of cbw", esc(f->path));
	if (fstat(f->fd, &st))
		return fail_with(err, errno, "%s: %s", esc(f->path), strerror(errno));
	f->block = S_ISBLK(st.st_mode);
	if (!f->block && !S_ISREG(st.st_mode))
		return fail_with(err, EINVAL, "%s: a container is a file or a block device",
				 esc(f->path));
	if (f->block) {
		f->dev.major = major(st.st_rdev);
		f->dev.minor = minor(st.st_rdev);
		if (ioctl(f->fd, BLKGETSIZE64, &f->size) || ioctl(f->fd, BLKROGET, &ro))
			return fail_with(err, errno, "%s: its size: %s", esc(f->path),
					 strerror(errno));
		if (ro && f->writable)
			return fail_with(err, EROFS, "%s: the container is read-only",
					 esc(f->path));
		f->size -= f->size % CFILE_ALIGN;
	} else {
		f->size = (uint64_t)st.st_size;
		find_loop(&st, &f->loop);
	}
	if (flags & CFILE_LOCK && f->loop.major)
		return fail_with(err, EBUSY,
				 "%s: the container is in use through /dev/loop%u, maybe by a volume that is attached; 'cbw status' and 'losetup' tell",
				 esc(f->path), f->loop.minor);
	return 0;
}

int cfile_open(const char *path, unsigned int flags, struct cfile *f, struct cbw_error *err)
{
	int oflags = (flags & CFILE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK;
	struct cfile c = { .path = xstrdup(path), .writable = flags & CFILE_WRITE };
	struct stat st;
	int ret;

	if (flags & CFILE_CREATE)
		oflags |= O_CREAT;
	/* O_EXCL on a block device: nobody else has it, mounted or mapped */
	if (flags & CFILE_LOCK && !stat(path, &st) && S_ISBLK(st.st_mode))
		oflags = (oflags & ~O_CREAT) | O_EXCL;
	c.fd = open_direct(path, oflags);
	if (c.fd < 0)
		ret = fail_with(err, errno, errno == EBUSY ?
				"%s: the container is in use (mounted, part of another device, or of a volume that is attached; 'cbw status' tells)" :
				"%s: %s", esc(path), strerror(errno));
	else
		ret = fill_in(&c, flags, err);
	if (ret)
		cfile_close(&c);
	else
		*f = c;
	return ret;
}

int cfile_open_dev(struct cbw_devno dev, struct cfile *f, struct cbw_error *err)
{
	struct cfile c = { .writable = true };
	char *file = loop_file(dev);
	int ret;

	/* a loop device keeps its file only as long as somebody has it open: us */
	if (!file)
		c.path = xasprintf("/dev/block/%u:%u", dev.major, dev.minor);
	else
		c.path = xasprintf("/dev/loop%u", dev.minor);
	free(file);
	c.fd = open_direct(c.path, O_RDWR | O_CLOEXEC);
	if (c.fd < 0 && errno == ENOENT) {
		char *node = xasprintf("/run/cbw-container-%u-%u", dev.major, dev.minor);

		/* no udev */
		unlink(node);
		if (!mknod(node, S_IFBLK | 0600, makedev(dev.major, dev.minor)))
			c.fd = open_direct(node, O_RDWR | O_CLOEXEC);
		unlink(node);
		free(node);
	}
	if (c.fd < 0)
		ret = fail_with(err, errno, "%s: the container: %s", c.path, strerror(errno));
	else
		ret = fill_in(&c, 0, err);
	if (ret)
		cfile_close(&c);
	else
		*f = c;
	return ret;
}

void cfile_close(struct cfile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	*f = (struct cfile){ .fd = -1 };
}

void *cfile_buffer(size_t len)
{
	void *p = NULL;

	len = (len + CFILE_ALIGN - 1) / CFILE_ALIGN * CFILE_ALIGN;
	if (posix_memalign(&p, CFILE_ALIGN, len ? len : CFILE_ALIGN)) {
		fputs("cbw: out of memory\n", stderr);
		exit(EXIT_FAILED);
	}
	memset(p, 0, len);
	return p;
}

int cfile_read(const struct cfile *f, void *buf, size_t len, uint64_t offset,
	       struct cbw_error *err)
{
	char *p = buf;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail_with(err, errno, "%s: reading at %" PRIu64 ": %s",
					 esc(f->path), offset, strerror(errno));
		/* the end; a piece that is not whole can only be the last one */
		if (!n || n % CFILE_ALIGN) {
			memset(p + n, 0, len - (size_t)n);
			return 0;
		}
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int cfile_write(const struct cfile *f, const void *buf, size_t len, uint64_t offset,
		struct cbw_error *err)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(f->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || n % CFILE_ALIGN)
			return fail_with(err, n < 0 ? errno : ENOSPC,
					 "%s: writing at %" PRIu64 ": %s", esc(f->path), offset,
					 strerror(n < 0 ? errno : ENOSPC));
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int cfile_zero(const struct cfile *f, uint64_t offset, uint64_t len, struct cbw_error *err)
{
	void *zero = cfile_buffer(STEP);
	int ret = 0;

	while (len && !ret) {
		size_t now = len < STEP ? (size_t)len : STEP;

		ret = cfile_write(f, zero, now, offset, err);
		offset += now;
		len -= now;
	}
	free(zero);
	return ret;
}

int cfile_sync(const struct cfile *f, struct cbw_error *err)
{
	if (fsync(f->fd))
		return fail_with(err, errno, "%s: fsync: %s", esc(f->path), strerror(errno));
	return 0;
}

int cfile_grow(struct cfile *f, uint64_t size, struct cbw_error *err)
{
	int code;

	if (size <= f->size)
		return 0;
	if (f->block)
		return fail_with(err, ENOSPC,
				 "%s: the container is full: %" PRIu64 " bytes are needed, the device has %" PRIu64,
				 esc(f->path), size, f->size);
	/* the kernel writes into it later, and must not find the file system full then */
	code = posix_fallocate(f->fd, (off_t)f->size, (off_t)(size - f->size));
	if (code)
		return fail_with(err, code, "%s: making it %" PRIu64 " bytes long: %s",
				 esc(f->path), size, strerror(code));
	f->size = size;
	return 0;
}
