// SPDX-License-Identifier: GPL-2.0-or-later
/* giving the kernel what is in a container */
#include <inttypes.h>

#include "cbw.h"
#include "deliver.h"

static int make_bitmaps(struct cbw_session *session, struct delivery *d, struct cbw_devno dev,
			struct cbw_error *err)
{
	const struct state *s = &d->c->state;
	struct cbw_txn *txn;
	uint32_t i;
	int ret;

	if (!s->nr)
		return 0;
	txn = cbw_txn_new();
	if (!txn)
		return fail_with(err, ENOMEM, "out of memory");
	for (i = 0; i < s->nr; i++)
		cbw_txn_bitmap_add(txn, dev, s->bitmap[i].name, s->bitmap[i].granularity,
				   s->bitmap[i].flags & CBW_STATE_ENABLED ? 0 : CBW_ADD_DISABLED,
				   NULL);
	ret = cbw_txn_run(session, txn, NULL, err);
	cbw_txn_free(txn);
	return ret;
}

static bool all_zero(const unsigned char *p, size_t len)
{
	while (len && !*p)
		p++, len--;
	return !len;
}

static int load_bitmap(struct cbw_session *session, struct delivery *d, struct cbw_devno dev,
		       uint32_t nr, struct cbw_error *err)
{
	const struct state *s = &d->c->state;
	const struct state_bitmap *b = &s->bitmap[nr];
	unsigned int shift = (unsigned int)__builtin_ctz(b->granularity);
	uint64_t granules = s->device_size / b->granularity + (s->device_size % b->granularity != 0);
	unsigned char *buf = cfile_buffer(BITS_STEP);
	struct bits bits;
	uint64_t at;
	int ret = 0;

	bits_of_place(d->c, b->offset, b->granularity, &bits);
	for (at = 0; at < bits.bytes && !ret; at += BITS_STEP) {
		size_t len = bits.bytes - at < BITS_STEP ? (size_t)(bits.bytes - at) : BITS_STEP;

		ret = bits_read(&bits, at, buf, err);
		if (!ret && d->intent)
			d->added[nr] += bits_expand(buf, len, at, granules, shift, d->intent,
						    d->regions, s->region_shift) << shift;
		len = (len + 7) & ~(size_t)7;
		if (!ret && !all_zero(buf, len))
			ret = cbw_bitmap_load(session, dev, b->name, b->granularity,
					      at * 8 << shift, buf, len, NULL, err);
	}
	free(buf);
	if (!ret && !cbw_cut_is_none(&b->base))
		ret = cbw_bitmap_load(session, dev, b->name, b->granularity, 0, NULL, 0, &b->base,
				      err);
	return ret;
}

static int attach_call(struct cbw_session *session, struct delivery *d, struct cbw_devno dev,
		       struct cbw_error *err)
{
	const struct state *s = &d->c->state;
	struct cbw_container_bitmap *list = xcalloc(s->nr, sizeof(*list));
	struct cbw_container_attach a = {
		.dev = dev,
		.container = d->container,
		.generation = s->generation + 1,
		.state_offset = { IMAGE_SLOTS, IMAGE_SLOTS + CBW_STATE_SLOT_SIZE },
		.state_seq = s->seq,
		.intent_offset = { s->intent_offset[0], s->intent_offset[1] },
		.intent_length = s->intent_length,
		.region_shift = s->region_shift,
		.timeout_ms = d->timeout_ms,
		.policy = d->policy,
		.binding_len = d->binding_len,
		.binding = (uintptr_t)d->binding,
		.bitmaps = (uintptr_t)list,
		.nr_bitmaps = s->nr,
		.nr_places = d->space.length ? 1 : 0,
		.places = (uintptr_t)&d->space,
		/* a stacked device is new */
		.written = d->now.stacked ? 0 : d->now.written,
	};
	uint32_t i;
	int ret;

	memcpy(a.id, s->container.b, sizeof(a.id));
	memcpy(a.boot_id, d->boot_id.b, sizeof(a.boot_id));
	for (i = 0; i < s->nr; i++)
		list[i] = (struct cbw_container_bitmap){
			.name = (uintptr_t)s->bitmap[i].name,
			.name_len = (uint32_t)strlen(s->bitmap[i].name),
			.place = { s->bitmap[i].offset, s->bitmap[i].length },
		};
	ret = cbw_container_attach(session, &a, err);
	free(list);
	return ret;
}

/* What was written meanwhile no bitmap has. */
static int check_still(const struct delivery *d, struct cbw_error *err)
{
	uint64_t instance, written;
	int ret = binding_statistics(d->volume, &instance, &written, err);

	if (!ret && (instance != d->now.instance || written != d->now.written))
		ret = fail_with(err, EUCLEAN,
				"the volume was written to while it got its container: the bitmaps do not have that, and will not be trusted any more");
	return ret;
}

int deliver(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err)
{
	struct delivery *d = arg;
	struct cbw_session *session;
	uint32_t i;
	int ret = cbw_session_open(&session, err);

	if (ret)
		return ret;
	ret = make_bitmaps(session, d, dev->dev, err);
	if (!ret && d->take == TAKE_RECOVER)
		ret = read_intents(d->c, &d->intent, &d->regions, err);
	for (i = 0; i < d->c->state.nr && !ret; i++)
		ret = load_bitmap(session, d, dev->dev, i, err);
	if (!ret)
		ret = attach_call(session, d, dev->dev, err);
	if (!ret && d->c->state.nr && !d->anew)
		ret = check_still(d, err);
	cbw_session_close(session);
	return ret;
}

/* ---- afterwards -------------------------------------------------------- */

/*
 * The kernel has compared the volume's count with ours when it was drained to get its table, and
 * taken the bases away if something was written between.
 */
static bool slipped(const char *what, const struct cbw_dm_dev *live)
{
	struct cbw_container_info info;
	struct cbw_session *session;
	struct cbw_error err;
	int ret = cbw_session_open(&session, &err);

	if (!ret) {
		ret = cbw_container_get_info(session, live->dev, false, &info, &err);
		cbw_session_close(session);
	}
	if (ret)
		say("%s: %s", what, err.msg);
	return ret || info.out_flags & CBW_CONTAINER_SLIPPED;
}

int deliver_report(struct delivery *d, const char *what, const struct cbw_dm_dev *live,
		   bool attached)
{
	const struct state *s = &d->c->state;
	uint64_t total = 0;
	uint32_t i;

	if (d->take == TAKE_RECOVER) {
		for (i = 0; i < s->nr; i++) {
			say("%s: bitmap '%s' recovered, coarse: %" PRIu64 " MiB marked", what,
			    esc(s->bitmap[i].name), d->added[i] >> 20);
			total += d->added[i];
		}
		say("%s: %s: recovered, coarse: %" PRIu64 " MiB marked", what, esc(live->name),
		    total >> 20);
	}
	if (!attached || !s->nr || d->anew || !slipped(what, live))
		return EXIT_OK;
	say("%s: %s: it was written to in the moment in which it was attached; all is dirty in its bitmaps, which have no base any more, the next backups will be full ones",
	    what, esc(live->name));
	return EXIT_FULL;
}

void delivery_free(struct delivery *d)
{
	free(d->intent);
	d->intent = NULL;
}
