// SPDX-License-Identifier: LGPL-2.1-or-later
/* Another backing file; the header as it would be */
#include "qcow2-int.h"

/* what the layer says of its backing file */
struct backing {
	char *file, *format;
};

static int check_backing(const struct q2_layer *l, const char *file, const char *format, struct qcow2_error *err)
{
	if (!file && !format)
		return 0;
	if (!file || !format)
		return q2_err(err, EINVAL, "%s: a backing file needs a backing_format, and the other way round", l->name);
	if (strlen(file) > QCOW2_MAX_BACKING_NAME)
		return q2_err(err, EINVAL, "%s: the backing file name is longer than %u bytes", l->name,
			      QCOW2_MAX_BACKING_NAME);
	return q2_check_backing_name(l->name, file, format, err);
}

/* the layer gets @new, the caller what it had */
static void swap(struct q2_layer *l, struct backing *new)
{
	struct backing old = { l->backing_file, l->backing_format };

	l->backing_file = new->file;
	l->backing_format = new->format;
	*new = old;
}

static int copy_of(const struct q2_layer *l, const char *file, const char *format, struct backing *out,
		   struct qcow2_error *err)
{
	*out = (struct backing){ 0 };
	if (!file)
		return 0;
	out->file = strdup(file);
	out->format = strdup(format);
	if (out->file && out->format)
		return 0;
	free(out->file);
	free(out->format);
	return q2_err(err, ENOMEM, "%s: out of memory", l->name);
}

int qcow2_set_backing(struct qcow2_image *img, const char *file, const char *format, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	struct backing b;
	int ret;

	ret = check_backing(l, file, format, err);
	if (!ret)
		ret = copy_of(l, file, format, &b, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&img->lock);
	if (img->nr_layers > 1)
		ret = q2_err(err, EBUSY, "%s: its backing file is open: open it without", l->name);
	else if (q2_data_raw(l) && file)
		ret = q2_err(err, EINVAL, "%s: a raw data file goes with no backing file", l->name);
	else
		ret = q2_header_prepare(l, err);
	if (!ret) {
		swap(l, &b);
		ret = q2_header_rewrite(l, NULL, 0, err);
		/* a header that did not fit is not written; of another failure the rest is not known */
		if (ret && !l->w->failed)
			swap(l, &b);
		else if (!ret)
			img->no_backing = l->backing_file;
	}
	pthread_mutex_unlock(&img->lock);
	free(b.file);
	free(b.format);
	return ret;
}

/* compose, take the result away, and put all back */
static int plan(struct q2_layer *l, const struct qcow2_header_ext *ext, uint8_t **out, struct qcow2_error *err)
{
	const struct qcow2_header_ext *e = q2_ext_find(l, QCOW2_EXT_BITMAPS);
	bool valid = e && e->len == Q2_BITMAPS_EXT_LEN && l->autoclear & Q2_AUTOCLEAR_BITMAPS;
	unsigned int count = l->ext_count, i;
	uint8_t bitmaps[Q2_BITMAPS_EXT_LEN], *before = malloc(l->cluster_size);
	struct qcow2_header_ext *exts = calloc(count ? count : 1, sizeof(*exts));
	int ret;

	if (!before || !exts) {
		ret = q2_err(err, ENOMEM, "%s: out of memory", l->name);
		goto fail;
	}
	memcpy(before, l->header, l->cluster_size);
	if (valid)
		memcpy(bitmaps, e->data, sizeof(bitmaps));
	if (count)
		memcpy(exts, l->ext, count * sizeof(*exts));
	ret = q2_header_compose(l, ext, ext ? 1 : 0, valid ? bitmaps : NULL, err);
	if (ret)
		goto fail;
	q2_header_update(l->header, l);
	*out = l->header;
	free(l->ext);
	l->header = before;
	l->ext = exts;
	l->ext_count = count;
	for (i = 0; i < count; i++)
		exts[i].data = before + exts[i].data_offset;
	return 0;
fail:
	free(exts);
	free(before);
	return ret;
}

int qcow2_plan_header(struct qcow2_image *img, const struct qcow2_header_change *change, void **header,
		      size_t *len, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	struct backing b = { 0 };
	uint8_t *out = NULL;
	int ret = 0;

	if (change->ext && (q2_ext_is_ours(change->ext->type) || (change->ext->len && !change->ext->data)))
		return q2_err(err, EINVAL, "%s: header extension 0x%08x is not a private one, or has no data", l->name,
			      change->ext->type);
	if (change->set_backing) {
		ret = check_backing(l, change->backing_file, change->backing_format, err);
		if (!ret)
			ret = copy_of(l, change->backing_file, change->backing_format, &b, err);
		if (ret)
			return ret;
	}
	pthread_mutex_lock(&img->lock);
	if (l->w && (l->w->dirty || l->w->failed))
		ret = q2_err(err, EBUSY, "%s: has changes that were not flushed", l->name);
	if (!ret && change->set_backing)
		swap(l, &b);
	if (!ret) {
		ret = plan(l, change->ext, &out, err);
		if (change->set_backing)
			swap(l, &b);
	}
	pthread_mutex_unlock(&img->lock);
	free(b.file);
	free(b.format);
	if (!ret) {
		*header = out;
		*len = l->cluster_size;
	}
	return ret;
}
