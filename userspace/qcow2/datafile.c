// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * External data files: the image has the metadata, another file the guest's data
 *
 * Clusters of the data file have no refcounts, and each guest cluster that has
 * data has it at its own guest offset: so QEMU wants it. With the autoclear bit
 * `raw' the data file alone is the guest's disk too; whoever changes one must
 * keep the other in step.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

/* Is it a name that we can follow? @referrer is printable. */
int q2_check_data_name(const char *referrer, const char *name, struct qcow2_error *err)
{
	const char *colon = strchr(name, ':'), *slash = strchr(name, '/');
	char *shown;
	int ret;

	if (!*name)
		return q2_err(err, EINVAL, "%s: the data file name is empty", referrer);
	if (!colon || (slash && slash < colon) || !strncmp(name, "file:", 5))
		return 0;
	shown = q2_printable(name);
	ret = q2_err(err, EOPNOTSUPP,
		     "%s: data file '%s': protocols are not supported, only files and block devices (write ./ before a name with a colon)",
		     referrer, shown ? shown : "?");
	free(shown);
	return ret;
}

/* with other files of the same image it would be overwritten by them, or the reverse */
static int check_alone(const struct qcow2_image *img, const struct q2_layer *l,
		       const struct q2_layer *data, struct qcow2_error *err)
{
	bool twice = q2_same_file(l, data);
	unsigned int i;

	for (i = 0; i < img->nr_layers; i++) {
		const struct q2_layer *o = img->layers[i];

		twice |= q2_same_file(o, data) || (o->data && q2_same_file(o->data, data));
	}
	if (twice)
		return q2_err(err, ELOOP, "%s: data file: %s is another file of the image or its chain already",
			      l->name, data->name);
	return 0;
}

/* @create: it is made if it is not there; then only who made it may remove it */
static int open_file(struct qcow2_image *img, struct q2_layer *l, int oflags, bool create,
		     unsigned int mode, struct qcow2_error *err)
{
	struct qcow2_error inner;
	struct q2_layer *data;
	bool made = false;
	char *path;
	int ret;

	path = q2_resolve(l->path, l->data_file);
	if (!path)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	ret = q2_open_file(path, oflags | (create ? O_CREAT | O_EXCL : 0), mode, &data, &inner);
	if (create) {
		made = !ret;
		if (ret == -EEXIST)
			ret = q2_open_file(path, oflags | O_CREAT, mode, &data, &inner);
	}
	free(path);
	if (ret)
		return q2_err(err, inner.code, "%s: data file: %s", l->name, inner.msg);
	data->format = QCOW2_FORMAT_RAW;
	data->made = made;
	ret = check_alone(img, l, data, err);
	if (ret) {
		q2_layer_free(data);
		return ret;
	}
	l->data = data;
	return 0;
}

/* the data file of a layer that was opened, if it has one */
int q2_data_open(struct qcow2_image *img, struct q2_layer *l, unsigned int flags,
		 struct qcow2_error *err)
{
	int ret;

	if (!q2_has_data_file(l) || (flags & QCOW2_OPEN_NO_DATA_FILE))
		return 0;
	ret = q2_check_data_name(l->name, l->data_file, err);
	if (ret)
		return ret;
	if ((flags & QCOW2_OPEN_SAME_DIR) && strchr(l->data_file, '/')) {
		char *shown = q2_printable(l->data_file);

		ret = q2_err(err, EACCES, "%s: data file '%s' is not a plain name in the same directory",
			     l->name, shown ? shown : "?");
		free(shown);
		return ret;
	}
	return open_file(img, l, l->w ? O_RDWR : O_RDONLY, false, 0, err);
}

/* long enough for the guest's data below @end */
static int extend(struct q2_layer *data, uint64_t end, struct qcow2_error *err)
{
	if (end <= data->file_size)
		return 0;
	if (data->rdev)
		return q2_err(err, ENOSPC, "%s: the device has %llu bytes, the guest's data goes up to %llu", data->name,
			      ull(data->file_size), ull(end));
	if (ftruncate(data->fd, (off_t)end))
		return q2_err(err, errno, "%s: cannot extend the file to %llu bytes: %s", data->name, ull(end),
			      strerror(errno));
	data->file_size = end;
	return 0;
}

/* the data file of a new image; @img has the backing chain, but not @l */
int q2_data_create(struct qcow2_image *img, struct q2_layer *l, const struct qcow2_create_opts *o,
		   struct qcow2_error *err)
{
	int ret;

	if (!o->data_file || (o->flags & QCOW2_CREATE_NO_DATA_FILE))
		return 0;
	ret = open_file(img, l, O_RDWR, true, o->mode ? o->mode : 0600, err);
	if (ret)
		return ret;
	l->data->was = l->data->file_size;
	return extend(l->data, l->size, err);
}

/* the image will not be: what was done for it to the data file is undone */
void q2_data_undo(struct q2_layer *l)
{
	struct q2_layer *data = l->data;
	struct stat st;

	if (!data || data->rdev)
		return;
	if (data->made) {
		q2_unlink_made(data);
		return;
	}
	if (data->file_size <= data->was || fstat(data->fd, &st) ||
	    (uint64_t)st.st_size != data->file_size)
		return;
	/* nothing was written: if it cannot be made shorter, it has zeros at its end */
	if (!ftruncate(data->fd, (off_t)data->was))
		data->file_size = data->was;
}

/*
 * L2 tables that say of all the guest's clusters that they have data: without
 * them QEMU reads zeros, whatever the data file has.
 */
int q2_data_fill(struct q2_layer *l, struct qcow2_error *err)
{
	uint64_t clusters = q2_div_up(l->size, l->cluster_bits), per = 1ull << l->l2_bits;
	uint64_t idx = 0, guest = 0, first, got, i;
	uint64_t *t = malloc(l->cluster_size);
	int ret = 0;

	if (!t)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	while (!ret && idx < l->l1_entries) {
		ret = q2_alloc(l, l->l1_entries - idx, &first, &got, err);
		for (; !ret && got; got--, first++, idx++) {
			for (i = 0; i < per; i++, guest++)
				t[i] = guest < clusters ? htobe64(guest << l->cluster_bits | Q2_COPIED) : 0;
			ret = q2_pwrite(l, t, l->cluster_size, first << l->cluster_bits, "an L2 table", err);
			q2_set_l1(l, idx, first);
		}
	}
	free(t);
	return ret;
}

/* the place an entry names: none, or the cluster's own guest offset */
static int check_place(struct q2_layer *l, uint64_t guest, uint64_t entry, struct qcow2_error *err)
{
	uint64_t off = entry & Q2_OFFSET_MASK;
	bool own;

	if (entry & Q2_COMPRESSED || entry & Q2_L2_RESERVED)
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu is 0x%llx: compressed or with reserved bits, in an image with a data file",
			      l->name, ull(guest), ull(entry));
	own = off || (entry & Q2_COPIED && !(entry & Q2_ZERO));
	if (own && (off != guest || !(entry & Q2_COPIED)))
		return q2_err(err, EOPNOTSUPP,
			      "%s: L2 entry of guest offset %llu is 0x%llx: data that is not at the same offset of the data file, or not COPIED, cannot be written",
			      l->name, ull(guest), ull(entry));
	return 0;
}

/* as alloc_write() in write.c: the place is known, the entries may have to be made */
int q2_data_alloc(struct q2_layer *l, uint64_t off, uint64_t len, uint64_t *host, uint64_t *got,
		  struct qcow2_error *err)
{
	uint64_t in = (off >> l->cluster_bits) & ((1ull << l->l2_bits) - 1), n, *t;
	uint64_t want = q2_min(q2_div_up(len, l->cluster_bits), (1ull << l->l2_bits) - in);
	struct q2_ent *e;
	int ret;

	if (!l->data)
		return q2_err(err, EOPNOTSUPP, "%s: the data file is not open: no data can be written", l->name);
	ret = extend(l->data, q2_min(l->size, off + (want << l->cluster_bits)), err);
	if (!ret)
		ret = q2_l2_entry(l, off, &e, &t, err);
	for (n = 0; !ret && n < want; n++)
		ret = check_place(l, off + (n << l->cluster_bits), be64toh(t[n]), err);
	if (ret)
		return ret;
	for (n = 0; n < want; n++) {
		uint64_t entry = htobe64((off + (n << l->cluster_bits)) | Q2_COPIED);

		if (t[n] == entry)
			continue;
		t[n] = entry;
		q2_l2_changed(l, e);
	}
	*host = off;
	*got = q2_min(len, n << l->cluster_bits);
	return 0;
}

/* zeros in the data file itself */
static int write_zeros(struct q2_layer *data, uint64_t off, uint64_t len, struct qcow2_error *err)
{
	static const uint8_t zeros[65536];
	int ret = 0;

	if (off >= data->file_size)
		return 0;
	len = q2_min(len, data->file_size - off);
	/* a device may tell that it cannot by other errors than a file does */
	if (!fallocate(data->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len))
		return 0;
	while (!ret && len) {
		uint64_t n = q2_min(len, sizeof(zeros));

		ret = q2_pwrite(data, zeros, n, off, "zeros", err);
		off += n;
		len -= n;
	}
	return ret;
}

/*
 * Clusters [off, off + len) read as zeros. With `raw' the data file has to do so
 * itself, and the entries stay as they are: were they zero clusters, then data
 * written later would be in the data file before they say so.
 */
