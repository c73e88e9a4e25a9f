// SPDX-License-Identifier: GPL-2.0-or-later
/* Bitmaps that we write: stock tools read and change them */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bitmaps.h"

#define PRIVATE	0x43425753u

static struct qcow2_image *create(const char *path, uint64_t size, uint32_t cs)
{
	struct qcow2_image *img = NULL;

	ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = size, .cluster_size = cs,
			.flags = QCOW2_CREATE_BITMAPS }, &img, err));
	return img;
}

static struct qcow2_image *open_rw(const char *path, unsigned int more)
{
	struct qcow2_image *img = NULL;

	ok(qcow2_open(path, QCOW2_OPEN_WRITE | more, &img, err));
	return img;
}

static uint64_t file_size(struct qcow2_image *img)
{
	struct qcow2_layer l;

	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	return l.file_size;
}

/* what qemu-nbd exports of a bitmap: "data": false is what is dirty */
static void exported(const char *path, const struct model *m, uint64_t size)
{
	uint8_t *seen = calloc(1, m->bytes);
	char sock[512], pid[512], line[512];
	uint64_t g;
	FILE *f;

	assert_non_null(seen);
	snprintf(sock, sizeof(sock), "%s", scratch("sock"));
	snprintf(pid, sizeof(pid), "%s", scratch("pid"));
	run_ok("qemu-nbd --fork --pid-file='%s' -r -t -k '%s' -f qcow2 -B '%s' '%s'", pid, sock, m->name, path);
	run_ok("qemu-img map --output=json --image-opts 'driver=nbd,server.type=unix,server.path=%s,"
	       "x-dirty-bitmap=qemu:dirty-bitmap:%s' >'%s'", sock, m->name, scratch("map"));
	run_ok("p=$(cat '%s'); kill $p; for i in $(seq 500); do kill -0 $p || exit 0; sleep 0.01; done; exit 1", pid);
	f = fopen(scratch("map"), "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		unsigned long long start, len;
		const char *p = strstr(line, "\"start\": ");

		if (!p || sscanf(p, "\"start\": %llu, \"length\": %llu", &start, &len) != 2)
			continue;
		assert_true(start + len <= size);
		if (!strstr(line, "\"data\": false"))
			continue;
		for (g = start >> m->bits; g <= (start + len - 1) >> m->bits; g++)
			seen[g / 8] |= (uint8_t)(1u << (g % 8));
	}
	fclose(f);
	if (memcmp(seen, m->data, m->bytes))
		fail_msg("%s: qemu-nbd exports other extents", m->name);
	free(seen);
}

static void listed(const char *path, const struct models *m)
{
	unsigned int i;

	for (i = 0; i < m->nr; i++)
		run_ok("qemu-img info -f qcow2 --output=json '%s' | tr -d ' \\n' | "
		       "grep -qF '{\"flags\":[%s],\"name\":\"%s\",\"granularity\":%llu}'", path,
		       m->m[i].flags & QCOW2_BITMAP_AUTO ? "\"auto\"" : "", m->m[i].name, 1ull << m->m[i].bits);
}

