// SPDX-License-Identifier: LGPL-2.1-or-later
/* Files, layers, the backing chain; what is known about an image */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow2-int.h"

#define L2_CACHE_READ	(1u << 20)
#define L2_CACHE_WRITE	(4u << 20)

void q2_layer_free(struct q2_layer *l)
{
	if (!l)
		return;
	if (l->fd >= 0)
		close(l->fd);
	q2_cache_free(&l->l2);
	q2_writer_free(l->w);
	q2_layer_free(l->data);
	free(l->data_file);
	free(l->l1);
	q2_bitmaps_forget(l);
	free(l->ext);
	free(l->header);
	free(l->backing_file);
	free(l->backing_format);
	q2_decompress_free(l);
	free(l->path);
	free(l->name);
	free(l);
}

/* A regular file or a block device, nothing else; opening must not block. */
int q2_open_file(const char *path, int oflags, unsigned int mode, struct q2_layer **out,
		 struct qcow2_error *err)
{
	struct q2_layer *l = calloc(1, sizeof(*l));
	struct stat st;
	off_t end;
	int ret;

	if (!l)
		return q2_err(err, ENOMEM, "out of memory");
	l->fd = -1;
	l->path = strdup(path);
	l->name = q2_printable(path);
	if (!l->path || !l->name) {
		ret = q2_err(err, ENOMEM, "out of memory");
		goto fail;
	}
	l->fd = open(path, oflags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, mode);
	if (l->fd < 0) {
		ret = q2_err(err, errno, "%s: %s: %s", l->name,
			     oflags & O_CREAT ? "cannot create" : "cannot open", strerror(errno));
		goto fail;
	}
	if (fstat(l->fd, &st)) {
		ret = q2_err(err, errno, "%s: fstat: %s", l->name, strerror(errno));
		goto fail;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		ret = q2_err(err, EINVAL, "%s: is neither a regular file nor a block device", l->name);
		goto fail;
	}
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->rdev = S_ISBLK(st.st_mode) ? st.st_rdev : 0;
	end = lseek(l->fd, 0, SEEK_END);
	if (end < 0) {
		ret = q2_err(err, errno, "%s: cannot tell the size: %s", l->name, strerror(errno));
		goto fail;
	}
	l->file_size = (uint64_t)end;
	*out = l;
	return 0;
fail:
	q2_layer_free(l);
	return ret;
}

bool q2_same_file(const struct q2_layer *a, const struct q2_layer *b)
{
	if (a->rdev || b->rdev)
		return a->rdev == b->rdev;
	return a->dev == b->dev && a->ino == b->ino;
}

static int load_l1(struct q2_layer *l, struct qcow2_error *err)
{
	size_t bytes = (size_t)l->l1_entries * 8;
	uint32_t i;
	int ret;

	l->l1 = malloc(bytes ? bytes : 8);
	if (!l->l1)
		return q2_err(err, ENOMEM, "%s: out of memory for an L1 table of %zu bytes", l->name, bytes);
	ret = q2_pread(l, l->l1, bytes, l->l1_off, "the L1 table", err);
	if (ret)
		return ret;
	/* entries are checked when they are used: one bad does not lose the rest */
	for (i = 0; i < l->l1_entries; i++)
		l->l1[i] = be64toh(l->l1[i]);
	return 0;
}

static int open_qcow2(struct q2_layer *l, size_t cache, struct qcow2_error *err)
{
	int ret;

	l->format = QCOW2_FORMAT_QCOW2;
	ret = q2_header_parse(l, err);
	if (!ret)
		ret = load_l1(l, err);
	if (!ret && q2_cache_init(&l->l2, l->cluster_size, cache))
		ret = q2_err(err, ENOMEM, "%s: out of memory", l->name);
	return ret;
}

/* the name a file is opened by that @referrer calls @name; NULL: no memory */
char *q2_resolve(const char *referrer, const char *name)
{
	const char *slash = strrchr(referrer, '/');
	size_t dir;
	char *out;

	if (!strncmp(name, "file:", 5))
		name += 5;
	if (*name == '/' || !slash)
		return strdup(name);
	dir = (size_t)(slash - referrer) + 1;
	out = malloc(dir + strlen(name) + 1);
	if (!out)
		return NULL;
	memcpy(out, referrer, dir);
	strcpy(out + dir, name);
	return out;
}

enum qcow2_format q2_backing_format(const char *format)
{
	return strcmp(format, "qcow2") ? QCOW2_FORMAT_RAW : QCOW2_FORMAT_QCOW2;
}

