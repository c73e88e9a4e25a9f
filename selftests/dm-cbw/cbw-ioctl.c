// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every call of /dev/cbw-control from the command line.
 *
 *	cbw-ioctl COMMAND ARGUMENT...	one command
 *	cbw-ioctl -			commands from stdin, one per line, all in one
 *					session, which ends with stdin
 *
 *	info
 *	transaction ACTION...		add:DEV:NAME[:GRANULARITY[:disabled,transient]]
 *					remove|clear|enable|disable|rotate:DEV:NAME
 *					start:SNAPSHOT
 *					merge|copy:DEV:NAME:SOURCE[:SOURCE-DEV]
 *					rename:DEV:NAME:NEW
 *					freeze[:MS]	(no action: the whole of it)
 *	commit DEV CUT [on-success|never|always]	abort DEV CUT
 *	detach CUT
 *	release SNAPSHOT CUT OFFSET+LENGTH...	release-file SNAPSHOT CUT FILE
 *	snapinfo SNAPSHOT [CUT]
 *	list DEV			extents DEV NAME [CUT [OFFSET [ROOM]]]
 *	read DEV NAME CUT FILE		load DEV NAME GRANULARITY FILE [BASE]
 *		all bits; FILE may be /dev/null for no bits at all
 *	mark DEV NAME|- OFFSET+LENGTH...
 *	stats DEV			events [NUMBER [MS]]
 *		waits for so many, each for so long (1, 0); -1: for ever
 *	raw NUMBER SIZE [OFFSET:WIDTH:VALUE]...
 *		a struct of SIZE bytes, zero but for its first member (SIZE) and
 *		the values; VALUE may be @zeros (for input), @room (for output), @bad
 *		(pointers), @text=NAME, or @{OFFSET:WIDTH:VALUE,...}, which points to
 *		64 bytes with these values. SIZE may be @bad: then it is the struct
 *	rawread SIZE [@bad]		read(), without waiting
 *
 * DEV is a path or MAJOR:MINOR, CUT 32 hex digits or `-`. Prints what the call
 * returned, then `ok [CUT]` or `error NAME`, and exits 0 or 1.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ioctl.h"

#define ARGS_MAX	4200

static bool cmd_info(void)
{
	struct cbw_info a = { .size = sizeof(a) };
	int ret = ioctl(control, CBW_INFO, &a);

	if (!ret)
		printf("version=%u features=%llu\n", a.out_version,
		       (ull)a.out_features);
	return result(ret);
}

static bool get_action(char *s, struct cbw_action *a)
{
	static const char *const types[] = {
		"", "add", "remove", "clear", "enable", "disable", "rotate",
		"start", "merge", "copy", "rename",
	};
	char *save = NULL, *type = strtok_r(s, ":", &save), *dev, *name, *opt;
	char full[32];
	uint64_t v;
	size_t i;

	memset(a, 0, sizeof(*a));
	for (i = 1; type && i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(type, types[i]))
			a->type = i;
	dev = strtok_r(NULL, ":", &save);
	if (dev && *dev != '/') {	/* MAJOR:MINOR */
		name = strtok_r(NULL, ":", &save);
		snprintf(full, sizeof(full), "%s:%s", dev, name ? name : "");
		dev = full;
	}
	if (!a->type || !dev)
		return misuse("not an action", s);
	if (!get_dev(dev, &a->dev))
		return false;
	name = strtok_r(NULL, ":", &save);
	if (name) {
		a->name = (uintptr_t)name;
		a->name_len = unescape(name);
	}
	opt = strtok_r(NULL, ":", &save);
	if (opt && a->type >= CBW_ACTION_BITMAP_MERGE) {
		a->name2 = (uintptr_t)opt;
		a->name2_len = unescape(opt);
		opt = strtok_r(NULL, "", &save);
		return !opt || get_dev(opt, &a->dev2);
	}
	if (opt) {
		if (!get_number(opt, &v))
			return false;
		a->granularity = v;
		opt = strtok_r(NULL, ":", &save);
		if (opt && strstr(opt, "disabled"))
			a->flags |= CBW_ADD_DISABLED;
		if (opt && strstr(opt, "transient"))
			a->flags |= CBW_ADD_TRANSIENT;
	}
	return true;
}

