// SPDX-License-Identifier: LGPL-2.1-or-later
/* lists of bitmaps, what they say, and what can be added to that */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "internal.h"

#define EXTENTS_AT_ONCE	4096

static int list_parse(const char *buf, size_t len, uint32_t nr,
		      struct cbw_bitmap *list, struct cbw_error *err)
{
	size_t at = 0;
	uint32_t i;

	for (i = 0; i < nr; i++) {
		struct cbw_bitmap_entry e;
		const size_t head = offsetof(struct cbw_bitmap_entry, name);

		if (len - at < head)
			goto bad;
		memcpy(&e, buf + at, head);
		if (e.entry_size < head || e.entry_size > len - at ||
		    e.name_len > CBW_NAME_MAX ||
		    e.name_len > e.entry_size - head)
			goto bad;
		list[i] = (struct cbw_bitmap){
			.flags = e.flags,
			.granularity = e.granularity,
			.dirty_bytes = e.dirty_bytes,
			.base = e.base,
			.cut = e.cut,
		};
		memcpy(list[i].name, buf + at + head, e.name_len);
		at += e.entry_size;
	}
	return 0;
bad:
	return cbw_fail(err, EPROTO,
			"the module's list of bitmaps makes no sense at entry %u",
			i);
}

int cbw_bitmap_list(struct cbw_session *session, struct cbw_devno dev,
		    struct cbw_bitmap **list, size_t *nr,
		    uint64_t *device_size, struct cbw_error *err)
{
	struct cbw_bitmap_list l;
	struct cbw_bitmap *out;
	size_t room = 8192;
	char *buf = NULL;
	int ret, tries;

	for (tries = 0; ; tries++) {
		char *more = realloc(buf, room);

		if (!more) {
			free(buf);
			return cbw_fail(err, ENOMEM, "out of memory");
		}
		buf = more;
		l = (struct cbw_bitmap_list){
			.size = sizeof(l),
			.dev = dev,
			.buf_len = (uint32_t)room,
			.buf = (uintptr_t)buf,
		};
		if (!ioctl(cbw_session_fd(session), CBW_BITMAP_LIST, &l))
			break;
		ret = errno;
		if (ret == EMSGSIZE && tries < 10 && l.buf_len > room &&
		    l.buf_len <= (64u << 20)) {
			room = l.buf_len;
			continue;
		}
		free(buf);
		return cbw_fail(err, ret, "list of bitmaps of device %u:%u: %s",
				dev.major, dev.minor, ret == ENODEV ?
				"not a device with the cbw target" :
				strerror(ret));
	}
	if (l.out_nr > room / offsetof(struct cbw_bitmap_entry, name)) {
		free(buf);
		return cbw_fail(err, EPROTO,
				"the module's list of bitmaps makes no sense: %u of them in %zu bytes",
				l.out_nr, room);
	}
	out = calloc(l.out_nr ? l.out_nr : 1, sizeof(*out));
	if (!out) {
		free(buf);
		return cbw_fail(err, ENOMEM, "out of memory");
	}
	ret = list_parse(buf, room, l.out_nr, out, err);
	free(buf);
	if (ret) {
		free(out);
		return ret;
	}
	*list = out;
	*nr = l.out_nr;
	if (device_size)
		*device_size = l.out_device_size;
	return 0;
}

int cbw_bitmap_find(struct cbw_session *session, struct cbw_devno dev,
		    const char *name, struct cbw_bitmap *bitmap,
		    struct cbw_error *err)
{
	struct cbw_bitmap *list;
	struct cbw_esc esc;
	size_t nr, i;
	int ret;

	ret = cbw_bitmap_list(session, dev, &list, &nr, NULL, err);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++)
		if (!strcmp(list[i].name, name))
			break;
	if (i < nr)
		*bitmap = list[i];
	else
		ret = cbw_fail(err, ENOENT, "device %u:%u has no bitmap '%s'",
			       dev.major, dev.minor, cbw_esc(name, &esc));
	free(list);
	return ret;
}

int cbw_bitmap_extents(struct cbw_session *session, struct cbw_devno dev,
		       const char *name, const struct cbw_cut_id *cut,
		       uint64_t from, cbw_extent_fn fn, void *arg,
		       struct cbw_error *err)
{
	struct cbw_extent *e;
	struct cbw_esc esc;
	struct cbw_bitmap *list;
	uint64_t size;
	size_t nr;
	int ret = cbw_name_check(name, err);

