// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A new bitmap directory in place of the old one
 *
 * All that is new goes to clusters that nothing on disk refers to; they are
 * counted, written and durable before the first sector of the file is rewritten
 * and names them. What only the old directory had is freed after that.
 */
#include <stdio.h>

#include "qcow2-int.h"

#define ull(x)	((unsigned long long)(x))

struct entry {
	char *name;
	size_t len;
	uint32_t hash, next;		/* chain of the hash; UINT32_MAX: its end */
	uint32_t flags;
	uint8_t granularity_bits;
	uint32_t table_entries;
	uint64_t table;			/* cluster; 0: to be made by the commit */
	uint64_t data, clusters;	/* of those added: data lies there */
	bool ours;			/* ... in clusters that are its own */
};

struct qcow2_bitmaps_edit {
	struct qcow2_image *img;
	struct q2_layer *l;
	struct q2_bitmaps *bm;		/* the old ones */
	struct q2_own *own;		/* what they take, in ascending order */
	size_t nr_own;
	uint8_t *kept, *taken;		/* per old bitmap: as it is, or data of it */
	struct q2_span *got;		/* from qcow2_edit_alloc() */
	size_t nr_got, max_got;
	struct entry *e;
	uint32_t nr, max;
	uint32_t *hash, mask;
	uint64_t dir_len;
};

static void edit_free(struct qcow2_bitmaps_edit *edit)
{
	uint32_t i;

	for (i = 0; i < edit->nr; i++)
		free(edit->e[i].name);
	free(edit->e);
	free(edit->hash);
	free(edit->got);
	free(edit->own);
	free(edit->kept);
	free(edit->taken);
	free(edit);
}

int qcow2_bitmaps_edit_begin(struct qcow2_image *img, struct qcow2_bitmaps_edit **out, struct qcow2_error *err)
{
	struct q2_layer *l = img->layers[0];
	struct qcow2_bitmaps_edit *edit = calloc(1, sizeof(*edit));
	int ret;

	if (!edit)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	edit->img = img;
	edit->l = l;
	edit->mask = 15;
	edit->hash = malloc((edit->mask + 1) * sizeof(*edit->hash));
	if (edit->hash)
		memset(edit->hash, 0xff, (edit->mask + 1) * sizeof(*edit->hash));
	pthread_mutex_lock(&img->lock);
	ret = edit->hash ? q2_writable(l, err) : q2_err(err, ENOMEM, "%s: out of memory", l->name);
	if (!ret && l->w->edit)
		ret = q2_err(err, EBUSY, "%s: its bitmaps are being edited already", l->name);
	if (!ret)
		ret = q2_bitmaps_load(l, &edit->bm, err);
	if (!ret)
		ret = q2_own_load(l, edit->bm, &edit->own, &edit->nr_own, err);
	if (!ret) {
		edit->kept = calloc((size_t)edit->bm->nr + 1, 1);
		edit->taken = calloc((size_t)edit->bm->nr + 1, 1);
		if (!edit->kept || !edit->taken)
			ret = q2_err(err, ENOMEM, "%s: out of memory", l->name);
	}
	if (!ret)
		ret = q2_drop_autoclear(l, false, err);
	/* an extension that says nothing may have gone with the bits */
	if (!ret)
		ret = q2_bitmaps_load(l, &edit->bm, err);
	if (!ret)
		l->w->edit = edit;
	pthread_mutex_unlock(&img->lock);
	if (ret)
		edit_free(edit);
	else
		*out = edit;
	return ret;
}

static uint32_t hash_name(const char *name, size_t len)
{
	uint32_t h = 2166136261u;

	while (len--)
		h = (h ^ (uint8_t)*name++) * 16777619u;
	return h;
}