/* Is it a backing reference that we can follow? @referrer is printable. */
int q2_check_backing_name(const char *referrer, const char *name, const char *format,
			  struct qcow2_error *err)
{
	char *shown = q2_printable(name), *shown_format = format ? q2_printable(format) : NULL;
	const char *colon = strchr(name, ':'), *slash = strchr(name, '/');
	int ret = 0;

	if (!shown || (format && !shown_format))
		ret = q2_err(err, ENOMEM, "out of memory");
	else if (!*name)
		ret = q2_err(err, EINVAL, "%s: the backing file name is empty", referrer);
	else if (colon && (!slash || colon < slash) && strncmp(name, "file:", 5))
		ret = q2_err(err, EOPNOTSUPP,
			     "%s: backing file '%s': protocols are not supported, only files and block devices (write ./ before a name with a colon)",
			     referrer, shown);
	else if (!format)
		ret = q2_err(err, EOPNOTSUPP,
			     "%s: backing file '%s': the image does not record its format, which is not guessed; set it with `qemu-img rebase -u -b FILE -F FORMAT`",
			     referrer, shown);
	else if (strcmp(format, "qcow2") && strcmp(format, "raw") && strcmp(format, "host_device"))
		ret = q2_err(err, EOPNOTSUPP, "%s: backing file '%s': format '%s' is not supported, only qcow2 and raw",
			     referrer, shown, shown_format);
	free(shown);
	free(shown_format);
	return ret;
}

static int add_layer(struct qcow2_image *img, struct q2_layer *l, struct qcow2_error *err)
{
	unsigned int i;

	for (i = 0; i < img->nr_layers; i++)
		if (q2_same_file(img->layers[i], l) ||
		    (img->layers[i]->data && q2_same_file(img->layers[i]->data, l)))
			return q2_err(err, ELOOP, "%s: the backing chain is a loop: it comes to this file twice",
				      l->name);
	if (img->nr_layers == QCOW2_MAX_CHAIN)
		return q2_err(err, ELOOP, "%s: the backing chain has more than %u layers", l->name,
			      QCOW2_MAX_CHAIN);
	img->layers[img->nr_layers++] = l;
	return 0;
}

/* @top becomes layer 0 in any case and is freed with the image */
int q2_open_chain(struct qcow2_image *img, struct q2_layer *top, unsigned int flags,
		  struct qcow2_error *err)
{
	struct q2_layer *l = top;
	int ret;

	img->layers[0] = top;
	img->nr_layers = 1;
	while (l->backing_file) {
		struct qcow2_error inner;
		struct q2_layer *next;
		enum qcow2_format format;
		char *path;

		if (flags & QCOW2_OPEN_NO_BACKING) {
			img->no_backing = true;
			return 0;
		}
		ret = q2_check_backing_name(l->name, l->backing_file, l->backing_format, err);
		if (ret)
			return ret;
		format = q2_backing_format(l->backing_format);
		if ((flags & QCOW2_OPEN_SAME_DIR) && strchr(l->backing_file, '/')) {
			char *shown = q2_printable(l->backing_file);

			ret = q2_err(err, EACCES, "%s: backing file '%s' is not a plain name in the same directory",
				     l->name, shown ? shown : "?");
			free(shown);
			return ret;
		}
		path = q2_resolve(l->path, l->backing_file);
		if (!path)
			return q2_err(err, ENOMEM, "%s: out of memory", l->name);
		ret = q2_open_file(path, O_RDONLY, 0, &next, &inner);
		free(path);
		if (ret)
			return q2_err(err, inner.code, "%s: backing file: %s", l->name, inner.msg);
		ret = add_layer(img, next, err);
		if (ret) {
			q2_layer_free(next);
			return ret;
		}
		if (format == QCOW2_FORMAT_QCOW2) {
			ret = open_qcow2(next, L2_CACHE_READ, err);
			if (!ret)
				ret = q2_data_open(img, next, flags, err);
			if (ret)
				return ret;
		} else {
			next->format = QCOW2_FORMAT_RAW;
			next->size = next->file_size;
		}
		l = next;
	}
	return 0;
}

/* Only who has it open knows that the file is the one that was made, if it still is. */
void q2_unlink_made(const struct q2_layer *l)
{
	struct stat own, now;

	if (l->made && !fstat(l->fd, &own) && !lstat(l->path, &now) &&
	    own.st_dev == now.st_dev && own.st_ino == now.st_ino)
		unlink(l->path);
}

