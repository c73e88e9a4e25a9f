// SPDX-License-Identifier: GPL-2.0-or-later
/* check */
#include "cbw.h"
#include "check-chain.h"
#include "report.h"

int cmd_check(int argc, char **argv)
{
	bool fix = false, remove = false;
	struct opt opts[] = {
		{ "repair", OPT_FLAG, &fix, NULL,
		  "(or -r) repair leaks, finish what was cut off, restore headers and L1 tables" },
		{ "remove-inconsistent", OPT_FLAG, &remove, NULL,
		  "remove bitmaps that cannot be trusted (container)" },
		{ 0 }
	};
	struct cmdline cl = {
		.command = "cbw check",
		.args = "[-r] [--remove-inconsistent] CONTAINER|DIR[/VOLUME]",
		.about = "Checks a container: the image, the state, the bitmaps. One that is attached is only\n"
			"read. Or checks the chains in DIR: manifest, details, images, all but the data, for\n"
			"which there is 'cbw verify'; with -r headers and L1 tables that are damaged come back\n"
			"from the details. Exit status 1: errors were found, and not repaired; 4: what is there\n"
			"is not what it is said to be, and not to be trusted.",
		.opts = opts,
		.min_args = 1, .max_args = 1,
	};
	static char long_name[] = "--repair";
	int status, i;

	for (i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], "-r"))
			argv[i] = long_name;
	status = opts_parse(&cl, argc, argv);
	if (status >= 0)
		return status;
	if (is_container_path(cl.arg[0]))
		return container_check(cl.arg[0], fix, remove);
	if (remove)
		return usage("cbw check: --remove-inconsistent goes with a container; %s is none",
			     esc(cl.arg[0]));
	return check_chains(cl.arg[0], fix);
}
