// SPDX-License-Identifier: GPL-2.0-or-later
/* Transactions, by ioctl and by message. */
#include "model.h"

uint64_t cuts_made;

static bool is_second(uint32_t type)
{
	return type == CBW_ACTION_BITMAP_MERGE || type == CBW_ACTION_BITMAP_COPY ||
	       type == CBW_ACTION_BITMAP_RENAME;
}

static bool has_source(uint32_t type)
{
	return type == CBW_ACTION_BITMAP_MERGE || type == CBW_ACTION_BITMAP_COPY;
}

static void random_action(struct act *a)
{
	static const uint32_t types[] = {
		CBW_ACTION_BITMAP_ADD, CBW_ACTION_BITMAP_ADD, CBW_ACTION_BITMAP_ADD,
		CBW_ACTION_BITMAP_REMOVE, CBW_ACTION_BITMAP_CLEAR, CBW_ACTION_BITMAP_ENABLE,
		CBW_ACTION_BITMAP_ENABLE, CBW_ACTION_BITMAP_DISABLE, CBW_ACTION_BITMAP_ROTATE,
		CBW_ACTION_BITMAP_ROTATE, CBW_ACTION_BITMAP_ROTATE, CBW_ACTION_BITMAP_RENAME,
		CBW_ACTION_BITMAP_MERGE, CBW_ACTION_BITMAP_MERGE, CBW_ACTION_BITMAP_COPY,
	};
	/* what merges waits for the writes in flight */
	unsigned int nr = sizeof(types) / sizeof(types[0]) - (phase == PINNED ? 3 : 0);
	unsigned int dev;

	memset(a, 0, sizeof(*a));
	a->type = types[ops_random(nr)];
	a->dev = some_dev();
	dev = a->dev < nr_devices ? a->dev : 0;
	a->dev2 = has_source(a->type) && chance(40) ? some_dev() : a->dev;
	a->name = some_name(dev);
	switch (a->type) {
	case CBW_ACTION_BITMAP_ADD:
		a->name = new_name(dev);
		a->granularity = some_granularity();
		a->flags = (chance(25) ? CBW_ADD_DISABLED : 0) |
			   (chance(25) ? CBW_ADD_TRANSIENT : 0);
		break;
	case CBW_ACTION_BITMAP_MERGE:
		a->name2 = some_name(a->dev2 < nr_devices ? a->dev2 : 0);
		break;
	case CBW_ACTION_BITMAP_COPY:
		a->name = new_name(dev);
		a->name2 = some_name(a->dev2 < nr_devices ? a->dev2 : 0);
		break;
	case CBW_ACTION_BITMAP_RENAME:
		a->name2 = new_name(dev);
		break;
	}
	a->malformed = name_malformed(a->name) || name_malformed(a->name2);
}

/* What no module may take. */
static void spoil(struct cbw_action *k, struct act *a)
{
	a->malformed = true;
	switch (ops_random(5)) {
	case 0:
		k->type = chance(50) ? 0 : 4711;
		break;
	case 1:
		k->flags |= 1u << 30;
		break;
	case 2:
		k->reserved = 1;
		break;
	case 3:
		if (a->type == CBW_ACTION_BITMAP_ADD)
			k->name2_len = 1;
		else
			k->granularity = 65536;
		break;
	default:
		k->name_len = 0;
		break;
	}
}

static void to_kernel(const struct act *a, struct cbw_action *k)
{
	struct ctl_name name = name_bytes(a->name), name2 = name_bytes(a->name2);

	memset(k, 0, sizeof(*k));
	k->type = a->type;
	k->flags = a->flags;
	k->dev = devno(a->dev);
	k->granularity = a->granularity;
	k->name = (uintptr_t)name.s;
	k->name_len = name.len;
	if (!is_second(a->type))
		return;
	k->name2 = (uintptr_t)name2.s;
	k->name2_len = name2.len;
	if (has_source(a->type) && (a->dev2 != a->dev || a->dev % 2))
		k->dev2 = devno(a->dev2);
}

static void log_action(const struct act *a)
{
	static const char *const types[] = {
		"?", "add", "remove", "clear", "enable", "disable", "rotate", "start", "merge",
		"copy", "rename", "?", "?", "?", "?", "?",
	};

	log_result(" %s:%u:%s", types[a->type % 16], a->dev, name_text(a->name));
	if (a->type == CBW_ACTION_BITMAP_ADD)
		log_result(":%u%s", a->granularity, a->flags & CBW_ADD_DISABLED ? ":off" : "");
	if (is_second(a->type))
		log_result(":%u:%s", a->dev2, name_text(a->name2));
	if (a->malformed)
		log_result("(malformed)");
}

