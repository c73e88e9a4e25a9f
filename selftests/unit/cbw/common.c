// SPDX-License-Identifier: GPL-2.0-or-later
#include <unistd.h>

#include "common.h"

char *path_in(const char *dir, const char *name)
{
	static char ring[4][128];
	static int at;
	char *p = ring[at++ % 4];

	snprintf(p, sizeof(ring[0]), "%s/%s", dir, name);
	return p;
}

int run_quiet(int (*fn)(int, char **), int argc, char **argv, char *text)
{
	int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO), ret;
	FILE *f = tmpfile();
	size_t n;

	assert_non_null(f);
	fflush(stdout);
	fflush(stderr);
	dup2(fileno(f), STDOUT_FILENO);
	dup2(fileno(f), STDERR_FILENO);
	ret = fn(argc, argv);
	fflush(stdout);
	fflush(stderr);
	dup2(out, STDOUT_FILENO);
	dup2(err, STDERR_FILENO);
	close(out);
	close(err);
	rewind(f);
	n = fread(text, 1, 4095, f);
	text[n] = '\0';
	fclose(f);
	return ret;
}
