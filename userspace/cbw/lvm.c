// SPDX-License-Identifier: GPL-2.0-or-later
/* LVM, by its own commands */
#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cbw.h"
#include "lvm.h"
#include "xfer.h"

#define TEXT_MAX	16384
#define PATIENCE_MS	60000
#define UUID_LEN	32

/* ---- one command ------------------------------------------------------- */

static void exec_lvm(char *const argv[], pid_t parent, int out)
{
	int null = open("/dev/null", O_RDWR);

	/* SIGTERM: lvm puts that off while volumes are suspended */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent || null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 ||
	    dup2(out, 2) < 0)
		_exit(126);
	close_range(3, ~0u, 0);
	setenv("LC_ALL", "C", 1);
	setenv("LVM_SUPPRESS_FD_WARNINGS", "1", 1);
	execvp("lvm", argv);
	_exit(127);
}

/* What it says until it closes its output; false: it takes too long. */
static bool collect(int fd, char *text)
{
	uint64_t end = now_ns() + PATIENCE_MS * 1000000ull;
	size_t len = 0;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		char rest[512];
		ssize_t n;

		text[len] = '\0';
		if (now_ns() >= end)
			return false;
		if (poll(&p, 1, 200) <= 0)
			continue;
		/* what is too much is read, and dropped */
		n = len < TEXT_MAX - 1 ? read(fd, text + len, TEXT_MAX - 1 - len) :
					 read(fd, rest, sizeof(rest));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return true;
		if (len < TEXT_MAX - 1)
			len += (size_t)n;
	}
}

static char *last_line(char *text)
{
	char *end = text + strlen(text), *p;

	while (end > text && isspace((unsigned char)end[-1]))
		*--end = '\0';
	p = strrchr(text, '\n');
	p = p ? p + 1 : text;
	while (isspace((unsigned char)*p))
		p++;
	return p;
}

