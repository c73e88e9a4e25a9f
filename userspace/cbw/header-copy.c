// SPDX-License-Identifier: GPL-2.0-or-later
/* header and L1 table of an image, from the copy in its details */
#include <fcntl.h>
#include <unistd.h>

#include "cbw.h"
#include "details.h"
#include "merge.h"
#include "qcow2.h"

#define SECTOR		512u
#define H_CLUSTER_BITS	20	/* place in the header, 32 bits */
/* bytes of a header in front of its extensions */
#define HEADER_NUMBERS	104

/* what is to be at one place in the file */
struct part {
	const char *what;
	const uint8_t *data;
	uint64_t offset;
	size_t len;
};

/* The header cluster, whole; for free() */
static uint8_t *header_cluster(const struct details *d, size_t *len)
{
	const uint8_t *p = d->header + H_CLUSTER_BITS;
	uint32_t bits = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 |
		(uint32_t)p[2] << 8 | p[3];
	uint8_t *out;

	if (bits < 9 || bits > 21 || d->header_bytes > 1u << bits)
		return NULL;
	*len = (size_t)1 << bits;
	out = xcalloc(*len, 1);
	memcpy(out, d->header, d->header_bytes);
	return out;
}

/* What the file has there; behind its end are zeros. */
static int read_now(int fd, const struct part *p, uint8_t *buf)
{
	size_t done = 0;

	memset(buf, 0, p->len);
	while (done < p->len) {
		ssize_t n = pread(fd, buf + done, p->len - done,
				  (off_t)(p->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return 0;
}

static int write_at(int fd, const uint8_t *buf, size_t len, uint64_t offset)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ENOSPC;
		buf += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Only the sectors that differ, so that one alone cannot tear. */
static int put_part(int fd, const struct part *p, bool *changed)
{
	uint8_t *now = xcalloc(p->len, 1);
	size_t at, n;
	int ret = read_now(fd, p, now);

	for (at = 0; at < p->len && !ret; at += n) {
		n = p->len - at < SECTOR ? p->len - at : SECTOR;
		if (!memcmp(now + at, p->data + at, n))
			continue;
		*changed = true;
		ret = write_at(fd, p->data + at, n, p->offset + at);
	}
	free(now);
	if (!ret && *changed && fsync(fd))
		ret = -errno;
	return ret;
}

static int open_image(const struct chain *chain, const char *file, int flags,
		      struct cbw_error *err)
{
	int fd = openat(chain->dirfd, file, flags | O_CLOEXEC | O_NOFOLLOW |
			O_NONBLOCK);

	if (fd < 0)
		return fail_with(err, errno, "%s/%s: %s", esc(chain->dir), file,
				 strerror(errno));
	return fd;
}

int header_put(const struct chain *chain, const char *file,
	       const struct details *d, bool l1, bool *changed,
	       struct cbw_error *err)
{
	struct part header = { .what = "header" };
	struct part table = { .what = "L1 table", .data = d->l1,
		.offset = d->l1_offset, .len = d->l1_bytes };
	const struct part *now = &table;
	bool differs = false;
	uint8_t *cluster;
	int fd, ret = 0;

	cluster = header_cluster(d, &header.len);
	if (!cluster)
		return fail_with(err, EUCLEAN, "%s/%s: the copy of its header makes no sense",
				 esc(chain->dir), file);
	header.data = cluster;
	fd = open_image(chain, file, O_RDWR, err);
	if (fd < 0) {
		free(cluster);
		return fd;
	}
	/* what the header refers to comes first */
	if (l1)
		ret = put_part(fd, &table, &differs);
	if (!ret) {
		now = &header;
		ret = put_part(fd, &header, &differs);
	}
	if (close(fd) && !ret)
		ret = -errno;
	free(cluster);
	if (ret)
		return fail_with(err, ret, "%s/%s: writing the %s: %s",
				 esc(chain->dir), file, now->what, strerror(-ret));
	if (changed)
		*changed = differs;
	return 0;
}

int header_copy(int fd, const struct details *d)
{
	uint64_t end = d->l1_offset + d->l1_bytes;
	uint8_t *cluster;
	size_t len;
	int ret;

	if (end < d->l1_offset || end > INT64_MAX)
		return -EUCLEAN;
	cluster = header_cluster(d, &len);
	if (!cluster)
		return -EUCLEAN;
	/* it is sparse, and refers to what it does not have */
	ret = ftruncate(fd, INT64_MAX / 4096 * 4096) ? -errno : 0;
	if (!ret)
		ret = write_at(fd, d->l1, d->l1_bytes, d->l1_offset);
	if (!ret)
		ret = write_at(fd, cluster, len, 0);
	free(cluster);
	return ret;
}

static int same(int fd, const struct part *p, bool *is)
{
	uint8_t *now = xcalloc(p->len, 1);
	int ret = read_now(fd, p, now);

	*is = !ret && !memcmp(now, p->data, p->len);
	free(now);
	return ret;
}

int header_same(const struct chain *chain, const char *file,
		const struct details *d, bool *header, bool *l1,
		struct cbw_error *err)
{
	struct part head = { .what = "header" };
	struct part table = { .data = d->l1, .offset = d->l1_offset,
		.len = d->l1_bytes };
	uint8_t *cluster;
	int fd, ret;

	cluster = header_cluster(d, &head.len);
	if (!cluster)
		return fail_with(err, EUCLEAN, "%s/%s: the copy of its header makes no sense",
				 esc(chain->dir), file);
	head.data = cluster;
	fd = open_image(chain, file, O_RDONLY, err);
	if (fd < 0) {
		free(cluster);
		return fd;
	}
	ret = same(fd, &head, header);
	if (!ret)
		ret = same(fd, &table, l1);
	close(fd);
	free(cluster);
	if (ret)
		return fail_with(err, ret, "%s/%s: reading header and L1 table: %s",
				 esc(chain->dir), file, strerror(-ret));
	return 0;
}

/* Whether the header's numbers are still ours: then it is one of ours that was damaged. */
static bool same_numbers(struct qcow2_image *img, const struct details *d)
{
	uint8_t now[HEADER_NUMBERS];

	return d->header_bytes >= sizeof(now) &&
		pread(qcow2_fd(img), now, sizeof(now), 0) == (ssize_t)sizeof(now) &&
		!memcmp(now, d->header, sizeof(now));
}

/*
 * Whose header is it that is not ours any more? One that says that it is of another chain or
 * point in time is not damaged: the file is the wrong one. So is a sound image that says nothing
 * of a chain, and has other numbers or (@l1: not) another L1 table.
 */
bool header_other(const struct chain *chain, const struct entry *e, const struct details *d,
		  bool l1)
{
	char *path = chain_path(chain, e->file);
	struct qcow2_header_ext ext;
	struct cbw_cut_id ids[3];
	struct qcow2_image *img;
	struct qcow2_error qerr;
	bool other = false;

	if (!qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &qerr)) {
		if (qcow2_get_ext(img, 0, CHAIN_QCOW2_EXT, &ext)) {
			other = !l1 || !same_numbers(img, d);
		} else if (ext.len == sizeof(ids)) {
			memcpy(ids, ext.data, sizeof(ids));
			other = !cbw_cut_equal(&ids[0], &chain->id) ||
				!cbw_cut_equal(&ids[1], &e->cut);
		}
		qcow2_close(img);
	}
	free(path);
	return other;
}
