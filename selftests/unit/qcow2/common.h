/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the qcow2 library share */
#ifndef COMMON_H
#define COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "qcow2.h"

#define KIB	1024ull
#define MIB	(1024 * KIB)
#define GIB	(1024 * MIB)
#define TIB	(1024 * GIB)

/* a scratch directory for the program, made first and removed last */
int scratch_setup(void **state);
int scratch_teardown(void **state);
/* path of @name in it; four buffers in turn */
const char *scratch(const char *name);

/* a number of its own for each test, from CBW_SEED or a fixed one; printed */
void rnd_seed(uint64_t salt);
uint64_t rnd(void);
uint64_t rnd_below(uint64_t n);

/* content that names its place and generation, for every 512 bytes */
void stamp(uint8_t *buf, uint64_t off, uint64_t len, uint64_t gen);

/* run a command, its output to a file shown on failure; the exit status */
int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* shall succeed */
#define run_ok(...)	assert_int_equal(run(__VA_ARGS__), 0)

void write_file(const char *path, const void *buf, size_t len);
uint8_t *read_file(const char *path, size_t *len);

/* calls that shall succeed: the message is shown when they do not */
void ok_at(int ret, const struct qcow2_error *err, const char *what, const char *file, int line);
#define ok(call)	do { \
	struct qcow2_error e_ = { 0 }, *err = &e_; \
	int ret_ = (call); \
	(void)err; \
	ok_at(ret_, &e_, #call, __FILE__, __LINE__); \
} while (0)

/* the image reads as @ref by qcow2_read() in odd pieces, and by qcow2_map() + pread */
void same_content(struct qcow2_image *img, const uint8_t *ref, uint64_t size);
/* qcow2_check() and qemu-img check find nothing in a flushed image */
void check_clean(const char *path);

/* one step of random writing, kept in step with @ref (size bytes) */
void random_step(struct qcow2_image *img, uint8_t *ref, uint64_t size, uint64_t gen);
/* write whole clusters as the copy engine does */
void engine_write(struct qcow2_image *img, uint64_t off, const uint8_t *buf, uint64_t len);

#endif /* COMMON_H */
