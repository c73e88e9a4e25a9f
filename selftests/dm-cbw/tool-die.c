// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * To be preloaded: kills the tool with SIGKILL before its, or its children's, CBW_DIE_AT-th call of
 * one of the functions below, which are those by which cbw changes anything but the
 * content of an image. So a backup can be killed at each of its steps.
 *
 * CBW_DIE_AT="N NAME": before the N-th call of that name, as CBW_DIE_LOG has it.
 * CBW_DIE_RUN=COMMAND: runs that by a shell at this point, and goes on, instead of the kill.
 * CBW_DIE_LOG=FILE: appends the names of the calls, to see where that was.
 * CBW_DIE_WRITES=1: writes to places in files are steps, too (a container's metadata).
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* shared with the tool's children: their steps are steps of the tool */
static struct shared {
	pid_t tool;
	long calls;
	long named;
} *shared;

__attribute__((constructor)) static void begin(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		abort();
	shared->tool = getpid();
}

/* Is it this call? */
static int due(const char *at, const char *what, long calls)
{
	char *name;
	long n = strtol(at, &name, 10);

	if (!*name)
		return calls == n;
	return !strcmp(name + 1, what) &&
	       __atomic_add_fetch(&shared->named, 1, __ATOMIC_RELAXED) == n;
}

static void run(const char *command)
{
	/* what it runs is not to be counted */
	unsetenv("LD_PRELOAD");
	unsetenv("CBW_DIE_AT");
	if (system(command))
		abort();
}

static void step(const char *what)
{
	const char *at = getenv("CBW_DIE_AT"), *log = getenv("CBW_DIE_LOG");
	long calls = __atomic_add_fetch(&shared->calls, 1, __ATOMIC_RELAXED);

	if (log) {
		char line[96];
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

		snprintf(line, sizeof(line), "%ld %s\n", calls, what);
		if (fd >= 0) {
			if (write(fd, line, strlen(line)) < 0)
				abort();
			close(fd);
		}
	}
	if (at && due(at, what, calls)) {
		if (getenv("CBW_DIE_RUN")) {
			run(getenv("CBW_DIE_RUN"));
			return;
		}
		kill(shared->tool, SIGKILL);
		raise(SIGKILL);
	}
}

#define REAL(ret, name, ...)						\
	static ret (*real)(__VA_ARGS__);				\
	if (!real)							\
		real = (ret (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

int ioctl(int fd, unsigned long request, ...)
{
	char what[32];
	va_list ap;
	void *arg;

	REAL(int, "ioctl", int, unsigned long, ...);
	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	/* device-mapper's, dm-cbw's and loop's; 0xfd03 and the like: type, number */
	switch (request >> 8 & 0xff) {
	case 0xfd:
	case 0xcb:
	case 0x4c:
		snprintf(what, sizeof(what), "ioctl %04lx", request & 0xffff);
		step(what);
	}
	return real(fd, request, arg);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t at)
{
	REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
	if (getenv("CBW_DIE_WRITES"))
		step("pwrite");
	return real(fd, buf, len, at);
}

int fsync(int fd)
{
	REAL(int, "fsync", int);
	step("fsync");
	return real(fd);
}

int fdatasync(int fd)
{
	REAL(int, "fdatasync", int);
	step("fdatasync");
	return real(fd);
}

int renameat(int a, const char *from, int b, const char *to)
{
	REAL(int, "renameat", int, const char *, int, const char *);
	step("renameat");
	return real(a, from, b, to);
}

int unlinkat(int dir, const char *name, int flags)
{
	REAL(int, "unlinkat", int, const char *, int);
	step("unlinkat");
	return real(dir, name, flags);
}

int mkdir(const char *name, mode_t mode)
{
	REAL(int, "mkdir", const char *, mode_t);
	step("mkdir");
	return real(name, mode);
}