static struct qcow2_image *image_new(struct qcow2_error *err)
{
	struct qcow2_image *img = calloc(1, sizeof(*img));

	if (!img) {
		q2_err(err, ENOMEM, "out of memory");
		return NULL;
	}
	if (pthread_mutex_init(&img->lock, NULL)) {
		q2_err(err, ENOMEM, "out of memory for a mutex");
		free(img);
		return NULL;
	}
	return img;
}

int qcow2_open(const char *path, unsigned int flags, struct qcow2_image **out,
	       struct qcow2_error *err)
{
	struct qcow2_image *img;
	struct q2_layer *l;
	int ret;

	if (!path || !out || flags & ~(QCOW2_OPEN_WRITE | QCOW2_OPEN_NO_BACKING | QCOW2_OPEN_SAME_DIR |
				       QCOW2_OPEN_NO_DATA_FILE | QCOW2_OPEN_REUSE | QCOW2_OPEN_PUNCH))
		return q2_err(err, EINVAL, "qcow2_open: no path, no place for the image, or unknown flags 0x%x",
			      flags);
	ret = q2_open_file(path, flags & QCOW2_OPEN_WRITE ? O_RDWR : O_RDONLY, 0, &l, err);
	if (ret)
		return ret;
	img = image_new(err);
	if (!img) {
		q2_layer_free(l);
		return -ENOMEM;
	}
	img->layers[img->nr_layers++] = l;
	ret = open_qcow2(l, flags & QCOW2_OPEN_WRITE ? L2_CACHE_WRITE : L2_CACHE_READ, err);
	if (!ret && flags & QCOW2_OPEN_WRITE)
		ret = q2_writer_init(l, err);
	if (!ret && l->w) {
		l->w->reuse = flags & QCOW2_OPEN_REUSE;
		/* a device is the owner's to discard */
		l->w->punch = flags & QCOW2_OPEN_PUNCH && !l->rdev;
	}
	if (!ret)
		ret = q2_data_open(img, l, flags, err);
	if (!ret)
		ret = q2_open_chain(img, l, flags, err);
	if (ret) {
		qcow2_close(img);
		return ret;
	}
	*out = img;
	return 0;
}

void qcow2_close(struct qcow2_image *img)
{
	unsigned int i;

	if (!img)
		return;
	for (i = 0; i < img->nr_layers; i++)
		q2_layer_free(img->layers[i]);
	pthread_mutex_destroy(&img->lock);
	free(img);
}

static int check_opts(const char *path, const struct qcow2_create_opts *o, uint32_t cluster,
		      struct qcow2_error *err)
{
	unsigned int i, bits;
	uint64_t l1;
	int ret;

	if (o->flags & ~(QCOW2_CREATE_EXCL | QCOW2_CREATE_NO_BACKING | QCOW2_CREATE_NO_DATA_FILE |
			 QCOW2_CREATE_BITMAPS))
		return q2_err(err, EINVAL, "%s: unknown flags 0x%x", path, o->flags);
	if (cluster < QCOW2_MIN_CLUSTER || cluster > QCOW2_MAX_CLUSTER || cluster & (cluster - 1))
		return q2_err(err, EINVAL, "%s: cluster_size %u is not a power of two within %u to %u", path,
			      cluster, QCOW2_MIN_CLUSTER, QCOW2_MAX_CLUSTER);
	if (o->compression > QCOW2_COMPRESSION_ZSTD)
		return q2_err(err, EINVAL, "%s: compression %u is neither 0 (deflate) nor 1 (zstd)", path,
			      o->compression);
	bits = (unsigned int)__builtin_ctz(cluster);
	l1 = q2_div_up(o->virtual_size, 2 * bits - 3);
	if (l1 > QCOW2_MAX_L1_BYTES / 8)
		return q2_err(err, EINVAL, "%s: virtual_size %llu is over the %llu that clusters of %u bytes allow",
			      path, (unsigned long long)o->virtual_size,
			      (unsigned long long)(QCOW2_MAX_L1_BYTES / 8) << (2 * bits - 3), cluster);
	if (o->backing_file) {
		if (strlen(o->backing_file) > QCOW2_MAX_BACKING_NAME)
			return q2_err(err, EINVAL, "%s: the backing file name is longer than %u bytes", path,
				      QCOW2_MAX_BACKING_NAME);
		if (!o->backing_format)
			return q2_err(err, EINVAL, "%s: a backing file needs a backing_format", path);
		ret = q2_check_backing_name(path, o->backing_file, o->backing_format, err);
		if (ret)
			return ret;
	} else if (o->backing_format) {
		return q2_err(err, EINVAL, "%s: a backing_format needs a backing_file", path);
	}
	if (o->data_file_raw && (!o->data_file || o->backing_file))
		return q2_err(err, EINVAL, "%s: data_file_raw needs a data_file, and no backing file", path);
	if (o->data_file) {
		if (strlen(o->data_file) > QCOW2_MAX_BACKING_NAME)
			return q2_err(err, EINVAL, "%s: the data file name is longer than %u bytes", path,
				      QCOW2_MAX_BACKING_NAME);
		ret = q2_check_data_name(path, o->data_file, err);
		if (ret)
			return ret;
	}
	for (i = 0; i < o->ext_count; i++) {
		if (q2_ext_is_ours(o->ext[i].type))
			return q2_err(err, EINVAL, "%s: header extension 0x%08x is not a private one", path,
				      o->ext[i].type);
		if (o->ext[i].len && !o->ext[i].data)
			return q2_err(err, EINVAL, "%s: header extension 0x%08x has no data", path,
				      o->ext[i].type);
	}
	return 0;
}

