// SPDX-License-Identifier: GPL-2.0-or-later
/* chain merge, chain prune */
#include <json-c/json.h>
#include <time.h>

#include "cbw.h"
#include "cmd-chain.h"
#include "prune.h"
#include "restore.h"
#include "resume.h"

/* As EXIT_DISTRUST if the chain contradicts itself. */
static int fail_status(const char *what, int ret, const struct cbw_error *err)
{
	say("chain %s: %s", what, err->msg);
	return distrust(ret) ? EXIT_DISTRUST : EXIT_FAILED;
}

/* ---- merge ------------------------------------------------------------- */

/* "FROM..TO": the two entries, the second on top of the first, directly or not. */
static int parse_range(const struct chain *chain, const char *text,
		       uint32_t *from, uint32_t *to)
{
	const char *dots = strstr(text, "..");
	const struct entry *a, *b, *e;
	char *first;

	if (!dots || dots == text || !dots[2])
		return usage("cbw chain merge: '%s' is not a range; write FROM..TO, with ids that 'cbw chain list' shows",
			     esc(text));
	first = xasprintf("%.*s", (int)(dots - text), text);
	a = chain_find(chain, first);
	b = chain_find(chain, dots + 2);
	if (!a || !b) {
		say("chain merge: %s has no point in time '%s'; 'cbw chain list' shows them",
		    esc(chain->dir), esc(a ? dots + 2 : first));
		free(first);
		return EXIT_FAILED;
	}
	free(first);
	for (e = b; e && e->id > a->id;)
		e = e->parent ? chain_by_id(chain, e->parent) : NULL;
	if (e != a || a == b)
		return failed("chain merge: %s: %u does not stand on %u, so there is nothing to merge",
			      esc(chain->dir), b->id, a->id);
	*from = a->id;
	*to = b->id;
	return EXIT_OK;
}

/* The lowest of those from @to down that stands on @from. */
static uint32_t next_above(const struct chain *chain, uint32_t from, uint32_t to)
{
	const struct entry *e = chain_by_id(chain, to);

	while (e && e->parent != from)
		e = e->parent ? chain_by_id(chain, e->parent) : NULL;
	return e ? e->id : 0;
}

static int merge_all(struct chain *chain, uint32_t from, uint32_t to,
		     const struct merge_opts *opts, struct cbw_error *err)
{
	uint32_t id, at;
	int ret;

	/* before anything is changed: all of it is possible */
	for (at = from; at != to; at = id) {
		id = next_above(chain, at, to);
		ret = merge_possible(chain, id, err);
		if (ret)
			return ret;
	}
	while (from != to) {
		id = next_above(chain, from, to);
		ret = merge_into(chain, id, opts, err);
		if (ret)
			return ret;
		if (!opts->json)
			printf("%s: %u has been merged into %u\n", esc(chain->dir),
			       from, id);
		from = id;
	}
	return 0;
}

static int end_merge(const char *what, struct chain *chain,
		     const struct merge_opts *opts)
{
	struct chain_merge was = chain->merge;
	struct cbw_error err;
	int ret;

	/* when the chain was opened, and it has said so */
	if (was.state == MERGE_NONE)
		return chain->doubtful ? EXIT_DISTRUST : EXIT_OK;
	ret = merge_resume(chain, opts, &err);
	if (ret)
		return fail_status(what, ret, &err);
	say("%s: the merge of %u into %u, which had been cut off, was ended",
	    esc(chain->dir), was.from, was.into);
	return chain->doubtful ? EXIT_DISTRUST : EXIT_OK;
}

/* What an unfinished backup goes on top of must not change, and its image has no entry yet. */
static int refuse_unfinished(const char *what, const struct chain *chain)
{
	if (!resume_waits(chain))
		return EXIT_OK;
	return failed("chain %s: %s: a backup was interrupted here; 'cbw backup --resume %s' finishes it, or gives it up; do that first",
		      what, esc(chain->dir), esc(chain->dir));
}

