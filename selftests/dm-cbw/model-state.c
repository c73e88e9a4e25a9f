// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The reference model: what the header of the UAPI says, in the simplest way that comes to
 * mind.  Nothing here is concurrent: an abort is done when it begins, a merge within its
 * transaction.
 */
#include <fcntl.h>
#include <unistd.h>

#include "model.h"

struct model *model;
struct device device[DEVS_MAX];
unsigned int nr_devices;
struct ctl_name names[NAMES];

unsigned int shift_of(const struct bitmap *b)
{
	return __builtin_ctz(b->granularity) - 9;
}

/* ---- life -------------------------------------------------------------------------- */

static struct half half_new(uint64_t nr)
{
	return (struct half){ .must = set_new(nr), .may = set_new(nr) };
}

static struct half half_clone(const struct half *h)
{
	return (struct half){ .must = set_clone(h->must), .may = set_clone(h->may) };
}

static void half_free(struct half *h)
{
	free(h->must);
	free(h->may);
	h->must = NULL;
	h->may = NULL;
}

static void *new(size_t size)
{
	void *p = calloc(1, size);

	if (!p)
		die(EXIT_IO, "no memory");
	return p;
}

static void bitmap_free(struct bitmap *b)
{
	half_free(&b->active);
	half_free(&b->frozen);
	free(b->either);
	free(b);
}

struct model *model_clone(const struct model *m)
{
	struct model *c = new(sizeof(*c));
	struct bitmap *b;
	unsigned int d, i;

	*c = *m;
	for (d = 0; d < nr_devices; d++)
		for (i = 0; i < c->dev[d].nr_bitmaps; i++) {
			b = new(sizeof(*b));
			*b = *m->dev[d].bitmap[i];
			b->active = half_clone(&b->active);
			b->frozen = half_clone(&b->frozen);
			b->either = set_clone(b->either);
			c->dev[d].bitmap[i] = b;
		}
	return c;
}

void model_free(struct model *m)
{
	unsigned int d, i;

	for (d = 0; d < nr_devices; d++)
		for (i = 0; i < m->dev[d].nr_bitmaps; i++)
			bitmap_free(m->dev[d].bitmap[i]);
	free(m);
}

static void names_setup(void)
{
	static const char odd[] = "\x01 \xff\\";
	char *s;
	unsigned int i;

	for (i = 0; i < NAMES; i++) {
		s = new(CBW_NAME_MAX + 1);
		if (i < NAMES_OFTEN - 2) {
			s[0] = 'a' + i;
		} else if (i == NAMES_OFTEN - 2) {
			memcpy(s, odd, sizeof(odd));
		} else {
			memset(s, 'n', CBW_NAME_MAX);
			if (i >= NAMES_OFTEN)
				snprintf(s, 8, "x%03u", i);
		}
		names[i].s = s;
		names[i].len = strlen(s);
	}
}

/* Whoever waits for a device that is suspended could not end. */
static void resume_all(void)
{
	unsigned int i;

	for (i = 0; i < nr_devices; i++) {
		dm_resume(device[i].name);
		if (device[i].lower)
			dm_resume(device[i].lower);
	}
}

/* @devs: NAME or NAME=LOWER */
void model_setup(unsigned int nr, char **devs)
{
	char node[300], *eq;
	struct device *d;
	unsigned int i;
	int ret;

	names_setup();
	model = new(sizeof(*model));
	for (i = 0; i < nr; i++) {
		d = &device[i];
		d->name = devs[i];
		eq = strchr(devs[i], '=');
		if (eq) {
			*eq = '\0';
			d->lower = eq + 1;
		}
		snprintf(node, sizeof(node), "/dev/mapper/%s", d->name);
		ret = target_open(&d->t, node, O_RDWR);
		if (!ret)
			ret = ctl_devno(node, &d->no);
		if (ret)
			die(EXIT_IO, "%s: %s", node, errname(ret));
		if (d->t.lbs != SECTOR)
			die(EXIT_USAGE, "%s: needs logical blocks of %u bytes", node, SECTOR);
		d->nr = d->t.size / SECTOR;
		model->dev[i].of = d;
	}
	nr_devices = nr;
	if (atexit(resume_all))
		die(EXIT_IO, "atexit");
}

/* ---- actions ------------------------------------------------------------------------ */

/* What an action may need to know. */
struct txn {
	struct model *m;
	int session;
	const struct cbw_cut_id *cut;
	const struct overlap *overlap;
	unsigned int touched;
};

