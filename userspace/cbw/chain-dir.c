// SPDX-License-Identifier: GPL-2.0-or-later
/* the directory of a chain: lock, leftovers, durable replacement */
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "chain.h"
#include "details.h"
#include "merge.h"

#define MANIFEST_MAX	(64u << 20)
#define MANIFEST_TMP	CHAIN_MANIFEST ".tmp"

char *chain_path(const struct chain *chain, const char *file)
{
	return xasprintf("%s/%s", chain->dir, file);
}

static int fsync_parent(const char *dir)
{
	char *up = xasprintf("%s/..", dir);
	int fd = open(up, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;

	free(up);
	if (fd < 0)
		return -errno;
	if (fsync(fd))
		ret = -errno;
	close(fd);
	return ret;
}

static int read_manifest(struct chain *chain, struct cbw_error *err)
{
	struct cbw_error why;
	struct stat st;
	size_t len = 0;
	char *text;
	int fd, ret;

	fd = openat(chain->dirfd, CHAIN_MANIFEST,
		    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return fail_with(err, errno, "%s/" CHAIN_MANIFEST ": %s",
				 esc(chain->dir), strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) ||
	    st.st_size > MANIFEST_MAX) {
		close(fd);
		return fail_with(err, EUCLEAN,
				 "%s/" CHAIN_MANIFEST ": not a file of a sensible size",
				 esc(chain->dir));
	}
	text = xcalloc((size_t)st.st_size + 1, 1);
	while (len < (size_t)st.st_size) {
		ssize_t n = read(fd, text + len, (size_t)st.st_size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			ret = fail_with(err, errno, "%s/" CHAIN_MANIFEST ": %s",
					esc(chain->dir), strerror(errno));
			close(fd);
			free(text);
			return ret;
		}
		if (!n)
			break;
		len += (size_t)n;
	}
	close(fd);
	ret = chain_parse(text, len, chain, &why);
	free(text);
	if (ret)
		return fail_with(err, -ret, "%s/" CHAIN_MANIFEST ": %s",
				 esc(chain->dir), why.msg);
	return 0;
}

/* Whether a name is one that we give to images. */
static bool is_image(const char *name)
{
	unsigned int id;
	int end = 0;

	if (strspn(name, "0123456789") != 6 || name[6] != '-' ||
	    sscanf(name, "%6u-%n", &id, &end) != 1 || end != 7)
		return false;
	return !strcmp(name + end, "full.qcow2") ||
		!strcmp(name + end, "inc.qcow2") ||
		!strcmp(name + end, "diff.qcow2");
}

/* Whether a name is one that we give to images, their details, a merge's sums, or a new manifest. */
static bool is_ours(const char *name)
{
	size_t len = strlen(name), new = strlen(DETAILS_NEW);
	char image[64];

	if (!strcmp(name, MANIFEST_TMP) || is_image(name) ||
	    !strcmp(name, CHAIN_MERGE_SUMS) || !strcmp(name, CHAIN_MERGE_SUMS DETAILS_NEW))
		return true;
	if (len > new && !strcmp(name + len - new, DETAILS_NEW))
		len -= new;
	if (len < 5 || len > 40 || strncmp(name + len - 5, ".json", 5))
		return false;
	snprintf(image, sizeof(image), "%.*s.qcow2", (int)(len - 5), name);
	return is_image(image);
}

/* Whether the manifest names a file, which is one of ours. */
static bool is_named(const struct chain *chain, const char *name)
{
	size_t i;

	/* until a merge has ended things are not where they will be */
	if (chain->merge.state == MERGE_NAMES && strcmp(name, MANIFEST_TMP))
		return true;
	if (chain->merge.sums_size && !strcmp(name, CHAIN_MERGE_SUMS))
		return true;
	for (i = 0; i < chain->nr; i++) {
		const struct entry *e = &chain->entry[i];
		char *details;
		bool is;

		if (!strcmp(e->file, name))
			return true;
		if (!e->details_size)
			continue;
		details = details_name(e->file);
		is = !strcmp(details, name);
		free(details);
		if (is)
			return true;
	}
	return false;
}

static int open_listing(const struct chain *chain, DIR **d,
			struct cbw_error *err)
{
	int fd = openat(chain->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int ret;

	*d = fd < 0 ? NULL : fdopendir(fd);
	if (*d)
		return 0;
	ret = fail_with(err, errno, "%s: %s", esc(chain->dir), strerror(errno));
	if (fd >= 0)
		close(fd);
	return ret;
}

/*
 * Images without a manifest: it is saved before the first image is made, so no run of
 * ours leaves that. They may be all backups there are.
 */
static int refuse_orphans(const struct chain *chain, struct cbw_error *err)
{
	struct dirent *de;
	int ret;
	DIR *d;

	ret = open_listing(chain, &d, err);
	if (ret)
		return ret;
	while (!ret && (de = readdir(d)))
		if (is_image(de->d_name))
			ret = fail_with(err, EUCLEAN,
					"%s: there are images (%s) but no " CHAIN_MANIFEST "; put it back, or take another directory",
					esc(chain->dir), esc(de->d_name));
	closedir(d);
	return ret;
}

static int open_dir(const char *dir, bool create, bool lock, struct chain *chain,
		    struct cbw_error *err)
{
	struct chain c = { .dir = xstrdup(dir) };
	int ret;

	if (create && mkdir(dir, 0700) == 0) {
		ret = fsync_parent(dir);
		if (ret) {
			free(c.dir);
			return fail_with(err, -ret, "%s: %s", esc(dir),
					 strerror(-ret));
		}
	} else if (create && errno != EEXIST) {
		ret = fail_with(err, errno, "%s: %s", esc(dir), strerror(errno));
		free(c.dir);
		return ret;
	}
	c.dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c.dirfd < 0) {
		ret = fail_with(err, errno, "%s: %s", esc(dir), strerror(errno));
		free(c.dir);
		return ret;
	}
	if (lock && flock(c.dirfd, LOCK_EX | LOCK_NB)) {
		ret = fail_with(err, errno == EWOULDBLOCK ? EBUSY : errno,
				errno == EWOULDBLOCK ?
				"%s: another backup, merge or check is at work in this directory" :
				"%s: it cannot be locked", esc(dir));
		chain_close(&c);
		return ret;
	}
	ret = read_manifest(&c, err);
	if (ret == -ENOENT && create)
		ret = refuse_orphans(&c, err);
	/* a reader goes on as long as the images are what the entries say */
	if (!ret && c.merge.state == MERGE_NAMES)
		ret = lock ? merge_names(&c, err) :
			fail_with(err, EUCLEAN,
				  "%s: a merge of its images was cut off just before its end; 'cbw chain merge %s' ends it, as does the next backup",
				  esc(dir), esc(dir));
	if (ret) {
		chain_close(&c);
		return ret;
	}
	*chain = c;
	return 0;
}

int chain_open(const char *dir, bool create, struct chain *chain,
	       struct cbw_error *err)
{
	return open_dir(dir, create, create, chain, err);
}

int chain_open_locked(const char *dir, struct chain *chain,
		      struct cbw_error *err)
{
	return open_dir(dir, false, true, chain, err);
}

void chain_close(struct chain *chain)
{
	if (chain->dirfd >= 0)
		close(chain->dirfd);
	free(chain->dir);
	free(chain->volume);
	free(chain->bitmap);
	free(chain->entry);
	*chain = (struct chain){ .dirfd = -1 };
}

int chain_leftovers(const struct chain *chain, bool remove, unsigned int *nr,
		    struct cbw_error *err)
{
	struct dirent *de;
	unsigned int gone = 0;
	int ret;
	DIR *d;

	ret = open_listing(chain, &d, err);
	if (ret)
		return ret;
	while ((de = readdir(d))) {
		if (!is_ours(de->d_name) || is_named(chain, de->d_name))
			continue;
		if (remove && unlinkat(chain->dirfd, de->d_name, 0)) {
			ret = fail_with(err, errno,
					"%s/%s: leftover of an interrupted run, cannot be removed: %s",
					esc(chain->dir), esc(de->d_name),
					strerror(errno));
			break;
		}
		gone++;
	}
	closedir(d);
	if (nr)
		*nr = gone;
	return ret;
}

int chain_clean(struct chain *chain, unsigned int *removed,
		struct cbw_error *err)
{
	return chain_leftovers(chain, true, removed, err);
}

int chain_save(const struct chain *chain, bool *named, struct cbw_error *err)
{
	char *text = chain_format(chain);
	bool renamed = false;
	int fd, ret;

	fd = openat(chain->dirfd, MANIFEST_TMP,
		    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
		    0600);
	if (fd < 0) {
		ret = -errno;
		goto out;
	}
	ret = write_all(fd, text, strlen(text));
	if (!ret && fsync(fd))
		ret = -errno;
	if (close(fd) && !ret)
		ret = -errno;
	/* the images that it names are durable as files; now as entries too */
	if (!ret && fsync(chain->dirfd))
		ret = -errno;
	if (!ret && renameat(chain->dirfd, MANIFEST_TMP, chain->dirfd,
			     CHAIN_MANIFEST))
		ret = -errno;
	if (!ret) {
		renamed = true;
		if (named)
			*named = true;
		if (fsync(chain->dirfd))
			ret = -errno;
	}
	/* half of it would take the room that there was not */
	if (!renamed)
		(void)unlinkat(chain->dirfd, MANIFEST_TMP, 0);
out:
	free(text);
	if (ret)
		return fail_with(err, -ret, "%s/" CHAIN_MANIFEST ": %s",
				 esc(chain->dir), strerror(-ret));
	return 0;
}

static bool has_manifest(const char *dir)
{
	char *path = xasprintf("%s/" CHAIN_MANIFEST, dir);
	bool has = !access(path, F_OK);

	free(path);
	return has;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int chain_find_dirs(const char *path, char ***dirs, size_t *nr,
		    struct cbw_error *err)
{
	char **out = xcalloc(1, sizeof(*out));
	struct dirent *de;
	size_t n = 0;
	DIR *d;

	if (has_manifest(path)) {
		out[n++] = xstrdup(path);
		goto done;
	}
	d = opendir(path);
	if (!d) {
		free(out);
		return fail_with(err, errno, "%s: %s", esc(path), strerror(errno));
	}
	while ((de = readdir(d))) {
		char *sub, **more;

		if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, ".."))
			continue;
		sub = xasprintf("%s/%s", path, de->d_name);
		if (!has_manifest(sub)) {
			free(sub);
			continue;
		}
		more = reallocarray(out, n + 1, sizeof(*out));
		if (!more) {
			free(sub);
			closedir(d);
			return fail_with(err, ENOMEM, "out of memory");
		}
		out = more;
		out[n++] = sub;
	}
	closedir(d);
	if (!n) {
		free(out);
		return fail_with(err, ENOENT,
				 "%s: there is no backup here (no " CHAIN_MANIFEST ", neither in it nor one level below)",
				 esc(path));
	}
	qsort(out, n, sizeof(*out), by_name);
done:
	*dirs = out;
	*nr = n;
	return 0;
}