static void read_by_qemu(void **state)
{
	static const uint32_t cs[] = { 512, 4096, 65536, 2097152 };
	uint64_t size = 50 * MIB + 512 * 7;
	unsigned int i, k, nr;
	char path[512];

	(void)state;
	snprintf(path, sizeof(path), "%s", scratch("w.qcow2"));
	rnd_seed(51);
	for (i = 0; i < 4; i++) {
		struct qcow2_bitmaps_edit *edit = NULL;
		struct models m = { .nr = 0 };
		struct qcow2_image *img = create(path, size, cs[i]);
		struct qcow2_bitmap b;

		ok(qcow2_write(img, 3 * MIB, "data", 4, err));
		ok(qcow2_bitmaps_edit_begin(img, &edit, err));
		model_add(img, edit, &m, "fine", 9, 0);
		model_add(img, edit, &m, "medium", 16, QCOW2_BITMAP_AUTO);
		model_add(img, edit, &m, "coarse", 21, 0);
		model_add(img, edit, &m, "huge", 31, QCOW2_BITMAP_AUTO);
		model_add(img, edit, &m, "medium2", 16, 0);
		ok(qcow2_edit_commit(edit, err));
		assert_true(models_match(img, &m, true));
		qcow2_close(img);
		check_clean(path);
		listed(path, &m);
		for (k = 0; k < 4; k++)
			exported(path, &m.m[k], size);
		/* they change ours: merge, clear, disable, enable, remove, write */
		run_ok("cd '%s' && qemu-img bitmap --merge medium w.qcow2 medium2 && qemu-img bitmap --clear w.qcow2 fine && "
		       "qemu-img bitmap --disable w.qcow2 medium && qemu-img bitmap --enable w.qcow2 coarse && "
		       "qemu-img bitmap --remove w.qcow2 huge && qemu-io -f qcow2 -c 'write 6M 2M' w.qcow2", scratch(""));
		check_clean(path);
		img = open_rw(path, 0);
		ok(qcow2_bitmap_count(img, &nr, err));
		assert_int_equal(nr, 4);
		for (k = 0; k < m.m[1].bytes; k++)
			m.m[4].data[k] |= m.m[1].data[k];
		memset(m.m[0].data, 0, m.m[0].bytes);
		m.m[1].flags = 0;
		m.m[2].flags = QCOW2_BITMAP_AUTO;
		m.m[2].data[0] |= 1u << 3;
		free(m.m[3].data);
		m.m[3] = m.m[4];
		m.nr--;
		/* QEMU's order is its own */
		ok(qcow2_bitmaps_edit_begin(img, &edit, err));
		for (k = 0; k < 4; k++) {
			assert_int_equal(qcow2_find_bitmap(img, m.m[k].name, m.m[k].len, &nr), 0);
			assert_int_equal(qcow2_get_bitmap(img, nr, &b), 0);
			ok(qcow2_edit_keep(edit, nr, b.flags, err));
		}
		ok(qcow2_edit_commit(edit, err));
		assert_true(models_match(img, &m, true));
		qcow2_close(img);
		check_clean(path);
		listed(path, &m);
		models_free(&m);
	}
}

/* whatever is done, the image has what it should and not a cluster more */
static void random_edits(void **state)
{
	static const uint32_t cs[] = { 512, 4096, 65536 };
	const char *path = scratch("r.qcow2");
	unsigned int i, k;

	(void)state;
	rnd_seed(52);
	for (i = 0; i < 6; i++) {
		struct models m = { .nr = 0 }, was = { .nr = 0 };
		struct qcow2_image *img = create(path, 7 * MIB + 512, cs[i % 3]);
		uint64_t most = 0;

		if (i >= 3) {
			ok(qcow2_flush(img, err));
			qcow2_close(img);
			img = open_rw(path, QCOW2_OPEN_REUSE);
		}
		for (k = 0; k < 40; k++) {
			struct qcow2_bitmaps_edit *edit;
			struct qcow2_check_report rep;

			models_copy(&was, &m);
			edit = random_edit(img, &m);
			if (rnd_below(5) == 0) {
				qcow2_edit_abort(edit);
				models_copy(&m, &was);
				ok(qcow2_flush(img, err));
			} else {
				ok(qcow2_edit_commit(edit, err));
			}
			assert_true(models_match(img, &m, true));
			ok(qcow2_check(img, 0, &rep, err));
			if (rep.corruptions || rep.leaks)
				fail_msg("round %u: %llu corruptions, %llu leaks: %s", k, (unsigned long long)rep.corruptions,
					 (unsigned long long)rep.leaks, rep.first);
			assert_int_equal(rep.bitmaps, m.nr);
			if (k == 20)
				most = file_size(img);
			if (k % 10 == 9) {
				qcow2_close(img);
				run_ok("qemu-img check -q '%s'", path);
				img = open_rw(path, i >= 3 ? QCOW2_OPEN_REUSE : 0);
				assert_true(models_match(img, &m, true));
			}
		}
		/* with reuse the file does not grow for ever */
		if (i >= 3)
			assert_true(file_size(img) < 2 * most);
		qcow2_close(img);
		models_free(&m);
		models_free(&was);
	}
}

