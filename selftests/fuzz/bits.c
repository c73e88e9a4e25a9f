// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * libFuzzer target: whatever is done to the module's bitmaps, they are what their
 * models are (selftests/unit/bits), and no memory is left.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "program.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

void shim_fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	program_run(data, size);
	return 0;
}
