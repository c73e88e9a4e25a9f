// SPDX-License-Identifier: GPL-2.0-or-later
/* Stamped sectors, the order log, and I/O that is complete or fails. */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stamp.h"

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 29);
}

static uint64_t stamp_sum(const struct stamp *s)
{
	uint64_t h = mix(STAMP_MAGIC, s->sector);

	h = mix(h, (uint64_t)s->dev << 32 | s->gen);
	h = mix(h, (uint64_t)s->writer << 32 | s->reserved);
	return mix(h, s->seq);
}

void stamp_make(struct stamp *s, uint64_t sector, uint32_t dev, uint32_t gen,
		uint32_t writer, uint64_t seq)
{
	uint64_t v;
	int i;

	s->magic = STAMP_MAGIC;
	s->sector = sector;
	s->dev = dev;
	s->gen = gen;
	s->writer = writer;
	s->reserved = 0;
	s->seq = seq;
	s->sum = stamp_sum(s);
	v = s->sum;
	for (i = 0; i < STAMP_FILL; i++) {
		v += 0x9e3779b97f4a7c15ull;
		s->fill[i] = v;
	}
}

enum stamp_kind stamp_check(const struct stamp *s, uint64_t sector,
			    uint32_t dev)
{
	uint64_t v;
	int i;

	if (s->magic != STAMP_MAGIC) {
		const uint64_t *w = (const void *)s;

		for (i = 0; i < (int)(SECTOR / sizeof(*w)); i++)
			if (w[i])
				return STAMP_ALIEN;
		return STAMP_ZERO;
	}
	if (s->sum != stamp_sum(s))
		return STAMP_DAMAGED;
	v = s->sum;
	for (i = 0; i < STAMP_FILL; i++) {
		v += 0x9e3779b97f4a7c15ull;
		if (s->fill[i] != v)
			return STAMP_DAMAGED;
	}
	if (s->sector != sector || s->dev != dev)
		return STAMP_MISPLACED;
	return STAMP_OK;
}

const char *stamp_describe(const struct stamp *s, uint64_t sector,
			   uint32_t dev)
{
	static const char *const what[] = {
		[STAMP_OK] = "", [STAMP_MISPLACED] = " (misplaced)",
		[STAMP_DAMAGED] = " (damaged)",
	};
	static char text[2][160];
	static int turn;
	enum stamp_kind kind = stamp_check(s, sector, dev);
	char *buf = text[turn ^= 1];

	if (kind == STAMP_ZERO)
		snprintf(buf, sizeof(text[0]), "zeros");
	else if (kind == STAMP_ALIEN)
		snprintf(buf, sizeof(text[0]), "not a stamp");
	else
		snprintf(buf, sizeof(text[0]),
			 "sector=%llu dev=%u gen=%u writer=%u seq=%llu%s",
			 (unsigned long long)s->sector, s->dev, s->gen,
			 s->writer, (unsigned long long)s->seq, what[kind]);
	return buf;
}

static struct oplog *oplog_map(const char *path, int fd, size_t len)
{
	struct oplog *log = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED,
				 fd, 0);

	if (log == MAP_FAILED)
		die(EXIT_IO, "%s: cannot map the log: %s", path,
		    strerror(errno));
	close(fd);
	return log;
}

struct oplog *oplog_create(const char *path, uint64_t max)
{
	size_t len = sizeof(struct oplog) + max * sizeof(struct oprec);
	struct oplog *log;
	int fd;

	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, len))
		die(EXIT_IO, "%s: cannot make the log: %s", path,
		    strerror(errno));
	log = oplog_map(path, fd, len);
	log->max = max;
	log->magic = OPLOG_MAGIC;
	return log;
}

struct oplog *oplog_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct oplog *log;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		die(EXIT_IO, "%s: cannot open the log: %s", path,
		    strerror(errno));
	if ((size_t)st.st_size < sizeof(struct oplog))
		die(EXIT_IO, "%s is not a log: too short", path);
	log = oplog_map(path, fd, st.st_size);
	if (log->magic != OPLOG_MAGIC ||
	    sizeof(*log) + log->max * sizeof(struct oprec) !=
		    (size_t)st.st_size)
		die(EXIT_IO, "%s is not a log", path);
	return log;
}

int target_open(struct target *t, const char *path, int flags)
{
	struct stat st;
	int lbs = SECTOR;

	t->fd = open(path, flags | O_CLOEXEC);
	if (t->fd < 0 || fstat(t->fd, &st))
		return -errno;
	t->block = S_ISBLK(st.st_mode);
	t->size = st.st_size;
	if (t->block) {
		if (ioctl(t->fd, BLKGETSIZE64, &t->size) ||
		    ioctl(t->fd, BLKSSZGET, &lbs))
			return -errno;
		if (fcntl(t->fd, F_SETFL, flags | O_DIRECT))
			return -errno;
	}
	t->lbs = lbs;
	return 0;
}

void *buffer_alloc(size_t len)
{
	void *buf = NULL;

	if (posix_memalign(&buf, 4096, len))
		die(EXIT_IO, "no memory for a buffer of %zu bytes", len);
	memset(buf, 0, len);
	return buf;
}

int read_full(int fd, void *buf, size_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, off);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (!n)
			return -ERANGE;	/* the end; ENODATA has a meaning */
		buf = (char *)buf + n;
		len -= n;
		off += n;
	}
	return 0;
}

int write_full(int fd, const void *buf, size_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, off);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		buf = (const char *)buf + n;
		len -= n;
		off += n;
	}
	return 0;
}

const char *errname(int err)
{
	const char *name = strerrorname_np(err < 0 ? -err : err);

	return name ? name : "E?";
}

uint64_t parse_size(const char *s)
{
	char *end;
	uint64_t v;

	errno = 0;
	v = strtoull(s, &end, 0);
	if (errno || end == s || *s == '-')
		die(EXIT_USAGE, "'%s' is not a number of bytes", s);
	switch (*end) {
	case 's':
		v *= SECTOR;
		end++;
		break;
	case 'K':
		v <<= 10;
		end++;
		break;
	case 'M':
		v <<= 20;
		end++;
		break;
	}
	if (*end)
		die(EXIT_USAGE, "'%s' is not a number of bytes (suffix s, K or M)",
		    s);
	return v;
}

void die(int status, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(status);
}
