// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbw-power: images, which differ from their base by what was written since.
 */
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "power.h"

#define PIECE		(256u << 10)

/* OUT.undo; the ranges follow */
struct undo {
	uint64_t magic;
	uint64_t ino, size;	/* of the base */
	int64_t sec, nsec;
	int64_t token;		/* nanoseconds of the output's time, at second UNDO_TIME */
	uint64_t nr;
};

#define UNDO_MAGIC	0x6f646e7572776f70ull
#define UNDO_TIME	1000000

/* Where the next data is from @off on, and its end; false: there is none. */
static bool next_data(const struct image *im, int fd, uint64_t off, uint64_t *from, uint64_t *to)
{
	off_t data, hole;

	data = lseek(fd, off, SEEK_DATA);
	if (data < 0) {
		if (errno == ENXIO)
			return false;
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
	}
	hole = lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
	*from = data;
	*to = hole;
	return true;
}

static void punch(const struct image *im, uint64_t off, uint64_t len)
{
	if (fallocate(im->out_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len))
		die(EXIT_IO, "%s: cannot punch a hole: %s", im->out, strerror(errno));
}

static void put(const struct image *im, const void *buf, size_t len, uint64_t off)
{
	int ret = write_full(im->out_fd, buf, len, off);

	if (ret)
		die(EXIT_IO, "%s: write at %llu: %s", im->out, (ull)off, errname(ret));
}

static void get(int fd, const char *path, void *buf, size_t len, uint64_t off)
{
	int ret = read_full(fd, buf, len, off);

	if (ret)
		die(EXIT_IO, "%s: read at %llu: %s", path, (ull)off, errname(ret));
}

/* Compared by the page, so that what is equal is not written. */
static void copy_range(const struct image *im, uint64_t off, uint64_t end)
{
	static char a[PIECE], b[PIECE];
	uint32_t len, i, run;

	for (; off < end; off += len) {
		len = end - off < PIECE ? end - off : PIECE;
		get(im->base_fd, im->base, a, len, off);
		get(im->out_fd, im->out, b, len, off);
		if (!memcmp(a, b, len))
			continue;
		for (i = 0; i < len; i += run) {
			run = len - i < 4096 ? len - i : 4096;
			if (memcmp(a + i, b + i, run))
				put(im, a + i, run, off + i);
		}
	}
}

