// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * agent VOLUME STORE-DEVICE IMAGE - bring a raw image of a tracked volume up to date
 * Build: cc agent.c -o agent $(pkg-config --cflags --libs libcbw)
 *
 * Copies what has changed since the last run, or everything where IMAGE.cut, the cut that the
 * image is of, is not the bitmap's base. An image is whole when its last run returned 0.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libcbw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BITMAP "agent"

static struct cbw_session *session;	/* ends with us, and an uncommitted cut with it */
static struct cbw_error error;
static struct cbw_dm_dev volume, snap;
static struct cbw_cut_id cut, last;
static _Alignas(4096) char buf[1 << 20];
static int from, to;

static void must(int ret)
{
	if (ret < 0)
		errx(1, "%s", error.msg);
}

/* A part of the snapshot: when it is safe, and was good until then, it may be forgotten. */
static int copy(const struct cbw_extent *e, void *errors)
{
	struct cbw_range r = { .offset = e->offset };
	uint64_t end = r.offset + e->length;
	struct cbw_snapshot_info info;

	for (; r.offset < end; r.offset += r.length) {
		r.length = end - r.offset < sizeof(buf) ? end - r.offset : sizeof(buf);
		if (pread(from, buf, r.length, r.offset) != (ssize_t)r.length ||
		    pwrite(to, buf, r.length, r.offset) != (ssize_t)r.length || fdatasync(to))
			return errno ? -errno : -EIO;
		if (cbw_snapshot_get_info(session, snap.dev, &cut, &info, errors) ||
		    info.out_state == CBW_SNAPSHOT_FAILED ||
		    cbw_release(session, snap.dev, &cut, &r, 1, errors))
			return -EIO;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct cbw_txn *add = cbw_txn_new(), *start = cbw_txn_new();
	struct cbw_bitmap bitmap = { 0 };
	struct stat st;
	char path[4096];
	int ret, id;

	if (argc != 4 || stat(argv[2], &st) || !S_ISBLK(st.st_mode) || !add || !start)
		errx(2, "usage: agent VOLUME STORE-DEVICE IMAGE");
	snprintf(path, sizeof(path), "%s.cut", argv[3]);
	to = open(argv[3], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	id = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (to < 0 || id < 0 || pread(id, &last, sizeof(last), 0) < 0)
		err(1, "%s", path);
	must(cbw_session_open(&session, &error));
	must(cbw_snapshot_remove_stale(NULL, &error));	/* of a predecessor who was killed */
	must(cbw_dm_find(argv[1], &volume, &error));
	if (cbw_bitmap_find(session, volume.dev, BITMAP, &bitmap, &error) == -ENOENT) {
		must(cbw_txn_bitmap_add(add, volume.dev, BITMAP, 0, 0, &error));
		must(cbw_txn_run(session, add, NULL, &error));
	}
	if (cbw_cut_is_none(&bitmap.base) || !cbw_cut_equal(&bitmap.base, &last))
		must(cbw_mark_dirty(session, volume.dev, BITMAP,
				    &(struct cbw_range){ .length = volume.size }, 1, &error));
	struct cbw_snapshot_opts opts = { .source = volume.dev, .bitmap = BITMAP, .armed = true,
		.store = { major(st.st_rdev), minor(st.st_rdev) }, .own = true,
		.buffer_kib = -1, .timeout_ms = -1 };
	must(cbw_snapshot_create(&opts, &snap, &error));
	must(from = cbw_dm_open(snap.dev, O_RDONLY | O_DIRECT, &error));
	must(cbw_txn_snapshot_start(start, snap.dev, &error));
	must(cbw_txn_run(session, start, &cut, &error));
	ret = cbw_bitmap_extents(session, volume.dev, BITMAP, &cut, 0, copy, &error, &error);
	if (ret)
		fprintf(stderr, "%s is not finished: %s\n", argv[3], strerror(-ret));
	/* Safe before the commit: killed in between, the next run copies everything. */
	if (ftruncate(to, volume.size) || fsync(to) ||
	    pwrite(id, &cut, sizeof(cut), 0) != sizeof(cut) || fsync(id))
		err(1, "%s", argv[3]);
	must(cbw_commit_cut(session, volume.dev, &cut,
			    ret ? CBW_COMMIT_ALWAYS : CBW_COMMIT_ON_SUCCESS, &error));
	close(from);
	must(cbw_snapshot_remove(snap.name, &error));
	return ret ? 1 : 0;
}
