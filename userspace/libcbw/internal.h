/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef LIBCBW_INTERNAL_H
#define LIBCBW_INTERNAL_H

#include <errno.h>
#include <string.h>

#include "libcbw.h"

#define CBW_CONTROL	"/dev/cbw-control"
#define CBW_VERSION	1

/* uuids of our mapped devices begin and end so */
#define CBW_UUID_DEV	"CBW-dev-"
#define CBW_UUID_SNAP	"CBW-snap-"
#define CBW_UUID_OWNED	"CBW-snap-own-"
#define CBW_UUID_PREFIX	"CBW-"
#define CBW_UUID_ORIGIN	"-origin"

/* Fills @err and returns -@code. */
int cbw_fail(struct cbw_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* 16 random hex digits and NUL. */
int cbw_random_hex(char text[17], struct cbw_error *err);

struct cbw_esc {
	char s[4 * 64 + 1];
};

/* For messages: a name, escaped, cut at 64 bytes. */
const char *cbw_esc(const char *name, struct cbw_esc *esc);

/* ---- dm.c: one function per dm ioctl ----------------------------------- */

struct cbw_target {
	uint64_t start;		/* sectors */
	uint64_t length;
	char type[32];
	char *params;
};

struct cbw_table {
	size_t nr;
	struct cbw_target *target;
};

void cbw_table_free(struct cbw_table *table);
enum cbw_table_kind {
	CBW_TABLE_LIVE,
	CBW_TABLE_LOADED,	/* the one that is not live yet */
	CBW_TABLE_STATUS,	/* of the live one, params are the status */
};

int cbw_dm_table(const char *name, enum cbw_table_kind kind,
		 struct cbw_table *table, struct cbw_error *err);
int cbw_dm_info(const char *name, struct cbw_devno dev, struct cbw_dm_dev *info,
		struct cbw_error *err);

#define CBW_MAKE_RO	(1u << 0)
#define CBW_MAKE_HIDDEN	(1u << 1)	/* udev: no rules but dm's own */

/* What comes between loading a table and resuming. */
struct cbw_dm_hook {
	cbw_dm_step fn;
	void *arg;
};

/* Creates, loads and resumes; on failure nothing is left. @hook: may be NULL */
int cbw_dm_make(const char *name, const char *uuid,
		const struct cbw_table *table, unsigned int flags,
		const struct cbw_dm_hook *hook, struct cbw_error *err);
/* Loads a table into the inactive slot, without touching the live one. */
int cbw_dm_load(const char *name, const struct cbw_table *table, bool ro,
		struct cbw_error *err);
/* Drops the inactive table. */
int cbw_dm_clear(const char *name, struct cbw_error *err);
/* Drains, swaps the loaded table in, resumes: one ioctl; no freeze. @flags: CBW_MAKE_HIDDEN */
int cbw_dm_swap(const char *name, unsigned int flags, struct cbw_error *err);
int cbw_dm_delete(const char *name, bool retry, struct cbw_error *err);

#endif /* LIBCBW_INTERNAL_H */
