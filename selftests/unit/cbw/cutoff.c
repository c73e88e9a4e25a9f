// SPDX-License-Identifier: GPL-2.0-or-later
/* merges that are cut off, for the tests of what ends them */
#include <sys/wait.h>
#include <unistd.h>

#include "cutoff.h"
#include "qcow2.h"

char top[64] = "/dev/shm/cbw-unit-XXXXXX";

void run(const char *fmt, const char *a)
{
	char *cmd = xasprintf(fmt, a);

	if (system(cmd))
		fail_msg("%s", cmd);
	free(cmd);
}

void run_in(const struct points *p, const char *cmd)
{
	char *text = xasprintf("cd '%s' && %s", p->dir, cmd);

	run("%s", text);
	free(text);
}

void build(struct points *p, const char *name)
{
	static const uint32_t cluster[] = { 65536, 65536, 65536, 4096 };
	static const unsigned int flags[] = { POINT_DENSE, POINT_DENSE, 0, 0 };
	char *dir = xasprintf("%s/%s", top, name);

	srand(21);
	points_build(p, dir, 12 * MIB + 512, 4, cluster, flags, 4);
	free(dir);
}

bool hit_at(const struct points *p, uint32_t id, const struct merge_opts *o, enum fault kind,
	    unsigned int n)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		struct cbw_error err;
		struct chain c;
		int ret;

		if (chain_open_locked(p->dir, &c, &err))
			_exit(1);
		faults_begin(kind, n, NULL);
		ret = c.merge.state ? merge_resume(&c, o, &err) : merge_into(&c, id, o, &err);
		_exit(faults_happened() ? FAULT_EXIT : !!ret);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status) == FAULT_EXIT;
}

bool cut_off(const struct points *p, uint32_t id, const struct merge_opts *o, unsigned int n)
{
	return hit_at(p, id, o, FAULT_KILL, n);
}

void poke(const struct points *p, const char *file)
{
	char *path = xasprintf("%s/%s", p->dir, file), byte;
	struct qcow2_run r = { .type = QCOW2_RUN_ZERO };
	struct qcow2_image *img;
	struct qcow2_error err;
	uint64_t at;
	FILE *f;

	assert_int_equal(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &err), 0);
	for (at = 8 * MIB; r.type != QCOW2_RUN_DATA; at += r.length)
		assert_int_equal(qcow2_map_layer(img, 0, at, qcow2_size(img) - at, &r, &err), 0);
	qcow2_close(img);
	f = fopen(path, "r+");
	assert_non_null(f);
	assert_int_equal(fseek(f, (long)r.host_offset + 100, SEEK_SET), 0);
	byte = (char)~fgetc(f);
	assert_int_equal(fseek(f, (long)r.host_offset + 100, SEEK_SET), 0);
	fputc(byte, f);
	assert_int_equal(fclose(f), 0);
	free(path);
}

uint64_t read_be(FILE *f, uint64_t place)
{
	unsigned char b[8];
	uint64_t n = 0;
	size_t i;

	assert_int_equal(fseek(f, (long)place, SEEK_SET), 0);
	assert_int_equal(fread(b, 1, sizeof(b), f), sizeof(b));
	for (i = 0; i < sizeof(b); i++)
		n = n << 8 | b[i];
	return n;
}

uint64_t l2_place(struct qcow2_image *img, uint64_t at)
{
	struct qcow2_layer l;
	uint64_t nr, table;
	char path[40];
	FILE *f;

	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", l.fd);
	f = fopen(path, "r");
	assert_non_null(f);
	nr = at / l.cluster_size;
	table = read_be(f, l.l1_offset + nr / (l.cluster_size / 8) * 8) & 0x00fffffffffffe00ull;
	assert_int_equal(fclose(f), 0);
	assert_true(table);
	return table + nr % (l.cluster_size / 8) * 8;
}

void tool(int (*fn)(int, char **), const struct points *p, const char *line, int status,
	  const char *says)
{
	char *words = xstrdup(line), *argv[8] = { NULL }, out[4096], *at;
	int argc = 0, got;

	for (at = strtok(words, " "); at && argc < 7; at = strtok(NULL, " "))
		argv[argc++] = strcmp(at, "DIR") ? at : p->dir;
	got = run_quiet(fn, argc, argv, out);
	if (got != status || (says && !strstr(out, says)))
		fail_msg("%s: status %d, not %d; says: %s", line, got, status, out);
	free(words);
}

enum merge_state state_of(const struct points *p, struct chain_merge *m)
{
	enum merge_state state = MERGE_NAMES;
	struct cbw_error err;
	struct chain c;

	if (chain_open(p->dir, false, &c, &err))
		return state;
	state = c.merge.state;
	if (m)
		*m = c.merge;
	chain_close(&c);
	return state;
}

int run_merges(const char *name, const struct CMUnitTest *tests, size_t nr)
{
	char *cmd;
	int ret;

	if (access("/dev/shm", W_OK))
		snprintf(top, sizeof(top), "/tmp/cbw-unit-XXXXXX");
	if (!mkdtemp(top))
		return 1;
	if (getenv("CBW_TEST"))
		cmocka_set_test_filter(getenv("CBW_TEST"));
	ret = _cmocka_run_group_tests(name, tests, nr, NULL, NULL);
	cmd = xasprintf("rm -rf %s", top);
	if (system(cmd))
		ret = 1;
	free(cmd);
	return ret;
}
