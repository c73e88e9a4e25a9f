// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every allocation of a command fails once: runs it again and again, with the
 * first, the second, ... fault point of its system calls failing, until there
 * is none left. Needs /proc/PID/fail-nth (CONFIG_FAULT_INJECTION). Points are
 * allocations of slabs and pages, and copies from and to user space.
 *
 *	inject-nth [OPTION]... -- COMMAND [ARGUMENT]...
 *	--calls C,C...	which of its system calls: load resume remove clear
 *			message status (of device-mapper), cbw (the control
 *			device), module (loading one), open (of a device), io;
 *			default: load,resume,message,cbw,module
 *	--before SCRIPT	for the shell; what each run needs
 *	--undo SCRIPT	for the shell; takes back what a run has done that
 *			succeeded
 *	--last N	only the last N points: what comes before is not ours
 *	--most N	of more points than N, N at random
 *	--seed N	of that
 *	--also ERROR	may be returned too: the kernel makes of ENOMEM what it wants
 *	--new-cut	undoing makes a new cut: ids of cuts are not compared
 *	--moves		the command changes what is shown even if it fails
 *
 * A run with a fault may fail, with ENOMEM or EFAULT, and then all devices'
 * tables and status have to be what they were (after EFAULT: once undone,
 * since it may be the answer that did not get out). Or it may succeed, and
 * once undone they have to be what they were. The last run, without a fault,
 * has to succeed; it is not undone. Status: 0 yes; 1 no, and why; 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/dm-ioctl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NEVER		1000000000u
#define STATE_MAX	(1u << 20)
#define RUN_SECONDS	120
#define CBW_TYPE	0xCB
#define BLK_TYPE	0x12

typedef unsigned long long ull;

static const struct {
	const char *name;
	unsigned int type, nr;		/* of the ioctl */
} calls[] = {
	{ "load", DM_IOCTL, DM_TABLE_LOAD_CMD },
	{ "resume", DM_IOCTL, DM_DEV_SUSPEND_CMD },
	{ "remove", DM_IOCTL, DM_DEV_REMOVE_CMD },
	{ "clear", DM_IOCTL, DM_TABLE_CLEAR_CMD },
	{ "message", DM_IOCTL, DM_TARGET_MSG_CMD },
	{ "status", DM_IOCTL, DM_TABLE_STATUS_CMD },
	{ "cbw", CBW_TYPE, 0 },
	{ "io", BLK_TYPE, 0 },
	{ "module", 0, 0 },
	{ "open", 0, 0 },
};

static struct {
	const char *calls, *before, *undo, *also;
	unsigned int last, most;
	uint64_t seed;
	bool moves, new_cut;
} o = { .calls = "load,resume,message,cbw,module" };

static int control, output;

/* How a run went. */
static struct {
	unsigned int points;	/* that it passed, of those that were wanted */
	bool hit;		/* one of them failed */
	int error;		/* what its call returned then */
	int status;		/* of the program */
} run;

static void die(const char *what)
{
	fprintf(stderr, "inject-nth: %s: %s\n", what, strerror(errno));
	exit(2);
}

static bool wanted(const char *call)
{
	size_t len = strlen(call);
	const char *p = o.calls;

	while ((p = strstr(p, call))) {
		if ((p == o.calls || p[-1] == ',') && (!p[len] || p[len] == ','))
			return true;
		p += len;
	}
	return false;
}

/* ---- what all devices show ----------------------------------------------------- */

static struct dm_ioctl *dm_call(unsigned long call, const char *name, uint32_t flags)
{
	static char buf[STATE_MAX / 4] __attribute__((aligned(8)));
	struct dm_ioctl *d = (void *)buf;

	memset(d, 0, sizeof(*d));
	d->version[0] = 4;
	d->data_size = sizeof(buf);
	d->data_start = sizeof(*d);
	d->flags = flags;
	if (name)
		snprintf(d->name, sizeof(d->name), "%s", name);
	return ioctl(control, call, d) ? NULL : d;
}

static void state_table(FILE *f, const char *name, uint32_t flags)
{
	struct dm_ioctl *d = dm_call(DM_TABLE_STATUS, name, flags | DM_NOFLUSH_FLAG);
	struct dm_target_spec *t;
	uint32_t i, at;

	if (!d) {
		fprintf(f, "  %s\n", strerrorname_np(errno));
		return;
	}
	at = d->data_start;
	for (i = 0; i < d->target_count; i++) {
		t = (void *)((char *)d + at);
		fprintf(f, "  %llu %llu %s %s\n", (ull)t->sector_start,
			(ull)t->length, t->target_type, (char *)(t + 1));
		at = d->data_start + t->next;
	}
}

/* 32 hex digits in a row. */
static void mask_cuts(char *s)
{
	size_t n;

	for (; *s; s += n ? n : 1) {
		n = strspn(s, "0123456789abcdef");
		if (n == 32)
			memset(s, '*', n);
	}
}

