// SPDX-License-Identifier: GPL-2.0-or-later
/* sinks: qcow2 images, files, devices */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "qcow2.h"
#include "sink.h"

#define BLOCK		4096u
/* What is found to be zero by chance is not worth a request of its own on a device. */
#define DEVICE_ZERO_MIN	XFER_PIECE
#define ZERO_AT_ONCE	(256u << 20)	/* so that signals are heard */
/* The file is extended so far ahead: who extends it waits for all others. */
#define AHEAD		(128u << 20)
/* A run that was killed has its file until its last request has ended. */
#define LOCK_TRIES	20
#define LOCK_NS		50000000

/* ---- a qcow2 image ----------------------------------------------------------- */

/**
 * struct qcow2_sink
 * @ahead: the file has been extended to there, 0: not by us
 */
struct qcow2_sink {
	struct sink s;
	struct qcow2_image *img;
	int fd;
	enum xfer_how how;
	uint64_t ahead;
	bool no_ahead;
};

/* Only where there is plenty of room: what it takes nobody else has, and may be for nothing. */
static bool plenty(int fd)
{
	struct statvfs fs;

	return !fstatvfs(fd, &fs) && (uint64_t)fs.f_bavail * fs.f_frsize >= 16ull * AHEAD;
}

static void extend(struct qcow2_sink *q, uint64_t end)
{
	uint64_t to = (end + AHEAD) / AHEAD * AHEAD;
	struct stat st;

	if (q->no_ahead || end <= q->ahead)
		return;
	if (!plenty(q->fd) || fstat(q->fd, &st)) {
		q->no_ahead = true;
		return;
	}
	if (!fallocate(q->fd, 0, (off_t)q->ahead, (off_t)(to - q->ahead))) {
		q->ahead = to;
		return;
	}
	q->no_ahead = true;
	/* what it got before there was no more room would be missing for what is written */
	if (ftruncate(q->fd, st.st_size))
		say("%s: %s", esc(q->s.name), strerror(errno));
}

static int image_data(struct sink *s, uint64_t offset, void *data, uint32_t length,
		      struct xfer_write *w, unsigned int room, struct cbw_error *err)
{
	struct qcow2_sink *q = (struct qcow2_sink *)s;
	struct qcow2_error qerr;
	unsigned int nr = 0;
	char *p = data;

	while (length) {
		uint64_t host, got;
		int ret = qcow2_alloc_write(q->img, offset, length, &host, &got, &qerr);

		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
		if (nr == room)
			return fail_with(err, EIO, "%s: more places than %u for one piece",
					 esc(s->name), room);
		w[nr++] = (struct xfer_write){
			.data = p,
			.length = (uint32_t)((got + s->unit - 1) / s->unit * s->unit),
			.how = q->how,
			.fd = q->fd,
			.dst_offset = host,
		};
		extend(q, host + got);
		offset += got;
		p += got;
		length -= (uint32_t)got;
	}
	return (int)nr;
}

