// SPDX-License-Identifier: GPL-2.0-or-later
/* what tells a volume: looking at one */
#include <blkid/blkid.h>
#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/fs.h>

#include "binding.h"
#include "cbw.h"
#include "sysfs.h"

#define BLOCK	4096

/* The first numbers of its statistics. */
static int statistics(struct cbw_devno dev, uint64_t v[17], struct cbw_error *err)
{
	char line[512], *p = line, *end;
	size_t i;

	memset(v, 0, 17 * sizeof(*v));
	if (!sysfs_line(dev, "stat", line, sizeof(line)))
		return fail_with(err, ENXIO, "device %u:%u has no statistics in sysfs", dev.major,
				 dev.minor);
	for (i = 0; i < 17; i++) {
		v[i] = strtoull(p, &end, 10);
		if (end == p)
			break;
		p = end;
	}
	return 0;
}

int binding_statistics(struct cbw_devno dev, uint64_t *instance, uint64_t *written,
		       struct cbw_error *err)
{
	uint64_t v[17];
	char line[32];

	if (statistics(dev, v, err))
		return -ENXIO;
	/* the seventh are sectors written, the fourteenth sectors discarded */
	*written = v[6] + v[13];
	*instance = 0;
	if (sysfs_line(dev, "diskseq", line, sizeof(line)) ||
	    sysfs_line(dev, "../diskseq", line, sizeof(line)))
		*instance = strtoull(line, NULL, 10);
	return 0;
}

/*
 * Are its statistics off? queue/iostats is obeyed by some kernels for some devices, so see whether
 * a read of ours counts: the third number are sectors read.
 */
static int look_at_counting(struct cbw_devno dev, const char *path, int fd, bool *off,
			    struct cbw_error *err)
{
	uint64_t before[17], after[17];
	void *buf = NULL;
	ssize_t n;
	int ret = statistics(dev, before, err);

	if (ret)
		return ret;
	if (posix_memalign(&buf, BLOCK, BLOCK))
		return fail_with(err, ENOMEM, "out of memory");
	n = pread(fd, buf, BLOCK, 0);
	if (n <= 0)
		ret = fail_with(err, n ? errno : EIO, "%s: reading its first block: %s", esc(path),
				n ? strerror(errno) : "too few");
	free(buf);
	if (!ret)
		ret = statistics(dev, after, err);
	if (!ret)
		*off = before[2] == after[2];
	return ret;
}

/* Printable, blanks at the ends cut off; disks pad their serial numbers. */
static void add_id(struct binding *b, const char *kind, const char *value)
{
	char *to = b->id[b->nr_ids], *p;
	size_t len;

	while (isspace((unsigned char)*value))
		value++;
	if (!*value || b->nr_ids == BINDING_IDS)
		return;
	snprintf(to, sizeof(b->id[0]), "%s %s", kind, value);
	for (p = to; *p; p++)
		if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
			*p = '?';
	for (len = strlen(to); len && to[len - 1] == ' '; len--)
		to[len - 1] = '\0';
	b->nr_ids++;
}

static void take_ids(struct cbw_devno dev, blkid_probe pr, struct binding *b)
{
	static const struct {
		const char *kind, *file[3];
	} ids[] = {
		{ "dm-uuid", { "dm/uuid" } },
		{ "wwn", { "wwid", "device/wwid", "../wwid" } },
		{ "serial", { "serial", "device/serial", "../serial" } },
		{ "partition", { "partition" } },
		{ "md-uuid", { "md/uuid" } },
	};
	const char *value;
	char line[190];
	size_t i, k;

	for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		for (k = 0; k < 3 && ids[i].file[k]; k++) {
			if (!sysfs_line(dev, ids[i].file[k], line, sizeof(line)))
				continue;
			add_id(b, ids[i].kind, line);
			break;
		}
	}
	if (!blkid_probe_lookup_value(pr, "PART_ENTRY_UUID", &value, NULL))
		add_id(b, "partition-uuid", value);
}

/* ---- superblocks ------------------------------------------------------- */

static uint64_t fnv1a(const unsigned char *p, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325ull;

	while (len--)
		hash = (hash ^ *p++) * 0x100000001b3ull;
	return hash;
}

static int hash_block(const char *path, int fd, uint64_t offset, uint64_t size, uint64_t *hash,
		      struct cbw_error *err)
{
	size_t len = size - offset < BLOCK ? (size_t)(size - offset) : BLOCK;
	void *buf = NULL;
	ssize_t n;
	int ret = 0;

	if (posix_memalign(&buf, BLOCK, BLOCK))
		return fail_with(err, ENOMEM, "out of memory");
	n = pread(fd, buf, len, (off_t)offset);
	if (n != (ssize_t)len)
		ret = fail_with(err, n < 0 ? errno : EIO, "%s: reading %zu bytes at %" PRIu64 ": %s",
				esc(path), len, offset, n < 0 ? strerror(errno) : "too few");
	else
		*hash = fnv1a(buf, len);
	free(buf);
	return ret;
}

/* A word for the text: no blanks, never empty. */
static void word(char *to, size_t len, const char *value)
{
	size_t i;

	snprintf(to, len, "%s", value && *value ? value : "-");
	for (i = 0; to[i]; i++)
		if ((unsigned char)to[i] <= ' ' || (unsigned char)to[i] > '~')
			to[i] = '_';
}

