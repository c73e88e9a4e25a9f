// SPDX-License-Identifier: GPL-2.0-or-later
/* info and check of a container */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "cbw.h"
#include "container.h"
#include "qcow2.h"
#include "report.h"
#include "show.h"

/* ---- who has it -------------------------------------------------------- */

bool container_live(const struct container *c, struct cbw_dm_dev *live)
{
	struct cbw_devno own = c->f.block ? c->f.dev : c->f.loop;
	struct cbw_dm_dev *list;
	bool found = false;
	size_t nr, i;

	/* it may also have been given by its loop device */
	if (!own.major || cbw_dm_list(&list, &nr, NULL))
		return false;
	for (i = 0; i < nr && !found; i++) {
		if (list[i].kind != CBW_DM_TRACKED || list[i].container.major != own.major ||
		    list[i].container.minor != own.minor)
			continue;
		*live = list[i];
		found = true;
	}
	free(list);
	return found;
}

static const char *state_text(const struct container *c, bool live)
{
	struct cbw_cut_id boot;

	if (live)
		return "attached";
	switch (c->phase) {
	case PHASE_EMPTY:
		return "empty";
	case PHASE_CLEAN:
		return container_noted(c, NULL) ? "inconsistent" : "clean";
	case PHASE_STOPPED:
		return container_noted(c, NULL) ? "inconsistent" : "stop-unfinished";
	case PHASE_OPEN:
		if (container_noted(c, NULL) ||
		    (!read_boot_id(&boot, NULL) && cbw_cut_equal(&boot, &c->state.boot_id)))
			return "inconsistent";
		return "needs-recovery";
	case PHASE_BAD:
		break;
	}
	return "inconsistent";
}

/* Why, for what is inconsistent; good until the next call. */
static const char *why_text(const struct container *c)
{
	static struct cbw_error noted;

	if (c->phase == PHASE_BAD)
		return c->why.msg;
	if (container_noted(c, &noted))
		return noted.msg;
	return "it was not stopped in order in this boot; an attach works only if the volume was not written since it began";
}

/* ---- info -------------------------------------------------------------- */

/* As the kernel would list it. */
static int bitmap_facts(const struct container *c, uint32_t nr, struct cbw_bitmap *out,
			struct cbw_error *err)
{
	const struct state_bitmap *b = &c->state.bitmap[nr];
	const struct entry *e = c->phase == PHASE_CLEAN ? image_find(&c->img, b->name) : NULL;
	struct bits bits;
	uint64_t set;
	bool behind;
	int ret;

	*out = (struct cbw_bitmap){ .granularity = b->granularity, .base = b->base };
	memcpy(out->name, b->name, sizeof(out->name));
	out->flags = CBW_BITMAP_PERSISTENT |
		     (b->flags & CBW_STATE_ENABLED ? CBW_BITMAP_ENABLED : 0);
	if (e && 1u << e->bits == b->granularity)
		bits_of_entry(&c->img, e, &bits);
	else
		bits_of_place(c, b->offset, b->granularity, &bits);
	ret = bits_count(&bits, &set, &behind, err);
	out->dirty_bytes = set * b->granularity;
	if (out->dirty_bytes > c->state.device_size)
		out->dirty_bytes = c->state.device_size;
	return ret;
}

static int list_bitmaps(const struct container *c, const struct cbw_dm_dev *live,
			struct cbw_bitmap **list, size_t *nr, struct cbw_container_info *info,
			struct cbw_error *err)
{
	struct cbw_session *session;
	uint32_t i;
	int ret;

	*nr = 0;
	*list = NULL;
	if (live) {
		ret = cbw_session_open(&session, err);
		if (ret)
			return ret;
		ret = cbw_container_get_info(session, live->dev, false, info, err);
		if (!ret)
			ret = cbw_bitmap_list(session, live->dev, list, nr, NULL, err);
		cbw_session_close(session);
		return ret;
	}
	if (c->no_state)
		return 0;
	*list = xcalloc(c->state.nr, sizeof(**list));
	for (i = 0; i < c->state.nr; i++) {
		ret = bitmap_facts(c, i, &(*list)[i], err);
		if (ret) {
			free(*list);
			return ret;
		}
	}
	*nr = c->state.nr;
	return 0;
}

