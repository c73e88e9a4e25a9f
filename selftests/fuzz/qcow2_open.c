// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libFuzzer target: whatever bytes an image file has, opening, mapping, reading,
 * checking and writing it, and editing its bitmaps, ends, within the bounds of memory.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "qcow2.h"

#define CHUNK	8192u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t buf[CHUNK];

static void look(struct qcow2_image *img)
{
	struct qcow2_check_report rep;
	struct qcow2_error err;
	struct qcow2_run run;
	struct qcow2_layer l;
	struct qcow2_header_ext ext;
	uint64_t off = 0, total = qcow2_size(img), step;
	unsigned int n;

	if (qcow2_get_layer(img, 0, &l) || !l.path)
		abort();
	(void)qcow2_get_ext(img, 0, QCOW2_EXT_BITMAPS, &ext);
	for (n = 0; off < total && n < 200; n++) {
		if (qcow2_map(img, off, total - off, &run, &err)) {
			if (strlen(err.msg) >= sizeof(err.msg) || err.code <= 0)
				abort();
			off += l.cluster_size - off % l.cluster_size;
			continue;
		}
		if (run.offset != off || !run.length || run.length > total - off)
			abort();
		if (run.type == QCOW2_RUN_DATA && l.data_file && run.fd != l.data_fd)
			abort();
		if (run.type == QCOW2_RUN_DATA && !l.data_file &&
		    (run.fd < 0 || run.host_offset + run.length > l.file_size))
			abort();
		off += run.length;
	}
	step = total / 32 + 1;
	for (off = 0; off < total; off += step)
		(void)qcow2_read(img, off, buf, total - off < CHUNK ? total - off : CHUNK, &err);
	if (!qcow2_check(img, 0, &rep, &err) && rep.corruptions + rep.leaks && !rep.first[0])
		abort();
}

static void bitmaps(struct qcow2_image *img)
{
	struct qcow2_error err;
	struct qcow2_bitmap b;
	unsigned int nr, i, found;
	uint64_t host, n;

	if (qcow2_bitmap_count(img, &nr, &err)) {
		if (strlen(err.msg) >= sizeof(err.msg) || err.code <= 0)
			abort();
		return;
	}
	for (i = 0; i < nr && i < 50; i++) {
		if (qcow2_get_bitmap(img, i, &b) || strlen(b.name) != b.name_len ||
		    qcow2_find_bitmap(img, b.name, b.name_len, &found) || found != i)
			abort();
		n = b.bytes < CHUNK ? b.bytes : CHUNK;
		(void)qcow2_bitmap_read(img, i, 0, buf, n, &err);
		(void)qcow2_bitmap_read(img, i, b.bytes - n, buf, n, &err);
		(void)qcow2_bitmap_read(img, i, b.bytes, buf, 1, &err);
		(void)qcow2_bitmap_place(img, i, &host, &err);
	}
}

/* keep some, take the place of one, add some; *nr: how many there have to be */
static struct qcow2_bitmaps_edit *edit(struct qcow2_image *img, unsigned int *nr)
{
	struct qcow2_bitmaps_edit *e = NULL;
	struct qcow2_error err;
	struct qcow2_bitmap b;
	unsigned int old, i;
	uint64_t host;

	*nr = 0;
	if (qcow2_bitmaps_edit_begin(img, &e, &err))
		return NULL;
	if (qcow2_bitmap_count(img, &old, &err))
		abort();
	for (i = 0; i < old && i < 50; i++) {
		if (qcow2_get_bitmap(img, i, &b))
			abort();
		if (i % 3 == 0)
			*nr += !qcow2_edit_keep(e, i, b.flags ^ QCOW2_BITMAP_AUTO, &err);
		else if (i % 3 == 1)
			*nr += !qcow2_edit_keep_as(e, i, "other", 5, b.flags | QCOW2_BITMAP_IN_USE, &err);
		else if (!qcow2_bitmap_place(img, i, &host, &err))
			*nr += !qcow2_edit_add_at(e, "taken", 5, b.granularity_bits, 0, host, &err);
	}
	if (qcow2_edit_clusters(img, 20) < 100)
		*nr += !qcow2_edit_add(e, "new", 3, 20, QCOW2_BITMAP_AUTO, &host, &err);
	if (!qcow2_edit_alloc(e, 4, &host, &err) && qcow2_edit_clusters(img, 31) < 4)
		*nr += !qcow2_edit_add_at(e, "place", 5, 31, 0, host, &err);
	return e;
}