static int add_magic(struct binding *b, const char *path, int fd, uint64_t offset,
		     const char *type, const char *uuid, struct cbw_error *err)
{
	struct binding_magic *m = &b->magic[b->nr_magics];
	unsigned int i;

	if (b->nr_magics == BINDING_MAGICS)
		return 0;
	m->offset = offset - offset % BLOCK;
	if (m->offset >= b->size)
		return 0;
	word(m->type, sizeof(m->type), type);
	word(m->uuid, sizeof(m->uuid), uuid);
	for (i = 0; i < b->nr_magics; i++)
		if (b->magic[i].offset == m->offset && !strcmp(b->magic[i].type, m->type))
			return 0;
	if (hash_block(path, fd, m->offset, b->size, &m->hash, err))
		return -err->code;
	b->nr_magics++;
	return 0;
}

static uint64_t number(blkid_probe pr, const char *name)
{
	const char *value = NULL;

	if (blkid_probe_lookup_value(pr, name, &value, NULL))
		return 0;
	return strtoull(value, NULL, 10);
}

static const char *text(blkid_probe pr, const char *name)
{
	const char *value = NULL;

	return blkid_probe_lookup_value(pr, name, &value, NULL) ? NULL : value;
}

/* All that libblkid knows in @len bytes from @start on. */
static int probe_range(blkid_probe pr, const char *path, int blkfd, int fd, uint64_t start,
		       uint64_t len, bool tables, struct binding *b, struct cbw_error *err)
{
	unsigned int tries;

	if (blkid_probe_set_device(pr, blkfd, (blkid_loff_t)start, (blkid_loff_t)len))
		return fail_with(err, EIO, "%s: libblkid cannot look at it", esc(path));
	blkid_probe_enable_superblocks(pr, 1);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
					  BLKID_SUBLKS_MAGIC);
	blkid_probe_enable_partitions(pr, tables);
	blkid_probe_set_partitions_flags(pr, BLKID_PARTS_MAGIC | BLKID_PARTS_ENTRY_DETAILS);
	for (tries = 0; tries < 2 * BINDING_MAGICS; tries++) {
		int ret = blkid_do_probe(pr);

		if (ret == 1)
			return 0;
		if (ret)
			return fail_with(err, EIO, "%s: libblkid cannot read it", esc(path));
		if (text(pr, "SBMAGIC"))
			ret = add_magic(b, path, fd, start + number(pr, "SBMAGIC_OFFSET"),
					text(pr, "TYPE"), text(pr, "UUID"), err);
		else if (text(pr, "PTTYPE"))
			ret = add_magic(b, path, fd, start + number(pr, "PTMAGIC_OFFSET"),
					text(pr, "PTTYPE"), text(pr, "PTUUID"), err);
		if (ret)
			return ret;
	}
	return 0;
}

/* Partitions, one level: not those within them. */
static int probe_partitions(blkid_probe pr, const char *path, int blkfd, int fd,
			    struct binding *b, struct cbw_error *err)
{
	blkid_probe part;
	blkid_partlist ls;
	int nr, i, ret = 0;

	if (blkid_probe_set_device(pr, blkfd, 0, 0))
		return 0;
	ls = blkid_probe_get_partitions(pr);
	nr = ls ? blkid_partlist_numof_partitions(ls) : 0;
	part = nr > 0 ? blkid_new_probe() : NULL;
	for (i = 0; i < nr && part && !ret; i++) {
		blkid_partition p = blkid_partlist_get_partition(ls, i);
		uint64_t start = (uint64_t)blkid_partition_get_start(p) << 9;
		uint64_t len = (uint64_t)blkid_partition_get_size(p) << 9;

		if (!p || blkid_partition_is_extended(p) || !len || start >= b->size ||
		    len > b->size - start)
			continue;
		ret = probe_range(part, path, blkfd, fd, start, len, false, b, err);
	}
	blkid_free_probe(part);
	return ret;
}

int binding_take(const char *path, struct cbw_devno dev, struct binding *binding,
		 struct cbw_error *err)
{
	struct binding b = { 0 };
	struct cbw_error why = { 0 };
	blkid_probe pr = blkid_new_probe();
	int fd, blkfd, ret;

	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	blkfd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || blkfd < 0) {
		ret = fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
		goto out;
	}
	if (ioctl(fd, BLKGETSIZE64, &b.size)) {
		ret = fail_with(err, errno, "%s: its size: %s", esc(path), strerror(errno));
		goto out;
	}
	if (!pr) {
		ret = fail_with(err, ENOMEM, "out of memory");
		goto out;
	}
	ret = binding_statistics(dev, &b.instance, &b.written, &why);
	if (!ret)
		ret = look_at_counting(dev, path, fd, &b.uncounted, &why);
	if (!ret)
		ret = probe_range(pr, path, blkfd, fd, 0, 0, true, &b, &why);
	if (!ret)
		take_ids(dev, pr, &b);
	if (!ret)
		ret = probe_partitions(pr, path, blkfd, fd, &b, &why);
	if (ret)
		fail_with(err, why.code, "%s", why.msg);
	else
		*binding = b;
out:
	if (pr)
		blkid_free_probe(pr);
	if (fd >= 0)
		close(fd);
	if (blkfd >= 0)
		close(blkfd);
	return ret;
}
