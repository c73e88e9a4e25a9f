// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The state of a container, and the binding in it, from hostile slots. A checksum keeps
 * nearly all inputs out, so it is put right here first.
 */
#include <endian.h>
#include <stdarg.h>

#include "binding.h"
#include "cbw.h"
#include "crc.h"
#include "state.h"

/* what these parsers want of the tool, which wants libraries of its own */
int fail_with(struct cbw_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		err->code = code;
		va_start(ap, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
		va_end(ap);
	}
	return -code;
}

const char *esc(const char *name)
{
	return name;
}

void *xcalloc(size_t nr, size_t size)
{
	void *p = calloc(nr ? nr : 1, size ? size : 1);

	if (!p)
		abort();
	return p;
}

static void seal(unsigned char *slot)
{
	struct cbw_state head;
	uint32_t crc, len;

	memcpy(&head, slot, sizeof(head));
	len = le32toh(head.length);
	if (len < sizeof(head) || len > CBW_STATE_SLOT_SIZE)
		return;
	head.magic = htole64(CBW_STATE_MAGIC);
	head.version = htole32(CBW_STATE_VERSION);
	head.crc32c = 0;
	memcpy(slot, &head, sizeof(head));
	crc = htole32(crc32c(0, slot, len));
	memcpy(slot + offsetof(struct cbw_state, crc32c), &crc, sizeof(crc));
}

/* What is accepted can be written, and is the same then. */
static void again(const struct state *s)
{
	unsigned char *slot = xcalloc(1, CBW_STATE_SLOT_SIZE);
	struct state t;

	if (state_build(s, slot, NULL) || state_parse(slot, &t, NULL))
		abort();
	if (t.nr != s->nr || t.seq != s->seq || t.binding_length != s->binding_length)
		abort();
	state_free(&t);
	free(slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char *slots = xcalloc(1, STATE_BYTES);
	struct cbw_error err;
	struct binding b;
	struct state s;

	(void)binding_parse((const char *)data, size, &b, &err);
	memcpy(slots, data, size < STATE_BYTES ? size : STATE_BYTES);
	seal(slots);
	if (!state_parse(slots, &s, &err)) {
		(void)state_places(&s, 65536, 1ull << 40, 65536, &err);
		(void)binding_parse(s.binding, s.binding_length, &b, &err);
		again(&s);
		state_free(&s);
	}
	if (!state_newest(slots, &s, &err))
		state_free(&s);
	free(slots);
	return 0;
}
