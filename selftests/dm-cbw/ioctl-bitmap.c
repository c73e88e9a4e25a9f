// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * cbw-ioctl: which bitmaps there are and what is in them.
 */
#include <sys/ioctl.h>

#include "ioctl.h"

bool cmd_list(char **args)
{
	struct cbw_bitmap_list a = { .size = sizeof(a) };
	struct cbw_bitmap_entry *e;
	uint32_t i, at;
	char *buf = NULL;
	int ret;

	if (!get_dev(args[0], &a.dev))
		return false;
	do {
		free(buf);
		buf = calloc(1, a.buf_len + 8);
		if (!buf)
			return misuse("no memory", NULL);
		a.buf = (uintptr_t)buf;
		ret = ioctl(control, CBW_BITMAP_LIST, &a);
	} while (ret && errno == EMSGSIZE);
	if (ret) {
		free(buf);
		return result(ret);
	}
	printf("size=%llu nr=%u\n", (ull)a.out_device_size, a.out_nr);
	for (i = 0, at = 0; i < a.out_nr; i++, at += e->entry_size) {
		e = (void *)(buf + at);
		printf("name=");
		put_name(e->name, e->name_len);
		printf(" granularity=%u dirty=%llu flags=%u base=",
		       e->granularity, (ull)e->dirty_bytes, e->flags);
		put_cut(&e->base);
		printf(" cut=");
		put_cut(&e->cut);
		putchar('\n');
		if (e->entry_size % 8 ||
		    e->entry_size < sizeof(*e) + e->name_len)
			return misuse("entry_size is wrong", NULL);
	}
	free(buf);
	return result(0);
}

bool cmd_extents(char **args, int n)
{
	struct cbw_bitmap_extents a = { .size = sizeof(a) };
	struct cbw_extent *e;
	uint64_t last, room = 4096, from = 0;
	uint32_t i;
	int ret;

	if (!get_dev(args[0], &a.dev) || (n > 2 && !get_cut(args[2], &a.cut)) ||
	    (n > 3 && !get_number(args[3], &from)) ||
	    (n > 4 && !get_number(args[4], &room)))
		return false;
	a.name = (uintptr_t)args[1];
	a.name_len = unescape(args[1]);
	a.offset = from;
	e = calloc(room, sizeof(*e));
	if (!e)
		return misuse("no memory", NULL);
	a.extents = (uintptr_t)e;
	/* the last call gives no extents, or less than there is room for */
	do {
		last = a.offset;
		a.nr_extents = room;
		ret = ioctl(control, CBW_BITMAP_EXTENTS, &a);
		for (i = 0; !ret && i < a.nr_extents; i++)
			printf("%llu %llu %u\n", (ull)e[i].offset,
			       (ull)e[i].length, e[i].flags);
	} while (!ret && a.nr_extents == room && a.offset > last);
	free(e);
	return result(ret);
}

bool cmd_read(char **args)
{
	struct cbw_bitmap_read a = { .size = sizeof(a) };
	FILE *f = fopen(args[3], "w");
	static char data[65536];
	uint64_t last;
	bool ok = true;
	int ret;

	if (!f)
		return misuse("cannot write", args[3]);
	if (!get_dev(args[0], &a.dev) || !get_cut(args[2], &a.cut))
		return false;
	a.name = (uintptr_t)args[1];
	a.name_len = unescape(args[1]);
	a.data = (uintptr_t)data;
	do {
		last = a.offset;
		a.data_len = sizeof(data);
		ret = ioctl(control, CBW_BITMAP_READ, &a);
		if (!ret)
			ok = ok && fwrite(data, 1, a.data_len, f) == a.data_len;
	} while (!ret && a.data_len && a.offset > last);
	if (fclose(f) || !ok)
		return misuse("cannot write", args[3]);
	if (!ret)
		printf("granularity=%u size=%llu\n", a.out_granularity, (ull)a.offset);
	return result(ret);
}

bool cmd_load(char **args, int n)
{
	struct cbw_bitmap_load a = { .size = sizeof(a) };
	FILE *f = fopen(args[3], "r");
	static char data[65536];
	uint64_t granularity, offset = 0;
	int ret = 0;

	if (!f)
		return misuse("cannot read", args[3]);
	if (!get_dev(args[0], &a.dev) || !get_number(args[2], &granularity))
		return false;
	a.name = (uintptr_t)args[1];
	a.name_len = unescape(args[1]);
	a.granularity = granularity;
	a.data = (uintptr_t)data;
	while (!ret && (a.data_len = fread(data, 1, sizeof(data), f))) {
		a.offset = offset;
		ret = ioctl(control, CBW_BITMAP_LOAD, &a);
		offset += 8 * granularity * a.data_len;
	}
	fclose(f);
	if (!ret && n > 4) {
		a.flags = CBW_LOAD_BASE;
		a.data_len = 0;
		a.offset = 0;
		if (!get_cut(args[4], &a.base))
			return false;
		ret = ioctl(control, CBW_BITMAP_LOAD, &a);
	}
	return result(ret);
}

bool cmd_mark(char **args, int n)
{
	struct cbw_mark_dirty a = { .size = sizeof(a), .nr_ranges = n - 2 };
	struct cbw_range *r = calloc(n, sizeof(*r));
	ull off, len;
	int i, ret;
	char c;

	if (!r)
		return misuse("no memory", NULL);
	if (!get_dev(args[0], &a.dev))
		return false;
	if (strcmp(args[1], "-")) {
		a.name = (uintptr_t)args[1];
		a.name_len = unescape(args[1]);
	}
	for (i = 2; i < n; i++) {
		if (sscanf(args[i], "%llu+%llu%c", &off, &len, &c) != 2)
			return misuse("not a range", args[i]);
		r[i - 2] = (struct cbw_range){ off, len };
	}
	a.ranges = (uintptr_t)r;
	ret = ioctl(control, CBW_MARK_DIRTY, &a);
	free(r);
	return result(ret);
}