static int image_zero(struct sink *s, uint64_t offset, uint64_t length, struct cbw_error *err)
{
	struct qcow2_error qerr;
	int ret = qcow2_set_zero(((struct qcow2_sink *)s)->img, offset, length, &qerr);

	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

static int image_packed(struct sink *s, uint64_t offset, const void *data, size_t len,
			struct cbw_error *err)
{
	struct qcow2_error qerr;
	int ret = qcow2_write_compressed(((struct qcow2_sink *)s)->img, offset, data, len, &qerr);

	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

static int image_flush(struct sink *s, struct cbw_error *err)
{
	struct qcow2_sink *q = (struct qcow2_sink *)s;
	struct qcow2_layer info;
	struct qcow2_error qerr;
	int ret;

	/* what was extended too far goes before anything is made durable */
	if (q->ahead && !qcow2_get_layer(q->img, 0, &info) && info.file_size < q->ahead) {
		if (ftruncate(q->fd, (off_t)info.file_size))
			return fail_with(err, errno, "%s: %s", esc(s->name), strerror(errno));
		q->ahead = 0;
		q->no_ahead = true;
	}
	ret = qcow2_flush(q->img, &qerr);
	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

static void image_close(struct sink *s)
{
	free(s);
}

static const struct sink_ops image_ops = {
	.data = image_data,
	.zero = image_zero,
	.packed = image_packed,
	.flush = image_flush,
	.close = image_close,
};

struct sink *sink_qcow2(const char *name, struct qcow2_image *img, int fd, bool backed,
			int compress)
{
	struct qcow2_sink *q = xcalloc(1, sizeof(*q));
	struct qcow2_layer info;
	struct stat st;

	q->s = (struct sink){
		.ops = &image_ops,
		.name = xstrdup(name),
		.unit = qcow2_cluster_size(img),
		.zero_min = qcow2_cluster_size(img),
		.say_zero = backed,
		.compress = compress,
		.sync_fd = qcow2_fd(img),
	};
	if (!qcow2_get_layer(img, 0, &info)) {
		q->s.type = info.compression;
		q->ahead = info.file_size;
	}
	q->img = img;
	q->fd = fd;
	q->how = xfer_how_of(fd);
	q->s.memory = q->how == XFER_THREAD;
	/* in memory there is nothing to be won, and a device has its size */
	q->no_ahead = q->how == XFER_THREAD || fstat(fd, &st) || !S_ISREG(st.st_mode);
	return &q->s;
}

/* ---- a file or a device -------------------------------------------------------- */

/**
 * struct file_sink
 * @direct: O_DIRECT, or the same as @fd
 * @lbs: what @direct takes
 * @blank: it reads as zeros where nothing was written
 */
struct file_sink {
	struct sink s;
	int fd, direct;
	enum xfer_how how;
	bool block, blank;
	uint32_t lbs;
	uint64_t size;
};

static int file_data(struct sink *s, uint64_t offset, void *data, uint32_t length,
		     struct xfer_write *w, unsigned int room, struct cbw_error *err)
{
	struct file_sink *f = (struct file_sink *)s;
	uint32_t tail = length % f->lbs;
	int nr = 0;

	if (room < 2)
		return fail_with(err, EIO, "%s: more places than there is room for",
				 esc(s->name));
	if (length - tail)
		w[nr++] = (struct xfer_write){
			data, length - tail, f->how, offset % f->lbs ? f->fd : f->direct, offset,
		};
	/* the end of a file that is no whole block */
	if (tail)
		w[nr++] = (struct xfer_write){
			(char *)data + length - tail, tail, XFER_THREAD, f->fd,
			offset + length - tail,
		};
	return nr;
}

/* One part of a range of zeros, by the cheapest way there is. */
static int zero_part(struct file_sink *f, uint64_t offset, uint64_t len, struct cbw_error *err)
{
	static const char zeros[XFER_PIECE_MIN] __attribute__((aligned(4096)));
	uint64_t range[2] = { offset, len };

	if (!(offset % f->lbs) && !(len % f->lbs)) {
		if (!fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			       (off_t)len))
			return 0;
		if (f->block && !ioctl(f->fd, BLKZEROOUT, range))
			return 0;
	}
	while (len) {
		size_t now = len < sizeof(zeros) ? (size_t)len : sizeof(zeros);
		ssize_t n = pwrite(f->fd, zeros, now, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail_with(err, n ? errno : ENOSPC,
					 "%s: writing at offset %llu: %s", esc(f->s.name),
					 (ull)offset, n ? strerror(errno) : "no room");
		offset += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int file_zero(struct sink *s, uint64_t offset, uint64_t length, struct cbw_error *err)
{
	struct file_sink *f = (struct file_sink *)s;

	while (length) {
		uint64_t now = length < ZERO_AT_ONCE ? length : ZERO_AT_ONCE;
		int ret = zero_part(f, offset, now, err);

		if (ret)
			return ret;
		if (stop_signal)
			return fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
		offset += now;
		length -= now;
	}
	return 0;
}

static int file_sink_read(struct sink *s, uint64_t offset, void *buf, uint32_t length,
			  unsigned int worker, struct cbw_error *err)
{
	struct file_sink *f = (struct file_sink *)s;
	size_t ask = (length + BLOCK - 1) / BLOCK * (size_t)BLOCK, got = 0;

	(void)worker;
	while (got < length) {
		ssize_t n = pread(f->direct, (char *)buf + got, ask - got, (off_t)(offset + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail_with(err, errno, "%s: reading at offset %llu: %s",
					 esc(s->name), (ull)offset, strerror(errno));
		/* a file that is to become longer */
		if (!n) {
			memset((char *)buf + got, 0, length - got);
			break;
		}
		got += (size_t)n;
	}
	return 0;
}

static int file_flush(struct sink *s, struct cbw_error *err)
{
	struct file_sink *f = (struct file_sink *)s;

	if (fsync(f->fd))
		return fail_with(err, errno, "%s: fsync: %s", esc(s->name), strerror(errno));
	return 0;
}

static void file_sink_close(struct sink *s)
{
	struct file_sink *f = (struct file_sink *)s;

	if (f->direct >= 0 && f->direct != f->fd)
		close(f->direct);
	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

static const struct sink_ops file_ops = {
	.data = file_data,
	.zero = file_zero,
	.read = file_sink_read,
	.flush = file_flush,
	.close = file_sink_close,
};

static int open_block(struct file_sink *f, uint64_t need, struct cbw_error *err)
{
	int lbs = 512, ro = 0;

	/* O_EXCL: neither mounted, nor part of another device */
	f->fd = open(f->s.name, O_RDWR | O_EXCL | O_CLOEXEC);
	if (f->fd < 0)
		return fail_with(err, errno, "%s: %s", esc(f->s.name),
				 errno == EBUSY ?
				 "it is in use (mounted, part of another device, or another run writes to it)" :
				 strerror(errno));
	if (ioctl(f->fd, BLKGETSIZE64, &f->size) || ioctl(f->fd, BLKSSZGET, &lbs) ||
	    ioctl(f->fd, BLKROGET, &ro))
		return fail_with(err, errno, "%s: %s", esc(f->s.name), strerror(errno));
	if (ro)
		return fail_with(err, EROFS, "%s: the device is read-only", esc(f->s.name));
	if (f->size < need)
		return fail_with(err, ENOSPC, "%s: the device has %llu bytes, %llu are needed",
				 esc(f->s.name), (ull)f->size, (ull)need);
	f->block = true;
	f->lbs = (uint32_t)lbs;
	f->s.zero_min = DEVICE_ZERO_MIN;
	f->s.say_zero = true;
	return 0;
}

/* A lock there keeps our own second descriptor from writing, too. */
static bool is_cifs(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && ((uint32_t)fs.f_type == 0xff534d42 ||
				     (uint32_t)fs.f_type == 0xfe534d42);
}

int sink_lock(int fd, const char *path, struct cbw_error *err)
{
	struct stat st, now;
	int tries;
	bool gone;

	for (tries = 0; !is_cifs(fd) && flock(fd, LOCK_EX | LOCK_NB); tries++) {
		/* not every file system has locks */
		if (errno != EWOULDBLOCK && errno != EINTR)
			return 0;
		if (stop_signal)
			return fail_with(err, EINTR, "stopped by signal %d", (int)stop_signal);
		if (tries == LOCK_TRIES)
			return fail_with(err, EBUSY,
					 "%s: it is in use: another run writes to it, or reads it",
					 esc(path));
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_NS }, NULL);
	}
	gone = stat(path, &now);
	if ((gone && errno != ENOENT) || fstat(fd, &st))
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	if (gone || st.st_dev != now.st_dev || st.st_ino != now.st_ino)
		return fail_with(err, ESTALE, "%s: another run has removed it", esc(path));
	return 0;
}

static int open_and_lock(struct file_sink *f, const struct sink_file_opts *o, struct cbw_error *err)
{
	struct stat st;
	int ret;

	/* two that make it at once: it is one's, and only that one may remove it again */
	f->fd = open(f->s.name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	f->s.made = f->fd >= 0;
	if (f->fd < 0 && errno == EEXIST && (o->keep || o->force)) {
		f->fd = open(f->s.name, O_RDWR | O_CLOEXEC);
		/* a link to nothing, or removed just now by the run that made it */
		if (f->fd < 0 && errno == ENOENT && lstat(f->s.name, &st))
			errno = EBUSY;
	}
	if (f->fd < 0)
		return fail_with(err, errno, "%s: %s%s", esc(f->s.name), strerror(errno),
				 errno == EEXIST ? "; --force if it is to be overwritten" : "");
	ret = sink_lock(f->fd, f->s.name, err);
	/* somebody else was faster, and has it */
	if (ret)
		f->s.made = false;
	return ret;
}

static int open_regular(struct file_sink *f, const struct sink_file_opts *o,
			struct cbw_error *err)
{
	struct stat st;
	int ret = open_and_lock(f, o, err);

	if (ret)
		return ret;
	if (!f->s.made && !o->keep && ftruncate(f->fd, 0))
		return fail_with(err, errno, "%s: %s", esc(f->s.name), strerror(errno));
	if (fstat(f->fd, &st))
		return fail_with(err, errno, "%s: %s", esc(f->s.name), strerror(errno));
	f->blank = !st.st_size;
	/* what is kept may be longer */
	if ((f->blank || (uint64_t)st.st_size < o->size) && ftruncate(f->fd, (off_t)o->size))
		return fail_with(err, errno, "%s: %s", esc(f->s.name), strerror(errno));
	f->lbs = BLOCK;
	f->s.say_zero = !f->blank;
	return 0;
}

int sink_file(const char *path, const struct sink_file_opts *o, struct sink **s,
	      struct cbw_error *err)
{
	struct file_sink *f = xcalloc(1, sizeof(*f));
	char again[40];
	struct stat st;
	int ret;

	f->s = (struct sink){
		.ops = &file_ops,
		.name = xstrdup(path),
		.unit = QCOW2_DEFAULT_CLUSTER,
		.zero_min = QCOW2_DEFAULT_CLUSTER,
	};
	f->fd = f->direct = -1;
	if (stat(path, &st)) {
		if (errno != ENOENT)
			ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
		else if (!strncmp(path, "/dev/", 5) && strncmp(path, "/dev/shm/", 9))
			ret = fail_with(err, ENOENT, "%s: there is no such device", esc(path));
		else
			ret = open_regular(f, o, err);
	} else if (S_ISBLK(st.st_mode)) {
		ret = open_block(f, o->size, err);
	} else if (S_ISREG(st.st_mode)) {
		ret = open_regular(f, o, err);
	} else {
		ret = fail_with(err, EINVAL, "%s: neither a block device nor a file", esc(path));
	}
	if (ret) {
		if (f->s.made)
			unlink(path);
		sink_close(&f->s);
		return ret;
	}
	snprintf(again, sizeof(again), "/proc/self/fd/%d", f->fd);
	f->direct = open(again, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (f->direct < 0)
		f->direct = f->fd;
	f->how = xfer_how_of(f->fd);
	f->s.memory = f->how == XFER_THREAD;
	f->s.sync_fd = f->fd;
	*s = &f->s;
	return 0;
}

void sink_close(struct sink *s)
{
	char *name;

	if (!s || s->stuck)
		return;
	name = s->name;
	s->ops->close(s);
	free(name);
}
