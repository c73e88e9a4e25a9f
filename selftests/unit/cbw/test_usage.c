// SPDX-License-Identifier: GPL-2.0-or-later
/* wrong command lines: status 2 and a text that says what; --help: status 0 */
#include "common.h"

struct usage {
	int (*cmd)(int, char **);
	const char *line;	/* words, separated by blanks; ~ is an empty one */
	const char *text;
};

static const struct usage table[] = {
	{ cmd_create, "create", "too few arguments" },
	{ cmd_create, "create a", "usage: cbw create NAME ORIGIN" },
	{ cmd_create, "create a b c", "argument 'c' is one too many" },
	{ cmd_create, "create ~ b", "argument 1 is empty" },
	{ cmd_create, "create --force a b", "need --container" },
	{ cmd_remove, "remove", "too few arguments" },
	{ cmd_remove, "remove -f x", "unknown option '-f'" },
	{ cmd_attach, "attach", "too few arguments" },
	{ cmd_attach, "attach x --container", "--container needs a value" },
	{ cmd_attach, "attach x --container f --region 3M", "a power of two from 64K to 1G" },
	{ cmd_attach, "attach x --container f --policy maybe", "continue or hold" },
	{ cmd_attach, "attach x --container f --timeout 600001", "at most 600000" },
	{ cmd_attach, "attach x --force-full", "need --container" },
	{ cmd_attach, "attach x --elsewhere", "need --container" },
	{ cmd_create, "create x y --region 4M", "need --container" },
	{ cmd_check, "check", "too few arguments" },
	{ cmd_container_failed, "container-failed x 1", "32 hex digits" },
	{ cmd_map, "map x", "give --bitmap NAME" },
	{ cmd_map, "map x --bitmap b --format xml", "text, json, borg, benji, csi, blocklist and qcow2 are known" },
	{ cmd_map, "map x --bitmap b --format qcow2", "needs --output FILE" },
	{ cmd_map, "map x --bitmap b --block-size 4K", "is for --format blocklist" },
	{ cmd_map, "map x --bitmap b --format blocklist --block-size 3K", "a power of two from 512 up" },
	{ cmd_map, "map x --bitmap b --id 3", "--id is for the directory of a chain" },
	{ cmd_export, "export x", "--socket PATH is missing" },
	{ cmd_export, "export x --socket s --commit maybe", "never or on-success" },
	{ cmd_export, "export x --socket s --commit on-success --once", "give --bitmap NAME" },
	{ cmd_export, "export x --socket s --bitmap b --commit on-success", "needs --once" },
	{ cmd_export, "export x --socket s --only-changed", "give --bitmap NAME" },
	{ cmd_export, "export x --socket s --chunk 12K", "power of two from 4K to 1M" },
	{ cmd_export, "export x --socket s --once --persistent", "exclude each other" },
	{ cmd_export, "export x --socket s --bitmap a/b", "has a '/' in it" },
	{ cmd_export, "export x --socket s --id 3", "--id is for the directory of a chain" },
	{ cmd_export, "export /tmp --socket s --store t", "are for a tracked device" },
	{ cmd_export, "export /tmp --socket s --elsewhere", "are for a tracked device" },
	{ cmd_export, "export /tmp --socket s --release", "nothing to release" },
	{ cmd_export, "export /tmp --socket s --resume", "nothing to release" },
	{ cmd_bitmap, "bitmap add x .cbw-x", "names that begin with .cbw-" },
	{ cmd_detach, "detach", "too few arguments" },
	{ cmd_detach, "detach x --force=yes", "--force takes no value" },
	{ cmd_detach, "detach x --forc", "unknown option '--forc'" },
	{ cmd_status, "status a b", "one too many" },
	{ cmd_status, "status --xml", "unknown option '--xml'" },
	{ cmd_bitmap, "bitmap", "which verb?" },
	{ cmd_bitmap, "bitmap frob", "unknown verb 'frob'" },
	{ cmd_bitmap, "bitmap add v", "too few arguments" },
	{ cmd_bitmap, "bitmap add v b --granularity 0x1000", "is not a size" },
	{ cmd_bitmap, "bitmap add v b --granularity 3000", "power of two" },
	{ cmd_bitmap, "bitmap add v b --granularity 256", "power of two from 512 to 2G" },
	{ cmd_bitmap, "bitmap add v b --granularity 4G", "power of two from 512 to 2G" },
	{ cmd_bitmap, "bitmap add v b --granularity 99999999999999T", "is too large" },
	{ cmd_bitmap, "bitmap add v b --granularity", "needs a value (N)" },
	{ cmd_bitmap, "bitmap add v a/b", "has a '/' in it" },
	{ cmd_bitmap, "bitmap add v ~", "argument 2 is empty" },
	{ cmd_bitmap, "bitmap remove v", "too few arguments" },
	{ cmd_bitmap, "bitmap remove v a/b", "has a '/' in it" },
	{ cmd_bitmap, "bitmap clear v b c", "one too many" },
	{ cmd_bitmap, "bitmap list", "too few arguments" },
	{ cmd_bitmap, "bitmap list v --granularity 4K", "unknown option" },
	{ cmd_snapshot, "snapshot", "which verb?" },
	{ cmd_snapshot, "snapshot make", "unknown verb 'make'" },
	{ cmd_snapshot, "snapshot create", "too few arguments" },
	{ cmd_snapshot, "snapshot create a", "1 devices but 0 --store" },
	{ cmd_snapshot, "snapshot create a b --store s", "2 devices but 1 --store" },
	{ cmd_snapshot, "snapshot create a --store s --chunk 12K", "power of two from 4K to 1M" },
	{ cmd_snapshot, "snapshot create a --store s --chunk 2M", "power of two from 4K to 1M" },
	{ cmd_snapshot, "snapshot create a --store s --chunk 1.5K", "is not a size" },
	{ cmd_snapshot, "snapshot create a --store ~", "the value is empty" },
	{ cmd_snapshot, "snapshot create a --store s --bitmap x/y", "has a '/' in it" },
	{ cmd_snapshot, "snapshot create a --store s --bitmap x --bitmap y", "--bitmap is given twice" },
	{ cmd_snapshot, "snapshot remove", "too few arguments" },
	{ cmd_snapshot, "snapshot remove s --abort", "unknown option" },
	{ cmd_backup, "backup", "too few arguments" },
	{ cmd_backup, "backup v --store s", "--to DIR is missing" },
	{ cmd_backup, "backup v --to - --bitmap b", "commit when it is safe" },
	{ cmd_backup, "backup v w --to nbd://x --store auto", "takes one volume" },
	{ cmd_backup, "backup v --to f.raw --incremental", "--bitmap B" },
	{ cmd_backup, "backup v --to f.raw --auto", "--bitmap B" },
	{ cmd_backup, "backup v --to f.raw --resumable", "need a chain" },
	{ cmd_backup, "backup v --to f.raw --compress zstd", "for qcow2 images" },
	{ cmd_backup, "backup v --to f.raw --backing x", "increments in qcow2 images" },
	{ cmd_backup, "backup v --to f.qcow2 --bitmap b --incremental", "--backing FILE" },
	{ cmd_backup, "backup v --to f --format vmdk", "raw or qcow2" },
	{ cmd_backup, "backup v --to d --backing x", "a chain knows its own" },
	{ cmd_backup, "backup --resume d --compress zstd", "nothing but --rate" },
	{ cmd_backup, "backup v w --to d --store s", "2 volumes but 1 --store" },
	{ cmd_backup, "backup v --to d --store s --store t", "1 volumes but 2 --store" },
	{ cmd_backup, "backup v --to d --to e --store s", "--to is given twice" },
	{ cmd_backup, "backup v --to d --store s --store-dir x", "are for --store auto" },
	{ cmd_backup, "backup v --to d --store-size 8M --store-max 4M", "is larger than --store-max" },
	{ cmd_backup, "backup v --to d --store-max 1M", "at least 4M" },
	{ cmd_backup, "backup v --to d --store s --full --incremental", "exclude each other" },
	{ cmd_backup, "backup v --to d --store s --full --auto", "exclude each other" },
	{ cmd_backup, "backup v --to d --store s --differential --auto", "exclude each other" },
	{ cmd_monitor, "monitor v", "one too many" },
	{ cmd_backup, "backup v --to d --store s --compress lz4", "none, zstd or zstd:LEVEL" },
	{ cmd_backup, "backup v --to d --store s --rate fast", "--rate 'fast' is not a size" },
	{ cmd_backup, "backup v --to d --store s --rate -1", "is not a size" },
	{ cmd_backup, "backup v --to d --store s --chunk 100", "power of two from 4K to 1M" },
	{ cmd_backup, "backup v --to d --store s --bitmap a/b", "has a '/' in it" },
	{ cmd_backup, "backup v --to d --store s --resume", "--resume needs a value (DIR)" },
	{ cmd_backup, "backup v --resume d", "goes on with what was begun" },
	{ cmd_backup, "backup --resume d --to e", "goes on with what was begun" },
	{ cmd_backup, "backup --resume d --full", "goes on with what was begun" },
	{ cmd_backup, "backup v --to", "--to needs a value (DIR)" },
	{ cmd_restore, "restore", "too few arguments" },
	{ cmd_restore, "restore d", "--to TARGET is missing" },
	{ cmd_restore, "restore d e --to t", "one too many" },
	{ cmd_restore, "restore d --to t --all", "unknown option" },
	{ cmd_restore, "restore - --to t --until 2", "need a directory, not a stream" },
	{ cmd_copy, "copy a", "too few arguments" },
	{ cmd_copy, "copy a b --format vmdk", "formats are raw and qcow2" },
	{ cmd_copy, "copy a b --compress zstd", "is for qcow2 images" },
	{ cmd_copy, "copy a b.qcow2 --compress lz4", "none, zstd or zstd:LEVEL" },
	{ cmd_copy, "copy a b.qcow2 --compress zstd:99", "none, zstd or zstd:LEVEL" },
	{ cmd_copy, "copy a b.qcow2 --cluster 2K", "power of two from 4K to 1M" },
	{ cmd_copy, "copy a b --cluster 4K", "are for qcow2 images" },
	{ cmd_copy, "copy a b.qcow2 --only-changed", "needs a raw target" },
	{ cmd_copy, "copy - b", "takes 'cbw restore" },
	{ cmd_copy, "copy a b --ioprio high", "idle, low or normal" },
	{ cmd_verify, "verify", "too few arguments" },
	{ cmd_verify, "verify d --until 3", "goes with --against only" },
	{ cmd_verify, "verify d --against", "needs a value" },
	{ cmd_chain, "chain", "which verb?" },
	{ cmd_chain, "chain list", "too few arguments" },
	{ cmd_chain, "chain prune", "too few arguments" },
	{ cmd_chain, "chain prune d", "say what is to be kept" },
	{ cmd_chain, "chain prune d --keep 0", "is not a number from 1 to" },
	{ cmd_chain, "chain prune d --keep -1", "is not a number from 1 to" },
	{ cmd_chain, "chain prune d --keep-daily 3x", "--keep-daily '3x' is not a number" },
	{ cmd_chain, "chain prune d --keep-weekly ~", "the value is empty" },
	{ cmd_chain, "chain prune d --keep-monthly 99999999999999999999", "is not a number" },
	{ cmd_chain, "chain prune d e --keep 1", "one too many" },
	{ cmd_chain, "chain merge", "too few arguments" },
	{ cmd_chain, "chain merge d 1..2 3", "one too many" },
	{ cmd_chain, "chain merge d 1..2 --dry-run", "unknown option" },
	{ cmd_check, "check d --remove-inconsistent", "goes with a container" },
	{ cmd_info, "info", "too few arguments" },
	{ cmd_info, "info d e", "one too many" },
	/* what comes from the command line cannot write to the terminal */
	{ cmd_create, "create --\033[31mred a b", "unknown option '--\\x1b[31mred'" },
};