void image_open(struct image *im)
{
	struct stat base, out;

	im->base_fd = open(im->base, O_RDONLY | O_CLOEXEC);
	if (im->base_fd < 0 || fstat(im->base_fd, &base))
		die(EXIT_IO, "%s: %s", im->base, strerror(errno));
	im->out_fd = open(im->out, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (im->out_fd < 0 || fstat(im->out_fd, &out))
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
	if (!S_ISREG(base.st_mode) || !S_ISREG(out.st_mode))
		die(EXIT_USAGE, "%s and %s have to be regular files", im->base, im->out);
	if (base.st_dev == out.st_dev && base.st_ino == out.st_ino)
		die(EXIT_USAGE, "%s is both base and output", im->base);
	im->base_stat = base;
	im->size = base.st_size;
	if (out.st_size != base.st_size && ftruncate(im->out_fd, im->size))
		die(EXIT_IO, "%s: %s", im->out, strerror(errno));
}

static const char *undo_path(const struct image *im)
{
	static char path[4096];

	if (snprintf(path, sizeof(path), "%s.undo", im->out) >= (int)sizeof(path))
		die(EXIT_USAGE, "%s: too long a name", im->out);
	return path;
}

static void undo_head(const struct image *im, struct undo *u)
{
	*u = (struct undo){
		.magic = UNDO_MAGIC, .ino = im->base_stat.st_ino, .size = im->size,
		.sec = im->base_stat.st_mtim.tv_sec, .nsec = im->base_stat.st_mtim.tv_nsec,
	};
}

/* Takes back what we did, if nobody else did anything; in any case it is not known from here on. */
static bool undo(const struct image *im)
{
	int fd = open(undo_path(im), O_RDONLY | O_CLOEXEC);
	struct undo u, want;
	struct range r;
	struct stat st;
	bool ok;

	if (fd < 0)
		return false;
	undo_head(im, &want);
	ok = !read_full(fd, &u, sizeof(u), 0) && !fstat(im->out_fd, &st);
	want.token = u.token;
	want.nr = u.nr;
	ok = ok && !memcmp(&u, &want, sizeof(u)) && st.st_mtim.tv_sec == UNDO_TIME &&
	     st.st_mtim.tv_nsec == u.token;
	if (unlink(undo_path(im)))
		die(EXIT_IO, "%s: %s", undo_path(im), strerror(errno));
	for (uint64_t i = 0; ok && i < u.nr; i++) {
		get(fd, "what to undo", &r, sizeof(r), sizeof(u) + i * sizeof(r));
		copy_range(im, r.off, r.off + r.len);
	}
	close(fd);
	return ok;
}

static void patched(struct image *im, uint64_t off, uint64_t len)
{
	struct range *last = im->patches ? &im->patch[im->patches - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return;
	}
	if (im->patches == im->room) {
		im->room = im->room * 2 + 64;
		im->patch = realloc(im->patch, im->room * sizeof(*im->patch));
		if (!im->patch)
			die(EXIT_IO, "no memory");
	}
	im->patch[im->patches++] = (struct range){ off, len };
}

void image_patch(struct image *im, const void *buf, size_t len, uint64_t off)
{
	patched(im, off, len);
	if (buf)
		put(im, buf, len, off);
	else
		punch(im, off, len);
}

static void undo_write(const struct image *im)
{
	struct timespec now, times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = UNDO_TIME } };
	int fd = open(undo_path(im), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct undo u;
	int ret;

	undo_head(im, &u);
	clock_gettime(CLOCK_MONOTONIC, &now);
	u.token = times[1].tv_nsec = now.tv_nsec;
	u.nr = im->patches;
	if (fd < 0)
		die(EXIT_IO, "%s: %s", undo_path(im), strerror(errno));
	ret = write_full(fd, &u, sizeof(u), 0);
	if (!ret)
		ret = write_full(fd, im->patch, im->patches * sizeof(*im->patch), sizeof(u));
	if (ret || close(fd) || futimens(im->out_fd, times))
		die(EXIT_IO, "%s: it cannot be written", undo_path(im));
}

void image_revert(const struct image *im)
{
	uint64_t pos = 0, from, to, hole_from, hole_to;

	if (undo(im))
		return;
	while (pos < im->size) {
		if (!next_data(im, im->base_fd, pos, &from, &to))
			from = to = im->size;
		/* up to there the base has a hole */
		while (pos < from && next_data(im, im->out_fd, pos, &hole_from, &hole_to) &&
		       hole_from < from) {
			if (hole_to > from)
				hole_to = from;
			punch(im, hole_from, hole_to - hole_from);
			pos = hole_to;
		}
		copy_range(im, from, to);
		pos = to;
	}
}

void image_close(struct image *im)
{
	undo_write(im);
	free(im->patch);
	close(im->base_fd);
	close(im->out_fd);
}

void do_save(const char *dev, const char *path)
{
	void *buf = buffer_alloc(PIECE);
	struct image im = { .out = path };
	struct target t;
	uint64_t off;
	uint32_t len, i, run;
	int ret = target_open(&t, dev, O_RDONLY);

	if (ret)
		die(EXIT_IO, "%s: %s", dev, errname(ret));
	im.out_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (im.out_fd < 0 || ftruncate(im.out_fd, t.size))
		die(EXIT_IO, "%s: %s", path, strerror(errno));
	for (off = 0; off < t.size; off += len) {
		len = t.size - off < PIECE ? t.size - off : PIECE;
		get(t.fd, dev, buf, len, off);
		for (i = 0; i < len; i += run) {
			const char *p = (char *)buf + i;

			run = len - i < 4096 ? len - i : 4096;
			if (*p || memcmp(p, p + 1, run - 1))
				put(&im, p, run, off + i);
		}
	}
	free(buf);
}
