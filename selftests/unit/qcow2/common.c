// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"

static char dir[256];
static uint64_t rnd_state;

int scratch_setup(void **state)
{
	const char *base = getenv("TMPDIR");

	(void)state;
	snprintf(dir, sizeof(dir), "%s/cbw-qcow2-XXXXXX", base && strlen(base) < 200 ? base : "/tmp");
	if (!mkdtemp(dir)) {
		fprintf(stderr, "mkdtemp %s: %s\n", dir, strerror(errno));
		return -1;
	}
	return 0;
}

int scratch_teardown(void **state)
{
	char cmd[320];

	(void)state;
	if (getenv("CBW_KEEP")) {
		printf("# kept: %s\n", dir);
		return 0;
	}
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

const char *scratch(const char *name)
{
	static char buf[4][512];
	static unsigned int next;
	char *p = buf[next++ % 4];

	snprintf(p, sizeof(buf[0]), "%s/%s", dir, name);
	return p;
}

void rnd_seed(uint64_t salt)
{
	const char *s = getenv("CBW_SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) : 20240607;

	printf("# seed %llu (CBW_SEED), salt %llu\n", (unsigned long long)seed, (unsigned long long)salt);
	rnd_state = seed * 0x9e3779b97f4a7c15ull + salt;
}

/* splitmix64 */
uint64_t rnd(void)
{
	uint64_t z = (rnd_state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t rnd_below(uint64_t n)
{
	return rnd() % n;
}

void stamp(uint8_t *buf, uint64_t off, uint64_t len, uint64_t gen)
{
	uint64_t i;

	for (i = 0; i < len; i++) {
		uint64_t at = off + i;
		uint64_t word = ((at >> 3) * 0x9e3779b97f4a7c15ull) ^ (gen * 0xd6e8feb86659fd93ull);

		if (!(at & 7) && len - i >= 8) {
			memcpy(buf + i, &word, 8);
			i += 7;
		} else {
			buf[i] = (uint8_t)(word >> ((at & 7) * 8));
		}
	}
}

int run(const char *fmt, ...)
{
	char cmd[4096], full[5000];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	snprintf(full, sizeof(full), "(%s) >'%s/out' 2>&1 </dev/null", cmd, dir);
	status = system(full);
	if (status == -1 || !WIFEXITED(status) || WEXITSTATUS(status)) {
		printf("# status 0x%x: %s\n", status, cmd);
		snprintf(full, sizeof(full), "sed 's/^/#   /' '%s/out'", dir);
		fflush(stdout);
		if (system(full))
			printf("#   (no output)\n");
	}
	return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

void write_file(const char *path, const void *buf, size_t len)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(buf, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

uint8_t *read_file(const char *path, size_t *len)
{
	FILE *f = fopen(path, "r");
	struct stat st;
	uint8_t *buf;

	assert_non_null(f);
	assert_int_equal(fstat(fileno(f), &st), 0);
	buf = malloc((size_t)st.st_size + 1);
	assert_non_null(buf);
	*len = fread(buf, 1, (size_t)st.st_size, f);
	assert_int_equal(*len, st.st_size);
	fclose(f);
	return buf;
}

void ok_at(int ret, const struct qcow2_error *err, const char *what, const char *file, int line)
{
	if (!ret)
		return;
	print_error("%s:%d: %s = %d: %s\n", file, line, what, ret, err->msg);
	_fail(file, line);
}

static void same_bytes(const uint8_t *got, const uint8_t *want, uint64_t off, uint64_t len, const char *how)
{
	uint64_t i;

	if (!memcmp(got, want, len))
		return;
	for (i = 0; got[i] == want[i]; i++)
		;
	fail_msg("%s: guest offset %llu (range %llu + %llu): 0x%02x, not 0x%02x", how,
		 (unsigned long long)(off + i), (unsigned long long)off, (unsigned long long)len, got[i], want[i]);
}

void same_content(struct qcow2_image *img, const uint8_t *ref, uint64_t size)
{
	uint8_t *buf = malloc(size + 1);
	uint64_t off, n;

	assert_non_null(buf);
	assert_int_equal(qcow2_size(img), size);
	for (off = 0; off < size; off += n) {
		n = 1 + rnd_below(size / 3 + 1);
		if (n > size - off)
			n = size - off;
		ok(qcow2_read(img, off, buf, n, err));
		same_bytes(buf, ref + off, off, n, "qcow2_read");
	}
	for (off = 0; off < size; off += n) {
		struct qcow2_run r = { 0 };
		uint64_t i;

		ok(qcow2_map(img, off, size - off, &r, err));
		assert_int_equal(r.offset, off);
		assert_true(r.length && r.length <= size - off);
		n = r.length;
		switch (r.type) {
		case QCOW2_RUN_ZERO:
			for (i = 0; i < n; i++)
				if (ref[off + i])
					fail_msg("guest offset %llu maps to zeros, is 0x%02x",
						 (unsigned long long)(off + i), ref[off + i]);
			break;
		case QCOW2_RUN_DATA:
			assert_int_equal(pread(r.fd, buf, n, (off_t)r.host_offset), n);
			same_bytes(buf, ref + off, off, n, "qcow2_map");
			break;
		case QCOW2_RUN_COMPRESSED:
			break;
		default:
			fail_msg("type %d at %llu", r.type, (unsigned long long)off);
		}
	}
	free(buf);
}

void check_clean(const char *path)
{
	struct qcow2_check_report r = { 0 };
	struct qcow2_image *img = NULL;

	ok(qcow2_open(path, QCOW2_OPEN_NO_BACKING, &img, err));
	ok(qcow2_check(img, 0, &r, err));
	qcow2_close(img);
	if (r.corruptions || r.leaks)
		fail_msg("%s: %llu corruptions, %llu leaks: %s", path, (unsigned long long)r.corruptions,
			 (unsigned long long)r.leaks, r.first);
	run_ok("qemu-img check -q -f qcow2 '%s'", path);
}

void engine_write(struct qcow2_image *img, uint64_t off, const uint8_t *buf, uint64_t len)
{
	while (len) {
		uint64_t host = 0, got = 0;

		ok(qcow2_alloc_write(img, off, len, &host, &got, err));
		assert_true(got && got <= len);
		assert_int_equal(host % qcow2_cluster_size(img), 0);
		assert_int_equal(pwrite(qcow2_fd(img), buf, got, (off_t)host), got);
		off += got;
		buf += got;
		len -= got;
	}
}

void random_step(struct qcow2_image *img, uint8_t *ref, uint64_t size, uint64_t gen)
{
	uint64_t cs = qcow2_cluster_size(img), clusters = (size + cs - 1) / cs;
	uint64_t first = rnd_below(clusters), n = 1 + rnd_below(clusters < 16 ? clusters : 16);
	uint64_t off = first * cs, len = n * cs;

	if (off + len > size)
		len = size - off;
	switch (rnd_below(8)) {
	case 0:
	case 1:
		memset(ref + off, 0, len);
		ok(qcow2_set_zero(img, off, len, err));
		break;
	case 2:
	case 3:
	case 4:
		stamp(ref + off, off, len, gen);
		engine_write(img, off, ref + off, len);
		break;
	case 5:
		ok(qcow2_flush(img, err));
		break;
	default:
		off = rnd_below(size);
		len = 1 + rnd_below(size - off < 3 * cs ? size - off : 3 * cs);
		stamp(ref + off, off, len, gen);
		ok(qcow2_write(img, off, ref + off, len, err));
	}
}
