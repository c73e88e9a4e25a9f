// SPDX-License-Identifier: LGPL-2.1-or-later
/* snapshot devices, and who owns them */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/*
 * The uuid of an owned snapshot names its owner:
 * CBW-snap-own-<pid namespace>-<pid>-<start time>-<16 hex digits>
 * A pid is reused, a pid with its start time is not (before the next boot, which
 * no mapped device survives).
 */
struct owner {
	unsigned long long ns;
	unsigned int pid;
	unsigned long long start;
};

static int pid_namespace(unsigned long long *ns)
{
	struct stat st;

	if (stat("/proc/self/ns/pid", &st))
		return -errno;
	*ns = st.st_ino;
	return 0;
}

/* Start time of a process that lives: 0, or -ESRCH. */
static int process_start(unsigned int pid, unsigned long long *start)
{
	char path[48], line[1024], *p;
	char state;
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return -ESRCH;
	n = fread(line, 1, sizeof(line) - 1, f);
	fclose(f);
	line[n] = '\0';
	/* field 2, the name, may hold blanks and brackets */
	p = strrchr(line, ')');
	if (!p || sscanf(p + 1,
			 " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
			 &state, start) != 2)
		return -ESRCH;
	return state == 'Z' || state == 'X' ? -ESRCH : 0;
}

static bool owner_is_dead(const char *uuid)
{
	unsigned long long ns = 0, start = 0;
	struct owner o;
	int end = 0;

	if (sscanf(uuid, CBW_UUID_OWNED "%llu-%u-%llu-%n", &o.ns, &o.pid,
		   &o.start, &end) != 3 || !end)
		return false;
	/* we cannot see the processes of another pid namespace */
	if (pid_namespace(&ns) || ns != o.ns)
		return false;
	return process_start(o.pid, &start) || start != o.start;
}

static int make_uuid(bool own, char *uuid, size_t len, const char *hex,
		     struct cbw_error *err)
{
	struct owner o = { .pid = (unsigned int)getpid() };

	if (!own) {
		snprintf(uuid, len, CBW_UUID_SNAP "%s", hex);
		return 0;
	}
	if (pid_namespace(&o.ns) || process_start(o.pid, &o.start))
		return cbw_fail(err, ENOENT,
				"/proc is not mounted, or not readable");
	snprintf(uuid, len, CBW_UUID_OWNED "%llu-%u-%llu-%s", o.ns, o.pid,
		 o.start, hex);
	return 0;
}

/*
 * A name as an argument of a table: \xHH for what the module wants so. That
 * device-mapper takes a backslash away is libdevmapper's concern, it doubles them.
 */
static char *table_name(const char *name)
{
	size_t len = 4 * strlen(name) + 1;
	char *esc = malloc(len);

	return esc ? cbw_escape(name, esc, len) : NULL;
}

static int make_params(const struct cbw_snapshot_opts *opts, char **params,
		       struct cbw_error *err)
{
	char features[160] = "", chunk[16] = "-", *name = NULL;
	int nr = 0, at = 0, n;

	if (opts->chunk_size)
		snprintf(chunk, sizeof(chunk), "%u", opts->chunk_size >> 9);
	if (opts->armed) {
		at += snprintf(features + at, sizeof(features) - (size_t)at,
			       " armed");
		nr++;
	}
	if (opts->break_guest_write) {
		at += snprintf(features + at, sizeof(features) - (size_t)at,
			       " on_cbw_error break_guest_write");
		nr += 2;
	}
	if (opts->timeout_ms >= 0) {
		at += snprintf(features + at, sizeof(features) - (size_t)at,
			       " cbw_timeout_ms %lld",
			       (long long)opts->timeout_ms);
		nr += 2;
	}
	if (opts->buffer_kib >= 0) {
		at += snprintf(features + at, sizeof(features) - (size_t)at,
			       " buffer_kib %lld", (long long)opts->buffer_kib);
		nr += 2;
	}
	if (opts->bitmap) {
		name = table_name(opts->bitmap);
		if (!name)
			return cbw_fail(err, ENOMEM, "out of memory");
		nr += 2;
	}
	if (nr)
		n = asprintf(params, "%u:%u %u:%u %s %d%s%s%s",
			     opts->source.major, opts->source.minor,
			     opts->store.major, opts->store.minor, chunk, nr,
			     features, name ? " bitmap " : "",
			     name ? name : "");
	else
		n = asprintf(params, "%u:%u %u:%u %s", opts->source.major,
			     opts->source.minor, opts->store.major,
			     opts->store.minor, chunk);
	free(name);
	return n < 0 ? cbw_fail(err, ENOMEM, "out of memory") : 0;
}

int cbw_snapshot_create(const struct cbw_snapshot_opts *opts,
			struct cbw_dm_dev *info, struct cbw_error *err)
{
	char name[CBW_DM_NAME_MAX + 1], uuid[130], hex[17];
	struct cbw_dm_dev source;
	struct cbw_table table;
	struct cbw_target t = { 0 };
	struct cbw_esc esc, esc2;
	int ret;