/* where extensions lie: the layout of a container, kept by edits, restored after QEMU */
static void extensions(void **state)
{
	char path[512];
	static uint8_t data[57344], got[57344];
	struct qcow2_header_ext ext[] = {
		{ .type = PRIVATE, .len = sizeof(data), .data = data, .data_offset = 4096 },
		{ .type = 0x11223344, .len = 3, .data = "abc" },
	}, e;
	struct qcow2_create_opts o = { .virtual_size = 8 * MIB, .ext = ext, .ext_count = 2,
				       .flags = QCOW2_CREATE_BITMAPS | QCOW2_CREATE_NO_BACKING,
				       .backing_file = "./some/where/base.raw", .backing_format = "raw" };
	struct qcow2_bitmaps_edit *edit;
	struct models m = { .nr = 0 };
	struct qcow2_image *img = NULL;
	struct qcow2_error er;
	struct qcow2_layer l;
	uint64_t off = 0;
	unsigned int i, nr;

	(void)state;
	snprintf(path, sizeof(path), "%s", scratch("x.qcow2"));
	rnd_seed(55);
	for (i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)rnd();
	ok(qcow2_create(path, &o, &img, err));
	for (i = 0; i < 3; i++) {
		ok(qcow2_edit_commit(random_edit(img, &m), err));
		assert_int_equal(qcow2_ext_offset(img, PRIVATE, &off), 0);
		assert_int_equal(off, 4096);
		assert_int_equal(pread(qcow2_fd(img), got, sizeof(got), 4096), sizeof(got));
		assert_memory_equal(got, data, sizeof(got));
		assert_int_equal(qcow2_ext_offset(img, QCOW2_EXT_BITMAPS, &off), m.nr ? 0 : -ENOENT);
		/* written in place, and no edit brings back what it was */
		data[i] ^= 0xff;
		assert_int_equal(pwrite(qcow2_fd(img), data, sizeof(data), 4096), sizeof(data));
		qcow2_close(img);
		run_ok("mkdir -p '%s' && truncate -s 8M '%s'", scratch("some/where"), scratch("some/where/base.raw"));
		check_clean(path);
		img = open_rw(path, QCOW2_OPEN_REUSE | QCOW2_OPEN_NO_BACKING);
		assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
		assert_string_equal(l.backing_file, "./some/where/base.raw");
		assert_true(models_match(img, &m, true));
	}
	assert_int_equal(qcow2_get_ext(img, 0, 0x11223344, &e), 0);
	assert_memory_equal(e.data, "abc", 3);
	/* replaced, of another length; the others stay where they are */
	ok(qcow2_set_ext(img, 0x11223344, "a longer one", 12, 0, err));
	assert_int_equal(qcow2_ext_offset(img, PRIVATE, &off), 0);
	assert_int_equal(off, 4096);
	assert_int_equal(pread(qcow2_fd(img), got, sizeof(got), 4096), sizeof(got));
	assert_memory_equal(got, data, sizeof(got));
	assert_true(models_match(img, &m, true));
	/* no room, no place */
	assert_int_equal(qcow2_set_ext(img, 0x55, data, 8, 144, &er), -EINVAL);
	assert_non_null(strstr(er.msg, "extension 0x00000055: data_offset 144 overlaps header extension 0x"));
	assert_int_equal(qcow2_set_ext(img, 0x55, data, 5000, 0, &er), -EINVAL);
	assert_non_null(strstr(er.msg, "do not fit"));
	assert_int_equal(qcow2_set_ext(img, PRIVATE, data, 8, 4097, &er), -EINVAL);
	assert_non_null(strstr(er.msg, "data_offset 4097 with 8 bytes is not a multiple of 8"));
	assert_int_equal(qcow2_set_ext(img, PRIVATE, data, 57344, 32768, &er), -EINVAL);
	assert_int_equal(qcow2_set_ext(img, PRIVATE, data, 8, 8, &er), -EINVAL);
	assert_int_equal(qcow2_set_ext(img, PRIVATE, data, 8, 1ull << 63, &er), -EINVAL);
	assert_int_equal(qcow2_set_ext(img, QCOW2_EXT_BITMAPS, data, 24, 0, &er), -EINVAL);
	assert_int_equal(qcow2_set_ext(img, QCOW2_EXT_PADDING, data, 24, 0, &er), -EINVAL);
	assert_true(models_match(img, &m, true));
	edit = NULL;
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	model_add(img, edit, (models_free(&m), &m), "ours", 16, 0);
	ok(qcow2_edit_commit(edit, err));
	qcow2_close(img);
	check_clean(path);
	/* QEMU writes the header in its way, and keeps what it does not know */
	run_ok("qemu-img bitmap --add '%s' theirs && qemu-img bitmap --remove '%s' theirs", path, path);
	img = open_rw(path, QCOW2_OPEN_REUSE | QCOW2_OPEN_NO_BACKING);
	assert_true(models_match(img, &m, true));
	assert_int_equal(qcow2_get_ext(img, 0, PRIVATE, &e), 0);
	assert_int_equal(e.len, sizeof(data));
	assert_memory_equal(e.data, data, sizeof(data));
	assert_int_not_equal(e.data_offset, 4096);
	ok(qcow2_set_ext(img, PRIVATE, data, sizeof(data), 4096, err));
	assert_int_equal(qcow2_ext_offset(img, PRIVATE, &off), 0);
	assert_int_equal(off, 4096);
	assert_int_equal(qcow2_ext_offset(img, QCOW2_EXT_BITMAPS, &off), 0);
	assert_true(off + 24 <= 512);
	assert_true(models_match(img, &m, true));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	ok(qcow2_edit_commit(edit, err));
	ok(qcow2_bitmap_count(img, &nr, err));
	assert_int_equal(nr, 0);
	qcow2_close(img);
	check_clean(path);
	run_ok("! qemu-img info '%s' | grep -q bitmaps:", path);
	models_free(&m);
	/* too much for the cluster */
	ext[0].data_offset = 10000;
	assert_int_equal(qcow2_create(scratch("none"), &o, &img, &er), -EINVAL);
}

