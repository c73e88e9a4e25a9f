// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libFuzzer target: whatever bytes an image file has, opening, mapping, reading,
 * checking and writing it ends, within the bounds of memory.
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
		if (run.type == QCOW2_RUN_DATA &&
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
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_image *img = NULL;
	struct qcow2_error err;
	char path[64];
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
		perror("memfd");
		abort();
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &err)) {
		look(img);
		qcow2_close(img);
	}
	if (!qcow2_open(path, QCOW2_OPEN_NO_BACKING | QCOW2_OPEN_WRITE, &img, &err)) {
		change(img);
		look(img);
		qcow2_close(img);
	}
	close(fd);
	return 0;
}