	ret = cbw_dm_info(NULL, opts->source, &source, err);
	if (ret)
		return ret;
	if (source.kind != CBW_DM_TRACKED)
		return cbw_fail(err, EINVAL,
				"%s: it has no cbw target; attach it first (cbw attach)",
				cbw_esc(source.name, &esc));
	if (opts->chunk_size && (opts->chunk_size < 4096 ||
				 opts->chunk_size > (2048u << 9) ||
				 (opts->chunk_size & (opts->chunk_size - 1))))
		return cbw_fail(err, EINVAL,
				"a chunk of %u bytes is not possible: a power of two from 4096 to 1048576",
				opts->chunk_size);
	if (opts->bitmap) {
		ret = cbw_name_check(opts->bitmap, err);
		if (ret)
			return ret;
	}
	ret = cbw_random_hex(hex, err);
	if (ret)
		return ret;
	if (opts->name && (!*opts->name || strchr(opts->name, '/') ||
			   strlen(opts->name) > CBW_DM_NAME_MAX))
		return cbw_fail(err, EINVAL,
				"'%s' cannot be the name of a mapped device: 1 to %d bytes without '/'",
				cbw_esc(opts->name, &esc), CBW_DM_NAME_MAX);
	if (opts->name)
		snprintf(name, sizeof(name), "%s", opts->name);
	else
		snprintf(name, sizeof(name), "cbw-snap-%s", hex);
	ret = make_uuid(opts->own, uuid, sizeof(uuid), hex, err);
	if (ret)
		return ret;
	ret = make_params(opts, &t.params, err);
	if (ret)
		return ret;
	t.length = source.size >> 9;
	snprintf(t.type, sizeof(t.type), "cbw-snapshot");
	table.nr = 1;
	table.target = &t;
	ret = cbw_dm_make(name, uuid, &table, CBW_MAKE_RO | CBW_MAKE_HIDDEN,
			  NULL, err);
	free(t.params);
	if (ret == -ENOENT && opts->bitmap)
		return cbw_fail(err, ENOENT, "%s: it has no bitmap '%s'",
				cbw_esc(source.name, &esc),
				cbw_esc(opts->bitmap, &esc2));
	if (ret == -EBUSY)
		return cbw_fail(err, EBUSY,
				"%s: no snapshot: its store is in use%s",
				cbw_esc(source.name, &esc), opts->bitmap ?
				", or its bitmap is frozen by a backup or snapshot that is under way" :
				"");
	if (ret)
		return ret;
	ret = cbw_dm_info(name, (struct cbw_devno){ 0 }, info, err);
	if (ret)
		cbw_dm_delete(name, true, NULL);
	return ret;
}

int cbw_snapshot_grow(const char *name, struct cbw_error *err)
{
	struct cbw_table table;
	struct cbw_dm_dev dev;
	struct cbw_esc esc;
	int ret;

	ret = cbw_dm_find(name, &dev, err);
	if (ret)
		return ret;
	if (dev.kind != CBW_DM_SNAPSHOT)
		return cbw_fail(err, EINVAL, "%s: not a cbw snapshot",
				cbw_esc(dev.name, &esc));
	/* as it is: a table is loaded with the size that its store has then */
	ret = cbw_dm_table(dev.name, CBW_TABLE_LIVE, &table, err);
	if (ret)
		return ret;
	ret = cbw_dm_load(dev.name, &table, true, err);
	cbw_table_free(&table);
	if (ret)
		return ret;
	ret = cbw_dm_swap(dev.name, CBW_MAKE_HIDDEN, err);
	if (ret)
		cbw_dm_clear(dev.name, NULL);
	return ret;
}

int cbw_snapshot_remove(const char *name, struct cbw_error *err)
{
	struct cbw_dm_dev dev;
	struct cbw_esc esc;
	int ret;

	ret = cbw_dm_find(name, &dev, err);
	if (ret)
		return ret;
	if (dev.kind != CBW_DM_SNAPSHOT &&
	    strncmp(dev.uuid, CBW_UUID_SNAP, strlen(CBW_UUID_SNAP)))
		return cbw_fail(err, EINVAL, "%s: not a cbw snapshot",
				cbw_esc(dev.name, &esc));
	return cbw_dm_delete(dev.name, true, err);
}

int cbw_snapshot_remove_stale(unsigned int *removed, struct cbw_error *err)
{
	struct cbw_error why;
	struct cbw_dm_dev *list;
	size_t nr, i;
	unsigned int gone = 0;
	int ret, first = 0;

	ret = cbw_dm_list(&list, &nr, err);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++) {
		/* not by its table: it may have been killed before it had one */
		if (!owner_is_dead(list[i].uuid))
			continue;
		ret = cbw_dm_delete(list[i].name, true, &why);
		/* another run may have been faster */
		if (!ret || ret == -ENXIO) {
			gone++;
		} else if (!first) {
			first = ret;
			if (err)
				*err = why;
		}
	}
	free(list);
	if (removed)
		*removed = gone;
	return first;
}
