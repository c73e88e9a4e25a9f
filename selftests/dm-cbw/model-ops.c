// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The other verbs, given to the module and to the model; what the two say about them has to
 * be the same.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model.h"

uint64_t ops_done;
enum phase phase;
int session[SESSIONS];

static bool unchecked;			/* the next verb is to meet what this one has begun */
static void *data;

static void session_open(int s)
{
	session[s] = ctl_open();
	if (session[s] < 0)
		die(EXIT_IO, "/dev/cbw-control: %s", errname(session[s]));
}

/* The model begins without any, whatever an earlier run has left. */
static void forget(const struct device *d)
{
	struct cbw_bitmap_entry *buf, *e;
	struct cbw_action a;
	uint64_t size;
	uint32_t i, nr;
	int ret = ctl_list(session[0], d->no, &buf, &nr, &size);

	for (i = 0, e = buf; !ret && i < nr; i++, e = ctl_list_next(e)) {
		/* one that was handed over is still frozen */
		if (e->flags & CBW_BITMAP_BUSY)
			ctl_abort(session[0], d->no, &e->cut);
		memset(&a, 0, sizeof(a));
		a.type = CBW_ACTION_BITMAP_REMOVE;
		a.dev = d->no;
		a.name = (uintptr_t)e->name;
		a.name_len = e->name_len;
		ret = ctl_transaction(session[0], &a, 1, NULL, NULL);
	}
	if (ret)
		die(EXIT_IO, "%s: cannot remove its bitmaps: %s", d->name, errname(ret));
	free(buf);
}

void ops_setup(uint64_t seed)
{
	int s;

	ops_rng = (seed + 1) * 0x9e3779b97f4a7c15ull;
	data = memset(buffer_alloc(2048 * SECTOR), 0xd2, 2048 * SECTOR);
	for (s = 0; s < SESSIONS; s++)
		session_open(s);
	for (s = 0; s < (int)nr_devices; s++)
		forget(&device[s]);
}

/* ---- commit, abort, sessions ------------------------------------------------------- */

static void verb_commit(void)
{
	static const uint32_t modes[] = {
		CBW_COMMIT_ON_SUCCESS, CBW_COMMIT_ON_SUCCESS, CBW_COMMIT_ON_SUCCESS,
		77,
		/* what merges back waits for the writes that are pinned */
		CBW_COMMIT_ALWAYS, CBW_COMMIT_NEVER,
	};
	unsigned int dev = some_dev();
	int s = ops_random(SESSIONS), ret, want;
	struct cbw_cut_id cut = some_cut(dev, &s);
	uint32_t mode = modes[ops_random(phase == PINNED ? 4 : 6)];

	check_settle();
	log_op("session %d: commit:%u:%s:%u", s, dev, cut_text(&cut), mode);
	ret = ctl_commit(session[s], devno(dev), &cut, mode);
	log_result(" = %s", errname(ret));
	want = model_commit(model, dev, &cut, mode, s);
	if (ret != want)
		mismatch("commit returned %s, expected %s", ret ? errname(ret) : "0",
			 want ? errname(want) : "0");
}

static void verb_abort(void)
{
	unsigned int dev = some_dev();
	int s = ops_random(SESSIONS), ret, want;
	struct cbw_cut_id cut = some_cut(dev, &s);

	check_settle();
	log_op("session %d: abort:%u:%s", s, dev, cut_text(&cut));
	ret = ctl_abort(session[s], devno(dev), &cut);
	log_result(" = %s", errname(ret));
	want = model_abort(model, dev, &cut);
	if (ret != want)
		mismatch("abort returned %s, expected %s", ret ? errname(ret) : "0",
			 want ? errname(want) : "0");
}

static void verb_detach(void)
{
	int s = ops_random(SESSIONS), ret, want;
	struct cbw_cut_id cut = some_cut(ops_random(nr_devices), &s);

	log_op("session %d: detach:%s", s, cut_text(&cut));
	ret = ctl_detach(session[s], &cut);
	log_result(" = %s", errname(ret));
	want = model_detach(model, s, &cut);
	if (ret != want)
		mismatch("detach returned %s, expected %s", ret ? errname(ret) : "0",
			 want ? errname(want) : "0");
}

