// SPDX-License-Identifier: GPL-2.0-or-later
/* stores: what they have to be, and how they are made ready */
#include <sys/file.h>
#include <glob.h>
#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cbw.h"
#include "store.h"

#define STORE_MIN	4096

/* ---- what is on it ----------------------------------------------------- */

int check_blank(const char *path, int fd, const char *what, struct cbw_error *err)
{
	blkid_probe pr = blkid_new_probe();
	const char *value = NULL;
	int ret = 0;

	if (!pr || blkid_probe_set_device(pr, fd, 0, 0)) {
		blkid_free_probe(pr);
		return fail_with(err, EIO, "%s: libblkid cannot look at it",
				 esc(path));
	}
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE |
					  BLKID_SUBLKS_USAGE);
	blkid_probe_enable_partitions(pr, 1);
	switch (blkid_do_safeprobe(pr)) {
	case 1:		/* nothing there */
		break;
	case 0:
		if (blkid_probe_lookup_value(pr, "TYPE", &value, NULL) &&
		    blkid_probe_lookup_value(pr, "PTTYPE", &value, NULL))
			value = "something libblkid knows";
		ret = fail_with(err, EEXIST,
				"%s: it holds data (%s), which the %s would overwrite; --force if that is wanted",
				esc(path), value, what);
		break;
	case -2:
		ret = fail_with(err, EEXIST,
				"%s: it holds data (several signatures), which the %s would overwrite; --force if that is wanted",
				esc(path), what);
		break;
	default:
		ret = fail_with(err, EIO, "%s: libblkid cannot read it",
				esc(path));
	}
	blkid_free_probe(pr);
	return ret;
}

/*
 * The kernel knows two snapshots over one store by its device number, and each loop
 * device of one file has its own: so nobody else may have the file, neither another
 * run (a lock) nor a loop device (a snapshot that is there for longer).
 */
int store_file_free(const char *path, int fd, struct cbw_error *err)
{
	struct loop_info64 info;
	struct stat st;
	int loop, ret = 0;
	glob_t g;
	size_t i;

	if (flock(fd, LOCK_EX | LOCK_NB))
		return fail_with(err, errno == EWOULDBLOCK ? EBUSY : errno,
				 errno == EWOULDBLOCK ?
				 "%s: the store is in use by another run" :
				 "%s: it cannot be locked", esc(path));
	if (fstat(fd, &st))
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	if (glob("/dev/loop[0-9]*", 0, NULL, &g))
		return 0;
	for (i = 0; i < g.gl_pathc && !ret; i++) {
		loop = open(g.gl_pathv[i], O_RDONLY | O_CLOEXEC);
		if (loop < 0)
			continue;
		if (!ioctl(loop, LOOP_GET_STATUS64, &info) &&
		    info.lo_inode == st.st_ino && info.lo_device == st.st_dev)
			ret = fail_with(err, EBUSY,
					"%s: the store is in use by %s, maybe by another snapshot",
					esc(path), g.gl_pathv[i]);
		close(loop);
	}
	globfree(&g);
	return ret;
}

int store_loop(const char *path)
{
	struct loop_info64 info;
	struct stat st;
	int number = -1;
	glob_t g;
	size_t i;

	if (stat(path, &st) || glob("/dev/loop[0-9]*", 0, NULL, &g))
		return -1;
	for (i = 0; i < g.gl_pathc && number < 0; i++) {
		int loop = open(g.gl_pathv[i], O_RDONLY | O_CLOEXEC);

		if (loop < 0)
			continue;
		if (!ioctl(loop, LOOP_GET_STATUS64, &info) &&
		    info.lo_inode == st.st_ino && info.lo_device == st.st_dev)
			number = (int)info.lo_number;
		close(loop);
	}
	globfree(&g);
	return number;
}