static int grow(struct qcow2_bitmaps_edit *edit)
{
	uint32_t max = edit->max ? edit->max * 2 : 16, i;
	struct entry *e = realloc(edit->e, max * sizeof(*e));
	uint32_t *h;

	if (!e)
		return -ENOMEM;
	edit->e = e;
	h = malloc(max * sizeof(*h));
	if (!h)
		return -ENOMEM;
	memset(h, 0xff, max * sizeof(*h));
	free(edit->hash);
	edit->hash = h;
	edit->mask = max - 1;
	edit->max = max;
	for (i = 0; i < edit->nr; i++) {
		e[i].next = h[e[i].hash & edit->mask];
		h[e[i].hash & edit->mask] = i;
	}
	return 0;
}

/* @new becomes the last entry, and has that name */
static int append(struct qcow2_bitmaps_edit *edit, struct entry new, const char *name, size_t len,
		  struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint64_t size = (Q2_BM_DIR_ENTRY + len + 7) & ~(size_t)7;
	uint32_t i;

	if (!len || len > QCOW2_MAX_BITMAP_NAME || memchr(name, 0, len))
		return q2_err(err, EINVAL, "%s: a bitmap's name has 1 to %u bytes without a NUL, not %zu", l->name,
			      QCOW2_MAX_BITMAP_NAME, len);
	if (new.flags & ~(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO))
		return q2_err(err, EINVAL, "%s: bitmap flags 0x%x are unknown", l->name, new.flags);
	new.hash = hash_name(name, len);
	for (i = edit->hash[new.hash & edit->mask]; i != UINT32_MAX; i = edit->e[i].next)
		if (edit->e[i].len == len && !memcmp(edit->e[i].name, name, len))
			return q2_err(err, EINVAL, "%s: there would be two bitmaps '%s'", l->name,
				      q2_label(edit->e[i].name).s);
	if (edit->nr == QCOW2_MAX_BITMAPS || size > Q2_BM_MAX_DIR - edit->dir_len)
		return q2_err(err, EFBIG, "%s: more than %u bitmaps, or %llu bytes of their names", l->name,
			      QCOW2_MAX_BITMAPS, Q2_BM_MAX_DIR);
	if (edit->nr == edit->max && grow(edit))
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	new.name = malloc(len + 1);
	if (!new.name)
		return q2_err(err, ENOMEM, "%s: out of memory", l->name);
	memcpy(new.name, name, len);
	new.name[len] = '\0';
	new.len = len;
	new.next = edit->hash[new.hash & edit->mask];
	edit->hash[new.hash & edit->mask] = edit->nr;
	edit->e[edit->nr++] = new;
	edit->dir_len += size;
	return 0;
}

static int keep(struct qcow2_bitmaps_edit *edit, unsigned int i, const char *name, size_t len, uint32_t flags,
		struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	const struct qcow2_bitmap *b;
	struct entry e;
	int ret;

	if (i >= edit->bm->nr)
		return q2_err(err, EINVAL, "%s: bitmap %u of %u", l->name, i, edit->bm->nr);
	b = &edit->bm->b[i];
	if (edit->kept[i] || edit->taken[i])
		return q2_err(err, EINVAL, "%s: bitmap '%s' %s", l->name, q2_label(b->name).s,
			      edit->kept[i] ? "is kept already" : "cannot be kept: another one took clusters of it");
	if (!(flags & QCOW2_BITMAP_IN_USE) && q2_bitmap_fits(l, b, NULL))
		return q2_err(err, EINVAL, "%s: bitmap '%s' is not of the image's size: can be kept only in use", l->name,
			      q2_label(b->name).s);
	e = (struct entry) {
		.flags = flags,
		.granularity_bits = b->granularity_bits,
		.table_entries = b->table_entries,
		.table = b->table_offset >> l->cluster_bits,
	};
	ret = append(edit, e, name ? name : b->name, name ? len : b->name_len, err);
	if (!ret)
		edit->kept[i] = 1;
	return ret;
}

