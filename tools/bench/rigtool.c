// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the benchmark does in the VM beside fio.
 *
 *	rigtool backup DEV BYTES [release]
 *		reads DEV in pieces of 1 MiB up to BYTES, with `release` gives each
 *		piece up when it has it. Prints the nanoseconds.
 *	rigtool probe DEV PERIOD_NS SECONDS_MS
 *		writes 4 KiB to the start of DEV every PERIOD_NS, at a real-time
 *		priority. Prints how long after its time a write had ended, in
 *		nanoseconds: the three longest, the median, and the number.
 *	rigtool cut|dry-cut SNAP... [-- DEV:BITMAP...]
 *		says `ready` and waits for a line. Then one transaction: these armed
 *		snapshots start, these bitmaps are rotated. Reads 4 KiB of each
 *		snapshot, all at once, and prints nanoseconds from before the call:
 *		until it was done, until all were read. Waits for another line.
 *		The dry one does all but the cut.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/dm-cbw.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define MIB (1u << 20)

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "rigtool: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *buffer(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("no memory");
	return p;
}

static int open_dev(const char *path, int flags)
{
	int fd = open(path, flags | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		die(path);
	return fd;
}

static struct cbw_devno devno(const char *path)
{
	struct stat st;

	if (stat(path, &st) || !S_ISBLK(st.st_mode))
		die(path);
	return (struct cbw_devno){ major(st.st_rdev), minor(st.st_rdev) };
}

static int open_control(void)
{
	int fd = open("/dev/cbw-control", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/cbw-control");
	return fd;
}

static int backup(const char *path, uint64_t bytes, int release)
{
	int control = release ? open_control() : -1;
	int fd = open_dev(path, O_RDONLY);
	void *buf = buffer(MIB);
	struct cbw_snapshot_info info = { .size = sizeof(info) };
	struct cbw_range range;
	struct cbw_release r = {
		.size = sizeof(r), .nr_ranges = 1, .ranges = (uintptr_t)&range,
	};
	uint64_t start, at;

	if (release) {
		info.dev = devno(path);
		if (ioctl(control, CBW_SNAPSHOT_INFO, &info))
			die("CBW_SNAPSHOT_INFO");
		r.dev = info.dev;
		r.cut = info.cut;
	}
	start = now();
	for (at = 0; at < bytes; at += MIB) {
		if (pread(fd, buf, MIB, at) != MIB)
			die("read");
		range.offset = at;
		range.length = MIB;
		if (release && ioctl(control, CBW_RELEASE, &r))
			die("CBW_RELEASE");
	}
	printf("%llu\n", (unsigned long long)(now() - start));
	return 0;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int probe(const char *path, uint64_t period, uint64_t ms)
{
	struct sched_param sp = { .sched_priority = 50 };
	uint64_t max = ms * 1000000 / period, nr = 0, next, *late;
	int fd = open_dev(path, O_WRONLY);
	void *buf = buffer(4096);
	struct timespec ts;

	late = buffer((max + 1) * sizeof(*late));
	if (mlockall(MCL_CURRENT) || sched_setscheduler(0, SCHED_FIFO, &sp))
		die("cannot be a real-time process");
	pwrite(fd, buf, 4096, 0);
	next = now() + period;
	while (nr < max) {
		ts.tv_sec = next / 1000000000;
		ts.tv_nsec = next % 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
		if (pwrite(fd, buf, 4096, 0) != 4096)
			die("write");
		late[nr++] = now() - next;
		/* a late one delays none of those after it */
		do
			next += period;
		while (next < now());
	}
	qsort(late, nr, sizeof(*late), by_size);
	printf("%llu %llu %llu %llu %llu\n", (unsigned long long)late[nr - 1],
	       (unsigned long long)late[nr - 2], (unsigned long long)late[nr - 3],
	       (unsigned long long)late[nr / 2], (unsigned long long)nr);
	return 0;
}

static int cut(char **args, int n, int dry)
{
	struct cbw_action *a = calloc(n + 1, sizeof(*a));
	struct iocb *cbs = calloc(n + 1, sizeof(*cbs)), **list;
	struct io_event *events = calloc(n + 1, sizeof(*events));
	struct cbw_transaction t = {
		.size = sizeof(t), .action_size = sizeof(*a),
		.actions = (uintptr_t)a,
	};
	struct cbw_info info = { .size = sizeof(info) };
	int control = open_control(), snaps = 0, i, ret;
	uint64_t start, called, readable;
	aio_context_t ctx = 0;
	char *name, *buf;

	list = calloc(n + 1, sizeof(*list));
	buf = buffer((n + 1) * 4096ul);
	if (!a || !cbs || !events || !list ||
	    syscall(SYS_io_setup, n + 1, &ctx) < 0)
		die("no memory");
	for (i = 0; i < n && strcmp(args[i], "--"); i++) {
		list[snaps] = cbs + snaps;
		cbs[snaps].aio_fildes = open_dev(args[i], O_RDONLY);
		cbs[snaps].aio_lio_opcode = IOCB_CMD_PREAD;
		cbs[snaps].aio_buf = (uintptr_t)(buf + 4096ul * snaps);
		cbs[snaps].aio_nbytes = 4096;
		cbs[snaps++].aio_offset = 65536;
		a[t.nr_actions].type = CBW_ACTION_SNAPSHOT_START;
		a[t.nr_actions++].dev = devno(args[i]);
	}
	for (i++; i < n; i++) {
		name = strchr(args[i], ':');
		*name++ = '\0';
		a[t.nr_actions].type = CBW_ACTION_BITMAP_ROTATE;
		a[t.nr_actions].dev = devno(args[i]);
		a[t.nr_actions].name = (uintptr_t)name;
		a[t.nr_actions++].name_len = strlen(name);
	}
	if (mlockall(MCL_CURRENT))
		die("mlockall");
	puts("ready");
	fflush(stdout);
	getchar();
	start = now();
	ret = dry ? ioctl(control, CBW_INFO, &info) :
		    ioctl(control, CBW_TRANSACTION, &t);
	called = now() - start;
	if (ret)
		die("cut");
	if (dry)
		snaps = 0;
	if (snaps && (syscall(SYS_io_submit, ctx, snaps, list) != snaps ||
		      syscall(SYS_io_getevents, ctx, snaps, snaps, events,
			      NULL) != snaps))
		die("reading the snapshots");
	readable = now() - start;
	for (i = 0; i < snaps; i++)
		if (events[i].res != 4096)
			die("reading a snapshot");
	printf("%llu %llu\n", (unsigned long long)called,
	       (unsigned long long)readable);
	/* closing ends what was begun */
	fflush(stdout);
	getchar();
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "backup"))
		return backup(argv[2], strtoull(argv[3], NULL, 0), argc > 4);
	if (argc == 5 && !strcmp(argv[1], "probe"))
		return probe(argv[2], strtoull(argv[3], NULL, 0),
			     strtoull(argv[4], NULL, 0));
	if (argc >= 3 && !strcmp(argv[1], "cut"))
		return cut(argv + 2, argc - 2, 0);
	if (argc >= 3 && !strcmp(argv[1], "dry-cut"))
		return cut(argv + 2, argc - 2, 1);
	fprintf(stderr, "rigtool: see the head of rigtool.c\n");
	return 2;
}