/* guest data in an image with bitmaps: those that record go, others stay */
static void guest_writes(void **state)
{
	const char *path = scratch("g.qcow2");
	struct qcow2_image *img = create(path, 4 * MIB, 4096);
	struct qcow2_bitmaps_edit *edit = NULL, *other = NULL;
	struct qcow2_check_report rep;
	struct models m = { .nr = 0 };
	struct qcow2_error e;
	struct qcow2_layer l;
	unsigned int nr;

	(void)state;
	rnd_seed(56);
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	assert_int_equal(qcow2_bitmaps_edit_begin(img, &other, &e), -EBUSY);
	assert_int_equal(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, &e), -EBUSY);
	model_add(img, edit, &m, "off", 16, 0);
	model_add(img, edit, &m, "broken", 16, QCOW2_BITMAP_AUTO | QCOW2_BITMAP_IN_USE);
	ok(qcow2_edit_commit(edit, err));
	ok(qcow2_write(img, MIB, "x", 1, err));
	ok(qcow2_flush(img, err));
	assert_true(models_match(img, &m, true));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	ok(qcow2_edit_keep(edit, 0, 0, err));
	model_add(img, edit, (models_free(&m), &m), "on", 16, QCOW2_BITMAP_AUTO);
	ok(qcow2_edit_commit(edit, err));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	/* it records: the edit could keep it, and it would have missed this */
	assert_int_equal(qcow2_write(img, 0, "x", 1, &e), -EBUSY);
	qcow2_edit_abort(edit);
	ok(qcow2_write(img, 0, "x", 1, err));
	ok(qcow2_flush(img, err));
	ok(qcow2_bitmap_count(img, &nr, err));
	assert_int_equal(nr, 0);
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 0);
	ok(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, err));
	assert_true(rep.leaks >= 5 && rep.leaks_fixed == rep.leaks);
	ok(qcow2_check(img, 0, &rep, err));
	assert_int_equal(rep.leaks, 0);
	/* and one can begin again */
	ok(qcow2_edit_commit(random_edit(img, (models_free(&m), &m)), err));
	assert_true(models_match(img, &m, true));
	qcow2_close(img);
	check_clean(path);
	/* unknown autoclear bits go, that of bitmaps stays */
	{
		int fd = open(path, O_RDWR);
		uint8_t b = 0x80;

		assert_int_equal(pwrite(fd, &b, 1, 88), 1);
		close(fd);
	}
	img = open_rw(path, 0);
	ok(qcow2_edit_commit(random_edit(img, &m), err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, m.nr ? 1 : 0);
	assert_true(models_match(img, &m, true));
	qcow2_close(img);
	check_clean(path);
	models_free(&m);
}