int qcow2_edit_keep_as(struct qcow2_bitmaps_edit *edit, unsigned int i, const char *name, size_t len,
		       uint32_t flags, struct qcow2_error *err)
{
	int ret;

	pthread_mutex_lock(&edit->img->lock);
	ret = keep(edit, i, name, len, flags, err);
	pthread_mutex_unlock(&edit->img->lock);
	return ret;
}

int qcow2_edit_keep(struct qcow2_bitmaps_edit *edit, unsigned int i, uint32_t flags, struct qcow2_error *err)
{
	return qcow2_edit_keep_as(edit, i, NULL, 0, flags, err);
}

uint64_t qcow2_edit_clusters(const struct qcow2_image *img, unsigned int granularity_bits)
{
	if (granularity_bits < Q2_BM_MIN_BITS || granularity_bits > Q2_BM_MAX_BITS)
		return 0;
	return q2_bitmap_entries(img->layers[0], granularity_bits);
}

/* what a new bitmap of that granularity is, but for the place of its data */
static int shape(struct qcow2_bitmaps_edit *edit, unsigned int bits, uint32_t flags, struct entry *e,
		 struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint64_t clusters;

	if (bits < Q2_BM_MIN_BITS || bits > Q2_BM_MAX_BITS)
		return q2_err(err, EINVAL, "%s: granularity_bits %u is not within %u to %u", l->name, bits, Q2_BM_MIN_BITS,
			      Q2_BM_MAX_BITS);
	clusters = q2_bitmap_entries(l, bits);
	if (!clusters)
		return q2_err(err, EINVAL, "%s: has size 0: there is nothing a bitmap could tell", l->name);
	if (clusters > Q2_BM_MAX_BYTES >> l->cluster_bits)
		return q2_err(err, EFBIG, "%s: with granularity_bits %u a bitmap has more than %u bytes", l->name, bits,
			      Q2_BM_MAX_BYTES);
	*e = (struct entry) {
		.flags = flags,
		.granularity_bits = (uint8_t)bits,
		.table_entries = (uint32_t)clusters,
		.clusters = clusters,
	};
	return 0;
}

int qcow2_edit_add(struct qcow2_bitmaps_edit *edit, const char *name, size_t len, unsigned int bits, uint32_t flags,
		   uint64_t *host_offset, struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	struct entry e;
	int ret;

	pthread_mutex_lock(&edit->img->lock);
	ret = q2_writable(l, err);
	if (!ret)
		ret = shape(edit, bits, flags, &e, err);
	if (!ret)
		ret = append(edit, e, name, len, err);
	if (!ret) {
		struct entry *last = &edit->e[edit->nr - 1];

		ret = q2_alloc_contig(l, last->clusters, &last->data, err);
		if (ret) {
			edit->hash[last->hash & edit->mask] = last->next;
			edit->dir_len -= (Q2_BM_DIR_ENTRY + last->len + 7) & ~(size_t)7;
			free(last->name);
			edit->nr--;
		} else {
			last->ours = true;
			*host_offset = last->data << l->cluster_bits;
		}
	}
	pthread_mutex_unlock(&edit->img->lock);
	return ret;
}

int qcow2_edit_alloc(struct qcow2_bitmaps_edit *edit, uint64_t clusters, uint64_t *host_offset,
		     struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint64_t first;
	int ret;

	if (!clusters)
		return q2_err(err, EINVAL, "%s: no clusters asked for", l->name);
	pthread_mutex_lock(&edit->img->lock);
	ret = q2_writable(l, err);
	if (!ret && edit->nr_got == edit->max_got) {
		size_t max = edit->max_got ? edit->max_got * 2 : 16;
		struct q2_span *s = realloc(edit->got, max * sizeof(*s));

		if (s) {
			edit->got = s;
			edit->max_got = max;
		} else {
			ret = q2_err(err, ENOMEM, "%s: out of memory", l->name);
		}
	}
	if (!ret)
		ret = q2_alloc_contig(l, clusters, &first, err);
	if (!ret) {
		edit->got[edit->nr_got++] = (struct q2_span){ first, clusters };
		*host_offset = first << l->cluster_bits;
	}
	pthread_mutex_unlock(&edit->img->lock);
	return ret;
}