static void info_json(const struct container *c, const struct cbw_dm_dev *live,
		      const struct cbw_container_info *info, const struct cbw_bitmap *list,
		      size_t nr)
{
	struct json_object *o = json_object_new_object(), *array = json_object_new_array();
	const char *state = state_text(c, live);
	char id[CBW_CUT_HEX];
	size_t i;

#define ADD(key, value) json_object_object_add(o, key, value)
	ADD("container", json_object_new_string(esc(c->f.path)));
	ADD("state", json_object_new_string(state));
	if (!live && !strcmp(state, "inconsistent"))
		ADD("reason", json_object_new_string(why_text(c)));
	if (c->img.backing)
		ADD("volume", json_object_new_string(esc(c->img.backing)));
	if (live) {
		char *text = xasprintf("%u:%u", live->dev.major, live->dev.minor);

		ADD("device", json_object_new_string(text));
		ADD("name", json_object_new_string(esc(live->name)));
		free(text);
		ADD("failed", json_object_new_boolean(!!(info->out_flags & CBW_CONTAINER_FAILED)));
		ADD("regions", json_object_new_uint64(info->out_regions));
		ADD("intent_writes", json_object_new_uint64(info->out_intent_writes));
		ADD("intent_held", json_object_new_uint64(info->out_intent_held));
		ADD("checkpoints", json_object_new_uint64(info->out_checkpoints));
		ADD("pages", json_object_new_uint64(info->out_pages));
		ADD("free", json_object_new_uint64(info->out_free));
	}
	if (!c->no_state) {
		ADD("id", json_object_new_string(cbw_cut_to_text(&c->state.container, id)));
		ADD("size", json_object_new_uint64(c->state.device_size));
		ADD("generation", json_object_new_uint64(c->state.generation));
		ADD("region", json_object_new_uint64(1ull << c->state.region_shift));
	}
	for (i = 0; i < nr; i++)
		json_object_array_add(array, json_bitmap(&list[i]));
	ADD("bitmaps", array);
#undef ADD
	json_line(o);
}

static void info_text(const struct container *c, const struct cbw_dm_dev *live,
		      const struct cbw_container_info *info, const struct cbw_bitmap *list,
		      size_t nr)
{
	const char *state = state_text(c, live);
	size_t i;

	printf("%s  %s", esc(c->f.path), state);
	if (live)
		printf(" to %s (%u:%u)", esc(live->name), live->dev.major, live->dev.minor);
	if (!c->no_state)
		printf("  volume %s of %s  generation %" PRIu64 "  regions of %s",
		       esc(c->img.backing ? c->img.backing : "?"), human(c->state.device_size),
		       c->state.generation, human(1ull << c->state.region_shift));
	putchar('\n');
	if (!live && !strcmp(state, "inconsistent"))
		printf("  %s\n", why_text(c));
	if (live)
		printf("  %s%" PRIu64 " regions with an intent  %" PRIu64 " intents written, %" PRIu64
		       " writes held for them  %" PRIu64 " checkpoints of %" PRIu64
		       " pages  %s free\n",
		       info->out_flags & CBW_CONTAINER_FAILED ? "FAILED  " : "",
		       (uint64_t)info->out_regions, (uint64_t)info->out_intent_writes,
		       (uint64_t)info->out_intent_held, (uint64_t)info->out_checkpoints,
		       (uint64_t)info->out_pages, human(info->out_free));
	for (i = 0; i < nr; i++)
		show_bitmap(&list[i], "  ");
}

bool is_container_path(const char *path)
{
	struct stat st;

	return !stat(path, &st) && !S_ISDIR(st.st_mode);
}