static void bad_arguments(void **state)
{
	const char *path = scratch("a.qcow2");
	struct qcow2_image *img = create(path, 4 * MIB, 512);
	struct qcow2_bitmaps_edit *edit = NULL;
	struct models m = { .nr = 0 };
	char name[1100];
	struct qcow2_error e;
	uint64_t host = 0, at = 0;

	(void)state;
	rnd_seed(57);
	memset(name, 'n', sizeof(name));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	model_add(img, edit, &m, "a", 9, 0);
	model_add(img, edit, &m, "b", 9, 0);
	ok(qcow2_edit_commit(edit, err));
	ok(qcow2_bitmap_place(img, 0, &host, err));
	assert_int_equal(qcow2_edit_clusters(img, 9), 2);
	assert_int_equal(qcow2_edit_clusters(img, 8), 0);
	assert_int_equal(qcow2_edit_clusters(img, 32), 0);
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	assert_int_equal(qcow2_edit_keep(edit, 2, 0, &e), -EINVAL);
	assert_int_equal(qcow2_edit_keep(edit, 0, 4, &e), -EINVAL);
	ok(qcow2_edit_keep_as(edit, 0, name, 1023, 0, err));
	assert_int_equal(qcow2_edit_keep(edit, 0, 0, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "bitmap 'a' is kept already"));
	assert_int_equal(qcow2_edit_keep_as(edit, 1, name, 1023, 0, &e), -EINVAL);
	assert_int_equal(qcow2_edit_keep_as(edit, 1, name, 1024, 0, &e), -EINVAL);
	assert_int_equal(qcow2_edit_keep_as(edit, 1, name, 0, 0, &e), -EINVAL);
	assert_int_equal(qcow2_edit_keep_as(edit, 1, "a\0b", 3, 0, &e), -EINVAL);
	assert_int_equal(qcow2_edit_add(edit, "c", 1, 8, 0, &at, &e), -EINVAL);
	assert_int_equal(qcow2_edit_add(edit, "c", 1, 32, 0, &at, &e), -EINVAL);
	assert_int_equal(qcow2_edit_add(edit, "c", 1, 9, 8, &at, &e), -EINVAL);
	assert_int_equal(qcow2_edit_alloc(edit, 0, &at, &e), -EINVAL);
	/* kept, the guest's, metadata, not aligned, past the end */
	assert_int_equal(qcow2_edit_add_at(edit, "c", 1, 9, 0, host, &e), -EINVAL);
	assert_int_equal(qcow2_edit_add_at(edit, "c", 1, 9, 0, 0, &e), -EINVAL);
	assert_int_equal(qcow2_edit_add_at(edit, "c", 1, 9, 0, host + 8, &e), -EINVAL);
	assert_int_equal(qcow2_edit_add_at(edit, "c", 1, 9, 0, 1ull << 62, &e), -EINVAL);
	ok(qcow2_edit_alloc(edit, 3, &at, err));
	assert_int_equal(qcow2_edit_add_at(edit, "c", 1, 9, 0, at + 1024, &e), -EINVAL);
	ok(qcow2_edit_add_at(edit, "c", 1, 9, 0, at + 512, err));
	assert_int_equal(qcow2_edit_add_at(edit, "d", 1, 9, 0, at, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "bitmap 'c' has clusters of this range"));
	ok(qcow2_edit_add_at(edit, "d", 1, 16, 0, at, err));
	ok(qcow2_edit_commit(edit, err));
	qcow2_close(img);
	check_clean(path);
	ok(qcow2_open(path, 0, &img, err));
	assert_int_equal(qcow2_bitmaps_edit_begin(img, &edit, &e), -EROFS);
	assert_int_equal(qcow2_set_ext(img, 1, "", 0, 0, &e), -EROFS);
	assert_int_equal(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &(struct qcow2_check_report){ 0 }, &e), -EROFS);
	qcow2_close(img);
	models_free(&m);
	img = create(path, 0, 512);
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	assert_int_equal(qcow2_edit_add(edit, "c", 1, 9, 0, &at, &e), -EINVAL);
	ok(qcow2_edit_commit(edit, err));
	qcow2_close(img);
	img = create(path, 3 * TIB, 65536);
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	assert_int_equal(qcow2_edit_add(edit, "c", 1, 9, 0, &at, &e), -EFBIG);
	qcow2_edit_abort(edit);
	qcow2_close(img);
}