/* Who closes it does not wait; who comes then does. */
static void session_ended(int s)
{
	model_session_ends(model, s);
	session_open(s);
	settling = true;
	unchecked = chance(50);
}

static void verb_close(void)
{
	int s = ops_random(SESSIONS);

	log_op("session %d: close", s);
	if (close(session[s]))
		die(EXIT_IO, "close: %s", errname(errno));
	session_ended(s);
}

/* An agent that has the session is killed.  Until then its parent's close changes nothing. */
static void verb_kill(void)
{
	int s = ops_random(SESSIONS), ready[2], status, fd;
	pid_t pid;
	char c;

	log_op("session %d: killed", s);
	if (pipe(ready))
		die(EXIT_IO, "pipe: %s", errname(errno));
	pid = fork();
	if (!pid) {
		for (fd = 3; fd < 256; fd++)
			if (fd != session[s] && fd != ready[1])
				close(fd);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	if (pid < 0 || read(ready[0], &c, 1) != 1)
		die(EXIT_IO, "no agent: %s", errname(errno));
	if (close(session[s]) || close(ready[0]) || close(ready[1]))
		die(EXIT_IO, "close: %s", errname(errno));
	if (!settling && chance(30))
		check_all((load_running() ? CHECK_LOADED : 0) | CHECK_LIST);
	if (kill(pid, SIGKILL) || waitpid(pid, &status, 0) != pid)
		die(EXIT_IO, "the agent cannot be killed: %s", errname(errno));
	session_ended(s);
}

/* ---- suspend and reload ------------------------------------------------------------ */

static void resume(struct mdev *d)
{
	int ret = dm_resume(d->of->name);

	log_op("%s: resume = %s", d->of->name, errname(ret));
	if (ret)
		mismatch("%s: cannot be resumed", d->of->name);
	d->suspended = false;
}

static void suspend(struct mdev *d)
{
	unsigned int how = ops_random(4);
	int ret = dm_suspend(d->of->name, how);

	log_op("%s: suspend, how %u = %s", d->of->name, how, errname(ret));
	if (ret)
		mismatch("%s: cannot be suspended", d->of->name);
	d->suspended = true;
}

static void verb_suspend(void)
{
	struct mdev *d = &model->dev[ops_random(nr_devices)];

	if (d->suspended)
		resume(d);
	else
		suspend(d);
}

static void verb_reload(void)
{
	struct mdev *d = &model->dev[ops_random(nr_devices)];
	bool never = chance(25);
	char table[512];
	int ret;

	if (d->suspended)
		return;
	ret = dm_table(d->of->name, table, sizeof(table));
	if (!ret)
		ret = dm_load(d->of->name, table);
	log_op("%s: load '%s' = %s", d->of->name, ret ? "" : table, errname(ret));
	if (!ret && never) {
		ret = dm_unload(d->of->name);
		log_result(", cleared = %s", errname(ret));
	}
	if (ret)
		mismatch("%s: cannot be reloaded", d->of->name);
	if (never)
		return;
	suspend(d);
	resume(d);
}

void ops_rest(void)
{
	unsigned int i;

	for (i = 0; i < nr_devices; i++)
		if (model->dev[i].suspended)
			resume(&model->dev[i]);
}

/* ---- writes, and questions --------------------------------------------------------- */

static void verb_write(void)
{
	unsigned int op, n = 1 + ops_random(6);
	struct range r;
	int ret;

	while (n--) {
		io_random(&ops_rng, &r, &op, 2048);
		if (model->dev[r.dev].suspended)
			continue;
		log_op("operation %u on %u at sector %llu+%llu", op, r.dev, (ull)r.first,
		       (ull)r.nr);
		ret = io_do(&r, op, data);
		if (ret)
			mismatch("it failed: %s", errname(ret));
		model_wrote(model, &r);
	}
}

static int want_extents(unsigned int dev, unsigned int name, const struct cbw_cut_id *cut,
			struct bitmap **b)
{
	if (name_malformed(name))
		return -EINVAL;
	if (dev >= nr_devices)
		return -ENODEV;
	*b = model_find(model, dev, name);
	if (!*b)
		return -ENOENT;
	if (ctl_cut_none(cut))
		return 0;
	return (*b)->is_frozen && ctl_cut_same(&(*b)->cut, cut) ? 0 : -ESTALE;
}

/*
 * Is the *@i'th extent of @nr this run, or the first of several that are, which differ from
 * their neighbours?
 */
static bool extent_is(const struct cbw_extent *e, size_t nr, uint64_t *i, uint64_t start,
		      uint64_t end)
{
	for (; start < end; start += e[(*i)++].length / SECTOR)
		if (*i >= nr || e[*i].offset != start * SECTOR || !e[*i].length ||
		    (*i && e[*i - 1].offset + e[*i - 1].length == e[*i].offset &&
		     e[*i - 1].flags == e[*i].flags))
			return false;
	return start == end;
}

/* From somewhere, also from inside of a granule: from that granule on. */
static void verb_extents(void)
{
	unsigned int dev = some_dev(), at = dev < nr_devices ? dev : 0;
	unsigned int name = some_name(at);
	uint64_t from = ops_random(device[at].t.size + 1), start, end, i = 0;
	uint32_t granularity, room = 1 + ops_random(9);
	struct cbw_extent *e = NULL;
	struct bitmap *b = NULL;
	struct cbw_cut_id cut = { 0 };
	size_t nr = 0;
	int s, ret, want;

	if (chance(50))
		cut = some_cut(dev, &s);
	if (phase == PINNED && !ctl_cut_none(&cut))
		return;
	check_settle();
	log_op("extents:%u:%s:%s from %llu", dev, name_text(name), cut_text(&cut), (ull)from);
	ret = ctl_extents(session[0], devno(dev), name_bytes(name), &cut, from, room, &e, &nr,
			  &granularity);
	log_result(" = %s", errname(ret));
	want = want_extents(dev, name, &cut, &b);
	if (ret != want)
		mismatch("extents returned %s, expected %s", ret ? errname(ret) : "0",
			 want ? errname(want) : "0");
	if (ret)
		return;
	if (phase != LOADED) {
		const struct half *h = ctl_cut_none(&cut) ? &b->active : &b->frozen;

		end = from / b->granularity * b->granularity / SECTOR;
		while (from < device[dev].t.size && set_next(h->must, &start, &end)) {
			if (!extent_is(e, nr, &i, start, end))
				mismatch("extent %llu is not sectors %llu to %llu", (ull)i,
					 (ull)start, (ull)end);
		}
		if (i != nr)
			mismatch("there are %zu extents, expected %llu", nr, (ull)i);
	}
	free(e);
}

/* ---- the verbs --------------------------------------------------------------------- */

static const struct {
	void (*fn)(void);
	unsigned int weight[3];		/* by phase */
} verbs[] = {
	{ verb_write,		{ 30, 0, 0 } },
	{ verb_transaction,	{ 40, 50, 50 } },
	{ verb_message,		{ 12, 15, 15 } },
	{ verb_commit,		{ 10, 12, 12 } },
	{ verb_abort,		{ 6, 0, 6 } },
	{ verb_detach,		{ 5, 5, 5 } },
	{ verb_close,		{ 4, 0, 4 } },
	{ verb_kill,		{ 3, 0, 2 } },
	{ verb_suspend,		{ 3, 0, 3 } },
	{ verb_reload,		{ 2, 0, 2 } },
	{ verb_extents,		{ 10, 10, 5 } },
	{ verb_crowd,		{ 1, 0, 0 } },
};

#define VERBS	(sizeof(verbs) / sizeof(verbs[0]))

static void (*some_verb(void))(void)
{
	unsigned int i, sum = 0, at;

	for (i = 0; i < VERBS; i++)
		sum += verbs[i].weight[phase];
	at = ops_random(sum);
	for (i = 0; at >= verbs[i].weight[phase]; i++)
		at -= verbs[i].weight[phase];
	return verbs[i].fn;
}

void ops_step(enum phase in)
{
	unsigned int how = chance(70) ? CHECK_LIST : 0;
	struct overlap none;

	phase = in;
	unchecked = false;
	some_verb()();
	ops_done++;
	if (phase == LOADED) {
		how |= CHECK_LOADED;
		load_cut(0, tick(), tick(), &none);
	}
	if (phase == PINNED)
		how |= CHECK_PINNED;
	if (!unchecked)
		check_all(how);
}

/* What may only come last while writes are pinned, since it waits for them. */
void ops_last_pinned(void)
{
	phase = PINNED;
	if (chance(50))
		verb_close();
}