static bool cmd_transaction(char **args, int n)
{
	struct cbw_transaction t = {
		.size = sizeof(t),
		.nr_actions = n,
		.action_size = sizeof(struct cbw_action),
	};
	struct cbw_action *a = calloc(n, sizeof(*a));
	int i, ret;

	if (!a)
		return misuse("no memory", NULL);
	t.actions = (uintptr_t)a;
	t.nr_actions = 0;
	for (i = 0; i < n; i++) {
		if (!strncmp(args[i], "freeze", 6)) {
			t.flags = CBW_TXN_FREEZE;
			t.freeze_timeout_ms = args[i][6] ? atoi(args[i] + 7) : 0;
			continue;
		}
		if (!get_action(args[i], a + t.nr_actions++)) {
			free(a);
			return false;
		}
	}
	ret = ioctl(control, CBW_TRANSACTION, &t);
	free(a);
	if (ret) {
		printf("error %s failed=%u\n", strerrorname_np(errno),
		       t.out_failed);
		return false;
	}
	printf("ok ");
	put_cut(&t.out_cut);
	putchar('\n');
	return true;
}

static bool cmd_commit(char **args, int n)
{
	struct cbw_commit a = { .size = sizeof(a) };

	if (!get_dev(args[0], &a.dev) || !get_cut(args[1], &a.cut))
		return false;
	if (n > 2)
		a.mode = !strcmp(args[2], "on-success") ? CBW_COMMIT_ON_SUCCESS :
			 !strcmp(args[2], "never")	? CBW_COMMIT_NEVER :
			 !strcmp(args[2], "always")	? CBW_COMMIT_ALWAYS : 99;
	return result(ioctl(control, CBW_COMMIT, &a));
}

static bool cmd_abort(char **args)
{
	struct cbw_abort a = { .size = sizeof(a) };

	if (!get_dev(args[0], &a.dev) || !get_cut(args[1], &a.cut))
		return false;
	return result(ioctl(control, CBW_ABORT, &a));
}

static bool cmd_detach(char **args)
{
	struct cbw_session_detach a = { .size = sizeof(a) };

	if (!get_cut(args[0], &a.cut))
		return false;
	return result(ioctl(control, CBW_SESSION_DETACH, &a));
}

static bool do_release(char **args, struct cbw_range *r, uint32_t nr)
{
	struct cbw_release a = {
		.size = sizeof(a), .nr_ranges = nr, .ranges = (uintptr_t)r,
	};

	if (!get_dev(args[0], &a.dev) || !get_cut(args[1], &a.cut))
		return false;
	return result(ioctl(control, CBW_RELEASE, &a));
}

static bool cmd_release(char **args, int n)
{
	struct cbw_range *r = calloc(n, sizeof(*r));
	ull off, len;
	bool ok;
	char c;
	int i;

	if (!r)
		return misuse("no memory", NULL);
	for (i = 2; i < n; i++) {
		if (sscanf(args[i], "%llu+%llu%c", &off, &len, &c) != 2) {
			free(r);
			return misuse("not a range", args[i]);
		}
		r[i - 2].offset = off;
		r[i - 2].length = len;
	}
	ok = do_release(args, r, n - 2);
	free(r);
	return ok;
}

/* Ranges from a file of lines "offset length", in batches. */
static bool cmd_release_file(char **args)
{
	struct cbw_range *r = calloc(CBW_RANGES_MAX, sizeof(*r));
	FILE *f = fopen(args[2], "r");
	uint32_t nr = 0;
	bool ok = true;
	ull off, len;

	if (!r || !f)
		return misuse("cannot read", args[2]);
	while (ok && fscanf(f, "%llu %llu%*[^\n]", &off, &len) == 2) {
		r[nr].offset = off;
		r[nr++].length = len;
		if (nr == CBW_RANGES_MAX) {
			ok = do_release(args, r, nr);
			nr = 0;
		}
	}
	if (ok && nr)
		ok = do_release(args, r, nr);
	fclose(f);
	free(r);
	return ok;
}

static bool cmd_snapinfo(char **args, int n)
{
	struct cbw_snapshot_info a = { .size = sizeof(a) };
	int ret;

	if (!get_dev(args[0], &a.dev) || (n > 1 && !get_cut(args[1], &a.cut)))
		return false;
	ret = ioctl(control, CBW_SNAPSHOT_INFO, &a);
	if (!ret) {
		printf("cut=");
		put_cut(&a.cut);
		printf(" source=%u:%u state=%u reason=%u chunk=%u size=%llu used=%llu capacity=%llu needed=%llu released=%llu copied=%llu held=%llu max_hold_us=%llu discards_deferred=%llu poisoned=%llu\n",
		       a.out_source.major, a.out_source.minor, a.out_state,
		       a.out_reason, a.out_chunk_size, (ull)a.out_device_size,
		       (ull)a.out_store_used, (ull)a.out_store_chunks,
		       (ull)a.out_needed, (ull)a.out_released,
		       (ull)a.out_copied, (ull)a.out_held,
		       (ull)a.out_max_hold_us, (ull)a.out_discards_deferred,
		       (ull)a.out_poisoned);
	}
	return result(ret);
}