struct bitmap *model_find(struct model *m, unsigned int dev, unsigned int name)
{
	unsigned int i;

	for (i = 0; i < m->dev[dev].nr_bitmaps; i++)
		if (m->dev[dev].bitmap[i]->name == name)
			return m->dev[dev].bitmap[i];
	return NULL;
}

static bool name_good(unsigned int name)
{
	return name < NAMES;
}

/* What starts empty at the cut may get what is in flight at it. */
static struct half fresh(struct txn *t, unsigned int dev, unsigned int shift)
{
	struct half h = half_new(device[dev].nr);
	unsigned int i;

	for (i = 0; i < t->overlap->nr; i++)
		if (t->overlap->r[i].dev == dev)
			set_mark(h.may, t->overlap->r[i].first, t->overlap->r[i].nr, shift);
	return h;
}

static int settled(struct txn *t, unsigned int dev, unsigned int name, struct bitmap **b)
{
	t->touched |= 1u << dev;
	*b = model_find(t->m, dev, name);
	if (!*b)
		return -ENOENT;
	return (*b)->is_frozen ? -EBUSY : 0;
}

static int do_add(struct txn *t, unsigned int dev, unsigned int name, uint32_t granularity,
		  uint32_t flags, struct bitmap **out)
{
	struct mdev *d = &t->m->dev[dev];
	struct bitmap *b;

	if (!granularity)
		granularity = CBW_GRANULARITY_DEFAULT;
	if (!name_good(name) || granularity < CBW_GRANULARITY_MIN ||
	    granularity > CBW_GRANULARITY_MAX || granularity & (granularity - 1))
		return -EINVAL;
	t->touched |= 1u << dev;
	if (model_find(t->m, dev, name))
		return -EEXIST;
	if (d->nr_bitmaps >= CBW_BITMAPS_MAX)
		return -ENOSPC;
	b = new(sizeof(*b));
	b->name = name;
	b->granularity = granularity;
	b->enabled = !(flags & CBW_ADD_DISABLED);
	b->transient = flags & CBW_ADD_TRANSIENT;
	b->active = fresh(t, dev, shift_of(b));
	b->since = t->overlap->now;
	d->bitmap[d->nr_bitmaps++] = b;
	if (out)
		*out = b;
	return 0;
}

static void do_remove(struct txn *t, unsigned int dev, struct bitmap *b)
{
	struct mdev *d = &t->m->dev[dev];
	unsigned int i;

	for (i = 0; d->bitmap[i] != b; i++)
		;
	d->bitmap[i] = d->bitmap[--d->nr_bitmaps];
	bitmap_free(b);
}

static void do_clear(struct txn *t, unsigned int dev, struct bitmap *b)
{
	half_free(&b->active);
	b->active = fresh(t, dev, shift_of(b));
	b->since = t->overlap->now;
	memset(&b->base, 0, sizeof(b->base));
}

static void do_enable(struct txn *t, struct bitmap *b, bool enable)
{
	if (!enable && b->enabled)
		b->disabled = *t->cut;
	if (!enable || !b->enabled)
		memset(&b->base, 0, sizeof(b->base));
	if (!b->enabled)
		b->since = t->overlap->now;
	b->enabled = enable;
}

static int do_rotate(struct txn *t, unsigned int dev, unsigned int name)
{
	struct bitmap *b = model_find(t->m, dev, name);
	int ret;

	if (b && b->is_frozen && ctl_cut_same(&b->cut, t->cut))
		return -EINVAL;		/* twice in one transaction */
	ret = settled(t, dev, name, &b);
	if (ret)
		return ret;
	b->frozen = b->active;
	b->active = fresh(t, dev, shift_of(b));
	b->either = set_new(device[dev].nr);
	b->is_frozen = true;
	b->told = b->enabled || ctl_cut_same(&b->disabled, t->cut);
	/* Writers may have some in flight that are not mapped yet. */
	b->writes = load_running() || pin_active() ? UINT64_MAX : load_writes();
	b->cut = *t->cut;
	b->owner = t->session < 0 ? OWNER_ANYONE : OWNER_SESSION;
	b->session = t->session;
	b->rotated[1] = b->rotated[0];
	b->rotated[0] = t->overlap->now;
	return 0;
}