/* many: names, directory of several clusters; QEMU loads them all */
static void many(void **state)
{
	const char *path = scratch("many.qcow2");
	struct qcow2_image *img = create(path, 64 * MIB, 4096);
	struct qcow2_bitmaps_edit *edit = NULL;
	struct qcow2_bitmap b;
	static uint8_t zero[4096];
	unsigned int i, k, nr = 2000;
	char name[300];
	uint64_t host;

	(void)state;
	for (k = 0; k < 2; k++) {
		ok(qcow2_bitmaps_edit_begin(img, &edit, err));
		for (i = 0; i < nr; i++) {
			int len = sprintf(name, "%0*u", 1 + (int)(i % 200 > 3 ? i % 200 : 4), i);

			if (k) {
				ok(qcow2_edit_keep(edit, nr - 1 - i, 0, err));
				continue;
			}
			ok(qcow2_edit_add(edit, name, (size_t)len, 16, 0, &host, err));
			assert_int_equal(pwrite(qcow2_fd(img), zero, 4096, (off_t)host), 4096);
		}
		ok(qcow2_edit_commit(edit, err));
	}
	for (i = 0; i < nr; i += 7) {
		int len = sprintf(name, "%0*u", 1 + (int)(i % 200 > 3 ? i % 200 : 4), i);

		assert_int_equal(qcow2_find_bitmap(img, name, (size_t)len, &k), 0);
		assert_int_equal(k, nr - 1 - i);
		assert_int_equal(qcow2_get_bitmap(img, k, &b), 0);
		assert_string_equal(b.name, name);
	}
	qcow2_close(img);
	check_clean(path);
	run_ok("test $(qemu-img info '%s' | grep -c granularity:) = %u", path, nr);
}

/* leaks are given back; with any corruption nothing is touched */
static void repairs(void **state)
{
	static const struct { off_t at; uint16_t count; bool corrupt; } c[] = {
		{ 18, 1, false },	/* an unused cluster */
		{ 12, 0, true },	/* guest data */
	};
	const char *path = scratch("l.qcow2");
	unsigned int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct qcow2_image *img = NULL;
		struct qcow2_check_report rep;
		struct qcow2_error e;
		uint8_t count[2] = { 0, (uint8_t)c[i].count }, *a, *b;
		size_t la, lb;

		/* header, block, table, L1, L2, data in 5 and 6; ten clusters in all */
		ok(qcow2_create(path, &(struct qcow2_create_opts){ .virtual_size = 4 * MIB }, &img, err));
		ok(qcow2_write(img, 0, path, 5, err));
		ok(qcow2_write(img, MIB, path, 5, err));
		ok(qcow2_flush(img, err));
		assert_int_equal(pwrite(qcow2_fd(img), count, 2, 65536 + c[i].at), 2);
		qcow2_close(img);
		run_ok("truncate -s 655360 '%s'", path);
		a = read_file(path, &la);
		img = open_rw(path, 0);
		if (c[i].corrupt) {
			assert_int_equal(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, &e), -EUCLEAN);
			assert_non_null(strstr(e.msg, "nothing was repaired, as there are 2 corruptions"));
			assert_int_equal(rep.corruptions, 2);
			b = read_file(path, &lb);
			assert_int_equal(la, lb);
			assert_memory_equal(a, b, la);
			free(b);
		} else {
			ok(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &rep, err));
			assert_int_equal(rep.leaks, 1);
			assert_int_equal(rep.leaks_fixed, 1);
			assert_int_equal(qcow2_repair(img, 0, &rep, &e), -EINVAL);
			check_clean(path);
		}
		free(a);
		qcow2_close(img);
	}
}

