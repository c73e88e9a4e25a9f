// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbw-ioctl: calls that no sane program makes.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ioctl.h"

static bool set_value(char *buf, uint64_t size, char *arg);

/* A number, or a pointer to what it says. */
static bool get_value(char *val, uint64_t *v)
{
	static char zeros[1 << 20], room[1 << 20], inner[16][64];
	static unsigned int nr_inner;
	char *save = NULL, *part, *p;

	if (!strcmp(val, "@zeros")) {
		*v = (uintptr_t)zeros;
	} else if (!strcmp(val, "@room")) {
		*v = (uintptr_t)room;
	} else if (!strcmp(val, "@bad")) {
		*v = 0x10;
	} else if (!strncmp(val, "@text=", 6)) {
		*v = (uintptr_t)val + 6;
	} else if (!strncmp(val, "@{", 2)) {
		p = inner[nr_inner++ % 16];
		memset(p, 0, sizeof(inner[0]));
		*v = (uintptr_t)p;
		for (part = strtok_r(val + 2, ",}", &save); part; part = strtok_r(NULL, ",}", &save))
			if (!set_value(p, sizeof(inner[0]), part))
				return false;
	} else {
		return get_number(val, v);
	}
	return true;
}

static bool set_value(char *buf, uint64_t size, char *arg)
{
	uint64_t off, width, v;
	char *p;

	off = strtoull(arg, &p, 0);
	if (*p != ':')
		return misuse("not OFFSET:WIDTH:VALUE", arg);
	width = strtoull(p + 1, &p, 0);
	if (*p != ':' || width > 8 || off + width > size)
		return misuse("not OFFSET:WIDTH:VALUE", arg);
	if (!get_value(p + 1, &v))
		return false;
	memcpy(buf + off, &v, width);
	return true;
}

bool cmd_raw(char **args, int n)
{
	uint64_t nr, size;
	uint32_t v32;
	int i, ret;
	char *buf;

	if (!get_number(args[0], &nr))
		return false;
	if (!strcmp(args[1], "@bad"))
		return result(ioctl(control, _IO(CBW_TYPE, nr), 0x10));
	if (!get_number(args[1], &size))
		return false;
	if (size > 1 << 20)
		return misuse("too large", args[1]);
	/* a guard behind, so that a kernel that writes too much is seen */
	buf = calloc(1, size + 64);
	if (!buf)
		return misuse("no memory", NULL);
	memset(buf + size, 0x5a, 64);
	v32 = size;
	memcpy(buf, &v32, size < 4 ? size : 4);
	for (i = 2; i < n; i++)
		if (!set_value(buf, size, args[i])) {
			free(buf);
			return false;
		}
	ret = ioctl(control, _IO(CBW_TYPE, nr), buf);
	for (i = 0; i < 64; i++)
		if (buf[size + i] != 0x5a) {
			printf("error OVERRUN: the kernel wrote behind the struct\n");
			return false;
		}
	free(buf);
	return result(ret);
}

bool cmd_rawread(char **args, int n)
{
	static char room[1 << 16];
	int flags = fcntl(control, F_GETFL);
	uint64_t size;
	ssize_t ret;

	if (!get_number(args[0], &size))
		return false;
	if (size > sizeof(room))
		return misuse("too large", args[0]);
	fcntl(control, F_SETFL, flags | O_NONBLOCK);
	ret = read(control, n > 1 ? (char *)0x10 : room, size);
	fcntl(control, F_SETFL, flags);
	if (ret >= 0)
		printf("bytes=%zd\n", ret);
	return result(ret < 0);
}