int q2_data_zero(struct q2_layer *l, uint64_t off, uint64_t len, bool *done, struct qcow2_error *err)
{
	uint64_t host, got;
	int ret;

	*done = q2_data_raw(l);
	if (!*done)
		return 0;
	if (!l->data)
		return q2_err(err, EOPNOTSUPP, "%s: the data file is not open: no zeros can be written", l->name);
	ret = extend(l->data, q2_min(l->size, off + len), err);
	if (!ret)
		ret = write_zeros(l->data, off, len, err);
	for (; !ret && len; off += got, len -= got)
		ret = q2_data_alloc(l, off, len, &host, &got, err);
	return ret;
}

/* one L2 entry: the place (within the data file), or nothing */
int q2_data_decode(struct q2_layer *l, uint64_t guest, uint64_t entry, uint64_t need,
		   struct q2_extent *x, struct qcow2_error *err)
{
	uint64_t off = entry & Q2_OFFSET_MASK, start = guest & ~(uint64_t)(l->cluster_size - 1);

	if (entry & Q2_COMPRESSED)
		return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu is 0x%llx: compressed, in an image with a data file",
			      l->name, ull(guest), ull(entry));
	if (entry & Q2_L2_RESERVED)
		return q2_err(err, EUCLEAN, "%s: L2 entry of guest offset %llu is 0x%llx: reserved bits are set",
			      l->name, ull(guest), ull(entry));
	if (!q2_aligned(l, off))
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu: data offset %llu is not a multiple of the cluster size %u",
			      l->name, ull(guest), ull(off), l->cluster_size);
	x->host = 0;
	x->entry = entry;
	/* 0 is a place like any other here */
	if (entry & Q2_ZERO || (!off && !(entry & Q2_COPIED))) {
		x->type = entry & Q2_ZERO ? QCOW2_RUN_ZERO : QCOW2_RUN_UNALLOCATED;
		return 0;
	}
	if (q2_data_raw(l) && off != start)
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu: data at %llu of the data file, which is raw: not at %llu",
			      l->name, ull(guest), ull(off), ull(start));
	if (!l->data)
		return q2_err(err, EOPNOTSUPP, "%s: guest offset %llu is in the data file, which is not open",
			      l->name, ull(guest));
	if (!q2_within(off, need, l->data->file_size))
		return q2_err(err, EUCLEAN,
			      "%s: L2 entry of guest offset %llu: data at %llu, %llu bytes, reaches past the end of the data file %s at %llu",
			      l->name, ull(guest), ull(off), ull(need), l->data->name, ull(l->data->file_size));
	x->type = QCOW2_RUN_DATA;
	x->host = off;
	return 0;
}
