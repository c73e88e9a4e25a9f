// SPDX-License-Identifier: GPL-2.0-or-later
/* progress lines */
#include <json-c/json.h>
#include <unistd.h>

#include "cbw.h"
#include "progress.h"
#include "xfer.h"

void progress_begin(struct progress *p, const char *what, const char *name,
		    uint64_t total, bool json)
{
	const char *term = getenv("TERM");

	*p = (struct progress){
		.what = what,
		.name = name,
		.json = json,
		.terminal = isatty(STDERR_FILENO) &&
			(!term || strcmp(term, "dumb")),
		.total = total,
		.start = now_ns(),
	};
	p->last = p->start;
}

static void show_line(struct progress *p, double rate)
{
	double left = rate > 0 && p->total > p->now ?
		(double)(p->total - p->now) / rate : 0;
	unsigned int s = left < 360000 ? (unsigned int)(left + 0.5) : 359999;

	fprintf(stderr, "\r\033[K%s: %s of %s (%.0f %%), %s/s, %u:%02u:%02u left",
		esc(p->name), human(p->now), human(p->total),
		p->total ? 100.0 * (double)p->now / (double)p->total : 100.0,
		human((uint64_t)rate), s / 3600, s / 60 % 60, s % 60);
	fflush(stderr);
	p->shown = true;
}

static void show_json(struct progress *p, double rate)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "event", json_object_new_string("progress"));
	json_object_object_add(o, "what", json_object_new_string(p->what));
	json_object_object_add(o, "volume",
			       json_object_new_string(esc(p->name)));
	json_object_object_add(o, "bytes", json_object_new_uint64(p->now));
	json_object_object_add(o, "total", json_object_new_uint64(p->total));
	json_object_object_add(o, "rate",
			       json_object_new_uint64((uint64_t)rate));
	json_line(o);
}

void progress_tick(struct progress *p, uint64_t now)
{
	uint64_t t = now_ns();
	double seconds = (double)(t - p->start) / 1e9, rate;

	p->now = now;
	if (!p->terminal && !p->json)
		return;
	if (t - p->last < (p->json ? 1000000000ull : 200000000ull))
		return;
	p->last = t;
	rate = seconds > 0 ? (double)now / seconds : 0;
	if (p->json)
		show_json(p, rate);
	else
		show_line(p, rate);
}

void progress_end(struct progress *p)
{
	if (p->shown) {
		fputs("\r\033[K", stderr);
		fflush(stderr);
		p->shown = false;
	}
}
