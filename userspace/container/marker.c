// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Notes that a container has failed, outside of it
 *
 * The kernel has us leave one (`cbw container-failed ID GENERATION`) when it goes on without a
 * container, since that may not take a note itself: after a crash it would look as if it only
 * had to be recovered.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbw.h"
#include "marker.h"

static void marker_path(const struct cbw_cut_id *id, char *path, size_t len)
{
	char text[CBW_CUT_HEX];

	snprintf(path, len, MARKER_DIR "/%s", cbw_cut_to_text(id, text));
}

static int sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = fsync(fd) ? -errno : 0;
	close(fd);
	return ret;
}

/* Each directory on the way, and that it is there. */
static int make_dirs(void)
{
	char path[] = MARKER_DIR;
	char *slash = path;
	int ret = 0;

	while (!ret && (slash = strchr(slash + 1, '/'))) {
		*slash = '\0';
		if (mkdir(path, 0755) && errno != EEXIST)
			ret = -errno;
		*slash = '/';
	}
	if (!ret && mkdir(path, 0700) && errno != EEXIST)
		ret = -errno;
	if (!ret)
		ret = sync_dir("/var/lib/cbw");
	return ret;
}

uint64_t marker_read(const struct cbw_cut_id *id)
{
	uint64_t generation = 0;
	char path[256];
	FILE *f;

	marker_path(id, path, sizeof(path));
	f = fopen(path, "re");
	if (!f)
		return 0;
	/* one that cannot be read says the worst */
	if (fscanf(f, "generation %" SCNu64, &generation) != 1)
		generation = UINT64_MAX;
	fclose(f);
	return generation;
}

int marker_write(const struct cbw_cut_id *id, uint64_t generation, struct cbw_error *err)
{
	char path[256], tmp[300], text[64];
	int fd, len, ret;

	marker_path(id, path, sizeof(path));
	if (marker_read(id) >= generation)
		return 0;
	snprintf(tmp, sizeof(tmp), "%s.%d", path, (int)getpid());
	ret = make_dirs();
	if (ret)
		return fail_with(err, -ret, "%s: %s", MARKER_DIR, strerror(-ret));
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail_with(err, errno, "%s: %s", tmp, strerror(errno));
	len = snprintf(text, sizeof(text), "generation %" PRIu64 "\n", generation);
	ret = write_all(fd, text, (size_t)len);
	if (!ret && fsync(fd))
		ret = -errno;
	if (close(fd) && !ret)
		ret = -errno;
	if (!ret && rename(tmp, path))
		ret = -errno;
	if (!ret)
		ret = sync_dir(MARKER_DIR);
	if (ret)
		unlink(tmp);
	return ret ? fail_with(err, -ret, "%s: %s", path, strerror(-ret)) : 0;
}

void marker_remove(const struct cbw_cut_id *id)
{
	char path[256];

	marker_path(id, path, sizeof(path));
	unlink(path);
}

int cmd_container_failed(int argc, char **argv)
{
	struct cmdline cl = {
		.command = "cbw container-failed",
		.args = "ID GENERATION",
		.about = "For the kernel module, which runs it when it has to go on without a container:\n"
			"notes in " MARKER_DIR " that the container is not to be trusted.",
		.min_args = 2, .max_args = 2,
	};
	int status = opts_parse(&cl, argc, argv);
	struct cbw_cut_id id;
	struct cbw_error err;
	char *end;
	uint64_t generation;

	if (status >= 0)
		return status;
	errno = 0;
	generation = strtoull(cl.arg[1], &end, 10);
	if (cbw_cut_from_text(cl.arg[0], &id) || errno || *end || !generation)
		return usage("cbw container-failed: ID is 32 hex digits, GENERATION a number");
	if (marker_write(&id, generation, &err))
		return failed("container-failed: %s", err.msg);
	return EXIT_OK;
}