/* All that the source has, and perhaps what is in flight where the source is. */
static void merge_into(struct txn *t, struct bitmap *to, unsigned int from_dev,
		       const struct bitmap *from)
{
	struct set *in_flight;
	unsigned int i;

	if (to == from)
		return;
	set_or_rounded(to->active.must, from->active.must, shift_of(to));
	set_or_rounded(to->active.may, from->active.may, shift_of(to));
	if (!t->overlap->nr)
		return;
	in_flight = set_new(device[from_dev].nr);
	for (i = 0; i < t->overlap->nr; i++)
		if (t->overlap->r[i].dev == from_dev)
			set_mark(in_flight, t->overlap->r[i].first, t->overlap->r[i].nr,
				 shift_of(from));
	set_or_rounded(to->active.may, in_flight, shift_of(to));
	free(in_flight);
}

static int do_merge(struct txn *t, const struct act *a)
{
	struct bitmap *to, *from;
	int ret = settled(t, a->dev, a->name, &to);

	if (!ret)
		ret = settled(t, a->dev2, a->name2, &from);
	if (ret)
		return ret;
	if (device[a->dev].nr != device[a->dev2].nr)
		return -EINVAL;
	merge_into(t, to, a->dev2, from);
	return 0;
}

static int do_copy(struct txn *t, const struct act *a)
{
	struct bitmap *from, *b;
	int ret = settled(t, a->dev2, a->name2, &from);

	if (ret)
		return ret;
	if (device[a->dev].nr != device[a->dev2].nr)
		return -EINVAL;
	ret = do_add(t, a->dev, a->name, from->granularity,
		     (from->enabled ? 0 : CBW_ADD_DISABLED) |
		     (from->transient ? CBW_ADD_TRANSIENT : 0), &b);
	if (ret)
		return ret;
	if (from->enabled && (a->dev == a->dev2 || t->m->dev[a->dev2].suspended))
		b->base = from->base;
	merge_into(t, b, a->dev2, from);
	return 0;
}

static int do_rename(struct txn *t, const struct act *a)
{
	struct bitmap *b;
	int ret = settled(t, a->dev, a->name, &b);

	if (ret)
		return ret;
	if (!name_good(a->name2))
		return -EINVAL;
	if (model_find(t->m, a->dev, a->name2))
		return -EEXIST;
	b->name = a->name2;
	return 0;
}

static int do_action(struct txn *t, const struct act *a)
{
	struct bitmap *b;
	int ret;

	if (a->dev >= nr_devices || a->dev2 >= nr_devices)
		return -ENODEV;
	switch (a->type) {
	case CBW_ACTION_BITMAP_ADD:
		return do_add(t, a->dev, a->name, a->granularity, a->flags, NULL);
	case CBW_ACTION_BITMAP_ROTATE:
		return do_rotate(t, a->dev, a->name);
	case CBW_ACTION_BITMAP_MERGE:
		return do_merge(t, a);
	case CBW_ACTION_BITMAP_COPY:
		return do_copy(t, a);
	case CBW_ACTION_BITMAP_RENAME:
		return do_rename(t, a);
	}
	ret = settled(t, a->dev, a->name, &b);
	if (ret)
		return ret;
	switch (a->type) {
	case CBW_ACTION_BITMAP_REMOVE:
		do_remove(t, a->dev, b);
		break;
	case CBW_ACTION_BITMAP_CLEAR:
		do_clear(t, a->dev, b);
		break;
	case CBW_ACTION_BITMAP_ENABLE:
	case CBW_ACTION_BITMAP_DISABLE:
		do_enable(t, b, a->type == CBW_ACTION_BITMAP_ENABLE);
		break;
	default:
		die(EXIT_USAGE, "the model has no action %u", a->type);
	}
	return 0;
}

int model_transaction(struct model *m, const struct act *acts, unsigned int nr, int session,
		      const struct cbw_cut_id *cut, const struct overlap *overlap,
		      unsigned int *failed, unsigned int *touched)
{
	struct txn t = { .m = m, .session = session, .cut = cut, .overlap = overlap };
	unsigned int i;
	int ret = 0;

	for (i = 0; i < nr; i++)
		if (acts[i].malformed) {
			*failed = i;
			return -EINVAL;
		}
	for (i = 0; i < nr && !ret; i++)
		ret = do_action(&t, &acts[i]);
	*failed = ret ? i - 1 : nr;
	if (touched)
		*touched = t.touched;
	return ret;
}

/* ---- commit, abort ------------------------------------------------------------------- */

