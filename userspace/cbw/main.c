// SPDX-License-Identifier: GPL-2.0-or-later
/* cbw - snapshots and incremental backups of any block volume */
#include <fcntl.h>
#include <locale.h>
#include <unistd.h>

#include "cbw.h"

static const struct command commands[] = {
	{ "attach", cmd_attach, "insert the target under a live volume" },
	{ "detach", cmd_detach, "take it out again, live" },
	{ "create", cmd_create, "make a tracked device on top of a block device" },
	{ "remove", cmd_remove, "remove a device made with create" },
	{ "status", cmd_status, "tracked devices, their bitmaps and snapshots" },
	{ "list", cmd_status, NULL },
	{ "bitmap", cmd_bitmap, "add, remove, clear, enable, disable, list bitmaps" },
	{ "snapshot", cmd_snapshot, "create and remove snapshots" },
	{ "backup", cmd_backup, "back volumes up into chains of qcow2 images" },
	{ "copy", cmd_copy, "copy files, devices, images" },
	{ "restore", cmd_restore, "write a point in time of a chain to a volume" },
	{ "verify", cmd_verify, "check a chain, or compare it with a device" },
	{ "chain", cmd_chain, "list, merge and prune the images of a chain" },
	{ "info", cmd_info, "facts about a backup directory or a container" },
	{ "check", cmd_check, "check a container or a chain, and repair it" },
	{ "map", cmd_map, "what is dirty in a bitmap, or changed by an image of a chain" },
	{ "export", cmd_export, "a point in time over NBD" },
	{ "container-failed", cmd_container_failed, NULL },
	{ "monitor", cmd_monitor, "says what happens to snapshots and tracked devices" },
	{ NULL, NULL, NULL }
};

static void help(void)
{
	const struct command *c;

	puts("usage: cbw COMMAND ...\n\n"
	     "Copy-before-write snapshots, dirty bitmaps and incremental backup of any block\n"
	     "volume, with the dm-cbw kernel module.\n\nCommands:");
	for (c = commands; c->name; c++)
		if (c->brief)
			printf("  %-12s%s\n", c->name, c->brief);
	puts("\n'cbw COMMAND --help' tells more. Sizes take K, M, G or T.\n"
	     "Exit status: 0 done; 1 failed, nothing lost; 2 usage; 3 done, but as a full\n"
	     "backup because the increment was impossible; 4 the chain or bitmap is\n"
	     "inconsistent and was not trusted.");
}

int main(int argc, char **argv)
{
	const struct command *c;
	int fd, status;

	/* a file we open must never become stdin, stdout or stderr */
	do {
		fd = open("/dev/null", O_RDWR);
		if (fd < 0)
			return EXIT_FAILED;
	} while (fd <= STDERR_FILENO);
	close(fd);

	if (argc < 2)
		return usage("cbw: which command? see 'cbw --help'");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
	    !strcmp(argv[1], "help")) {
		help();
		return EXIT_OK;
	}
	if (!strcmp(argv[1], "--version")) {
		puts("cbw " CBW_VERSION_TEXT);
		return EXIT_OK;
	}
	for (c = commands; c->name; c++)
		if (!strcmp(c->name, argv[1]))
			break;
	if (!c->name)
		return usage("cbw: unknown command '%s'; see 'cbw --help'",
			     esc(argv[1]));
	status = c->run(argc - 1, argv + 1);
	/* who reads no longer does not want to know; the work is done */
	errno = 0;
	if ((fflush(stdout) || ferror(stdout)) && errno != EPIPE) {
		say("stdout: %s", errno ? strerror(errno) : "write error");
		if (status == EXIT_OK)
			status = EXIT_FAILED;
	}
	return status;
}