static void change_bitmaps(struct qcow2_image *img)
{
	struct qcow2_check_report rep;
	struct qcow2_bitmaps_edit *e;
	struct qcow2_error err;
	unsigned int nr, got;

	qcow2_edit_abort(edit(img, &nr));
	e = edit(img, &nr);
	if (!e)
		return;
	if (!qcow2_edit_commit(e, &err) && (qcow2_bitmap_count(img, &got, &err) || got != nr))
		abort();
	(void)qcow2_set_ext(img, 0x12345678, "some data", 9, 400, &err);
	(void)qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, &err);
	if (!qcow2_bitmaps_edit_begin(img, &e, &err))
		(void)qcow2_edit_commit(e, &err);
}

/* a compressed cluster reads as what it was made of */
static void pack(struct qcow2_image *img)
{
	uint32_t cs = qcow2_cluster_size(img);
	uint64_t total = qcow2_size(img), off = 0;
	struct qcow2_error err;
	struct qcow2_layer l;
	uint8_t *in, *out;
	unsigned int n;
	size_t len;

	if (cs > 65536 || qcow2_get_layer(img, 0, &l))
		return;
	in = malloc(cs);
	out = malloc(cs);
	if (!in || !out)
		abort();
	for (n = 0; n < 4 && off < total; n++, off += (uint64_t)cs * (n + 1)) {
		uint64_t left = total - off < cs ? total - off : cs;

		memset(in, (int)n + 1, cs);
		if (qcow2_compress(l.compression, 1, in, cs, out, &len))
			abort();
		if (qcow2_write_compressed(img, off, out, len, &err))
			break;
		if (qcow2_read(img, off, out, left, &err) || memcmp(in, out, left))
			abort();
	}
	free(in);
	free(out);
}

static void change(struct qcow2_image *img)
{
	struct qcow2_error err;
	uint64_t total = qcow2_size(img), host, got, cs = qcow2_cluster_size(img), off;
	int ret = 0;

	memset(buf, 0x5a, sizeof(buf));
	for (off = 0; !ret && off < total && off < 6 * CHUNK; off += CHUNK / 2 + 100)
		ret = qcow2_write(img, off, buf, total - off < CHUNK ? total - off : CHUNK, &err);
	if (total) {
		off = (total - 1) / cs * cs;
		(void)qcow2_alloc_write(img, off, total - off, &host, &got, &err);
		(void)qcow2_set_zero(img, off, total - off, &err);
		if (total > 4 * cs)
			(void)qcow2_set_zero(img, 0, 3 * cs, &err);
	}
	(void)qcow2_flush(img, &err);
	pack(img);
	(void)qcow2_flush(img, &err);
}

/*
 * A directory of our own, with the image, and a data file for those that name it:
 * they are opened so that they can name nothing outside. The files are in memory.
 */
#define IMAGE_FD	100
#define GUEST_FD	101

static char dir[] = "/tmp/cbw-fuzz-XXXXXX", image_path[64], guest_path[64];

static void remove_dir(void)
{
	unlink(image_path);
	unlink(guest_path);
	rmdir(dir);
}

static void make_dir(void)
{
	if (image_path[0])
		return;
	if (!mkdtemp(dir)) {
		perror("mkdtemp");
		exit(1);
	}
	snprintf(image_path, sizeof(image_path), "%s/image", dir);
	snprintf(guest_path, sizeof(guest_path), "%s/guest", dir);
	atexit(remove_dir);
	if (symlink("/proc/self/fd/100", image_path) || symlink("/proc/self/fd/101", guest_path)) {
		perror("symlink");
		exit(1);
	}
}

static void make_file(int as, const uint8_t *data, size_t size, size_t len)
{
	int fd = memfd_create("file", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size || ftruncate(fd, (off_t)len) || dup2(fd, as) != as) {
		perror("memfd");
		abort();
	}
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_image *img = NULL;
	struct qcow2_error err;
	unsigned int flags = QCOW2_OPEN_NO_BACKING | QCOW2_OPEN_SAME_DIR;

	make_dir();
	make_file(IMAGE_FD, data, size, size);
	make_file(GUEST_FD, data, size < 4096 ? size : 4096, 49664);
	if (!qcow2_open(image_path, flags, &img, &err)) {
		look(img);
		bitmaps(img);
		qcow2_close(img);
	}
	if (!qcow2_open(image_path, flags | QCOW2_OPEN_WRITE | (size & 1 ? QCOW2_OPEN_REUSE : 0), &img, &err)) {
		change_bitmaps(img);
		qcow2_close(img);
		if (qcow2_open(image_path, flags, &img, &err))
			abort();
		look(img);
		bitmaps(img);
		qcow2_close(img);
	}
	if (!qcow2_open(image_path, flags | QCOW2_OPEN_WRITE | (size & 2 ? QCOW2_OPEN_REUSE : 0), &img, &err)) {
		change(img);
		look(img);
		bitmaps(img);
		qcow2_close(img);
	}
	close(IMAGE_FD);
	close(GUEST_FD);
	return 0;
}
