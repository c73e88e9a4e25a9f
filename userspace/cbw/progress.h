/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_PROGRESS_H
#define CBW_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A line with bytes, rate and time left on stderr if that is a terminal; with
 * @json a line of JSON per second on stdout.
 */
struct progress {
	const char *what;	/* "backup" */
	const char *name;	/* of the volume */
	bool json;
	bool terminal;
	bool shown;
	uint64_t total, now;
	uint64_t start, last;
};

void progress_begin(struct progress *p, const char *what, const char *name,
		    uint64_t total, bool json);
/* cheap; shows something when it is time */
void progress_tick(struct progress *p, uint64_t now);
/* takes the line away */
void progress_end(struct progress *p);

#endif