int store_check(const char *path, const struct cbw_dm_dev *volumes, size_t nr,
		bool force, struct store *store, struct cbw_error *err)
{
	struct stat st;
	uint64_t size;
	int fd, ret, ro = 0;

	ret = check_not_on(path, "store", volumes, nr, err);
	if (ret)
		return ret;
	/* O_EXCL on a block device: nobody else has it, mounted or mapped */
	if (stat(path, &st))
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return fail_with(err, EINVAL,
				 "%s: a store is a block device or a regular file",
				 esc(path));
	fd = open(path, O_RDWR | O_CLOEXEC |
		  (S_ISBLK(st.st_mode) ? O_EXCL : 0));
	if (fd < 0 && errno == EBUSY)
		return fail_with(err, EBUSY,
				 "%s: the store is in use (mounted, or part of another device)",
				 esc(path));
	if (fd < 0)
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) &&
	    (ioctl(fd, BLKGETSIZE64, &size) || ioctl(fd, BLKROGET, &ro))) {
		ret = fail_with(err, errno, "%s: its size: %s", esc(path),
				strerror(errno));
		goto bad;
	}
	if (ro) {
		ret = fail_with(err, EROFS, "%s: the store is read-only", esc(path));
		goto bad;
	}
	if (size < STORE_MIN) {
		ret = fail_with(err, EINVAL,
				"%s: the store has %llu bytes, at least one chunk is needed",
				esc(path), (ull)size);
		goto bad;
	}
	if (S_ISREG(st.st_mode)) {
		ret = store_file_free(path, fd, err);
		if (ret)
			goto bad;
	}
	if (!force) {
		ret = check_blank(path, fd, "store", err);
		if (ret)
			goto bad;
	}
	*store = (struct store){ .path = xstrdup(path), .size = size,
		.fd = -1, .loop = -1, .lock = -1 };
	if (S_ISBLK(st.st_mode)) {
		store->dev.major = major(st.st_rdev);
		store->dev.minor = minor(st.st_rdev);
		close(fd);
	} else {
		store->lock = fd;
	}
	return 0;
bad:
	close(fd);
	return ret;
}

/* ---- loop devices ------------------------------------------------------ */

static int loop_try(int file, int number, const char *path)
{
	struct loop_config config = {
		.fd = (uint32_t)file,
		.info = {
			/* the kernel takes it away when nobody has it open */
			.lo_flags = LO_FLAGS_AUTOCLEAR,
		},
	};
	char dev[32];
	int fd, code, direct;

	snprintf(dev, sizeof(dev), "/dev/loop%d", number);
	fd = open(dev, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT &&
	    !mknod(dev, S_IFBLK | 0600, makedev(7, (unsigned int)number)))
		fd = open(dev, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf((char *)config.info.lo_file_name,
		 sizeof(config.info.lo_file_name), "%s", path);
	if (ioctl(fd, LOOP_CONFIGURE, &config)) {
		code = errno;
		close(fd);
		return -code;
	}
	/*
	 * Saves a second copy in memory. Not every file system can, and overlayfs says so only
	 * to who opens the file.
	 */
	direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (direct >= 0) {
		(void)ioctl(fd, LOOP_SET_DIRECT_IO, 1UL);
		close(direct);
	}
	return fd;
}

int store_ready(struct store *store, struct cbw_error *err)
{
	int control, file, tries, ret = -EBUSY;

	if (store->dev.major)
		return 0;
	file = open(store->path, O_RDWR | O_CLOEXEC);
	if (file < 0)
		return fail_with(err, errno, "%s: %s", esc(store->path),
				 strerror(errno));
	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0) {
		ret = fail_with(err, errno,
				"/dev/loop-control: %s; a store in a file needs the loop driver: modprobe loop",
				strerror(errno));
		close(file);
		return ret;
	}
	for (tries = 0; tries < 64 && ret == -EBUSY; tries++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);

		if (number < 0) {
			ret = -errno;
			break;
		}
		/* EBUSY: somebody else was faster */
		ret = loop_try(file, number, store->path);
		if (ret >= 0) {
			struct stat st;

			if (fstat(ret, &st)) {
				close(ret);
				ret = -EIO;
				break;
			}
			store->fd = ret;
			store->loop = number;
			store->dev.major = major(st.st_rdev);
			store->dev.minor = minor(st.st_rdev);
		}
	}
	close(control);
	close(file);
	if (ret < 0)
		return fail_with(err, ret, "%s: no loop device could be set up: %s",
				 esc(store->path), strerror(-ret));
	return 0;
}

void store_wipe(const struct store *store)
{
	static const char zero[128 << 10];
	uint64_t tail = store->size > sizeof(zero) ? store->size - sizeof(zero) : 0;
	/* O_EXCL: another run may have the device by now; a file is locked. */
	int fd = open(store->path, O_WRONLY | O_CLOEXEC |
		      (store->lock < 0 ? O_EXCL : 0));
	size_t len = store->size < sizeof(zero) ? store->size : sizeof(zero);

	/* At worst the next run asks for --force. */
	if (fd < 0)
		return;
	if (pwrite(fd, zero, len, 0) < 0 ||
	    pwrite(fd, zero, len, (off_t)tail) < 0 || fsync(fd))
		say("%s: the store could not be wiped: %s", esc(store->path),
		    strerror(errno));
	close(fd);
}

void store_close(struct store *store)
{
	if (store->lock >= 0)
		close(store->lock);
	store->lock = -1;
	if (store->fd >= 0)
		close(store->fd);
	store->fd = -1;
	free(store->path);
	store->path = NULL;
}