/* guest data, too, takes what is free */
static void reuse(void **state)
{
	uint64_t size = 2 * MIB;
	uint8_t *ref = calloc(1, size);
	const char *path = scratch("re.qcow2");
	struct qcow2_image *img = create(path, size, 4096);
	struct qcow2_bitmaps_edit *edit = NULL;
	struct models m = { .nr = 0 };
	uint64_t before;
	unsigned int i;

	(void)state;
	assert_non_null(ref);
	rnd_seed(58);
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	for (i = 0; i < 20; i++) {
		char name[8];

		sprintf(name, "b%u", i);
		model_add(img, edit, &m, name, 9, 0);
	}
	ok(qcow2_edit_commit(edit, err));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	ok(qcow2_edit_commit(edit, err));
	qcow2_close(img);
	img = open_rw(path, QCOW2_OPEN_REUSE);
	before = file_size(img);
	stamp(ref, 0, 30 * 4096, 1);
	engine_write(img, 0, ref, 30 * 4096);
	ok(qcow2_flush(img, err));
	assert_int_equal(file_size(img), before);
	for (i = 0; i < 200; i++)
		random_step(img, ref, size, i + 2);
	ok(qcow2_flush(img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	check_clean(path);
	/* and the same on a file full of holes, by compressed clusters that were overwritten */
	write_file(scratch("re.raw"), ref, size);
	run_ok("qemu-img convert -c -f raw -O qcow2 -o cluster_size=4096 '%s' '%s'", scratch("re.raw"), path);
	img = open_rw(path, QCOW2_OPEN_REUSE);
	for (i = 0; i < 300; i++)
		random_step(img, ref, size, i + 300);
	ok(qcow2_flush(img, err));
	same_content(img, ref, size);
	qcow2_close(img);
	check_clean(path);
	models_free(&m);
	free(ref);
}

/* a file that ends in the middle of a cluster, which is free */
static void odd_end(void **state)
{
	const char *path = scratch("odd.qcow2");
	struct qcow2_image *img = create(path, 4 * MIB, 512);
	struct qcow2_bitmaps_edit *edit = NULL;
	struct models m = { .nr = 0 };
	unsigned int i;

	(void)state;
	rnd_seed(59);
	ok(qcow2_flush(img, err));
	qcow2_close(img);
	for (i = 0; i < 5; i++) {
		run_ok("truncate -s +%u '%s'", 100 + 512 * i, path);
		img = open_rw(path, QCOW2_OPEN_REUSE);
		models_free(&m);
		ok(qcow2_bitmaps_edit_begin(img, &edit, err));
		model_add(img, edit, &m, "one", 31, 0);
		ok(qcow2_edit_commit(edit, err));
		assert_true(models_match(img, &m, true));
		qcow2_close(img);
		check_clean(path);
	}
	models_free(&m);
}

/* bitmaps and a raw data file: two autoclear bits, each with a life of its own */
static void raw_data_file(void **state)
{
	const char *path = scratch("df.qcow2");
	struct qcow2_create_opts o = { .virtual_size = 4 * MIB, .data_file = scratch("df.raw"), .data_file_raw = true,
				       .flags = QCOW2_CREATE_BITMAPS };
	struct qcow2_bitmaps_edit *edit = NULL;
	struct qcow2_image *img = NULL;
	struct models m = { .nr = 0 };
	struct qcow2_layer l;

	(void)state;
	rnd_seed(60);
	ok(qcow2_create(path, &o, &img, err));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	model_add(img, edit, &m, "one", 16, QCOW2_BITMAP_AUTO);
	ok(qcow2_edit_commit(edit, err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 3);
	qcow2_close(img);
	check_clean(path);
	listed(path, &m);
	img = open_rw(path, 0);
	assert_true(models_match(img, &m, true));
	ok(qcow2_set_ext(img, PRIVATE, "x", 1, 8192, err));
	assert_true(models_match(img, &m, true));
	ok(qcow2_write(img, MIB, "x", 1, err));
	ok(qcow2_flush(img, err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 2);
	ok(qcow2_repair(img, QCOW2_REPAIR_LEAKS, &(struct qcow2_check_report){ 0 }, err));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	models_free(&m);
	model_add(img, edit, &m, "two", 16, 0);
	ok(qcow2_edit_commit(edit, err));
	ok(qcow2_bitmaps_edit_begin(img, &edit, err));
	ok(qcow2_edit_commit(edit, err));
	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	assert_int_equal(l.autoclear, 2);
	qcow2_close(img);
	check_clean(path);
	models_free(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_by_qemu),
		cmocka_unit_test(random_edits),
		cmocka_unit_test(extensions),
		cmocka_unit_test(guest_writes),
		cmocka_unit_test(bad_arguments),
		cmocka_unit_test(many),
		cmocka_unit_test(repairs),
		cmocka_unit_test(reuse),
		cmocka_unit_test(odd_end),
		cmocka_unit_test(raw_data_file),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("qcow2-bitmap-edit", tests, scratch_setup, scratch_teardown);
}
