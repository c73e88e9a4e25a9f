// SPDX-License-Identifier: GPL-2.0-or-later
/* reads all that an image itself has */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "qcow2.h"
#include "scan.h"

/* Reads in flight. Checksums and decompression are as many threads' work. */
#define THREADS	4
#define BLOCK	4096u

void *scan_buffer(void)
{
	void *buf;

	if (posix_memalign(&buf, BLOCK, SUMS_RANGE)) {
		fputs("cbw: out of memory\n", stderr);
		exit(EXIT_FAILED);
	}
	return buf;
}

void scan_source_open(struct scan_source *s, struct qcow2_image *img,
		      const char *path)
{
	char name[40];

	*s = (struct scan_source){ .img = img, .path = path, .fd = -1 };
	snprintf(name, sizeof(name), "/proc/self/fd/%d", qcow2_fd(img));
	/* what is on the disk counts, not what memory still has of it */
	if (qcow2_cluster_size(img) >= BLOCK)
		s->fd = open(name, O_RDONLY | O_DIRECT | O_CLOEXEC);
}

void scan_source_close(struct scan_source *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* At least @len bytes, of @ask that would be whole blocks. */
static int read_at(const struct scan_source *s, char *buf, size_t len,
		   size_t ask, uint64_t offset)
{
	int fd = s->fd >= 0 ? s->fd : qcow2_fd(s->img);
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, buf + done, ask - done,
				  (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		/* also behind a short read, whose end is at no block's */
		if (n < 0 && errno == EINVAL && fd == s->fd) {
			fd = qcow2_fd(s->img);
			continue;
		}
		if (n <= 0)
			return n ? -errno : -EUCLEAN;
		done += (size_t)n;
	}
	return 0;
}

static int read_run(const struct scan_source *s, const struct qcow2_run *run,
		    char *buf, uint32_t cluster, struct cbw_error *err)
{
	size_t len = (size_t)run->length;
	size_t whole = (len + cluster - 1) / cluster * cluster;
	struct qcow2_error qerr;
	int ret;

	if (run->type == QCOW2_RUN_COMPRESSED) {
		ret = qcow2_read(s->img, run->offset, buf, len, &qerr);
		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
	} else {
		ret = read_at(s, buf, len, whole, run->host_offset);
		if (ret)
			return fail_with(err, ret, "%s: reading at %llu: %s", s->path,
					 (ull)run->host_offset, ret == -EUCLEAN ?
					 "the file is cut short" : strerror(-ret));
	}
	/* only the end of the volume cuts a cluster, and behind it there is nothing */
	memset(buf + len, 0, whole - len);
	return 0;
}

int scan_one(const struct scan_source *s, uint64_t nr, void *buf, bool *bad,
	     struct scan_range *r, struct cbw_error *err)
{
	uint64_t start = nr * SUMS_RANGE, at = start, size = qcow2_size(s->img);
	uint64_t end = size - start < SUMS_RANGE ? size : start + SUMS_RANGE, c;
	uint32_t cluster = qcow2_cluster_size(s->img);
	struct qcow2_error qerr;
	struct qcow2_run run;
	int ret;

	*r = (struct scan_range){ 0 };
	for (; at < end; at += run.length) {
		char *data = (char *)buf + (at - start);

		ret = qcow2_map_layer(s->img, 0, at, end - at, &run, &qerr);
		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
		if (run.type == QCOW2_RUN_ZERO)
			r->zeros += run.length;
		if (run.type != QCOW2_RUN_DATA && run.type != QCOW2_RUN_COMPRESSED)
			continue;
		ret = read_run(s, &run, data, cluster, err);
		if (bad && ret == -EUCLEAN && run.type == QCOW2_RUN_COMPRESSED) {
			memset(data, 0, cluster);
			bad[(at - start) / cluster] = true;
			r->nr_bad++;
			continue;
		}
		if (ret)
			return ret;
		r->copied += run.length;
		for (c = 0; c < run.length; c += cluster) {
			r->crc = crc_cluster(r->crc, at + c, data + c, cluster);
			r->bytes += CRC_CLUSTER_BYTES(cluster);
		}
	}
	return 0;
}

/* what the threads share */
struct work {
	struct scan_source source;
	struct scan *scan;
	struct scan_range *range;
	atomic_ullong next, done;
	pthread_mutex_t lock;		/* scan's bad, nr_bad, first */
};

static void note_bad(struct work *w, uint64_t nr, const struct cbw_error *err)
{
	pthread_mutex_lock(&w->lock);
	w->scan->bad[nr] = true;
	if (!w->scan->nr_bad++)
		w->scan->first = *err;
	pthread_mutex_unlock(&w->lock);
}

static void work(struct work *w, struct progress *progress)
{
	void *buf = scan_buffer();
	struct cbw_error err;
	uint64_t nr;

	while (!stop_signal &&
	       (nr = atomic_fetch_add(&w->next, 1)) < w->scan->sums.nr) {
		struct scan_range *r = &w->range[nr];

		if (scan_one(&w->source, nr, buf, NULL, r, &err)) {
			*r = (struct scan_range){ 0 };
			note_bad(w, nr, &err);
		}
		w->scan->sums.crc[nr] = r->crc;
		atomic_fetch_add(&w->done, r->copied);
		if (progress)
			progress_tick(progress, atomic_load(&w->done));
	}
	free(buf);
}

static void *thread(void *arg)
{
	work(arg, NULL);
	return NULL;
}

int scan_image(struct qcow2_image *img, const char *path,
	       struct progress *progress, struct scan *scan,
	       struct cbw_error *err)
{
	struct work w = { .scan = scan, .lock = PTHREAD_MUTEX_INITIALIZER };
	char *name = xstrdup(esc(path));
	pthread_t id[THREADS];
	int nr = 0, ret = 0;
	uint64_t i;

	*scan = (struct scan){ 0 };
	sums_init(&scan->sums, qcow2_size(img));
	scan->bad = xcalloc((size_t)scan->sums.nr, sizeof(*scan->bad));
	w.range = xcalloc((size_t)scan->sums.nr, sizeof(*w.range));
	scan_source_open(&w.source, img, name);
	while (nr < THREADS - 1 && !pthread_create(&id[nr], NULL, thread, &w))
		nr++;
	work(&w, progress);
	while (nr)
		pthread_join(id[--nr], NULL);
	scan_source_close(&w.source);
	for (i = 0; i < scan->sums.nr; i++) {
		scan->sums.total = crc32c_combine(scan->sums.total,
						  w.range[i].crc, w.range[i].bytes);
		scan->copied += w.range[i].copied;
		scan->zeros += w.range[i].zeros;
	}
	free(w.range);
	free(name);
	if (stop_signal) {
		scan_free(scan);
		ret = fail_with(err, EINTR, "stopped by signal %d",
				(int)stop_signal);
	}
	return ret;
}

void scan_free(struct scan *scan)
{
	sums_free(&scan->sums);
	free(scan->bad);
	*scan = (struct scan){ 0 };
}

int scan_compare(const struct chain *chain, const struct entry *e, const struct scan *scan,
		 struct cbw_error *err)
{
	if (scan->sums.total != e->crc || scan->copied != e->copied)
		return fail_with(err, EUCLEAN,
				 "%s/%s: its content has changed: checksum %08x of %llu bytes, the manifest says %08x of %llu",
				 esc(chain->dir), e->file, scan->sums.total,
				 (ull)scan->copied, e->crc, (ull)e->copied);
	return scan_compare_zeros(chain, e, scan->zeros, err);
}

int scan_compare_zeros(const struct chain *chain, const struct entry *e, uint64_t zeros,
		       struct cbw_error *err)
{
	if (!e->parent || zeros == e->zero)
		return 0;
	return fail_with(err, EUCLEAN,
			 "%s/%s: its zero clusters have changed: %llu bytes, the manifest says %llu",
			 esc(chain->dir), e->file, (ull)zeros, (ull)e->zero);
}
