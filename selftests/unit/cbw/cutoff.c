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

int forked(int (*fn)(const void *arg), const void *arg)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(fn(arg));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

struct hit {
	const struct points *p;
	const struct merge_opts *o;
	uint32_t id;
	enum fault kind;
	unsigned int n;
};

static int merge_hit(const void *arg)
{
	const struct hit *h = arg;
	struct cbw_error err;
	struct chain c;
	int ret;

	if (chain_open_locked(h->p->dir, &c, &err))
		return 1;
	faults_begin(h->kind, h->n, NULL);
	ret = c.merge.state ? merge_resume(&c, h->o, &err) : merge_into(&c, h->id, h->o, &err);
	return faults_happened() ? FAULT_EXIT : !!ret;
}

bool hit_at(const struct points *p, uint32_t id, const struct merge_opts *o, enum fault kind,
	    unsigned int n)
{
	const struct hit h = { .p = p, .o = o, .id = id, .kind = kind, .n = n };

	return forked(merge_hit, &h) == FAULT_EXIT;
}

bool cut_off(const struct points *p, uint32_t id, const struct merge_opts *o, unsigned int n)
{
	return hit_at(p, id, o, FAULT_KILL, n);
}

void begun(const struct points *p, uint32_t id, bool punch, unsigned int more)
{
	const struct merge_opts o = { .punch = punch, .batch = 4 * MIB };
	unsigned int n;

	for (n = 0; state_of(p, NULL) == MERGE_NONE; n++)
		assert_true(cut_off(p, id, &o, n));
	if (more)
		assert_true(cut_off(p, id, &o, more));
	assert_int_equal(state_of(p, NULL), MERGE_DATA);
}

struct qcow2_image *image_of(const struct points *p, const char *file)
{
	char *path = xasprintf("%s/%s", p->dir, file);
	struct qcow2_image *img;
	struct qcow2_error err;

	if (qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, &err))
		fail_msg("%s", err.msg);
	free(path);
	return img;
}

static FILE *file_of(const struct points *p, const char *file)
{
	char *path = xasprintf("%s/%s", p->dir, file);
	FILE *f = fopen(path, "r+");

	assert_non_null(f);
	free(path);
	return f;
}

void put_at(const struct points *p, const char *file, uint64_t place, const void *bytes, size_t len)
{
	FILE *f = file_of(p, file);

	assert_int_equal(fseek(f, (long)place, SEEK_SET), 0);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

uint64_t number_at(const struct points *p, const char *file, uint64_t place)
{
	FILE *f = file_of(p, file);
	unsigned char b[8];
	uint64_t n = 0;
	size_t i;

	assert_int_equal(fseek(f, (long)place, SEEK_SET), 0);
	assert_int_equal(fread(b, 1, sizeof(b), f), sizeof(b));
	assert_int_equal(fclose(f), 0);
	for (i = 0; i < sizeof(b); i++)
		n = n << 8 | b[i];
	return n;
}

uint64_t l2_place(const struct points *p, const char *file, uint64_t at)
{
	struct qcow2_image *img = image_of(p, file);
	struct qcow2_layer l;
	uint64_t nr, table;

	assert_int_equal(qcow2_get_layer(img, 0, &l), 0);
	nr = at / l.cluster_size;
	table = number_at(p, file, l.l1_offset + nr / (l.cluster_size / 8) * 8) & 0x00fffffffffffe00ull;
	assert_true(table);
	table += nr % (l.cluster_size / 8) * 8;
	qcow2_close(img);
	return table;
}

void poke(const struct points *p, const char *file)
{
	struct qcow2_image *img = image_of(p, file);
	struct qcow2_run r = { .type = QCOW2_RUN_ZERO };
	struct qcow2_error err;
	unsigned char byte;
	uint64_t at;

	for (at = 8 * MIB; r.type != QCOW2_RUN_DATA; at += r.length)
		assert_int_equal(qcow2_map_layer(img, 0, at, qcow2_size(img) - at, &r, &err), 0);
	qcow2_close(img);
	byte = (unsigned char)~(number_at(p, file, r.host_offset + 100) >> 56);
	put_at(p, file, r.host_offset + 100, &byte, 1);
}

void sound(const struct points *p, const char *ids)
{
	points_are(p, ids);
	points_check(p, true);
	tool(cmd_verify, p, "verify DIR", EXIT_OK, NULL);
}

void drop(struct points *p)
{
	points_free(p);
	run("rm -r %s/*", top);
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