static unsigned int touched_by(const struct act *a, unsigned int nr)
{
	unsigned int i, touched = 0;

	for (i = 0; i < nr; i++)
		touched |= 1u << a[i].dev | 1u << a[i].dev2;
	return touched;
}

/* The module has done it, or has refused: @ret. */
static void transaction_done(const struct act *acts, unsigned int nr, int s,
			     const struct cbw_cut_id *cut, uint64_t before, int ret,
			     unsigned int failed, bool index)
{
	static const struct cbw_cut_id dummy = { { 0xdd } };
	struct overlap overlap = { .now = tick() };
	unsigned int want_failed, touched = touched_by(acts, nr);
	struct model *m;
	int want;

	log_result(" = %s", ret ? errname(ret) : cut_text(cut));
	if (!ret && load_running())
		load_cut(touched, before, overlap.now, &overlap);
	m = model_clone(model);
	want = model_transaction(m, acts, nr, s, ret ? &dummy : cut, &overlap, &want_failed,
				 &touched);
	if (ret != want)
		mismatch("the transaction returned %s, expected %s (action %u)",
			 ret ? errname(ret) : "0", want ? errname(want) : "0", want_failed);
	if (ret && index && failed != want_failed)
		mismatch("action %u has failed, expected %u", failed, want_failed);
	if (ret) {
		model_free(m);
		return;
	}
	model_free(model);
	model = m;
	cuts_made++;
	remember(cut);
	load_cut_made(&overlap);
	if (pin_active())
		pin_cut(touched);
}

static int transaction(struct act *acts, unsigned int nr, int s, bool spoilt)
{
	static struct cbw_action k[ACTIONS];
	struct cbw_cut_id cut;
	unsigned int i, failed;
	uint64_t before;
	int ret;

	log_op("session %d:", s);
	for (i = 0; i < nr; i++)
		to_kernel(&acts[i], &k[i]);
	if (spoilt) {
		i = ops_random(nr);
		spoil(&k[i], &acts[i]);
	}
	for (i = 0; i < nr; i++)
		log_action(&acts[i]);
	before = tick();
	ret = ctl_transaction(session[s], k, nr, &cut, &failed);
	transaction_done(acts, nr, s, &cut, before, ret, failed, true);
	return ret;
}

void verb_transaction(void)
{
	struct act acts[16];
	unsigned int i, nr = chance(45) ? 1 : 1 + ops_random(chance(80) ? 4 : 16);

	careful = chance(70);
	for (i = 0; i < nr; i++)
		random_action(&acts[i]);
	careful = false;
	transaction(acts, nr, ops_random(SESSIONS), chance(3));
}

/* As many bitmaps as there can be. */
void verb_crowd(void)
{
	static struct act acts[ACTIONS];
	unsigned int dev = ops_random(nr_devices), have = model->dev[dev].nr_bitmaps, i;
	unsigned int room = CBW_BITMAPS_MAX - have;
	int s = ops_random(SESSIONS);

	memset(acts, 0, sizeof(acts));
	for (i = 0; i <= room; i++)
		acts[i] = (struct act){ .type = CBW_ACTION_BITMAP_ADD, .dev = dev, .dev2 = dev,
					.name = NAMES_OFTEN + i, .granularity = 512u << i % 23 };
	transaction(acts, room + 1, s, false);
	if (transaction(acts, room, s, false))
		return;
	check_all(CHECK_LIST);
	acts[room] = acts[0];
	acts[room].granularity = 0;
	acts[room].type = CBW_ACTION_BITMAP_COPY;
	acts[room].name = NAMES - 1;
	acts[room].name2 = acts[1].name;
	transaction(&acts[room], 1, s, false);
	/* one for another is possible, and another name */
	acts[room].type = CBW_ACTION_BITMAP_REMOVE;
	acts[room].name = acts[0].name;
	acts[room + 1] = acts[0];
	transaction(&acts[room], 2, s, false);
	acts[room].type = CBW_ACTION_BITMAP_RENAME;
	acts[room].name2 = NAMES - 1;
	transaction(&acts[room], 1, s, false);
	acts[0].name = NAMES - 1;
	check_all(0);
	for (i = 0; i < room; i++) {
		acts[i].type = CBW_ACTION_BITMAP_REMOVE;
		acts[i].granularity = 0;
	}
	transaction(acts, room, s, false);
}

/* ---- messages ----------------------------------------------------------------------------- */

