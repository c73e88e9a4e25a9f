// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A backup without a chain: to a file, a device, an NBD server or standard output.
 *
 * Nothing but the bitmap says what the target has, and it is the user's: it is committed when
 * all is durable there, so an increment belongs on what the last one went to. When one
 * fails, a target that was kept has some of it already; the bitmap is as it was, and the next
 * increment has all of that again.
 */
#include <json-c/json.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"

int single_plan(struct backup *b, struct job *j)
{
	struct cbw_error err;
	int ret;

	j->chain = (struct chain){ .dir = xstrdup(b->single), .dirfd = -1 };
	j->have_chain = true;
	if (!b->bitmap) {
		j->decision = (struct decision){ .type = ENTRY_FULL };
		return EXIT_OK;
	}
	j->chain.bitmap = xstrdup(b->bitmap);
	ret = cbw_bitmap_find(b->session, j->dev.dev, b->bitmap, &j->before, &err);
	if (ret == -ENOENT)
		return failed("%s: it has no bitmap '%s'; add it (cbw bitmap add), or leave --bitmap out",
			      esc(j->dev.name), esc(b->bitmap));
	if (ret)
		return failed("%s: %s", esc(j->dev.name), err.msg);
	chain_decide_alone(&j->before, b->bitmap, b->mode, &j->decision);
	if (j->decision.type == ENTRY_INCREMENTAL && !b->target.backing &&
	    !target_is_uri(b->single) && access(b->single, F_OK)) {
		j->decision = (struct decision){ .type = ENTRY_FULL, .fallback = true };
		snprintf(j->decision.reason, sizeof(j->decision.reason),
			 "there is no %s that it could go on top of", esc(b->single));
	}
	if (b->mode != MODE_INCREMENTAL || !j->decision.fallback)
		return EXIT_OK;
	say("%s: no increment is possible: %s", esc(j->dev.name), j->decision.reason);
	return EXIT_DISTRUST;
}

int single_open(struct backup *b, struct job *j, uint32_t cluster, struct cbw_error *err)
{
	bool full = j->decision.type == ENTRY_FULL;
	struct target_opts o = b->target;
	int ret;

	o.cluster = cluster;
	o.keep = !full;
	o.level = b->compress;
	if (full)
		o.backing = NULL;
	ret = target_open(&j->target, b->single, &o, j->dev.size, err);
	if (ret)
		return ret;
	/* of what is kept nothing but what was read is written */
	if (!full && j->target.sink->unit > cluster)
		j->target.sink->unit = cluster;
	j->entry = (struct entry){
		.id = 1,
		.type = j->decision.type,
		.cut = b->cut,
		.base = j->before.base,
		.size = j->dev.size,
	};
	return 0;
}

void single_report(const struct backup *b, const struct job *j)
{
	const struct entry *e = &j->entry;
	char cut[CBW_CUT_HEX];
	struct json_object *o;

	if (target_is_stream(b->single) || !b->json) {
		fprintf(target_is_stream(b->single) ? stderr : stdout,
			"%s: %s backup, %s of data, %s zero, in %s\n", esc(j->dev.name),
			chain_type_text(e->type), human(e->copied), human(e->zero),
			target_is_stream(b->single) ? "standard output" : esc(b->single));
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "event", json_object_new_string("done"));
	json_object_object_add(o, "volume", json_object_new_string(esc(j->dev.name)));
	json_object_object_add(o, "target", json_object_new_string(esc(b->single)));
	json_object_object_add(o, "type", json_object_new_string(chain_type_text(e->type)));
	json_object_object_add(o, "cut", json_object_new_string(cbw_cut_to_text(&e->cut, cut)));
	if (e->type != ENTRY_FULL)
		json_object_object_add(o, "base",
				       json_object_new_string(cbw_cut_to_text(&e->base, cut)));
	json_object_object_add(o, "size", json_object_new_uint64(e->size));
	json_object_object_add(o, "copied", json_object_new_uint64(e->copied));
	json_object_object_add(o, "zero", json_object_new_uint64(e->zero));
	if (j->decision.fallback)
		json_object_object_add(o, "reason",
				       json_object_new_string(j->decision.reason));
	json_line(o);
}