static void thaw(struct bitmap *b)
{
	half_free(&b->frozen);
	free(b->either);
	b->either = NULL;
	b->is_frozen = false;
	memset(&b->cut, 0, sizeof(b->cut));
}

void model_commit_bitmap(struct bitmap *b)
{
	if (b->enabled)
		b->base = b->cut;
	thaw(b);
}

void model_abort_bitmap(struct bitmap *b)
{
	set_or(b->active.must, b->frozen.must);
	set_or(b->active.must, b->either);
	set_or(b->active.may, b->frozen.may);
	/* as if it had not been rotated; when that was before is not known */
	b->rotated[0] = b->rotated[1];
	b->rotated[1] = UINT64_MAX;
	thaw(b);
}

/* Without a snapshot nothing was released: all of it is dirty again. */
static void commit_by_mode(struct bitmap *b, bool always)
{
	if (!always) {
		model_commit_bitmap(b);
		return;
	}
	if (b->enabled)
		b->base = b->cut;
	model_abort_bitmap(b);
}

int model_commit(struct model *m, unsigned int dev, const struct cbw_cut_id *cut,
		 uint32_t mode, int session)
{
	bool found = false;
	unsigned int i;
	struct mdev *d;

	if (mode == CBW_COMMIT_NEVER)
		return model_abort(m, dev, cut);
	if (mode > CBW_COMMIT_ALWAYS)
		return -EINVAL;
	if (ctl_cut_none(cut))
		return -ESTALE;
	if (dev >= nr_devices)
		return -ENODEV;
	d = &m->dev[dev];
	for (i = 0; i < d->nr_bitmaps; i++) {
		struct bitmap *b = d->bitmap[i];

		if (ctl_cut_same(&b->base, cut))
			found = true;
		if (!b->is_frozen || !ctl_cut_same(&b->cut, cut))
			continue;
		if (b->owner == OWNER_SESSION && b->session != session)
			return -EBUSY;
		found = true;
	}
	if (!found)
		return -ESTALE;
	for (i = 0; i < d->nr_bitmaps; i++)
		if (d->bitmap[i]->is_frozen && ctl_cut_same(&d->bitmap[i]->cut, cut))
			commit_by_mode(d->bitmap[i], mode == CBW_COMMIT_ALWAYS);
	return 0;
}

int model_abort(struct model *m, unsigned int dev, const struct cbw_cut_id *cut)
{
	int ret = -ESTALE;
	unsigned int i;
	struct mdev *d;

	if (ctl_cut_none(cut))
		return -ESTALE;
	if (dev >= nr_devices)
		return -ENODEV;
	d = &m->dev[dev];
	for (i = 0; i < d->nr_bitmaps; i++)
		if (d->bitmap[i]->is_frozen && ctl_cut_same(&d->bitmap[i]->cut, cut)) {
			model_abort_bitmap(d->bitmap[i]);
			ret = 0;
		}
	return ret;
}

int model_detach(struct model *m, int session, const struct cbw_cut_id *cut)
{
	int ret = -ESTALE;
	struct bitmap *b;
	unsigned int d, i;

	for (d = 0; d < nr_devices; d++)
		for (i = 0; i < m->dev[d].nr_bitmaps; i++) {
			b = m->dev[d].bitmap[i];
			if (!b->is_frozen || b->owner != OWNER_SESSION ||
			    b->session != session || !ctl_cut_same(&b->cut, cut))
				continue;
			b->owner = OWNER_ANYONE;
			ret = 0;
		}
	return ret;
}

void model_session_ends(struct model *m, int session)
{
	struct bitmap *b;
	unsigned int d, i;

	for (d = 0; d < nr_devices; d++)
		for (i = 0; i < m->dev[d].nr_bitmaps; i++) {
			b = m->dev[d].bitmap[i];
			if (b->is_frozen && b->owner == OWNER_SESSION && b->session == session)
				model_abort_bitmap(b);
		}
}

/* ---- writes --------------------------------------------------------------------------- */

void model_wrote(struct model *m, const struct range *r)
{
	struct bitmap *b;
	unsigned int i;

	for (i = 0; i < m->dev[r->dev].nr_bitmaps; i++) {
		b = m->dev[r->dev].bitmap[i];
		if (!b->enabled)
			continue;
		set_mark(b->active.must, r->first, r->nr, shift_of(b));
		set_mark(b->active.may, r->first, r->nr, shift_of(b));
	}
}