/* the old bitmaps' clusters around @cluster, or NULL */
static const struct q2_own *find_own(const struct qcow2_bitmaps_edit *edit, uint64_t cluster)
{
	size_t lo = 0, hi = edit->nr_own;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct q2_own *o = &edit->own[mid];

		if (cluster < o->first)
			hi = mid;
		else if (cluster - o->first >= o->count)
			lo = mid + 1;
		else
			return o;
	}
	return NULL;
}

/* how many clusters from @cluster on may be taken by a new bitmap; *old: whose they were */
static uint64_t free_run(const struct qcow2_bitmaps_edit *edit, uint64_t cluster, const struct q2_own **old)
{
	const struct q2_own *o = find_own(edit, cluster);
	size_t i;

	*old = o;
	if (o)
		return o->data && !edit->kept[o->bitmap] ? o->first + o->count - cluster : 0;
	for (i = 0; i < edit->nr_got; i++)
		if (cluster >= edit->got[i].first && cluster - edit->got[i].first < edit->got[i].count)
			return edit->got[i].first + edit->got[i].count - cluster;
	return 0;
}

int qcow2_edit_add_at(struct qcow2_bitmaps_edit *edit, const char *name, size_t len, unsigned int bits,
		      uint32_t flags, uint64_t host_offset, struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	const struct q2_own *old;
	uint64_t at, end, n;
	struct entry e;
	uint32_t i;
	int ret;

	pthread_mutex_lock(&edit->img->lock);
	ret = shape(edit, bits, flags, &e, err);
	if (ret)
		goto out;
	e.data = at = host_offset >> l->cluster_bits;
	end = at + e.clusters;
	for (; at < end && q2_aligned(l, host_offset); at += n) {
		n = free_run(edit, at, &old);
		if (!n)
			break;
	}
	if (at < end) {
		ret = q2_err(err, EINVAL, "%s: host_offset %llu: the cluster at %llu is not one that the new bitmap may take",
			     l->name, ull(host_offset), ull(at << l->cluster_bits));
		goto out;
	}
	for (i = 0; i < edit->nr; i++) {
		const struct entry *o = &edit->e[i];

		if (o->clusters && e.data < o->data + o->clusters && o->data < end) {
			ret = q2_err(err, EINVAL, "%s: host_offset %llu: bitmap '%s' has clusters of this range", l->name,
				     ull(host_offset), q2_label(o->name).s);
			goto out;
		}
	}
	ret = append(edit, e, name, len, err);
	for (at = e.data; !ret && at < end; at += n) {
		n = free_run(edit, at, &old);
		if (old)
			edit->taken[old->bitmap] = 1;
	}
out:
	pthread_mutex_unlock(&edit->img->lock);
	return ret;
}

static int by_data(const void *a, const void *b)
{
	uint64_t x = ((const struct q2_span *)a)->first, y = ((const struct q2_span *)b)->first;

	return x < y ? -1 : x > y;
}

/* free what of @s is in none of the @nr spans @used, which are in ascending order */
static int release(struct qcow2_bitmaps_edit *edit, struct q2_span s, const struct q2_span *used, size_t nr,
		   bool now, struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint64_t at = s.first, end = s.first + s.count, stop, skip;
	size_t lo = 0, hi = nr;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (used[mid].first + used[mid].count <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; at < end; at = skip, lo++) {
		int ret = 0;

		stop = lo < nr ? q2_min(end, q2_max(at, used[lo].first)) : end;
		skip = lo < nr ? used[lo].first + used[lo].count : end;
		if (stop > at && now)
			ret = q2_free_now(l, at, stop - at, err);
		else if (stop > at)
			ret = q2_free_later(l, at << l->cluster_bits, (stop - at) << l->cluster_bits, err);
		if (ret)
			return ret;
	}
	return 0;
}

