// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbw-ioctl: what calls take and give, as words.
 */
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "ioctl.h"

int control = -1;
bool misused;

bool misuse(const char *what, const char *arg)
{
	fprintf(stderr, "cbw-ioctl: %s: '%s'\n", what, arg ? arg : "");
	misused = true;
	return false;
}

bool get_number(const char *s, uint64_t *v)
{
	char *end;

	errno = 0;
	*v = strtoull(s, &end, 0);
	return !errno && end != s && !*end ? true : misuse("not a number", s);
}

bool get_dev(const char *s, struct cbw_devno *dev)
{
	unsigned int ma, mi;
	struct stat st;
	char c;

	if (sscanf(s, "%u:%u%c", &ma, &mi, &c) == 2) {
		dev->major = ma;
		dev->minor = mi;
		return true;
	}
	if (stat(s, &st) || !(S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode)))
		return misuse("not a device", s);
	dev->major = major(st.st_rdev);
	dev->minor = minor(st.st_rdev);
	return true;
}

bool get_cut(const char *s, struct cbw_cut_id *cut)
{
	unsigned int b;
	int i;

	memset(cut, 0, sizeof(*cut));
	if (!strcmp(s, "-"))
		return true;
	if (strlen(s) != 32)
		return misuse("not a cut id", s);
	for (i = 0; i < 16; i++) {
		if (sscanf(s + 2 * i, "%2x", &b) != 1)
			return misuse("not a cut id", s);
		cut->b[i] = b;
	}
	return true;
}

size_t unescape(char *s)
{
	char *p = s, *out = s;
	unsigned int b;

	while (*p) {
		if (p[0] == '\\' && p[1] == 'x' &&
		    sscanf(p + 2, "%2x", &b) == 1) {
			*out++ = b;
			p += 4;
		} else {
			*out++ = *p++;
		}
	}
	*out = '\0';
	return out - s;
}

void put_name(const uint8_t *name, uint32_t len)
{
	uint32_t i;

	for (i = 0; i < len; i++)
		if (name[i] > ' ' && name[i] <= '~' && name[i] != '\\')
			putchar(name[i]);
		else
			printf("\\x%02x", name[i]);
}

void put_cut(const struct cbw_cut_id *cut)
{
	static const struct cbw_cut_id none;
	int i;

	if (!memcmp(cut, &none, sizeof(none))) {
		putchar('-');
		return;
	}
	for (i = 0; i < 16; i++)
		printf("%02x", cut->b[i]);
}

bool result(int ret)
{
	if (ret) {
		printf("error %s\n", strerrorname_np(errno));
		return false;
	}
	printf("ok\n");
	return true;
}
