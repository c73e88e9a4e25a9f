// SPDX-License-Identifier: GPL-2.0-or-later
/* sources by name; files, devices and images */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "qcow2.h"
#include "source.h"

#define BLOCK	4096u

/* The same file once more, for O_DIRECT; where there is no such thing without. */
static int open_again(int fd)
{
	char path[40];
	int direct;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return direct >= 0 ? direct : open(path, O_RDONLY | O_CLOEXEC);
}

/* O_DIRECT has to end at a block: what is behind the range is read, and not looked at. */
static int read_at(const char *name, int fd, char *buf, uint32_t length, uint64_t offset,
		   struct cbw_error *err)
{
	size_t ask = (length + BLOCK - 1) / BLOCK * (size_t)BLOCK, got = 0;

	while (got < length) {
		ssize_t n = pread(fd, buf + got, ask - got, (off_t)(offset + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail_with(err, n ? errno : EUCLEAN,
					 "%s: reading %u bytes at offset %llu: %s", esc(name),
					 length, (ull)offset,
					 n ? strerror(errno) : "it ends before that");
		got += (size_t)n;
	}
	return 0;
}

/* ---- a file or a device ---------------------------------------------------- */

/**
 * struct file_source
 * @holes: it can tell them
 * @data, @data_end: what it has told to be data. A hole that is made there later reads as zeros, so
 *	this can be relied on; what it told to be a hole can not.
 */
struct file_source {
	struct source s;
	int fd;
	enum xfer_how how;
	bool holes;
	uint64_t data, data_end;
};

static int file_map(struct source *s, uint64_t offset, uint64_t length, struct source_run *run,
		    struct cbw_error *err)
{
	struct file_source *f = (struct file_source *)s;
	off_t data, hole;

	*run = (struct source_run){ length, SOURCE_DATA, f->how, f->fd, offset };
	if (!f->holes || (offset >= f->data && offset + length <= f->data_end))
		return 0;
	data = lseek(f->fd, (off_t)offset, SEEK_DATA);
	if (data < 0 && errno == ENXIO) {
		off_t end = lseek(f->fd, 0, SEEK_END);

		/* No data until the end.  Behind it, if the file has become shorter, reading fails. */
		if (end > (off_t)offset) {
			run->kind = SOURCE_ZERO;
			if ((uint64_t)end - offset < length)
				run->length = (uint64_t)end - offset;
		}
		return 0;
	}
	if (data < 0)
		return fail_with(err, errno, "%s: looking for data at offset %llu: %s",
				 esc(s->name), (ull)offset, strerror(errno));
	if ((uint64_t)data > offset) {
		run->kind = SOURCE_ZERO;
		if ((uint64_t)data - offset < length)
			run->length = (uint64_t)data - offset;
		return 0;
	}
	hole = lseek(f->fd, (off_t)offset, SEEK_HOLE);
	if (hole <= (off_t)offset)
		return 0;
	f->data = offset;
	f->data_end = (uint64_t)hole;
	if (f->data_end - offset < length)
		run->length = f->data_end - offset;
	return 0;
}

static int file_read(struct source *s, uint64_t offset, void *buf, uint32_t length,
		     unsigned int worker, struct cbw_error *err)
{
	(void)worker;
	return read_at(s->name, ((struct file_source *)s)->fd, buf, length, offset, err);
}

static void file_close(struct source *s)
{
	close(((struct file_source *)s)->fd);
	free(s);
}

static const struct source_ops file_ops = {
	.map = file_map,
	.read = file_read,
	.close = file_close,
};

int source_file(const char *path, int fd, struct source **s, struct cbw_error *err)
{
	struct file_source *f;
	uint64_t size = 0;
	struct stat st;
	int own = fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC), again, ret = 0;

	if (own < 0 || fstat(own, &st)) {
		ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	} else if (S_ISREG(st.st_mode)) {
		size = (uint64_t)st.st_size;
	} else if (!S_ISBLK(st.st_mode)) {
		ret = fail_with(err, EINVAL, "%s: neither a block device nor a file", esc(path));
	} else if (ioctl(own, BLKGETSIZE64, &size)) {
		ret = fail_with(err, errno, "%s: its size: %s", esc(path), strerror(errno));
	}
	again = ret ? -1 : open_again(own);
	if (!ret && again < 0)
		ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	if (fd < 0 && own >= 0)
		close(own);
	if (ret)
		return ret;
	f = xcalloc(1, sizeof(*f));
	f->fd = again;
	f->how = xfer_how_of(again);
	f->s = (struct source){
		.ops = &file_ops,
		.name = xstrdup(path),
		.size = size,
		.memory = f->how == XFER_THREAD,
	};
	f->holes = S_ISREG(st.st_mode);
	*s = &f->s;
	return 0;
}

/* ---- a chain of images ------------------------------------------------------- */

/**
 * struct qcow2_source
 * @direct: a descriptor for each layer, -1: not opened yet
 * @how: of each
 * @own: the image goes with it
 */
struct qcow2_source {
	struct source s;
	struct qcow2_image *img;
	unsigned int layers;
	int *direct;
	enum xfer_how *how;
	bool own;
};

/* The file of a layer, with O_DIRECT where its clusters let us. */
static int layer_fd(struct qcow2_source *q, uint32_t layer, int fd)
{
	struct qcow2_layer info;
	char path[40];

	if (q->direct[layer] >= 0)
		return q->direct[layer];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!qcow2_get_layer(q->img, layer, &info) &&
	    (info.format == QCOW2_FORMAT_RAW || info.cluster_size >= BLOCK))
		q->direct[layer] = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (q->direct[layer] < 0)
		q->direct[layer] = open(path, O_RDONLY | O_CLOEXEC);
	if (q->direct[layer] >= 0)
		q->how[layer] = xfer_how_of(q->direct[layer]);
	return q->direct[layer];
}