static bool cmd_stats(char **args)
{
	struct cbw_stats a = { .size = sizeof(a) };
	int i, ret;

	if (!get_dev(args[0], &a.dev))
		return false;
	ret = ioctl(control, CBW_STATS, &a);
	if (!ret) {
		printf("held=%llu held_us=%llu max_held_us=%llu failed=%llu again=%llu marked_again=%llu discards_deferred=%llu hist=",
		       (ull)a.out_held, (ull)a.out_held_us, (ull)a.out_max_held_us,
		       (ull)a.out_failed, (ull)a.out_again, (ull)a.out_marked_again,
		       (ull)a.out_discards_deferred);
		for (i = 0; i < CBW_STATS_BUCKETS; i++)
			printf("%s%llu", i ? "," : "", (ull)a.out_hist[i]);
		putchar('\n');
	}
	return result(ret);
}

static bool cmd_events(char **args, int n)
{
	struct pollfd p = { .fd = control, .events = POLLIN };
	uint64_t nr = 1, ms = 0;
	struct cbw_event e;

	if ((n > 0 && !get_number(args[0], &nr)) || (n > 1 && !get_number(args[1], &ms)))
		return false;
	while (nr--) {
		if (poll(&p, 1, (int)ms) != 1) {
			errno = ETIMEDOUT;
			return result(-1);
		}
		if (read(control, &e, sizeof(e)) != sizeof(e))
			return result(-1);
		printf("event=%u dev=%u:%u reason=%u lost=%u cut=", e.type, e.dev.major,
		       e.dev.minor, e.reason, e.lost);
		put_cut(&e.cut);
		putchar('\n');
	}
	return result(0);
}

static bool command(char **args, int n)
{
	static const struct {
		const char *name;
		int min, max;
	} cmds[] = {
		{ "info", 0, 0 },	 { "transaction", 0, ARGS_MAX },
		{ "commit", 2, 3 },	 { "abort", 2, 2 },
		{ "detach", 1, 1 },	 { "release", 2, ARGS_MAX },
		{ "snapinfo", 1, 2 },	 { "list", 1, 1 },
		{ "extents", 2, 5 },	 { "raw", 2, ARGS_MAX },
		{ "release-file", 3, 3 },
		{ "read", 4, 4 },	 { "load", 4, 5 },
		{ "mark", 3, ARGS_MAX }, { "stats", 1, 1 },
		{ "events", 0, 2 },	 { "rawread", 1, 2 },
	};
	size_t i;

	for (i = 0; i < sizeof(cmds) / sizeof(cmds[0]); i++)
		if (!strcmp(args[0], cmds[i].name))
			break;
	if (i == sizeof(cmds) / sizeof(cmds[0]))
		return misuse("no such command", args[0]);
	if (n - 1 < cmds[i].min || n - 1 > cmds[i].max)
		return misuse("wrong number of arguments", args[0]);
	args++;
	n--;
	switch (i) {
	case 0: return cmd_info();
	case 1: return cmd_transaction(args, n);
	case 2: return cmd_commit(args, n);
	case 3: return cmd_abort(args);
	case 4: return cmd_detach(args);
	case 5: return cmd_release(args, n);
	case 6: return cmd_snapinfo(args, n);
	case 7: return cmd_list(args);
	case 8: return cmd_extents(args, n);
	case 9: return cmd_raw(args, n);
	case 10: return cmd_release_file(args);
	case 11: return cmd_read(args);
	case 12: return cmd_load(args, n);
	case 13: return cmd_mark(args, n);
	case 14: return cmd_stats(args);
	case 15: return cmd_events(args, n);
	default: return cmd_rawread(args, n);
	}
}

/* Returns the number of words of the line. */
static int split(char *line, char **words)
{
	char *save = NULL, *w = strtok_r(line, " \t\n", &save);
	int n = 0;

	for (; w && n < ARGS_MAX; w = strtok_r(NULL, " \t\n", &save))
		words[n++] = w;
	return n;
}

int main(int argc, char **argv)
{
	static char *words[ARGS_MAX];
	char *line = NULL;
	size_t room = 0;
	int n;

	if (argc < 2) {
		misuse("no command; see the head of cbw-ioctl.c", NULL);
		return 2;
	}
	control = open("/dev/cbw-control", O_RDWR | O_CLOEXEC);
	if (control < 0) {
		printf("error open %s\n", strerrorname_np(errno));
		return 1;
	}
	if (strcmp(argv[1], "-"))
		return command(argv + 1, argc - 1) ? 0 : misused ? 2 : 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (getline(&line, &room, stdin) > 0) {
		n = split(line, words);
		if (!n)
			continue;
		misused = false;
		command(words, n);
		if (misused)
			printf("error usage\n");
	}
	free(line);
	return 0;
}
