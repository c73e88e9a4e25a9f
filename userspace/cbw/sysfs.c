// SPDX-License-Identifier: GPL-2.0-or-later
/* what sysfs says of block devices */
#include <limits.h>

#include "cbw.h"
#include "sysfs.h"

bool sysfs_line(struct cbw_devno dev, const char *name, char *buf, size_t len)
{
	char path[128];
	FILE *f;
	bool ok;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", dev.major, dev.minor, name);
	f = fopen(path, "re");
	if (!f)
		return false;
	ok = fgets(buf, (int)len, f);
	fclose(f);
	if (!ok)
		return false;
	buf[strcspn(buf, "\n")] = '\0';
	return buf[0];
}

char *loop_file(struct cbw_devno dev)
{
	char path[80], name[PATH_MAX];
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/loop/backing_file", dev.major,
		 dev.minor);
	f = fopen(path, "re");
	if (!f)
		return NULL;
	n = fread(name, 1, sizeof(name) - 1, f);
	fclose(f);
	if (n && name[n - 1] == '\n')
		n--;
	name[n] = '\0';
	return n ? xstrdup(name) : NULL;
}