	if (ret)
		return ret;
	ret = cbw_bitmap_list(session, dev, &list, &nr, &size, err);
	if (ret)
		return ret;
	free(list);
	e = calloc(EXTENTS_AT_ONCE, sizeof(*e));
	if (!e)
		return cbw_fail(err, ENOMEM, "out of memory");
	while (from < size) {
		struct cbw_bitmap_extents b = {
			.size = sizeof(b),
			.dev = dev,
			.name = (uintptr_t)name,
			.name_len = (uint32_t)strlen(name),
			.nr_extents = EXTENTS_AT_ONCE,
			.extents = (uintptr_t)e,
			.offset = from,
		};
		uint32_t i;

		if (cut)
			b.cut = *cut;
		if (ioctl(cbw_session_fd(session), CBW_BITMAP_EXTENTS, &b)) {
			ret = errno;
			ret = cbw_fail(err, ret,
				       "extents of bitmap '%s' of device %u:%u: %s",
				       cbw_esc(name, &esc), dev.major, dev.minor,
				       ret == ENOENT ? "there is no such bitmap" :
				       ret == ESTALE ?
				       "it is not frozen at that cut" :
				       strerror(ret));
			break;
		}
		for (i = 0; i < b.nr_extents && i < EXTENTS_AT_ONCE; i++) {
			ret = fn(&e[i], arg);
			if (ret)
				goto out;
		}
		if (b.offset <= from) {
			ret = cbw_fail(err, EPROTO,
				       "extents of bitmap '%s' of device %u:%u: the module does not get past offset %llu",
				       cbw_esc(name, &esc), dev.major, dev.minor,
				       (unsigned long long)from);
			break;
		}
		from = b.offset;
	}
out:
	free(e);
	return ret;
}

static int bitmap_error(struct cbw_error *err, const char *verb, struct cbw_devno dev,
			const char *name, const char *busy)
{
	struct cbw_esc esc;
	int code = errno;

	return cbw_fail(err, code, "%s bitmap '%s' of device %u:%u: %s", verb,
			cbw_esc(name, &esc), dev.major, dev.minor,
			code == ENODEV ? "not a device with the cbw target" :
			code == ENOENT ? "there is no such bitmap" :
			code == ESTALE ? "it is not frozen at that cut" :
			code == EBUSY ? busy : strerror(code));
}

int cbw_bitmap_read(struct cbw_session *session, struct cbw_devno dev, const char *name,
		    const struct cbw_cut_id *cut, uint64_t *offset, void *data,
		    size_t *len, uint32_t *granularity, struct cbw_error *err)
{
	struct cbw_bitmap_read b = {
		.size = sizeof(b),
		.dev = dev,
		.name = (uintptr_t)name,
		.data = (uintptr_t)data,
		.offset = *offset,
	};
	int ret = cbw_name_check(name, err);

	if (ret)
		return ret;
	b.name_len = (uint32_t)strlen(name);
	b.data_len = (uint32_t)(*len < CBW_BITMAP_DATA_MAX ? *len : CBW_BITMAP_DATA_MAX);
	if (cut)
		b.cut = *cut;
	if (ioctl(cbw_session_fd(session), CBW_BITMAP_READ, &b))
		return bitmap_error(err, "read", dev, name, strerror(EBUSY));
	*offset = b.offset;
	*len = b.data_len;
	if (granularity)
		*granularity = b.out_granularity;
	return 0;
}

int cbw_bitmap_load(struct cbw_session *session, struct cbw_devno dev, const char *name,
		    uint32_t granularity, uint64_t offset, const void *data, size_t len,
		    const struct cbw_cut_id *base, struct cbw_error *err)
{
	struct cbw_bitmap_load b = {
		.size = sizeof(b),
		.dev = dev,
		.name = (uintptr_t)name,
		.data = (uintptr_t)data,
		.offset = offset,
		.granularity = granularity,
	};
	int ret = cbw_name_check(name, err);

	if (ret)
		return ret;
	if (len > CBW_BITMAP_DATA_MAX)
		return cbw_fail(err, EINVAL, "load bitmap: at most %u bytes at once",
				CBW_BITMAP_DATA_MAX);
	b.name_len = (uint32_t)strlen(name);
	b.data_len = (uint32_t)len;
	if (base) {
		b.flags = CBW_LOAD_BASE;
		b.base = *base;
	}
	if (ioctl(cbw_session_fd(session), CBW_BITMAP_LOAD, &b))
		return bitmap_error(err, "load", dev, name,
				    "it is frozen by a backup or snapshot that is under way");
	return 0;
}

int cbw_mark_dirty(struct cbw_session *session, struct cbw_devno dev, const char *name,
		   const struct cbw_range *ranges, size_t nr, struct cbw_error *err)
{
	int ret = name ? cbw_name_check(name, err) : 0;

	if (ret)
		return ret;
	while (nr) {
		size_t now = nr < CBW_RANGES_MAX ? nr : CBW_RANGES_MAX;
		struct cbw_mark_dirty m = {
			.size = sizeof(m),
			.dev = dev,
			.name = (uintptr_t)name,
			.name_len = name ? (uint32_t)strlen(name) : 0,
			.nr_ranges = (uint32_t)now,
			.ranges = (uintptr_t)ranges,
		};

		if (ioctl(cbw_session_fd(session), CBW_MARK_DIRTY, &m))
			return bitmap_error(err, "mark in", dev, name ? name : "*",
					    strerror(EBUSY));
		ranges += now;
		nr -= now;
	}
	return 0;
}