int container_info(const char *path, bool json)
{
	struct container c = { .f = { .fd = -1 }, .no_state = true };
	struct cbw_container_info info = { 0 };
	struct cbw_bitmap *list = NULL;
	struct cbw_dm_dev live;
	struct cbw_error err;
	size_t nr = 0;
	bool attached = false;
	int ret;

	ret = cfile_open(path, 0, &c.f, &err);
	if (!ret)
		ret = container_load(&c, &err);
	if (!ret && c.phase == PHASE_EMPTY)
		ret = fail_with(&err, ENODATA, "%s: it is no container: it is empty", esc(path));
	if (!ret) {
		attached = container_live(&c, &live);
		ret = list_bitmaps(&c, attached ? &live : NULL, &list, &nr, &info, &err);
	}
	if (!ret)
		(json ? info_json : info_text)(&c, attached ? &live : NULL, &info, list, nr);
	free(list);
	container_close(&c);
	return ret ? failed("info: %s", err.msg) : EXIT_OK;
}

/* ---- check ------------------------------------------------------------- */

struct check {
	struct container c;
	bool repair, remove, live;
	unsigned int errors, repaired;
	bool refcounts;		/* leaks, or counts that are wrong */
	bool distrust;
};

__attribute__((format(printf, 3, 4)))
static void found(struct check *k, unsigned int *count, const char *fmt, ...)
{
	va_list ap;

	printf("%s: ", esc(k->c.f.path));
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	if (count)
		++*count;
}

/* The library has a mind of its own of what refcounts have to be. */
static void check_image(struct check *k)
{
	struct qcow2_check_report r;
	struct qcow2_image *img;
	struct qcow2_error err;

	if (qcow2_open(k->c.f.path, QCOW2_OPEN_NO_BACKING, &img, &err)) {
		found(k, &k->errors, "%s", err.msg);
		return;
	}
	if (qcow2_check(img, 0, &r, &err)) {
		found(k, &k->errors, "%s", err.msg);
	} else if (r.corruptions || r.leaks) {
		k->refcounts = true;
		found(k, &k->errors, "%" PRIu64 " errors, %" PRIu64 " leaked clusters: %s",
		      r.corruptions, r.leaks, r.first);
	}
	qcow2_close(img);
}

static int check_tails(struct check *k, struct cbw_error *err)
{
	size_t i;

	for (i = 0; i < k->c.img.nr; i++) {
		const struct entry *e = &k->c.img.entry[i];
		struct bits bits;
		uint64_t set;
		bool behind;
		int ret;

		/* those of an attached container are the kernel's, or mean nothing */
		if (e->flags & ENTRY_IN_USE)
			continue;
		bits_of_entry(&k->c.img, e, &bits);
		ret = bits_count(&bits, &set, &behind, err);
		if (ret)
			return ret;
		if (!behind)
			continue;
		found(k, &k->errors, "bitmap '%s' has bits behind its end", esc(e->name));
		if (!k->repair || !entry_place(e))
			continue;
		ret = bits_copy(&bits, &k->c.f, entry_place(e), err);
		if (ret)
			return ret;
		k->repaired++;
	}
	return 0;
}

/* Directory against state, of a container that is detached. */
static int check_lists(struct check *k, struct cbw_error *err)
{
	struct container *c = &k->c;
	size_t i;
	uint32_t crc;

	for (i = 0; i < c->img.nr; i++) {
		const struct entry *e = &c->img.entry[i];
		const struct state_bitmap *b = state_find(&c->state, e->name);
		struct bits bits;
		int ret;

		bits_of_entry(&c->img, e, &bits);
		ret = bits_crc(&bits, &crc, err);
		if (ret)
			return ret;
		if (!b)
			found(k, NULL, "bitmap '%s' was made by another program, and has no base",
			      esc(e->name));
		else if (b->crc32c != crc || b->granularity != 1u << e->bits)
			found(k, NULL,
			      "bitmap '%s' was changed by another program: the next attach drops its base",
			      esc(e->name));
	}
	for (i = 0; i < c->state.nr; i++)
		if (!image_find(&c->img, c->state.bitmap[i].name))
			found(k, NULL, "bitmap '%s' was removed by another program",
			      esc(c->state.bitmap[i].name));
	return 0;
}

