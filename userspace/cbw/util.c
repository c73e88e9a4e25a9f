// SPDX-License-Identifier: GPL-2.0-or-later
/* messages, memory, signals */
#include <errno.h>
#include <time.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <signal.h>
#include <libdevmapper.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <unistd.h>

#include "cbw.h"

#define RING	8

volatile sig_atomic_t stop_signal;

static void vsay(bool prefix, const char *fmt, va_list ap)
{
	fflush(stdout);
	if (prefix)
		fputs("cbw: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(true, fmt, ap);
	va_end(ap);
}

int usage(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(false, fmt, ap);
	va_end(ap);
	return EXIT_USAGE;
}

int remove_stale(void *arg)
{
	struct cbw_error err;

	(void)arg;
	if (!cbw_snapshot_remove_stale(NULL, &err))
		return EXIT_OK;
	say("leftover of an interrupted backup: %s", err.msg);
	return EXIT_FAILED;
}

int in_child(int (*fn)(void *arg), void *arg)
{
	pid_t parent = getpid(), pid;
	int status = 0, tries;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return fn(arg);
	if (!pid) {
		/* helpers die with us, and keep nothing of ours */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(EXIT_FAILED);
		dm_lib_release();
		close_range(3, ~0u, 0);
		_exit(fn(arg));
	}
	for (tries = 0; tries < 5000; tries++) {
		pid_t ended = waitpid(pid, &status, WNOHANG);

		if (ended == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) :
						   EXIT_FAILED;
		if (ended < 0 && errno != EINTR)
			return -1;
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
	}
	return -1;
}

int failed(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(true, fmt, ap);
	va_end(ap);
	return EXIT_FAILED;
}

int fail_with(struct cbw_error *err, int code, const char *fmt, ...)
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

const char *esc(const char *name)
{
	static _Thread_local char ring[RING][1024];
	static _Thread_local unsigned int at;
	char *buf = ring[at++ % RING];

	/* a blank is harmless between quotes and in paths, but be exact */
	return cbw_escape(name, buf, sizeof(ring[0]));
}

const char *human(uint64_t bytes)
{
	static const char *const unit[] = {
		"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"
	};
	static _Thread_local char ring[RING][32];
	static _Thread_local unsigned int at;
	char *buf = ring[at++ % RING];
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && u + 1 < sizeof(unit) / sizeof(unit[0])) {
		v /= 1024;
		u++;
	}
	snprintf(buf, sizeof(ring[0]), u && v < 100 ? "%.1f %s" : "%.0f %s", v,
		 unit[u]);
	return buf;
}

static void *must(void *p)
{
	if (!p) {
		fputs("cbw: out of memory\n", stderr);
		exit(EXIT_FAILED);
	}
	return p;
}

void *xcalloc(size_t nr, size_t size)
{
	return must(calloc(nr ? nr : 1, size ? size : 1));
}

char *xstrdup(const char *s)
{
	return must(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return must(s);
}

int write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

void json_line(struct json_object *obj)
{
	puts(json_object_to_json_string_ext(obj, JSON_C_TO_STRING_PLAIN |
					    JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
	json_object_put(obj);
}

static void on_signal(int sig)
{
	stop_signal = sig;
}

void catch_signals(void)
{
	struct sigaction sa = { .sa_handler = on_signal };

	/* no SA_RESTART: what waits shall see it */
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
}