/* what the edit allocated and no bitmap has: free at once; what only the old ones have: later */
static int release_all(struct qcow2_bitmaps_edit *edit, struct qcow2_error *err)
{
	struct q2_span *used = calloc((size_t)edit->nr + 1, sizeof(*used));
	size_t nr = 0, i;
	int ret = 0;

	if (!used)
		return q2_err(err, ENOMEM, "%s: out of memory", edit->l->name);
	for (i = 0; i < edit->nr; i++)
		if (edit->e[i].clusters)
			used[nr++] = (struct q2_span){ edit->e[i].data, edit->e[i].clusters };
	if (nr)
		qsort(used, nr, sizeof(*used), by_data);
	for (i = 0; !ret && i < edit->nr_got; i++)
		ret = release(edit, edit->got[i], used, nr, true, err);
	/* what is in use of them leaks, if it comes to undo() */
	edit->nr_got = 0;
	for (i = 0; !ret && i < edit->nr_own; i++) {
		const struct q2_own *o = &edit->own[i];

		if (o->bitmap == UINT32_MAX || !edit->kept[o->bitmap])
			ret = release(edit, (struct q2_span){ o->first, o->count }, used, nr, false, err);
	}
	free(used);
	return ret;
}

/* clusters for tables and directory; *dir: 0 without bitmaps */
static int places(struct qcow2_bitmaps_edit *edit, uint64_t *dir, struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint32_t i;
	int ret = 0;

	*dir = 0;
	for (i = 0; !ret && i < edit->nr; i++)
		if (!edit->e[i].table)
			ret = q2_alloc_contig(l, q2_div_up(edit->e[i].clusters * 8, l->cluster_bits), &edit->e[i].table,
					      err);
	if (!ret && edit->nr)
		ret = q2_alloc_contig(l, q2_div_up(edit->dir_len, l->cluster_bits), dir, err);
	return ret;
}

/* @buf was allocated with whole clusters and is freed */
static int write_clusters(struct q2_layer *l, uint8_t *buf, uint64_t bytes, uint64_t cluster, const char *what,
			  struct qcow2_error *err)
{
	int ret = q2_pwrite(l, buf, q2_div_up(bytes, l->cluster_bits) << l->cluster_bits, cluster << l->cluster_bits,
			    what, err);

	free(buf);
	return ret;
}

static uint8_t *clusters_for(struct q2_layer *l, uint64_t bytes, struct qcow2_error *err)
{
	uint8_t *p = calloc(q2_div_up(bytes, l->cluster_bits), l->cluster_size);

	if (!p)
		q2_err(err, ENOMEM, "%s: out of memory for %llu bytes of bitmap metadata", l->name, ull(bytes));
	return p;
}

static int write_tables(struct qcow2_bitmaps_edit *edit, struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint32_t i;
	int ret = 0;

	for (i = 0; !ret && i < edit->nr; i++) {
		const struct entry *e = &edit->e[i];
		uint64_t k;
		uint8_t *t;

		if (!e->clusters)
			continue;
		t = clusters_for(l, e->clusters * 8, err);
		if (!t)
			return -ENOMEM;
		for (k = 0; k < e->clusters; k++)
			put64(t + k * 8, (e->data + k) << l->cluster_bits);
		ret = write_clusters(l, t, e->clusters * 8, e->table, "a bitmap table", err);
	}
	return ret;
}

static int write_dir(struct qcow2_bitmaps_edit *edit, uint64_t dir, struct qcow2_error *err)
{
	struct q2_layer *l = edit->l;
	uint8_t *buf, *p;
	uint32_t i;

	if (!edit->nr)
		return 0;
	buf = p = clusters_for(l, edit->dir_len, err);
	if (!buf)
		return -ENOMEM;
	for (i = 0; i < edit->nr; i++) {
		const struct entry *e = &edit->e[i];

		put64(p, e->table << l->cluster_bits);
		put32(p + 8, e->table_entries);
		put32(p + 12, e->flags);
		p[16] = 1;
		p[17] = e->granularity_bits;
		p[18] = (uint8_t)(e->len >> 8);
		p[19] = (uint8_t)e->len;
		memcpy(p + Q2_BM_DIR_ENTRY, e->name, e->len);
		p += (Q2_BM_DIR_ENTRY + e->len + 7) & ~(size_t)7;
	}
	return write_clusters(l, buf, edit->dir_len, dir, "the bitmap directory", err);
}

