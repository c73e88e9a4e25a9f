// SPDX-License-Identifier: GPL-2.0-or-later
/* what is written, where it is no chain */
#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "qcow2.h"
#include "target.h"

#define PART_TRIES	5

bool target_is_stream(const char *name)
{
	return !strcmp(name, "-");
}

bool target_is_uri(const char *name)
{
	return !strncmp(name, "nbd", 3) && strstr(name, "://");
}

bool target_is_image(const char *name, const char *format)
{
	size_t len = strlen(name);

	if (format)
		return !strcmp(format, "qcow2");
	return !target_is_uri(name) && len > 6 && !strcmp(name + len - 6, ".qcow2");
}

bool target_format_ok(const char *format)
{
	return !format || !strcmp(format, "raw") || !strcmp(format, "qcow2");
}

/* What a run that was killed has left under the other name; one that is at work has it. */
static int clear_part(const struct target *t, struct cbw_error *err)
{
	int fd, ret = -ESTALE, tries;

	for (tries = 0; ret == -ESTALE && tries < PART_TRIES; tries++) {
		fd = open(t->part, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd < 0 && errno == ENOENT)
			return 0;
		/* a link, a socket, a directory: no run has that */
		if (fd < 0 && errno != ELOOP && errno != ENXIO && errno != EISDIR)
			return fail_with(err, errno, "%s: %s", esc(t->part), strerror(errno));
		ret = fd < 0 ? 0 : sink_lock(fd, t->part, err);
		if (!ret && unlink(t->part) && errno != ENOENT)
			ret = fail_with(err, errno, "%s: %s", esc(t->part), strerror(errno));
		if (fd >= 0)
			close(fd);
	}
	return ret;
}

/*
 * What is going to be replaced is nobody else's meanwhile: an increment that another run writes
 * there would be gone, and its bitmap committed.
 */
static int lock_replaced(struct target *t, struct cbw_error *err)
{
	struct stat st;

	if (stat(t->name, &st))
		return 0;
	if (!t->force)
		return fail_with(err, EEXIST, "%s: %s; --force if it is to be overwritten",
				 esc(t->name), strerror(EEXIST));
	t->replaced = open(t->name, O_RDWR | O_CLOEXEC);
	if (t->replaced < 0)
		return fail_with(err, errno, "%s: %s", esc(t->name), strerror(errno));
	return sink_lock(t->replaced, t->name, err);
}