/* @text: TEXT_MAX bytes for what it says */
static int run(char *const argv[], char *text, struct cbw_error *err)
{
	pid_t parent = getpid(), pid;
	int pipefd[2], status;
	bool ended;

	text[0] = '\0';
	fflush(NULL);
	if (pipe2(pipefd, O_CLOEXEC))
		return fail_with(err, errno, "lvm %s: %s", argv[1], strerror(errno));
	pid = fork();
	if (pid < 0) {
		status = errno;
		close(pipefd[0]);
		close(pipefd[1]);
		return fail_with(err, status, "lvm %s: %s", argv[1], strerror(status));
	}
	if (!pid)
		exec_lvm(argv, parent, pipefd[1]);
	close(pipefd[1]);
	ended = collect(pipefd[0], text);
	close(pipefd[0]);
	if (!ended) {
		kill(pid, SIGTERM);
		return fail_with(err, ETIMEDOUT, "lvm %s has not ended after %d seconds", argv[1],
				 PATIENCE_MS / 1000);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fail_with(err, errno, "lvm %s: %s", argv[1], strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return WIFEXITED(status) && WEXITSTATUS(status) == 127 ?
			fail_with(err, ENOENT, "lvm cannot be started; is the package lvm2 installed?") :
			fail_with(err, EIO, "lvm %s: %s", argv[1], esc(last_line(text)));
	return 0;
}

/* ---- groups ------------------------------------------------------------ */

/* "LVM-" and two ids of 32 characters, that of the group first, as LVM writes it. */
static bool group_id(const char *uuid, char id[UUID_LEN + 7])
{
	static const int part[] = { 6, 4, 4, 4, 4, 4, 6 };
	size_t i, k;

	if (strncmp(uuid, "LVM-", 4) || strlen(uuid) < 4 + 2 * UUID_LEN)
		return false;
	uuid += 4;
	for (i = 0; i < UUID_LEN; i++)
		if (!isalnum((unsigned char)uuid[i]))
			return false;
	for (i = 0, k = 0; i < sizeof(part) / sizeof(part[0]); i++) {
		memcpy(id + k, uuid, (size_t)part[i]);
		uuid += part[i];
		k += (size_t)part[i];
		id[k++] = '-';
	}
	id[k - 1] = '\0';
	return true;
}

int lvm_group_of(const struct cbw_dm_dev *dev, struct lvm_group *group, struct cbw_error *err)
{
	char id[UUID_LEN + 7], select[UUID_LEN + 24], text[TEXT_MAX], name[128], *line;
	char *argv[] = { "lvm", "vgs", "--noheadings", "--nosuffix", "--units", "b",
			 "-o", "vg_name,vg_free,vg_extent_size", "--select", select, NULL };
	ull room, extent;
	int ret;

	if (!group_id(dev->uuid, id))
		return fail_with(err, ENOENT, "%s: not a logical volume", esc(dev->name));
	snprintf(select, sizeof(select), "vg_uuid=%s", id);
	ret = run(argv, text, err);
	if (ret)
		return ret;
	line = last_line(text);
	if (sscanf(line, "%127s %llu %llu", name, &room, &extent) != 3 || !extent)
		return fail_with(err, ENOENT, "%s: its volume group is not found", esc(dev->name));
	*group = (struct lvm_group){ xstrdup(name), room, extent };
	return 0;
}

void lvm_group_free(struct lvm_group *group)
{
	free(group->name);
	*group = (struct lvm_group){ 0 };
}

/* ---- logical volumes --------------------------------------------------- */

/* As LVM makes names in /dev/mapper: a hyphen is doubled. Ours have none. */
static char *node(const char *group, const char *name)
{
	char *out = xcalloc(2 * strlen(group) + strlen(name) + 14, 1), *o;

	o = stpcpy(out, "/dev/mapper/");
	for (; *group; group++) {
		*o++ = *group;
		if (*group == '-')
			*o++ = '-';
	}
	*o++ = '-';
	strcpy(o, name);
	return out;
}

int lvm_create(const struct lvm_group *group, const char *name, uint64_t size, char **path,
	       struct cbw_error *err)
{
	char bytes[32], text[TEXT_MAX];
	char *argv[] = { "lvm", "lvcreate", "--yes", "--quiet", "--zero", "y", "--wipesignatures",
			 "y", "--addtag", LVM_TAG, "--name", (char *)name, "--size", bytes,
			 group->name, NULL };
	int ret;

	snprintf(bytes, sizeof(bytes), "%llub", (ull)size);
	ret = run(argv, text, err);
	if (!ret)
		*path = node(group->name, name);
	return ret;
}

int lvm_extend(const char *lv, uint64_t size, struct cbw_error *err)
{
	char bytes[32], text[TEXT_MAX];
	char *argv[] = { "lvm", "lvextend", "--quiet", "--size", bytes, (char *)lv, NULL };

	snprintf(bytes, sizeof(bytes), "%llub", (ull)size);
	return run(argv, text, err);
}

int lvm_remove(const char *lv, struct cbw_error *err)
{
	char text[TEXT_MAX];
	char *argv[] = { "lvm", "lvremove", "--yes", "--quiet", (char *)lv, NULL };

	return run(argv, text, err);
}

bool lvm_is_ours(const char *lv)
{
	char text[TEXT_MAX], vg[128], name[128], both[260];
	char *argv[] = { "lvm", "lvs", "--noheadings", "-o", "vg_name,lv_name", "--select",
			 "lv_tags=" LVM_TAG, "--", (char *)lv, NULL };

	if (run(argv, text, NULL) || sscanf(last_line(text), "%127s %127s", vg, name) != 2)
		return false;
	snprintf(both, sizeof(both), "%s/%s", vg, name);
	return !strcmp(both, lv) && !strncmp(name, LVM_NAME, sizeof(LVM_NAME) - 1);
}

int lvm_unused(const struct lvm_group *group, void (*fn)(const char *lv, void *arg), void *arg,
	       struct cbw_error *err)
{
	char text[TEXT_MAX], *line, *save = NULL;
	char *argv[] = { "lvm", "lvs", "--noheadings", "-o", "vg_name,lv_name,lv_device_open",
			 "--select", "lv_tags=" LVM_TAG, group->name, NULL };
	int ret = run(argv, text, err);

	if (ret)
		return ret;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char vg[128], lv[128], open[16], both[260];

		/* the last column is empty when nobody has it open */
		if (sscanf(line, "%127s %127s %15s", vg, lv, open) != 2 ||
		    strcmp(vg, group->name) || strncmp(lv, LVM_NAME, strlen(LVM_NAME)))
			continue;
		snprintf(both, sizeof(both), "%s/%s", vg, lv);
		fn(both, arg);
	}
	return 0;
}