/* A file that was there before may be its own backing file; emptying it would destroy that. */
static int refuse_own_backing(struct qcow2_image *img, const char *path,
			      const struct qcow2_create_opts *o, struct q2_layer *l,
			      struct qcow2_error *err)
{
	struct stat st;
	unsigned int i;
	char *backing;
	bool same = false;

	for (i = 0; i < img->nr_layers; i++)
		same |= q2_same_file(img->layers[i], l);
	if (o->backing_file && !img->nr_layers) {
		backing = q2_resolve(path, o->backing_file);
		if (!backing)
			return q2_err(err, ENOMEM, "%s: out of memory", l->name);
		if (!stat(backing, &st))
			same = l->rdev ? S_ISBLK(st.st_mode) && st.st_rdev == l->rdev :
					 st.st_dev == l->dev && st.st_ino == l->ino;
		free(backing);
	}
	if (same)
		return q2_err(err, ELOOP, "%s: the new image would be its own backing file", l->name);
	return 0;
}

static int empty_file(struct q2_layer *l, struct qcow2_error *err)
{
	int ret;

	if (!l->rdev) {
		if (ftruncate(l->fd, 0))
			return q2_err(err, errno, "%s: cannot empty the file: %s", l->name, strerror(errno));
		l->file_size = 0;
		return 0;
	}
	if (l->file_size < 8ull * l->cluster_size)
		return q2_err(err, ENOSPC, "%s: a device of %llu bytes is too small for an image with clusters of %u",
			      l->name, (unsigned long long)l->file_size, l->cluster_size);
	/* an image that was there must not be taken for the new one; l->l1 is all zeros */
	ret = q2_pwrite(l, l->l1, 8, 0, "zeros over an old header", err);
	return ret ? ret : q2_sync(l, err);
}

int qcow2_create(const char *path, const struct qcow2_create_opts *opts,
		 struct qcow2_image **out, struct qcow2_error *err)
{
	struct qcow2_image *img = NULL, *backing = NULL;
	struct q2_layer fake = { .fd = -1 }, *l = NULL;
	unsigned int mode, i;
	uint32_t cluster;
	bool arrange;
	int ret;