/* To be freed by the caller. */
static char *state(void)
{
	static char list[STATE_MAX / 4];
	struct dm_ioctl *d = dm_call(DM_LIST_DEVICES, NULL, 0);
	struct dm_name_list *n;
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		die("open_memstream");
	fprintf(f, "module %s\n", access("/sys/module/dm_cbw", F_OK) ? "gone" : "there");
	if (!d)
		die("list of devices");
	memcpy(list, (char *)d + d->data_start, sizeof(list) - d->data_start);
	for (n = (void *)list; n->dev; n = (void *)((char *)n + n->next)) {
		d = dm_call(DM_DEV_STATUS, n->name, 0);
		fprintf(f, "%s: flags %x, %u open\n", n->name,
			d ? d->flags & (DM_SUSPEND_FLAG | DM_ACTIVE_PRESENT_FLAG |
					DM_INACTIVE_PRESENT_FLAG) : 0,
			d ? d->open_count : 0);
		state_table(f, n->name, 0);
		state_table(f, n->name, DM_STATUS_TABLE_FLAG);
		state_table(f, n->name, DM_STATUS_TABLE_FLAG | DM_QUERY_INACTIVE_TABLE_FLAG);
		if (!n->next)
			break;
	}
	fclose(f);
	if (o.new_cut)
		mask_cuts(text);
	return text;
}

static void nap(void)
{
	struct timespec t = { .tv_nsec = 50000000 };

	nanosleep(&t, NULL);
}

/* What a worker still has to do may take a moment. */
static bool state_is(const char *before, const char *when)
{
	char *now = NULL;
	int i;

	if (o.moves)
		return true;
	for (i = 0; i < 200; i++) {
		free(now);
		now = state();
		if (!strcmp(now, before)) {
			free(now);
			return true;
		}
		nap();
	}
	printf("%s: the state was:\n%sand is:\n%s", when, before, now);
	free(now);
	return false;
}

/* ---- a run ----------------------------------------------------------------------- */

static void nth_write(int fd, unsigned int n)
{
	char s[16];
	int len = snprintf(s, sizeof(s), "%u", n);

	if (pwrite(fd, s, len, 0) != len)
		die("writing fail-nth");
}

static unsigned int nth_read(int fd)
{
	char s[16] = "";

	if (pread(fd, s, sizeof(s) - 1, 0) <= 0)
		die("reading fail-nth");
	return strtoul(s, NULL, 10);
}

static bool opens_device(pid_t pid, uint64_t path)
{
	char s[sizeof(long)];
	long word;

	errno = 0;
	word = ptrace(PTRACE_PEEKDATA, pid, (void *)(uintptr_t)path, NULL);
	memcpy(s, &word, sizeof(s));
	return !errno && !strncmp(s, "/dev/", 5);
}

static bool call_wanted(pid_t pid, const struct __ptrace_syscall_info *info)
{
	unsigned int cmd = info->entry.args[1];
	size_t i;

	switch (info->entry.nr) {
	case SYS_ioctl:
		for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
			if (calls[i].type && _IOC_TYPE(cmd) == calls[i].type &&
			    (calls[i].type != DM_IOCTL || _IOC_NR(cmd) == calls[i].nr))
				return wanted(calls[i].name);
		return false;
	case SYS_init_module:
	case SYS_finit_module:
		return wanted("module");
	case SYS_openat:
		return wanted("open") && opens_device(pid, info->entry.args[1]);
	case SYS_pread64:
	case SYS_pwrite64:
	case SYS_preadv2:
	case SYS_pwritev2:
	case SYS_fsync:
	case SYS_fallocate:
		return wanted("io");
	}
	return false;
}

static pid_t start(char **argv)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid)
		return pid;
	dup2(output, 1);
	dup2(output, 2);
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		_exit(126);
	raise(SIGSTOP);
	execvp(argv[0], argv);
	perror(argv[0]);
	_exit(127);
}

static bool script(const char *text)
{
	char *argv[] = { "busybox", "sh", "-c", (char *)text, NULL };
	pid_t pid;
	int st;

	if (!text)
		return true;
	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, 1);
		dup2(null, 2);
		execvp(argv[0], argv);
		_exit(127);
	}
	if (waitpid(pid, &st, 0) != pid)
		die("waitpid");
	return WIFEXITED(st) && !WEXITSTATUS(st);
}

/* Its @nth point fails, counted over all calls that are wanted. */
static void run_with(char **argv, unsigned int nth)
{
	struct __ptrace_syscall_info info;
	unsigned int left = nth;
	bool armed = false;
	char path[64];
	int st, fd, sig;
	pid_t pid;

	memset(&run, 0, sizeof(run));
	script(o.before);
	if (ftruncate(output, 0) || lseek(output, 0, SEEK_SET))
		die("the output");
	pid = start(argv);
	if (waitpid(pid, &st, 0) != pid || !WIFSTOPPED(st))
		die("ptrace");
	if (ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))
		die("PTRACE_SETOPTIONS");
	snprintf(path, sizeof(path), "/proc/%d/fail-nth", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(path);
	alarm(RUN_SECONDS);
	for (sig = 0;; sig = 0) {
		if (ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(uintptr_t)sig) && errno != ESRCH)
			die("PTRACE_SYSCALL");
		if (waitpid(pid, &st, 0) != pid)
			die("waitpid");
		if (WIFEXITED(st) || WIFSIGNALED(st))
			break;
		if (WSTOPSIG(st) != (SIGTRAP | 0x80)) {
			if (WSTOPSIG(st) != SIGTRAP)
				sig = WSTOPSIG(st);
			continue;
		}
		if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof(info), &info) < 0)
			continue;
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY && !run.hit && call_wanted(pid, &info)) {
			nth_write(fd, left);
			armed = true;
		} else if (info.op == PTRACE_SYSCALL_INFO_EXIT && armed) {
			armed = false;
			left = nth_read(fd);
			nth_write(fd, 0);
			run.hit = !left;
			if (run.hit && info.exit.is_error)
				run.error = -info.exit.rval;
		}
	}
	alarm(0);
	close(fd);
	run.points = nth - left;
	run.status = WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