static int chain_map(struct source *s, uint64_t offset, uint64_t length, struct source_run *run,
		     struct cbw_error *err)
{
	struct qcow2_source *q = (struct qcow2_source *)s;
	struct qcow2_error qerr;
	struct qcow2_run r;
	int ret = qcow2_map(q->img, offset, length, &r, &qerr);

	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	*run = (struct source_run){ .length = r.length, .fd = -1 };
	switch (r.type) {
	case QCOW2_RUN_ZERO:
		run->kind = SOURCE_ZERO;
		return 0;
	case QCOW2_RUN_COMPRESSED:
		run->kind = SOURCE_CALL;
		return 0;
	case QCOW2_RUN_DATA:
		break;
	default:
		return fail_with(err, EUCLEAN, "%s: no image has the data at offset %llu",
				 esc(s->name), (ull)offset);
	}
	run->fd = layer_fd(q, r.layer, r.fd);
	if (run->fd < 0)
		return fail_with(err, errno, "%s: an image of it cannot be opened again: %s",
				 esc(s->name), strerror(errno));
	/* a raw layer may be asked for at any offset */
	run->kind = r.host_offset % BLOCK ? SOURCE_CALL : SOURCE_DATA;
	run->how = q->how[r.layer];
	run->src_offset = r.host_offset;
	return 0;
}

static int chain_read(struct source *s, uint64_t offset, void *buf, uint32_t length,
		      unsigned int worker, struct cbw_error *err)
{
	struct qcow2_source *q = (struct qcow2_source *)s;
	struct qcow2_error qerr;
	int ret = qcow2_read(q->img, offset, buf, length, &qerr);

	(void)worker;
	return ret ? fail_with(err, ret, "%s", qerr.msg) : 0;
}

static void chain_source_close(struct source *s)
{
	struct qcow2_source *q = (struct qcow2_source *)s;
	unsigned int i;

	for (i = 0; i < q->layers; i++)
		if (q->direct[i] >= 0)
			close(q->direct[i]);
	if (q->own)
		qcow2_close(q->img);
	free(q->direct);
	free(q->how);
	free(q);
}

static const struct source_ops qcow2_ops = {
	.map = chain_map,
	.read = chain_read,
	.close = chain_source_close,
};

static bool all_in_memory(struct qcow2_image *img)
{
	struct qcow2_layer info;
	unsigned int i;

	for (i = 0; !qcow2_get_layer(img, i, &info); i++)
		if (xfer_how_of(info.fd) != XFER_THREAD ||
		    (info.data_fd >= 0 && xfer_how_of(info.data_fd) != XFER_THREAD))
			return false;
	return true;
}

struct source *source_qcow2(const char *name, struct qcow2_image *img)
{
	struct qcow2_source *q = xcalloc(1, sizeof(*q));
	unsigned int i;

	q->s = (struct source){
		.ops = &qcow2_ops,
		.name = xstrdup(name),
		.size = qcow2_size(img),
		.memory = all_in_memory(img),
	};
	q->img = img;
	q->layers = qcow2_layers(img);
	q->direct = xcalloc(q->layers, sizeof(*q->direct));
	q->how = xcalloc(q->layers, sizeof(*q->how));
	for (i = 0; i < q->layers; i++)
		q->direct[i] = -1;
	return &q->s;
}

/* ---- by name ----------------------------------------------------------------- */

static int open_image(const char *path, struct source **s, struct cbw_error *err)
{
	struct qcow2_image *img;
	struct qcow2_error qerr;
	int ret = qcow2_open(path, 0, &img, &qerr);

	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	*s = source_qcow2(path, img);
	((struct qcow2_source *)*s)->own = true;
	return 0;
}

static bool ends_with(const char *text, const char *end)
{
	size_t len = strlen(text), n = strlen(end);

	return len >= n && !strcmp(text + len - n, end);
}

int source_open(const char *name, const char *format, unsigned int workers, struct source **s,
		struct cbw_error *err)
{
	if (!strncmp(name, "nbd", 3) && strstr(name, "://"))
		return source_nbd(name, workers, s, err);
	if (format ? !strcmp(format, "qcow2") : ends_with(name, ".qcow2"))
		return open_image(name, s, err);
	return source_file(name, -1, s, err);
}

static bool same_file(int fd, const struct stat *st)
{
	struct stat mine;

	if (fd < 0 || fstat(fd, &mine))
		return false;
	if (S_ISBLK(mine.st_mode) && S_ISBLK(st->st_mode))
		return mine.st_rdev == st->st_rdev;
	return mine.st_dev == st->st_dev && mine.st_ino == st->st_ino;
}

bool source_uses(const struct source *s, const struct stat *st)
{
	const struct qcow2_source *q = (const struct qcow2_source *)s;
	struct qcow2_layer info;
	unsigned int i;

	if (s->ops == &file_ops)
		return same_file(((const struct file_source *)s)->fd, st);
	if (s->ops != &qcow2_ops)
		return false;
	for (i = 0; i < q->layers && !qcow2_get_layer(q->img, i, &info); i++)
		if (same_file(info.fd, st) || same_file(info.data_fd, st))
			return true;
	return false;
}

void source_close(struct source *s)
{
	char *name;

	if (!s || s->stuck)
		return;
	name = s->name;
	s->ops->close(s);
	free(name);
}
