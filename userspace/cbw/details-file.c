// SPDX-License-Identifier: GPL-2.0-or-later
/* details of an image: the file beside it */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "crc.h"
#include "details.h"

char *details_name(const char *file)
{
	const char *dot = strrchr(file, '.');
	size_t len = dot ? (size_t)(dot - file) : strlen(file);

	return xasprintf("%.*s.json", (int)len, file);
}

int details_save(const struct chain *chain, struct entry *e,
		 const struct details *d, bool staged, struct cbw_error *err)
{
	char *name = details_name(e->file), *tmp = xasprintf("%s" DETAILS_NEW, name);
	char *text = details_format(d);
	size_t len = strlen(text);
	int fd, ret = 0;

	if (len > DETAILS_MAX) {
		/* checksums of all of it, and the manifest's, are still there */
		e->details_size = 0;
		e->details_crc = 0;
		goto out;
	}
	fd = openat(chain->dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC |
		    O_NOFOLLOW, 0600);
	if (fd < 0) {
		ret = -errno;
		goto out;
	}
	ret = write_all(fd, text, len);
	if (!ret && fsync(fd))
		ret = -errno;
	if (close(fd) && !ret)
		ret = -errno;
	if (!ret && !staged && renameat(chain->dirfd, tmp, chain->dirfd, name))
		ret = -errno;
	if (!ret && fsync(chain->dirfd))
		ret = -errno;
	if (!ret) {
		e->details_size = len;
		e->details_crc = crc32c(0, text, len);
	}
	/* half of it would take the room that there was not */
	if (ret)
		(void)unlinkat(chain->dirfd, tmp, 0);
out:
	if (ret)
		fail_with(err, ret, "%s/%s: %s", esc(chain->dir), esc(tmp),
			  strerror(-ret));
	free(text);
	free(tmp);
	free(name);
	return ret;
}

/* All of a file, if it is of the size and the checksum of the manifest. */
static int read_file(const struct chain *chain, const struct entry *e,
		     const char *name, char **text, struct cbw_error *err)
{
	size_t len = (size_t)e->details_size, done = 0;
	struct stat st;
	uint32_t crc;
	char *buf;
	int fd;

	fd = openat(chain->dirfd, name,
		    O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return fail_with(err, errno, "%s/%s: %s", esc(chain->dir),
				 esc(name), strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != len) {
		close(fd);
		return fail_with(err, EUCLEAN, "%s/%s: not a file of %llu bytes, as the manifest says",
				 esc(chain->dir), esc(name), (ull)len);
	}
	buf = xcalloc(len + 1, 1);
	while (done < len) {
		ssize_t n = read(fd, buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int code = n ? errno : EUCLEAN;

			close(fd);
			free(buf);
			return fail_with(err, code, "%s/%s: reading: %s",
					 esc(chain->dir), esc(name),
					 n ? strerror(code) : "it became shorter");
		}
		done += (size_t)n;
	}
	close(fd);
	crc = crc32c(0, buf, len);
	if (crc != e->details_crc) {
		free(buf);
		return fail_with(err, EUCLEAN, "%s/%s: its content has changed: checksum %08x, the manifest says %08x",
				 esc(chain->dir), esc(name), crc, e->details_crc);
	}
	*text = buf;
	return 0;
}

int details_settle(const struct chain *chain, const struct entry *e,
		   struct cbw_error *err)
{
	char *name, *tmp, *text;
	int ret = 0;

	if (!e->details_size)
		return 0;
	name = details_name(e->file);
	tmp = xasprintf("%s" DETAILS_NEW, name);
	if (!read_file(chain, e, tmp, &text, NULL)) {
		free(text);
		if (renameat(chain->dirfd, tmp, chain->dirfd, name))
			ret = fail_with(err, errno, "%s/%s: cannot be renamed: %s",
					esc(chain->dir), esc(tmp), strerror(errno));
	}
	free(tmp);
	free(name);
	return ret;
}

static int fits(const struct chain *chain, const struct entry *e,
		const char *name, const struct details *d, struct cbw_error *err)
{
	if (cbw_cut_equal(&d->cut, &e->cut) && d->size == e->size)
		return 0;
	return fail_with(err, EUCLEAN, "%s/%s: these are details of another image",
			 esc(chain->dir), esc(name));
}

int details_load(const struct chain *chain, const struct entry *e,
		 struct details *d, struct cbw_error *err)
{
	char *name, *tmp, *text;
	struct cbw_error why;
	int ret;

	if (!e->details_size)
		return fail_with(err, ENODATA, "%s/%s: it has no details, it was made by an older version",
				 esc(chain->dir), e->file);
	name = details_name(e->file);
	tmp = xasprintf("%s" DETAILS_NEW, name);
	/* between the manifest that names them and details_settle() */
	ret = read_file(chain, e, name, &text, err);
	if (ret && !read_file(chain, e, tmp, &text, NULL))
		ret = 0;
	free(tmp);
	if (!ret) {
		ret = details_parse(text, (size_t)e->details_size, d, &why);
		free(text);
		if (ret)
			fail_with(err, ret, "%s/%s: %s", esc(chain->dir),
				  esc(name), why.msg);
		else
			ret = fits(chain, e, name, d, err);
		if (ret)
			details_free(d);
	}
	free(name);
	return ret;
}

void details_remove(const struct chain *chain, const struct entry *e)
{
	char *name = details_name(e->file);

	/* one that stays is removed by chain_clean() */
	unlinkat(chain->dirfd, name, 0);
	free(name);
}