static int pick_locked(const char *what, const char *path, struct chain *chain)
{
	struct cbw_error err;
	char **dirs;
	size_t nr, i;
	int ret;

	if (chain_find_dirs(path, &dirs, &nr, &err))
		return failed("chain %s: %s", what, err.msg);
	if (nr > 1) {
		ret = failed("chain %s: %s holds %zu volumes; name one of them:",
			     what, esc(path), nr);
		for (i = 0; i < nr; i++)
			say("  %s", esc(dirs[i]));
	} else {
		ret = chain_open_locked(dirs[0], chain, &err);
		if (ret)
			ret = fail_status(what, ret, &err);
	}
	for (i = 0; i < nr; i++)
		free(dirs[i]);
	free(dirs);
	return ret;
}

int chain_merge_verb(int argc, char **argv)
{
	struct merge_opts o = { 0 };
	struct opt opts[] = {
		{ "punch", OPT_FLAG, &o.punch, NULL,
		  "take out of the upper image what was merged, as it goes: needs no space" },
		{ "json", OPT_FLAG, &o.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw chain merge",
		.args = "DIR[/VOLUME] [FROM..TO] [--punch] [--json]",
		.about = "Makes one image of those from FROM to TO: the point in time TO stays, and all above\n"
			"it; FROM and those in between end. A merge that was cut off, by a crash too, is ended\n"
			"first; without FROM..TO nothing else is done. With --punch it goes on with that, if it\n"
			"was begun without, too.",
		.opts = opts,
		.min_args = 1, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv), ret;
	uint32_t from = 0, to = 0;
	struct cbw_error err;
	struct chain chain;

	if (status >= 0)
		return status;
	catch_signals();
	status = pick_locked("merge", cl.arg[0], &chain);
	if (status)
		return status;
	status = refuse_unfinished("merge", &chain);
	if (status == EXIT_OK)
		status = end_merge("merge", &chain, &o);
	if (status == EXIT_OK && cl.nr_args > 1)
		status = parse_range(&chain, cl.arg[1], &from, &to);
	if (status == EXIT_OK && from) {
		ret = merge_all(&chain, from, to, &o, &err);
		if (ret)
			status = fail_status("merge", ret, &err);
	}
	chain_close(&chain);
	return status;
}

/* ---- prune ------------------------------------------------------------- */

static const char *why_kept(unsigned int keep, char *buf, size_t len)
{
	static const struct {
		unsigned int bit;
		const char *text;
	} t[] = {
		{ KEEP_LAST, "last" }, { KEEP_DAILY, "daily" },
		{ KEEP_WEEKLY, "weekly" }, { KEEP_MONTHLY, "monthly" },
		{ KEEP_NEWEST, "newest" }, { KEEP_SHARED, "several stand on it" },
	};
	size_t i, at = 0;

	*buf = '\0';
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		if (keep & t[i].bit && at < len)
			at += (size_t)snprintf(buf + at, len - at, "%s%s",
					       at ? ", " : "", t[i].text);
	return buf;
}

static void show_choice(const struct chain *chain, const unsigned int *keep,
			bool json)
{
	char when[32], why[80];
	size_t i;

	for (i = 0; i < chain->nr; i++) {
		const struct entry *e = &chain->entry[i];
		time_t t = (time_t)e->time;
		struct json_object *o;
		struct tm tm;

		why_kept(keep[i], why, sizeof(why));
		if (!json) {
			snprintf(when, sizeof(when), "?");
			if (gmtime_r(&t, &tm))
				strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
			printf("%6u  %-20s  %s%s%s\n", e->id, when, keep[i] ?
			       "keep" : "remove", keep[i] ? ": " : "", why);
			continue;
		}
		o = json_object_new_object();
		json_object_object_add(o, "event", json_object_new_string(
				       keep[i] ? "keep" : "remove"));
		json_object_object_add(o, "dir", json_object_new_string(esc(chain->dir)));
		json_object_object_add(o, "id", json_object_new_int64(e->id));
		json_object_object_add(o, "why", json_object_new_string(why));
		json_line(o);
	}
}

static int prune_chain(const char *dir, const struct retention *r, bool dry,
		       const struct merge_opts *o)
{
	unsigned int *keep, removed = 0;
	struct cbw_error err;
	struct chain chain;
	int status = EXIT_OK, ret;

	ret = dry ? chain_open(dir, false, &chain, &err) :
		chain_open_locked(dir, &chain, &err);
	if (ret)
		return fail_status("prune", ret, &err);
	if (!dry)
		status = refuse_unfinished("prune", &chain);
	if (!dry && status == EXIT_OK)
		status = end_merge("prune", &chain, o);
	if (status == EXIT_OK) {
		keep = xcalloc(chain.nr, sizeof(*keep));
		retention_choose(&chain, r, keep);
		if (!o->json)
			printf("%s\n", esc(chain.dir));
		show_choice(&chain, keep, o->json);
		ret = dry ? 0 : prune_run(&chain, keep, o, &removed, &err);
		if (!o->json && !dry)
			printf("%u removed\n", removed);
		if (ret)
			status = fail_status("prune", ret, &err);
		free(keep);
	}
	chain_close(&chain);
	return status;
}

/* A number of points in time, for an option that was given. */
static int count_of(const char *name, const char *text, uint64_t *nr)
{
	char *end;

	if (!text)
		return EXIT_OK;
	errno = 0;
	*nr = strtoull(text, &end, 10);
	if (strspn(text, "0123456789") != strlen(text) || !*text || *end || errno ||
	    !*nr || *nr > CHAIN_ENTRIES_MAX)
		return usage("cbw chain prune: --%s '%s' is not a number from 1 to %d",
			     name, esc(text), CHAIN_ENTRIES_MAX);
	return EXIT_OK;
}

int chain_prune_verb(int argc, char **argv)
{
	const char *last = NULL, *daily = NULL, *weekly = NULL, *monthly = NULL;
	struct merge_opts o = { 0 };
	struct retention r = { 0 };
	bool dry = false;
	struct opt opts[] = {
		{ "keep", OPT_TEXT, &last, "N", "keep the N newest" },
		{ "keep-daily", OPT_TEXT, &daily, "N",
		  "keep the newest of each of the last N days that have any (UTC)" },
		{ "keep-weekly", OPT_TEXT, &weekly, "N", "of the last N weeks (ISO, Monday to Sunday)" },
		{ "keep-monthly", OPT_TEXT, &monthly, "N", "of the last N months" },
		{ "dry-run", OPT_FLAG, &dry, NULL, "only say what would be kept, and why" },
		{ "punch", OPT_FLAG, &o.punch, NULL,
		  "take out of the upper image what was merged, as it goes: needs no space" },
		{ "json", OPT_FLAG, &o.json, NULL, "lines of JSON on stdout" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw chain prune",
		.args = "DIR[/VOLUME] --keep N|--keep-daily N|--keep-weekly N|--keep-monthly N... [--dry-run] [--punch] [--json]",
		.about = "Removes the points in time that none of the given rules keeps; the newest is always\n"
			"kept. An image that others stand on is merged with the one on top of it.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv), one;
	struct cbw_error err;
	char **dirs;
	size_t nr, i;

	if (status >= 0)
		return status;
	if (count_of("keep", last, &r.last) || count_of("keep-daily", daily, &r.daily) ||
	    count_of("keep-weekly", weekly, &r.weekly) ||
	    count_of("keep-monthly", monthly, &r.monthly))
		return EXIT_USAGE;
	if (!r.last && !r.daily && !r.weekly && !r.monthly)
		return usage("cbw chain prune: say what is to be kept: --keep, --keep-daily, --keep-weekly or --keep-monthly");
	catch_signals();
	if (chain_find_dirs(cl.arg[0], &dirs, &nr, &err))
		return failed("chain prune: %s", err.msg);
	status = EXIT_OK;
	for (i = 0; i < nr; i++) {
		one = stop_signal ? EXIT_FAILED : prune_chain(dirs[i], &r, dry, &o);
		if (one > status)
			status = one;
		free(dirs[i]);
	}
	free(dirs);
	return status;
}