static void show_output(void)
{
	char s[4096];
	ssize_t n = pread(output, s, sizeof(s) - 1, 0);

	s[n > 0 ? n : 0] = '\0';
	printf("status %d, it said: %s\n", run.status, s);
}

/* ---- all points -------------------------------------------------------------------- */

static struct {
	unsigned int failed, efault, went_on, missed;
} sum;

static bool point(char **argv, unsigned int nth, const char *before)
{
	char when[64];

	snprintf(when, sizeof(when), "point %u", nth);
	run_with(argv, nth);
	if (!run.hit) {
		/* not as many as the last time */
		sum.missed++;
	} else if (!run.status) {
		sum.went_on++;
	} else if (run.error == EFAULT) {
		sum.efault++;
		script(o.undo);
		return state_is(before, when);
	} else if (run.error == ENOMEM || o.moves ||
		   (o.also && run.error && !strcmp(o.also, strerrorname_np(run.error)))) {
		sum.failed++;
		return state_is(before, when);
	} else {
		printf("%s: the call returned %s\n", when,
		       run.error ? strerrorname_np(run.error) : "no error");
		show_output();
		return false;
	}
	if (run.status) {
		printf("%s: failed without a fault\n", when);
		show_output();
		return false;
	}
	if (!script(o.undo) && !o.moves) {
		printf("%s: succeeded, and could not be undone\n", when);
		return false;
	}
	return state_is(before, when);
}

static uint64_t rnd(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x * 0x2545f4914f6cdd1dull;
}

static int all_points(char **argv)
{
	unsigned int first = 1, all, n, nth, done = 0;
	uint64_t x = o.seed * 2 + 1;
	char *before;

	before = state();
	run_with(argv, NEVER);
	all = run.points;
	if (run.status) {
		printf("fails without a fault: ");
		show_output();
		return 1;
	}
	if ((!script(o.undo) && !o.moves) || !state_is(before, "without a fault")) {
		printf("cannot be undone\n");
		return 1;
	}
	if (!all) {
		printf("no call of it has a fault point\n");
		return 1;
	}
	if (o.last && o.last < all)
		first = all - o.last + 1;
	n = all - first + 1;
	for (nth = first; nth <= all; nth++) {
		/* each as likely as the other, so many in all */
		if (o.most && o.most < n &&
		    rnd(&x) % (all - nth + 1) >= o.most - done)
			continue;
		done++;
		if (!point(argv, nth, before))
			return 1;
	}
	run_with(argv, NEVER);
	if (run.status) {
		printf("fails in the end: ");
		show_output();
		return 1;
	}
	printf("%u points, %u of them made to fail: %u went on, %u failed, %u with EFAULT; %u were not met\n",
	       all, done, sum.went_on, sum.failed, sum.efault, sum.missed);
	if (sum.went_on + sum.failed + sum.efault == 0) {
		printf("nothing was made to fail\n");
		return 1;
	}
	free(before);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "calls", 1, NULL, 'c' }, { "before", 1, NULL, 'b' },
		{ "undo", 1, NULL, 'u' },
		{ "also", 1, NULL, 'a' },
		{ "last", 1, NULL, 'l' }, { "most", 1, NULL, 'm' },
		{ "new-cut", 0, NULL, 'n' },
		{ "seed", 1, NULL, 's' }, { "moves", 0, NULL, 'M' }, {},
	};
	int c;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (c) {
		case 'c': o.calls = optarg; break;
		case 'a': o.also = optarg; break;
		case 'b': o.before = optarg; break;
		case 'u': o.undo = optarg; break;
		case 'l': o.last = strtoul(optarg, NULL, 0); break;
		case 'm': o.most = strtoul(optarg, NULL, 0); break;
		case 's': o.seed = strtoull(optarg, NULL, 0); break;
		case 'n': o.new_cut = true; break;
		case 'M': o.moves = true; break;
		default: return 2;
		}
	}
	if (optind >= argc) {
		fprintf(stderr, "inject-nth: see the head of inject-nth.c\n");
		return 2;
	}
	control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		die("/dev/mapper/control");
	output = memfd_create("output", 0);
	if (output < 0)
		die("memfd_create");
	return all_points(argv + optind);
}