/* as if the edit had not allocated; what it had for the tables is among it */
static void undo(struct qcow2_bitmaps_edit *edit, uint64_t dir)
{
	struct q2_layer *l = edit->l;
	int ret = 0;
	size_t i;

	for (i = 0; !ret && i < edit->nr_got; i++)
		ret = q2_free_now(l, edit->got[i].first, edit->got[i].count, NULL);
	for (i = 0; !ret && i < edit->nr; i++) {
		const struct entry *e = &edit->e[i];

		if (!e->clusters)
			continue;
		if (e->table)
			ret = q2_free_now(l, e->table, q2_div_up(e->clusters * 8, l->cluster_bits), NULL);
		if (!ret && e->ours)
			ret = q2_free_now(l, e->data, e->clusters, NULL);
	}
	if (!ret && dir)
		ret = q2_free_now(l, dir, q2_div_up(edit->dir_len, l->cluster_bits), NULL);
	/* what could not be freed leaks */
	l->w->dirty = true;
}

static int commit(struct qcow2_bitmaps_edit *edit, uint64_t dir, struct qcow2_error *err)
{
	uint8_t ext[Q2_BITMAPS_EXT_LEN] = { 0 };
	struct q2_layer *l = edit->l;
	int ret;

	put32(ext, edit->nr);
	put64(ext + 8, edit->dir_len);
	put64(ext + 16, dir << l->cluster_bits);
	/* from here on the bitmaps are whatever the disk has */
	q2_bitmaps_forget(l);
	ret = q2_header_set_bitmaps(l, edit->nr ? ext : NULL, err);
	if (ret)
		return ret;
	ret = q2_do_frees(l, err);
	if (!ret)
		ret = q2_refb_write(l, err);
	if (ret)
		l->w->failed = true;
	else
		l->w->dirty = false;
	/* new bitmaps may record: the next change of guest data has to look */
	l->w->begun = false;
	return ret;
}

int qcow2_edit_commit(struct qcow2_bitmaps_edit *edit, struct qcow2_error *err)
{
	struct qcow2_image *img = edit->img;
	struct q2_layer *l = edit->l;
	uint64_t dir = 0;
	int ret;

	pthread_mutex_lock(&img->lock);
	ret = q2_writable(l, err);
	if (ret)
		goto out;
	ret = places(edit, &dir, err);
	if (!ret)
		ret = write_tables(edit, err);
	if (!ret)
		ret = write_dir(edit, dir, err);
	if (ret) {
		undo(edit, dir);
		goto out;
	}
	ret = q2_flush(l, err);
	if (ret) {
		l->w->failed = true;
		goto out;
	}
	/* the flush left none that wait */
	ret = release_all(edit, err);
	if (!ret)
		ret = commit(edit, dir, err);
	if (ret && !l->w->failed) {
		/* no memory, or no room in the header: the old directory is in force */
		l->w->nr_frees = 0;
		undo(edit, dir);
	}
out:
	l->w->edit = NULL;
	pthread_mutex_unlock(&img->lock);
	edit_free(edit);
	return ret;
}

void qcow2_edit_abort(struct qcow2_bitmaps_edit *edit)
{
	struct qcow2_image *img;

	if (!edit)
		return;
	img = edit->img;
	pthread_mutex_lock(&img->lock);
	if (!edit->l->w->failed)
		undo(edit, 0);
	edit->l->w->edit = NULL;
	pthread_mutex_unlock(&img->lock);
	edit_free(edit);
}