	if (!path || !opts || !out)
		return q2_err(err, EINVAL, "qcow2_create: no path, options or place for the image");
	arrange = opts->flags & QCOW2_CREATE_BITMAPS;
	cluster = opts->cluster_size ? opts->cluster_size : QCOW2_DEFAULT_CLUSTER;
	fake.name = q2_printable(path);
	if (!fake.name)
		return q2_err(err, ENOMEM, "out of memory");
	ret = check_opts(fake.name, opts, cluster, err);
	if (ret)
		goto out;
	ret = -ENOMEM;
	img = image_new(err);
	backing = image_new(err);
	if (!img || !backing)
		goto out;
	if (opts->backing_file && !(opts->flags & QCOW2_CREATE_NO_BACKING)) {
		/* open the chain under the name the new file will have */
		fake.path = (char *)path;
		fake.backing_file = (char *)opts->backing_file;
		fake.backing_format = (char *)opts->backing_format;
		ret = q2_open_chain(backing, &fake, 0, err);
		/* layer 0 is the fake: keep the others */
		backing->nr_layers--;
		memmove(backing->layers, backing->layers + 1,
			backing->nr_layers * sizeof(backing->layers[0]));
		if (ret)
			goto out;
	}
	mode = opts->mode ? opts->mode : 0600;
	ret = q2_open_file(path, O_RDWR | O_CREAT | O_EXCL, mode, &l, err);
	if (!ret)
		l->made = true;
	else if (ret == -EEXIST && !(opts->flags & QCOW2_CREATE_EXCL))
		ret = q2_open_file(path, O_RDWR | O_CREAT, mode, &l, err);
	if (ret)
		goto out;
	ret = refuse_own_backing(backing, path, opts, l, err);
	if (ret)
		goto out;
	l->format = QCOW2_FORMAT_QCOW2;
	l->size = opts->virtual_size;
	l->cluster_size = cluster;
	l->cluster_bits = (unsigned int)__builtin_ctz(cluster);
	l->l2_bits = l->cluster_bits - 3;
	l->refcount_order = 4;
	l->compression = opts->compression;
	l->incompatible = l->compression ? Q2_INCOMPAT_COMPRESSION : 0;
	l->incompatible |= opts->data_file ? Q2_INCOMPAT_DATA_FILE : 0;
	l->autoclear = opts->data_file_raw ? Q2_AUTOCLEAR_DATA_RAW : 0;
	l->l1_entries = (uint32_t)q2_div_up(l->size, l->cluster_bits + l->l2_bits);
	l->l1 = calloc(l->l1_entries ? l->l1_entries : 1, 8);
	if (!l->l1 || q2_cache_init(&l->l2, cluster, L2_CACHE_WRITE)) {
		ret = q2_err(err, ENOMEM, "%s: out of memory", l->name);
		goto out;
	}
	ret = q2_header_build(l, opts, err);
	for (i = 0; !ret && i < opts->ext_count; i++)
		arrange |= opts->ext[i].data_offset != 0;
	if (!ret && arrange)
		ret = q2_header_compose(l, opts->ext, opts->ext_count, NULL, err);
	if (!ret)
		ret = q2_data_create(backing, l, opts, err);
	if (!ret)
		ret = empty_file(l, err);
	if (!ret)
		ret = q2_writer_create(l, err);
	if (!ret && opts->data_file_raw)
		ret = q2_data_fill(l, err);
	if (ret)
		goto out;
	img->layers[img->nr_layers++] = l;
	l = NULL;
	for (i = 0; i < backing->nr_layers; i++)
		img->layers[img->nr_layers++] = backing->layers[i];
	img->no_backing = opts->backing_file && !backing->nr_layers;
	backing->nr_layers = 0;
	*out = img;
	img = NULL;
out:
	if (ret && l) {
		q2_data_undo(l);
		q2_unlink_made(l);
	}
	q2_layer_free(l);
	qcow2_close(img);
	qcow2_close(backing);
	free(fake.name);
	return ret;
}

unsigned int qcow2_layers(const struct qcow2_image *img)
{
	return img->nr_layers;
}

int qcow2_get_layer(struct qcow2_image *img, unsigned int layer, struct qcow2_layer *info)
{
	const struct q2_layer *l;

	if (layer >= img->nr_layers)
		return -EINVAL;
	pthread_mutex_lock(&img->lock);
	l = img->layers[layer];
	*info = (struct qcow2_layer) {
		.format = l->format,
		.fd = l->fd,
		.path = l->path,
		.virtual_size = l->size,
		.file_size = l->w ? l->w->end << l->cluster_bits : l->file_size,
		.cluster_size = l->cluster_size,
		.backing_file = l->backing_file,
		.backing_format = l->backing_format,
		.incompatible = l->incompatible,
		.compatible = l->compatible,
		.autoclear = l->autoclear,
		.snapshots = l->snapshots,
		.compression = l->compression,
		.data_file = l->data_file,
		.data_fd = l->data ? l->data->fd : -1,
		.l1_offset = l->l1_off,
		.l1_bytes = l->l1_entries * 8,
	};
	pthread_mutex_unlock(&img->lock);
	return 0;
}

uint64_t qcow2_size(const struct qcow2_image *img)
{
	return img->layers[0]->size;
}

uint32_t qcow2_cluster_size(const struct qcow2_image *img)
{
	return img->layers[0]->cluster_size;
}

int qcow2_fd(const struct qcow2_image *img)
{
	return img->layers[0]->fd;
}

int qcow2_data_fd(const struct qcow2_image *img)
{
	const struct q2_layer *l = img->layers[0];

	return !q2_has_data_file(l) ? l->fd : l->data ? l->data->fd : -1;
}