static int words(char *line, char **argv)
{
	int argc = 0;
	char *word;

	for (word = strtok(line, " "); word; word = strtok(NULL, " "))
		argv[argc++] = strcmp(word, "~") ? word : word + 1;
	argv[argc] = NULL;
	return argc;
}

static void wrong(void **state)
{
	char text[4096], line[256], *argv[32];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		int argc, status;

		snprintf(line, sizeof(line), "%s", table[i].line);
		argc = words(line, argv);
		status = run_quiet(table[i].cmd, argc, argv, text);
		if (status != EXIT_USAGE)
			fail_msg("'%s': status %d, '%s'", table[i].line, status,
				 text);
		if (!strstr(text, table[i].text))
			fail_msg("'%s' says '%s', not '%s'", table[i].line,
				 text, table[i].text);
		if (strncmp(text, "cbw", 3) || strchr(text, '\033'))
			fail_msg("'%s' says '%s'", table[i].line, text);
	}
}

static void helps(void **state)
{
	static const char *const lines[] = {
		"create --help", "bitmap --help", "bitmap add -h",
		"backup --help", "restore v --help", "chain list --help",
	};
	static int (*const cmds[])(int, char **) = {
		cmd_create, cmd_bitmap, cmd_bitmap, cmd_backup, cmd_restore,
		cmd_chain,
	};
	char text[4096], line[64], *argv[8];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(cmds) / sizeof(cmds[0]); i++) {
		snprintf(line, sizeof(line), "%s", lines[i]);
		assert_int_equal(run_quiet(cmds[i], words(line, argv), argv,
					   text), EXIT_OK);
		assert_ptr_equal(strstr(text, "usage: cbw"), text);
	}
}

/* -- ends the options, a lone - is an argument */
static void dashes(void **state)
{
	char *argv[] = { "x", "--", "--to", "-", NULL };
	struct cmdline cl = { .command = "cbw x", .args = "", .min_args = 2,
		.max_args = 2 };

	(void)state;
	assert_int_equal(opts_parse(&cl, 4, argv), -1);
	assert_string_equal(cl.arg[0], "--to");
	assert_string_equal(cl.arg[1], "-");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wrong),
		cmocka_unit_test(helps),
		cmocka_unit_test(dashes),
	};

	return cmocka_run_group_tests_name("cbw command lines", tests, NULL,
					   NULL);
}