/* dm takes a level of backslashes away. */
static void message_name(char *to, size_t size, unsigned int name)
{
	const uint8_t *s = (const uint8_t *)names[name].s;
	size_t n = 0;
	uint32_t i;

	for (i = 0; i < names[name].len; i++)
		n += snprintf(to + n, size - n,
			      s[i] > ' ' && s[i] < 0x7f && s[i] != '\\' ? "%c" : "\\\\x%02x",
			      s[i]);
}

static void message_transaction(struct act *a, unsigned int nr)
{
	static const char *const verbs[] = {
		"", "add", "remove", "clear", "enable", "disable", "rotate", "", "merge", "copy",
		"rename",
	};
	static char words[8192], reply[64];
	struct cbw_cut_id cut = { { 0xcc } };
	unsigned int i, b;
	size_t n, end;
	uint64_t before;
	int ret;

	n = snprintf(words, sizeof(words), "bitmap_%s ", verbs[a->type]);
	message_name(words + n, sizeof(words) - n, a->name);
	for (i = 0; i < nr && is_second(a->type); i++) {
		n = strlen(words);
		n += snprintf(words + n, sizeof(words) - n, " ");
		if (a[i].dev2 != a->dev)
			n += snprintf(words + n, sizeof(words) - n, "%u:%u/",
				      device[a[i].dev2].no.major,
				      device[a[i].dev2].no.minor);
		message_name(words + n, sizeof(words) - n, a[i].name2);
	}
	end = strlen(words);
	if (a->type == CBW_ACTION_BITMAP_ADD)
		snprintf(words + end, sizeof(words) - end, " granularity %u%s%s", a->granularity,
			 a->flags & CBW_ADD_DISABLED ? " disabled" : "",
			 a->flags & CBW_ADD_TRANSIENT ? " transient" : "");
	log_op("message %u: %.200s", a->dev, words);
	before = tick();
	ret = dm_message(device[a->dev].name, words, reply, sizeof(reply));
	for (i = 0; !ret && a->type == CBW_ACTION_BITMAP_ROTATE && i < 16; i++) {
		if (sscanf(reply + 2 * i, "%2x", &b) != 1)
			mismatch("bitmap_rotate replied '%s'", reply);
		cut.b[i] = b;
	}
	transaction_done(a, nr, -1, &cut, before, ret, 0, false);
}

static void message_settle(unsigned int dev, unsigned int name, bool commit)
{
	struct bitmap *b = model_find(model, dev, name);
	char words[4200];
	int ret, want;
	size_t n;

	/* an abort waits for the writes in flight */
	if (phase == PINNED && !commit)
		return;
	check_settle();
	n = snprintf(words, sizeof(words), "bitmap_%s ", commit ? "commit" : "abort");
	message_name(words + n, sizeof(words) - n, name);
	log_op("message %u: %.200s", dev, words);
	ret = dm_message(device[dev].name, words, NULL, 0);
	log_result(" = %s", errname(ret));
	want = !b			    ? -ENOENT :
	       !b->is_frozen		    ? -EINVAL :
	       commit && b->owner == OWNER_SESSION ? -EBUSY : 0;
	if (ret != want)
		mismatch("the message returned %s, expected %s", ret ? errname(ret) : "0",
			 want ? errname(want) : "0");
	if (!ret && commit)
		model_commit_bitmap(b);
	else if (!ret)
		model_abort_bitmap(b);
}

void verb_message(void)
{
	struct act a[4];
	unsigned int dev, i, nr = 1;

	do {
		random_action(a);
	} while (a->name >= NAMES || a->name2 >= NAMES || a->dev >= nr_devices ||
		 a->dev2 >= nr_devices);
	dev = a->dev;
	if (chance(25)) {
		struct bitmap *b = some_bitmap(dev);

		message_settle(dev, b && chance(80) ? b->name : ops_random(NAMES_OFTEN),
			       chance(50));
		return;
	}
	/* the default has no word */
	if (a->type == CBW_ACTION_BITMAP_ADD && !a->granularity)
		a->granularity = CBW_GRANULARITY_DEFAULT;
	if (a->type == CBW_ACTION_BITMAP_MERGE)
		nr += ops_random(4);
	for (i = 1; i < nr; i++) {
		a[i] = *a;
		do {
			a[i].dev2 = chance(60) ? dev : ops_random(nr_devices);
			a[i].name2 = some_name(a[i].dev2);
		} while (a[i].name2 >= NAMES);
	}
	message_transaction(a, nr);
}