/* The same bitmaps, all else anew: leaks are gone. */
static int write_again(struct check *k, struct cbw_error *err)
{
	struct image *img = &k->c.img;
	struct entry *list = NULL;
	size_t nr = 0, i;

	for (i = 0; i < img->nr; i++) {
		const struct entry *e = &img->entry[i];

		entries_add(&list, &nr, e->name, e->flags, e->bits, e->clusters, 0);
		memcpy(list[nr - 1].table, e->table, e->clusters * 8);
	}
	return image_commit(img, list, nr, NULL, err);
}

/* Bitmaps that nobody can trust, away; those that are whole stay. */
static int remove_inconsistent(struct check *k, struct cbw_error *err)
{
	struct container *c = &k->c;
	struct state s = c->state;
	int ret;

	if (!c->img.f)
		return fail_with(err, EUCLEAN, "%s: it is too damaged for that; make a new one",
				 esc(c->f.path));
	s.nr = 0;
	s.flags = CBW_STATE_CLEAN;
	/* nothing is left that what tells the volume would have to fit */
	s.binding_length = 0;
	s.device_size = c->img.size;
	s.intent_length = 0;
	s.region_shift = 22;
	c->state = s;
	c->no_state = false;
	ret = cfile_zero(&c->f, IMAGE_SLOTS, STATE_BYTES, err);
	if (!ret)
		ret = image_write_state(&c->img, &c->state, err);
	if (!ret)
		ret = image_commit(&c->img, NULL, 0, NULL, err);
	return ret;
}

static int repair(struct check *k, struct cbw_error *err)
{
	int ret = 0;

	if (k->c.phase == PHASE_STOPPED && k->repair) {
		ret = layout_detached(&k->c, err);
		k->repaired++;
	} else if (k->refcounts && k->repair && k->c.phase != PHASE_BAD) {
		ret = write_again(k, err);
		k->repaired++;
	}
	if (!ret && k->distrust && k->remove) {
		ret = remove_inconsistent(k, err);
		if (!ret)
			found(k, NULL, "the inconsistent bitmaps are removed");
		k->distrust = ret;
	}
	return ret;
}

static int check_all(struct check *k, struct cbw_error *err)
{
	struct container *c = &k->c;
	const char *state;
	int ret = 0;

	if (c->img.f)
		check_image(k);
	state = state_text(c, k->live);
	if (!strcmp(state, "inconsistent")) {
		k->distrust = true;
		found(k, NULL, "its bitmaps are not to be trusted: %s", why_text(c));
	} else if (c->phase == PHASE_STOPPED && !k->live) {
		found(k, &k->errors, "a stop or an attach of it was cut off; its bitmaps are exact");
	} else if (c->phase == PHASE_OPEN && !k->live) {
		found(k, NULL, "it needs recovery, which the next attach does");
	}
	if (c->phase == PHASE_CLEAN)
		ret = check_lists(k, err);
	if (!ret && c->phase == PHASE_CLEAN)
		ret = check_tails(k, err);
	return ret;
}

int container_check(const char *path, bool fix, bool remove)
{
	struct check k = {
		.c = { .f = { .fd = -1 }, .no_state = true },
		.repair = fix,
		.remove = remove,
	};
	struct cbw_dm_dev live;
	struct cbw_error err;
	int ret;

	ret = cfile_open(path, fix || remove ? CFILE_WRITE | CFILE_LOCK : 0, &k.c.f, &err);
	if (!ret)
		ret = container_load(&k.c, &err);
	if (!ret && k.c.phase == PHASE_EMPTY)
		ret = fail_with(&err, ENODATA, "%s: it is no container: it is empty", esc(path));
	if (!ret) {
		k.live = container_live(&k.c, &live);
		ret = check_all(&k, &err);
	}
	if (!ret && (fix || remove) && !k.live)
		ret = repair(&k, &err);
	container_close(&k.c);
	if (ret)
		return failed("check: %s", err.msg);
	if (k.distrust)
		return EXIT_DISTRUST;
	if (k.errors > k.repaired) {
		printf("%s: %u errors%s\n", esc(path), k.errors - k.repaired,
		       fix ? " are left" : "; 'cbw check -r' repairs what can be repaired");
		return EXIT_FAILED;
	}
	if (k.errors)
		printf("%s: repaired\n", esc(path));
	else
		printf("%s: no errors\n", esc(path));
	return EXIT_OK;
}