/* An image that is to be overwritten: nobody else is to have it. Its descriptor, or an error */
static int lock_old(const struct target *t, struct cbw_error *err)
{
	int fd = open(t->name, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		return -ENOENT;
	ret = sink_lock(fd, t->name, err);
	if (!ret)
		return fd;
	close(fd);
	return ret == -ESTALE ? -ENOENT : ret;
}

static int make_image(struct target *t, const char *name, struct qcow2_create_opts *o,
		      struct cbw_error *err)
{
	int old = o->flags & QCOW2_CREATE_EXCL ? -ENOENT : lock_old(t, err), ret;
	struct qcow2_error qerr;

	if (old < 0 && old != -ENOENT)
		return old;
	/* two that make it at once: it is one's, and only that one may remove it again */
	if (old < 0)
		o->flags |= QCOW2_CREATE_EXCL;
	ret = qcow2_create(name, o, &t->img, &qerr);
	if (ret)
		fail_with(err, ret, "%s%s", qerr.msg, ret != -EEXIST ? "" : !t->force ?
			  "; --force if it is to be overwritten" :
			  "; it was made meanwhile, or is a link to what is not there");
	if (old >= 0)
		close(old);
	if (!ret)
		ret = sink_lock(qcow2_fd(t->img), name, err);
	/* one that was there is empty now, and stays */
	t->made = !ret && old < 0;
	return ret;
}

static int open_image(struct target *t, const struct target_opts *o, uint64_t size,
		      struct cbw_error *err)
{
	struct qcow2_create_opts create = {
		.virtual_size = size,
		.cluster_size = o->cluster ? o->cluster : QCOW2_DEFAULT_CLUSTER,
		.backing_file = o->backing,
		.backing_format = o->backing ? "qcow2" : NULL,
		.compression = o->level ? QCOW2_COMPRESSION_ZSTD : 0,
		.flags = o->force && !t->part ? 0 : QCOW2_CREATE_EXCL,
	};
	const char *name = t->part ? t->part : t->name;
	char path[40];
	struct stat st;
	int ret;

	if (!stat(t->name, &st) && !S_ISREG(st.st_mode))
		return fail_with(err, EINVAL, "%s: images are made in files", esc(t->name));
	ret = make_image(t, name, &create, err);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", qcow2_fd(t->img));
	t->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (t->fd < 0)
		t->fd = open(path, O_RDWR | O_CLOEXEC);
	if (t->fd < 0)
		return fail_with(err, errno, "%s: %s", esc(t->name), strerror(errno));
	t->sink = sink_qcow2(t->name, t->img, t->fd, o->backing, o->level);
	return 0;
}

int target_open(struct target *t, const char *name, const struct target_opts *o, uint64_t size,
		struct cbw_error *err)
{
	const struct sink_file_opts file = { size, o->force, o->keep };
	struct stat st;
	int ret;

	*t = (struct target){
		.name = xstrdup(name), .fd = -1, .replaced = -1, .force = o->force,
	};
	if (target_is_stream(name)) {
		t->sink = sink_stream(STDOUT_FILENO, size);
		return 0;
	}
	if (o->part && !o->keep && !target_is_uri(name) && (stat(name, &st) || S_ISREG(st.st_mode))) {
		t->part = xasprintf("%s.part", name);
		ret = lock_replaced(t, err);
		if (!ret)
			ret = clear_part(t, err);
		if (ret)
			return ret;
	}
	if (target_is_image(name, o->format))
		return open_image(t, o, size, err);
	if (target_is_uri(name))
		return sink_nbd(name, size, o->workers, &t->sink, err);
	ret = sink_file(t->part ? t->part : name, &file, &t->sink, err);
	t->made = !ret && t->sink->made;
	return ret;
}

static int sync_parent(const char *path, struct cbw_error *err)
{
	char *copy = xstrdup(path);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;

	if (fd < 0 || fsync(fd))
		ret = fail_with(err, errno, "the directory of %s: %s", esc(path), strerror(errno));
	if (fd >= 0)
		close(fd);
	free(copy);
	return ret;
}

/* Not every file system can do that at once. */
static int rename_new(const char *from, const char *to)
{
	struct stat st;

	if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -1;
	if (!link(from, to))
		return unlink(from);
	if (errno == EEXIST || !lstat(to, &st)) {
		errno = EEXIST;
		return -1;
	}
	return rename(from, to);
}

/* Complete and durable: it gets its name. */
static int name_it(struct target *t, struct cbw_error *err)
{
	int ret = t->replaced >= 0 ? sink_lock(t->replaced, t->name, err) : 0;

	if (ret)
		return ret;
	/* one that was not there when this began is another run's */
	if (t->replaced >= 0 ? rename(t->part, t->name) : rename_new(t->part, t->name))
		return fail_with(err, errno, "%s: %s%s", esc(t->name), strerror(errno),
				 errno == EEXIST ? "; it was made meanwhile" : "");
	free(t->part);
	t->part = NULL;
	return 0;
}

int target_sync(struct target *t, struct cbw_error *err)
{
	int ret = t->sink->ops->flush(t->sink, err);

	if (!ret && t->part)
		ret = name_it(t, err);
	/* a new file is there for good only when its directory is */
	return !ret && t->made ? sync_parent(t->name, err) : ret;
}

void target_close(struct target *t, bool failed)
{
	bool stuck = t->sink && t->sink->stuck;

	if (!t->name)
		return;
	/* as long as it is locked: nobody may take it and then find it gone */
	if (failed && t->made)
		unlink(t->part ? t->part : t->name);
	sink_close(t->sink);
	if (!stuck)
		qcow2_close(t->img);
	if (t->fd >= 0 && !stuck)
		close(t->fd);
	if (t->replaced >= 0)
		close(t->replaced);
	free(t->part);
	free(t->name);
	*t = (struct target){ .fd = -1, .replaced = -1 };
}
