// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A backup without a chain: to a file, a device, an NBD server or standard output.
 *
 * Nothing but the bitmap says what the target has, and it is the user's: it is committed when
 * all is durable there, so an increment belongs on what the last one went to. When one
 * fails, a target that was kept has some of it already; the bitmap is as it was, and the next
 * increment has all of that again.
 */
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup-int.h"
#include "cbw.h"

static bool begins_as_image(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char magic[4] = "";
	bool is;

	if (fd < 0)
		return false;
	is = pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
		!memcmp(magic, "QFI\xfb", sizeof(magic));
	close(fd);
	return is;
}

/*
 * What the increment is to go on top of. A file that is too short lacks what was not written since:
 * it would become zeros. A device is looked at when it is opened.
 */
static void check_file(const struct backup *b, struct job *j)
{
	struct decision *d = &j->decision;
	struct stat st;

	if (!stat(b->single, &st)) {
		if (!S_ISREG(st.st_mode))
			return;
		if (!b->target.format && begins_as_image(b->single)) {
			*d = (struct decision){ .type = ENTRY_FULL, .fallback = true };
			snprintf(d->reason, sizeof(d->reason),
				 "%s is a qcow2 image, and would be overwritten with raw data (--format raw: it is a guest's)",
				 esc(b->single));
			return;
		}
		if ((uint64_t)st.st_size >= j->dev.size)
			return;
		*d = (struct decision){ .type = ENTRY_FULL, .fallback = true };
		snprintf(d->reason, sizeof(d->reason),
			 "%s has %llu bytes, and the volume %llu: it is not what the last one went to (extend it, if the volume has grown)",
			 esc(b->single), (ull)st.st_size, (ull)j->dev.size);
		return;
	}
	*d = (struct decision){ .type = ENTRY_FULL, .fallback = true };
	snprintf(d->reason, sizeof(d->reason), "there is no %s that it could go on top of",
		 esc(b->single));
}

int single_plan(struct backup *b, struct job *j)
{
	struct cbw_error err;
	struct stat st;
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
	    !target_is_uri(b->single))
		check_file(b, j);
	if (b->mode == MODE_INCREMENTAL && j->decision.fallback) {
		say("%s: no increment is possible: %s", esc(j->dev.name), j->decision.reason);
		return EXIT_DISTRUST;
	}
	if (j->decision.fallback && !b->target.force && !stat(b->single, &st) &&
	    S_ISREG(st.st_mode))
		return failed("%s: no increment is possible: %s; and %s is there: --force if a full one is to replace it",
			      esc(j->dev.name), j->decision.reason, esc(b->single));
	return EXIT_OK;
}

int single_open(struct backup *b, struct job *j, struct cbw_error *err)
{
	uint32_t cluster = backup_cluster(j);
	bool full = j->decision.type == ENTRY_FULL;
	struct target_opts o = b->target;
	int ret;

	o.cluster = cluster;
	o.keep = !full;
	/* an increment's image stands on another: only under its own name is it seen to be that one */
	o.part = full;
	o.level = b->compress;
	if (full)
		o.backing = NULL;
	ret = target_open(&j->target, b->single, &o, j->dev.size, err);
	if (ret)
		return ret;
	/* it was there when this was planned */
	if (!full && !o.backing && j->target.made)
		return fail_with(err, ENOENT, "%s is gone, and was to have what did not change",
				 esc(b->single));
	if (b->bitmap && j->target.sink->no_flush)
		return fail_with(err, EOPNOTSUPP, "%s: the server cannot make anything durable (it has no flush), so bitmap '%s' could not be committed",
				 esc(b->single), esc(b->bitmap));
	/* of what is kept nothing but what was read is written */
	if (!full && j->target.sink->unit > cluster)
		j->target.sink->unit = cluster;
	return 0;
}

void single_entry(const struct backup *b, struct job *j)
{
	j->entry = (struct entry){
		.id = 1,
		.type = j->decision.type,
		.cut = b->cut,
		.base = j->before.base,
		.size = j->dev.size,
	};
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
