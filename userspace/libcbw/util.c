// SPDX-License-Identifier: LGPL-2.1-or-later
/* errors, cut ids, names */
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>

#include "internal.h"

int cbw_fail(struct cbw_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (code < 0)
		code = -code;
	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
	}
	return -code;
}

char *cbw_cut_to_text(const struct cbw_cut_id *cut, char text[CBW_CUT_HEX])
{
	static const char digits[] = "0123456789abcdef";
	size_t i;

	for (i = 0; i < sizeof(cut->b); i++) {
		text[2 * i] = digits[cut->b[i] >> 4];
		text[2 * i + 1] = digits[cut->b[i] & 15];
	}
	text[2 * i] = '\0';
	return text;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int cbw_cut_from_text(const char *text, struct cbw_cut_id *cut)
{
	struct cbw_cut_id id;
	size_t i;

	if (strlen(text) != 2 * sizeof(id.b))
		return -EINVAL;
	for (i = 0; i < sizeof(id.b); i++) {
		int hi = hex_digit(text[2 * i]);
		int lo = hex_digit(text[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return -EINVAL;
		id.b[i] = (uint8_t)(hi << 4 | lo);
	}
	*cut = id;
	return 0;
}

bool cbw_cut_is_none(const struct cbw_cut_id *cut)
{
	static const struct cbw_cut_id none;

	return !memcmp(cut, &none, sizeof(none));
}

bool cbw_cut_equal(const struct cbw_cut_id *a, const struct cbw_cut_id *b)
{
	return !memcmp(a, b, sizeof(*a));
}

char *cbw_escape(const char *name, char *buf, size_t len)
{
	const unsigned char *p;
	size_t at = 0;

	if (!len)
		return buf;
	for (p = (const unsigned char *)name; *p; p++) {
		bool plain = *p > ' ' && *p < 0x7f && *p != '\\';
		size_t need = plain ? 1 : 4;

		if (at + need >= len)
			break;
		if (plain)
			buf[at] = (char)*p;
		else
			snprintf(buf + at, 5, "\\x%02x", *p);
		at += need;
	}
	buf[at] = '\0';
	return buf;
}

const char *cbw_esc(const char *name, struct cbw_esc *esc)
{
	return cbw_escape(name, esc->s, sizeof(esc->s));
}

int cbw_name_check(const char *name, struct cbw_error *err)
{
	struct cbw_esc esc;
	size_t len = strlen(name);

	if (!len)
		return cbw_fail(err, EINVAL, "the name of a bitmap must not be empty");
	if (len > CBW_NAME_MAX)
		return cbw_fail(err, EINVAL,
				"bitmap name '%s...' has %zu bytes, at most %d are allowed",
				cbw_esc(name, &esc), len, CBW_NAME_MAX);
	if (strchr(name, '/'))
		return cbw_fail(err, EINVAL,
				"bitmap name '%s' has a '/' in it, which is not allowed",
				cbw_esc(name, &esc));
	return 0;
}

int cbw_random_hex(char text[17], struct cbw_error *err)
{
	unsigned long long r;

	if (getrandom(&r, sizeof(r), 0) != sizeof(r))
		return cbw_fail(err, EIO, "getrandom gave no random number");
	snprintf(text, 17, "%016llx", r);
	return 0;
}

const char *cbw_reason_text(unsigned int reason)
{
	switch (reason) {
	case CBW_REASON_NONE:
		return "-";
	case CBW_REASON_STORE_FULL:
		return "store-full";
	case CBW_REASON_STORE_IO:
		return "store-io";
	case CBW_REASON_ORIGIN_IO:
		return "origin-io";
	case CBW_REASON_TIMEOUT:
		return "timeout";
	case CBW_REASON_MAP_LIMIT:
		return "map-limit";
	case CBW_REASON_SOURCE_GONE:
		return "source-gone";
	case CBW_REASON_SOURCE_RESIZED:
		return "source-resized";
	}
	return "unknown";
}

const char *cbw_state_text(unsigned int state)
{
	switch (state) {
	case CBW_SNAPSHOT_ARMED:
		return "armed";
	case CBW_SNAPSHOT_ACTIVE:
		return "active";
	case CBW_SNAPSHOT_DRAINED:
		return "drained";
	case CBW_SNAPSHOT_FAILED:
		return "failed";
	}
	return "unknown";
}
