// SPDX-License-Identifier: GPL-2.0-or-later
/* chain list, info */
#include <json-c/json.h>
#include <sys/stat.h>
#include <time.h>

#include "cbw.h"
#include "chain.h"
#include "cmd-chain.h"
#include "report.h"

static uint64_t file_bytes(const struct chain *chain, const struct entry *e)
{
	char *path = chain_path(chain, e->file);
	struct stat st;
	uint64_t bytes = 0;

	if (!stat(path, &st))
		bytes = (uint64_t)st.st_blocks * 512;
	free(path);
	return bytes;
}

static void show_entries(const struct chain *chain)
{
	size_t i;

	printf("%6s  %-11s  %6s  %-20s  %10s  %10s  %s\n", "id", "type",
	       "parent", "time", "data", "on disk", "cut");
	for (i = 0; i < chain->nr; i++) {
		const struct entry *e = &chain->entry[i];
		char cut[CBW_CUT_HEX], when[32] = "?", parent[16] = "-";
		time_t t = (time_t)e->time;
		struct tm tm;

		if (gmtime_r(&t, &tm))
			strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
		if (e->parent)
			snprintf(parent, sizeof(parent), "%u", e->parent);
		printf("%6u  %-11s  %6s  %-20s  %10s  %10s  %s\n", e->id,
		       chain_type_text(e->type), parent,
		       when, human(e->copied), human(file_bytes(chain, e)),
		       cbw_cut_to_text(&e->cut, cut));
	}
}

static void show_json(const struct chain *chain)
{
	struct json_object *o = json_object_new_object(), *list, *one;
	char text[CBW_CUT_HEX];
	size_t i;

	json_object_object_add(o, "dir", json_object_new_string(
			       esc(chain->dir)));
	json_object_object_add(o, "volume", json_object_new_string(
			       esc(chain->volume)));
	json_object_object_add(o, "chain", json_object_new_string(
			       cbw_cut_to_text(&chain->id, text)));
	json_object_object_add(o, "bitmap", json_object_new_string(
			       esc(chain->bitmap)));
	list = json_object_new_array();
	for (i = 0; i < chain->nr; i++) {
		one = json_entry(&chain->entry[i]);
		json_object_object_add(one, "disk_bytes",
				       json_object_new_uint64(
				       file_bytes(chain, &chain->entry[i])));
		json_object_array_add(list, one);
	}
	json_object_object_add(o, "entries", list);
	json_line(o);
}

static int show(const char *what, const char *path, bool json, bool brief)
{
	struct cbw_error err;
	struct chain chain;
	char **dirs;
	size_t nr, i;
	int status = EXIT_OK, ret;

	if (chain_find_dirs(path, &dirs, &nr, &err))
		return failed("%s: %s", what, err.msg);
	for (i = 0; i < nr; i++) {
		ret = chain_open(dirs[i], false, &chain, &err);
		if (ret) {
			say("%s: %s", what, err.msg);
			status = ret == -EUCLEAN ? EXIT_DISTRUST : EXIT_FAILED;
			free(dirs[i]);
			continue;
		}
		if (json) {
			show_json(&chain);
		} else {
			char text[CBW_CUT_HEX];

			printf("%s%s  volume %s  chain %s  bitmap %s  %zu images\n",
			       i && !brief ? "\n" : "", esc(chain.dir),
			       esc(chain.volume),
			       cbw_cut_to_text(&chain.id, text),
			       esc(chain.bitmap), chain.nr);
			if (!brief)
				show_entries(&chain);
			if (chain.merge.state != MERGE_NONE)
				printf("A merge of %u into %u was cut off, or is under way.\n",
				       chain.merge.from, chain.merge.into);
		}
		chain_close(&chain);
		free(dirs[i]);
	}
	free(dirs);
	return status;
}

static int chain_list(int argc, char **argv)
{
	bool json = false;
	struct opt opts[] = {
		{ "json", OPT_FLAG, &json, NULL, "a line of JSON per volume" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw chain list",
		.args = "DIR[/VOLUME] [--json]",
		.about = "Lists the points in time of the volumes in DIR.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);

	return status >= 0 ? status : show("chain list", cl.arg[0], json, false);
}

static const struct command verbs[] = {
	{ "list", chain_list, NULL },
	{ "merge", chain_merge_verb, NULL },
	{ "prune", chain_prune_verb, NULL },
	{ NULL, NULL, NULL }
};

int cmd_chain(int argc, char **argv)
{
	return run_verb("cbw chain", "DIR[/VOLUME] ...", verbs, argc, argv);
}

int cmd_info(int argc, char **argv)
{
	bool json = false;
	struct opt opts[] = {
		{ "json", OPT_FLAG, &json, NULL, "a line of JSON per volume or container" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw info",
		.args = "DIR|CONTAINER [--json]",
		.about = "Says which volumes have a chain in DIR, and how many images; or what is in a\n"
			"container, and whether it is attached.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	int status = opts_parse(&cl, argc, argv);

	if (status >= 0)
		return status;
	if (is_container_path(cl.arg[0]))
		return container_info(cl.arg[0], json);
	return show("info", cl.arg[0], json, !json);
}
