// SPDX-License-Identifier: GPL-2.0-or-later
/* from a chain of images to a device or file */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cbw.h"
#include "progress.h"
#include "qcow2.h"
#include "restore.h"
#include "xfer.h"

#define ZERO_AT_ONCE	(256u << 20)	/* so that signals are heard */
#define BLOCK		4096u

struct restore_run {
	struct qcow2_image *img;
	struct restore_target *t;
	struct qcow2_run run;		/* what is left of the current run */
	uint64_t at;
	uint64_t size;
	int *direct;			/* per layer, -1: not opened yet */
	uint64_t done;
	struct progress progress;
	char *zeros;
};

static int write_plain(struct restore_run *r, const void *buf, uint64_t offset,
		       size_t len, struct cbw_error *err)
{
	const char *p = buf;

	while (len) {
		ssize_t n = pwrite(r->t->fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail_with(err, n ? errno : ENOSPC,
					 "%s: writing at offset %llu: %s",
					 esc(r->t->path), (ull)offset,
					 n ? strerror(errno) : "no room");
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* One part of a range of zeros, by the cheapest way there is. */
static int zero_part(struct restore_run *r, uint64_t offset, uint64_t len,
		     struct cbw_error *err)
{
	uint64_t range[2] = { offset, len };
	int ret = 0;

	if (r->t->blank)
		return 0;
	if (!(offset % r->t->lbs) && !(len % r->t->lbs)) {
		if (!fallocate(r->t->fd, FALLOC_FL_PUNCH_HOLE |
			       FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len))
			return 0;
		if (r->t->block && !ioctl(r->t->fd, BLKZEROOUT, range))
			return 0;
	}
	while (len && !ret) {
		size_t now = len < XFER_PIECE ? (size_t)len : XFER_PIECE;

		ret = write_plain(r, r->zeros, offset, now, err);
		offset += now;
		len -= now;
	}
	return ret;
}

static int zero_range(struct restore_run *r, uint64_t offset, uint64_t len,
		      struct cbw_error *err)
{
	while (len) {
		uint64_t now = len < ZERO_AT_ONCE ? len : ZERO_AT_ONCE;
		int ret = zero_part(r, offset, now, err);

		if (ret)
			return ret;
		if (stop_signal)
			return fail_with(err, EINTR, "stopped by signal %d",
					 (int)stop_signal);
		offset += now;
		len -= now;
		r->done += now;
		progress_tick(&r->progress, r->done);
	}
	return 0;
}

static int compressed(struct restore_run *r, uint64_t offset, uint64_t len,
		      struct cbw_error *err)
{
	char *buf = xcalloc((size_t)len, 1);
	struct qcow2_error qerr;
	int ret = qcow2_read(r->img, offset, buf, (size_t)len, &qerr);

	if (ret)
		ret = fail_with(err, ret, "%s", qerr.msg);
	else
		ret = write_plain(r, buf, offset, (size_t)len, err);
	free(buf);
	r->done += len;
	return ret;
}

/* The file of a layer, with O_DIRECT where its clusters let us. */
static int layer_fd(struct restore_run *r, uint32_t layer, int fd)
{
	struct qcow2_layer info;
	char path[40];

	if (r->direct[layer] >= 0)
		return r->direct[layer];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (!qcow2_get_layer(r->img, layer, &info) &&
	    info.cluster_size >= BLOCK)
		r->direct[layer] = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (r->direct[layer] < 0)
		r->direct[layer] = open(path, O_RDONLY | O_CLOEXEC);
	return r->direct[layer];
}

static int restore_next(void *ctx, struct xfer_piece *p, struct cbw_error *err)
{
	struct restore_run *r = ctx;
	struct qcow2_error qerr;
	uint64_t left;
	int ret;

	while (!r->run.length) {
		if (r->at == r->size)
			return 0;
		ret = qcow2_map(r->img, r->at, r->size - r->at, &r->run, &qerr);
		if (ret)
			return fail_with(err, ret, "%s", qerr.msg);
		r->at += r->run.length;
		switch (r->run.type) {
		case QCOW2_RUN_DATA:
			continue;
		case QCOW2_RUN_ZERO:
			ret = zero_range(r, r->run.offset, r->run.length, err);
			break;
		case QCOW2_RUN_COMPRESSED:
			ret = compressed(r, r->run.offset, r->run.length, err);
			break;
		default:
			ret = fail_with(err, EUCLEAN,
					"no image has the data at offset %llu",
					(ull)r->run.offset);
		}
		if (ret)
			return ret;
		r->run.length = 0;
	}
	left = XFER_PIECE - r->run.offset % XFER_PIECE;
	p->length = (uint32_t)(left < r->run.length ? left : r->run.length);
	/* whole blocks for O_DIRECT; images end with a whole cluster */
	p->ask = (p->length + BLOCK - 1) / BLOCK * BLOCK;
	p->offset = r->run.offset;
	p->src_offset = r->run.host_offset;
	p->fd = layer_fd(r, r->run.layer, r->run.fd);
	if (p->fd < 0)
		return fail_with(err, errno, "an image cannot be opened again: %s",
				 strerror(errno));
	r->run.offset += p->length;
	r->run.host_offset += p->length;
	r->run.length -= p->length;
	return 1;
}

static int restore_place(void *ctx, const struct xfer_piece *p, void *buf,
			 struct xfer_write *w, struct cbw_error *err)
{
	struct restore_run *r = ctx;
	bool aligned = !(p->offset % r->t->lbs) && !(p->length % r->t->lbs);

	(void)buf;
	(void)err;
	w[0] = (struct xfer_write){
		.length = p->length,
		.fd = aligned ? r->t->direct : r->t->fd,
		.dst_offset = p->offset,
	};
	return 1;
}

static int restore_done(void *ctx, const struct xfer_piece *p,
			struct cbw_error *err)
{
	struct restore_run *r = ctx;

	(void)err;
	r->done += p->length;
	return 0;
}

static int restore_read_failed(void *ctx, const struct xfer_piece *p, int code,
			       struct cbw_error *err)
{
	(void)ctx;
	return fail_with(err, code,
			 "reading an image for offset %llu of the volume: %s",
			 (ull)p->offset, code == EUCLEAN ? "the file is cut short" :
			 strerror(code));
}

static int restore_tick(void *ctx, struct cbw_error *err)
{
	struct restore_run *r = ctx;

	(void)err;
	progress_tick(&r->progress, r->done);
	return 0;
}

int restore_image(struct qcow2_image *img, struct restore_target *t,
		  bool json, struct cbw_error *err)
{
	static const struct xfer_ops ops = {
		.next = restore_next,
		.place = restore_place,
		.done = restore_done,
		.read_failed = restore_read_failed,
		.tick = restore_tick,
	};
	const struct xfer_params params = { .target = t->path };
	unsigned int layers = qcow2_layers(img), i;
	struct restore_run r = {
		.img = img,
		.t = t,
		.size = qcow2_size(img),
		.direct = xcalloc(layers, sizeof(int)),
		.zeros = xcalloc(XFER_PIECE, 1),
	};
	int ret;

	for (i = 0; i < layers; i++)
		r.direct[i] = -1;
	progress_begin(&r.progress, "restore", t->path, r.size, json);
	ret = xfer_run(&ops, &r, &params, err);
	progress_end(&r.progress);
	for (i = 0; i < layers; i++)
		if (r.direct[i] >= 0)
			close(r.direct[i]);
	free(r.direct);
	free(r.zeros);
	return ret;
}

/* ---- chains ------------------------------------------------------------ */

static int check_layer(struct qcow2_image *img, unsigned int layer,
		       const struct chain *chain, const struct entry *e,
		       const struct entry *parent, struct cbw_error *err)
{
	struct cbw_cut_id ids[3];
	struct qcow2_header_ext ext;
	struct qcow2_layer info;
	int ret = qcow2_get_layer(img, layer, &info);

	if (ret)
		return fail_with(err, EUCLEAN, "%s/%s: there are fewer images than the manifest says",
				 esc(chain->dir), esc(e->file));
	if (info.format != QCOW2_FORMAT_QCOW2 ||
	    qcow2_get_ext(img, layer, CHAIN_QCOW2_EXT, &ext) ||
	    ext.len != sizeof(ids))
		return fail_with(err, EUCLEAN,
				 "%s/%s: not an image that cbw made: its ids are missing",
				 esc(chain->dir), esc(e->file));
	memcpy(ids, ext.data, sizeof(ids));
	if (!cbw_cut_equal(&ids[0], &chain->id))
		return fail_with(err, EUCLEAN, "%s/%s: the image belongs to another chain",
				 esc(chain->dir), esc(e->file));
	if (!cbw_cut_equal(&ids[1], &e->cut) ||
	    (parent ? !cbw_cut_equal(&ids[2], &parent->cut) :
	     !cbw_cut_is_none(&ids[2])))
		return fail_with(err, EUCLEAN,
				 "%s/%s: the image is of another point in time than the manifest says",
				 esc(chain->dir), esc(e->file));
	if (info.virtual_size != e->size)
		return fail_with(err, EUCLEAN,
				 "%s/%s: the image is of %llu bytes, the manifest says %llu",
				 esc(chain->dir), esc(e->file),
				 (ull)info.virtual_size, (ull)e->size);
	if (parent ? !info.backing_file ||
	    strcmp(info.backing_file, parent->file) : !!info.backing_file)
		return fail_with(err, EUCLEAN,
				 "%s/%s: its backing file is '%s', the manifest says '%s'",
				 esc(chain->dir), esc(e->file),
				 info.backing_file ? esc(info.backing_file) : "",
				 parent ? parent->file : "");
	return 0;
}

int open_entry(const struct chain *chain, const struct entry *e,
	       struct qcow2_image **img, struct cbw_error *err)
{
	char *path = chain_path(chain, e->file);
	struct qcow2_error qerr;
	struct qcow2_image *out;
	unsigned int layer;
	int ret;

	ret = qcow2_open(path, QCOW2_OPEN_SAME_DIR, &out, &qerr);
	free(path);
	if (ret)
		return fail_with(err, ret, "%s", qerr.msg);
	for (layer = 0; e && !ret; layer++) {
		const struct entry *parent = e->parent ?
			chain_by_id(chain, e->parent) : NULL;

		ret = check_layer(out, layer, chain, e, parent, err);
		e = parent;
	}
	if (ret)
		qcow2_close(out);
	else
		*img = out;
	return ret;
}

bool distrust(int ret)
{
	return ret == -EUCLEAN || ret == -ELOOP;
}

int pick_chain(const char *what, const char *path, struct chain *chain)
{
	struct cbw_error err;
	char **dirs;
	size_t nr, i;
	int ret;

	if (chain_find_dirs(path, &dirs, &nr, &err))
		return failed("%s: %s", what, err.msg);
	if (nr > 1) {
		ret = failed("%s: %s holds %zu volumes; name one of them:",
			     what, esc(path), nr);
		for (i = 0; i < nr; i++)
			say("  %s", esc(dirs[i]));
	} else {
		ret = chain_open(dirs[0], false, chain, &err);
		if (ret) {
			say("%s: %s", what, err.msg);
			ret = ret == -EUCLEAN ? EXIT_DISTRUST : EXIT_FAILED;
		}
	}
	for (i = 0; i < nr; i++)
		free(dirs[i]);
	free(dirs);
	return ret;
}

const struct entry *pick_entry(const char *what, const struct chain *chain,
			       const char *until)
{
	const struct entry *e = until ? chain_find(chain, until) :
		chain_newest(chain);

	if (!e && until)
		say("%s: %s has no point in time '%s'; 'cbw chain list' shows them",
		    what, esc(chain->dir), esc(until));
	else if (!e)
		say("%s: %s: no backup has been completed here", what,
		    esc(chain->dir));
	return e;
}
