// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What dmsetup does too, for polling: static, it starts ten times faster where
 * every instruction is emulated, and takes messages as they are.
 *
 *	cbw-dm status|table [NAME]	of all devices: with their names
 *	cbw-dm message NAME WORD...	the reply, or `error NAME` and status 1
 *	cbw-dm try NAME TABLE		makes the device, loads the table, resumes and
 *					removes it: `ok`, or `error NAME` of what failed first
 *	cbw-dm load NAME TABLE		loads it into the inactive slot, and clears that
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BUF	(256u << 10)

static int control;

static struct dm_ioctl *request(const char *name, uint32_t flags)
{
	static char buf[BUF] __attribute__((aligned(8)));
	struct dm_ioctl *d = (void *)buf;

	memset(d, 0, sizeof(*d));
	d->version[0] = 4;
	d->data_size = BUF;
	d->data_start = sizeof(*d);
	d->flags = flags;
	if (name)
		snprintf(d->name, sizeof(d->name), "%s", name);
	return d;
}

static int fail(const char *what)
{
	printf("error %s\n", strerrorname_np(errno));
	fprintf(stderr, "cbw-dm: %s: %s\n", what, strerror(errno));
	return 1;
}

static int show(const char *name, uint32_t flags, int prefix)
{
	struct dm_ioctl *d = request(name, flags);
	struct dm_target_spec *t;
	uint32_t i, at = d->data_start;

	if (ioctl(control, DM_TABLE_STATUS, d))
		return fail(name);
	if (d->flags & DM_BUFFER_FULL_FLAG) {
		fprintf(stderr, "cbw-dm: %s: too long\n", name);
		return 1;
	}
	for (i = 0; i < d->target_count; i++) {
		t = (void *)((char *)d + at);
		if (prefix)
			printf("%s: ", name);
		printf("%llu %llu %s %s\n", (unsigned long long)t->sector_start,
		       (unsigned long long)t->length, t->target_type,
		       (char *)(t + 1));
		at = d->data_start + t->next;
	}
	return 0;
}

static int show_all(uint32_t flags)
{
	struct dm_ioctl *d = request(NULL, 0);
	struct dm_name_list *n;
	char *copy, *p;
	int ret = 0;

	if (ioctl(control, DM_LIST_DEVICES, d))
		return fail("list");
	copy = malloc(BUF);
	if (!copy)
		return 1;
	memcpy(copy, d, BUF);
	p = copy + ((struct dm_ioctl *)copy)->data_start;
	n = (void *)p;
	while (n->dev) {
		ret |= show(n->name, flags, 1);
		if (!n->next)
			break;
		p += n->next;
		n = (void *)p;
	}
	free(copy);
	return ret;
}

static int message(const char *name, char **words, int nr)
{
	struct dm_ioctl *d = request(name, 0);
	struct dm_target_msg *m = (void *)(d + 1);
	char *p = m->message, *end = (char *)d + BUF;
	int i, n;

	m->sector = 0;
	for (i = 0; i < nr; i++) {
		n = snprintf(p, end - p, "%s%s", i ? " " : "", words[i]);
		if (n >= end - p) {
			fprintf(stderr, "cbw-dm: the message is too long\n");
			return 2;
		}
		p += n;
	}
	if (ioctl(control, DM_TARGET_MSG, d))
		return fail(words[0]);
	if (d->flags & DM_DATA_OUT_FLAG)
		printf("%s\n", (char *)d + d->data_start);
	return 0;
}

static int simple(unsigned long call, const char *name)
{
	return ioctl(control, call, request(name, 0));
}

/* Lines "start length type parameters" */
static int load(const char *name, char *table)
{
	struct dm_ioctl *d = request(name, 0);
	char *at = (char *)d + d->data_start, *end = (char *)d + BUF, *line;
	struct dm_target_spec *t;
	unsigned long long start, len;
	char *save = NULL;
	int used, n;

	for (line = strtok_r(table, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		t = (void *)at;
		memset(t, 0, sizeof(*t));
		if (sscanf(line, "%llu %llu %15s %n", &start, &len,
			   t->target_type, &used) != 3) {
			fprintf(stderr, "cbw-dm: no table: %s\n", line);
			return 2;
		}
		t->sector_start = start;
		t->length = len;
		at = (char *)(t + 1);
		n = snprintf(at, end - at, "%s", line + used);
		if (n + 16 >= end - at) {
			fprintf(stderr, "cbw-dm: the table is too long\n");
			return 2;
		}
		at += (n + 1 + 7) & ~7;
		t->next = at - (char *)t;
		d->target_count++;
	}
	return ioctl(control, DM_TABLE_LOAD, d) ? fail("load") : 0;
}

static int try_table(const char *name, char *table)
{
	int ret;

	if (simple(DM_DEV_CREATE, name))
		return fail("create");
	ret = load(name, table);
	if (!ret && simple(DM_DEV_SUSPEND, name))	/* no flag: resume */
		ret = fail("resume");
	if (!ret)
		printf("ok\n");
	if (simple(DM_DEV_REMOVE, name) && !ret)
		ret = fail("remove");
	return ret;
}

static int load_clear(const char *name, char *table)
{
	int ret = load(name, table);

	if (!ret)
		printf("ok\n");
	if (simple(DM_TABLE_CLEAR, name) && !ret)
		ret = fail("clear");
	return ret;
}

int main(int argc, char **argv)
{
	uint32_t flags = DM_NOFLUSH_FLAG;

	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return fail("/dev/mapper/control");
	if (argc > 3 && !strcmp(argv[1], "message"))
		return message(argv[2], argv + 3, argc - 3);
	if (argc == 4 && !strcmp(argv[1], "try"))
		return try_table(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "load"))
		return load_clear(argv[2], argv[3]);
	if (argc < 2 || argc > 3 ||
	    (strcmp(argv[1], "table") && strcmp(argv[1], "status"))) {
		fprintf(stderr, "cbw-dm: see the head of cbw-dm.c\n");
		return 2;
	}
	if (!strcmp(argv[1], "table"))
		flags |= DM_STATUS_TABLE_FLAG;
	return argc > 2 ? show(argv[2], flags, 0) : show_all(flags);
}
