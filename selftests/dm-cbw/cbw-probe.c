// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What cbw-load does not measure: how long each write takes, how long a cut, and
 * what a process finds in memory that was swapped out.
 *
 *	cbw-probe write DEV... [--ops N] [--seconds N] [--qd N] [--bs B]
 *		[--range OFF:LEN] [--stride B] [--order rand|seq|each] [--seed N]
 *		[--rate N] [--how uring|aio|sync] [--nowait] [--retry]
 *	cbw-probe cut SNAPSHOT... [--offset B]
 *	cbw-probe sum DEV EXTENTS
 *	cbw-probe dirty MIB [--passes N] [--seed N]
 *
 * `write` keeps QD writes in flight on each device until it gets SIGTERM, or so
 * many seconds or operations are over, and waits for what is in flight.  Order
 * `each` takes every block of the range once.  Blocks lie --stride apart (default:
 * their size).  --nowait: RWF_NOWAIT; --retry:
 * again without it where that said EAGAIN.  Says
 *	writes= errors= again= first= min= p50= p99= max= mean= late= ms=
 * with `first` the name of the first error (but EAGAIN), times in microseconds,
 * from before the submission to when the completion was seen; `late` is the
 * longest time by which a thread that only sleeps woke up too late meanwhile:
 * what of `max` may be the machine's.  Status 3 after an error.
 *
 * `cut` starts armed snapshots in one transaction, then reads 4 KiB of each of
 * them: cut= (the id) cut_us= (the call) readable_us= (from its return to when
 * all are read) gp_us= (a grace period of RCU, just before).  `sum` prints a hash of each extent (lines "offset length" of
 * EXTENTS).  `dirty` writes to so much memory, checks it and writes again.
 */
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/dm-cbw.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "stamp.h"

#define DEVS_MAX	32
#define FLIGHT_MAX	1024

enum how { URING, AIO, SYNC };
enum order { RAND, SEQ, EACH };

static struct {
	struct target dev[DEVS_MAX];
	const char *path[DEVS_MAX];
	int ndevs;
	uint64_t ops, seconds, bs, stride, seed, rate, passes, offset;
	uint64_t range[2];
	unsigned int qd;
	enum how how;
	enum order order;
	bool nowait, retry;
} o = { .bs = 4096, .qd = 1, .seed = 1, .passes = 2 };

/* A write in flight. */
struct flight {
	struct iocb iocb;
	unsigned int dev;
	uint64_t off;
	uint64_t start;		/* us */
	bool retried;
};

static volatile sig_atomic_t stopping;
static void *payload;

static void on_term(int sig)
{
	(void)sig;
	stopping = 1;
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static uint64_t rnd(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	*state = x;
	return x * 0x2545f4914f6cdd1dull;
}

/* ---- how late this machine lets a thread wake up ------------------------------ */

static uint64_t late_us;

static void *sleeper(void *arg)
{
	(void)arg;
	for (;;) {
		uint64_t before = now_us(), took;

		usleep(1000);
		took = now_us() - before;
		if (took > 1000 && took - 1000 > late_us)
			late_us = took - 1000;
	}
	return NULL;
}

/* ---- what was measured ---------------------------------------------------------- */

static struct {
	uint64_t n, errors, again, sum;
	uint32_t *us;
	size_t room;
	int first;
} seen;

static void note(uint64_t us, int err)
{
	if (err) {
		if (err == -EAGAIN) {
			seen.again++;
		} else if (!seen.errors++) {
			seen.first = err;
		}
	} else {
		seen.n++;
	}
	if (seen.n + seen.errors + seen.again > seen.room) {
		seen.room = seen.room ? seen.room * 2 : 4096;
		seen.us = realloc(seen.us, seen.room * sizeof(*seen.us));
		if (!seen.us)
			die(EXIT_IO, "no memory");
	}
	seen.us[seen.n + seen.errors + seen.again - 1] = us;
	seen.sum += us;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void say(uint64_t ms)
{
	size_t n = seen.n + seen.errors + seen.again;
	uint32_t zero = 0, *us = n ? seen.us : &zero;

	if (n)
		qsort(us, n, sizeof(*us), by_value);
	else
		n = 1;
	printf("writes=%llu errors=%llu again=%llu first=%s min=%u p50=%u p99=%u max=%u mean=%llu late=%llu ms=%llu\n",
	       (unsigned long long)seen.n, (unsigned long long)seen.errors,
	       (unsigned long long)seen.again,
	       seen.first ? errname(seen.first) : "-", us[0], us[n / 2],
	       us[n * 99 / 100], us[n - 1], (unsigned long long)(seen.sum / n),
	       (unsigned long long)late_us, (unsigned long long)ms);
}

/* ---- where to write -------------------------------------------------------------- */

static uint64_t rnd_state, started, begin_us;
static uint32_t *perm[DEVS_MAX];
static uint64_t next_block[DEVS_MAX];

static uint64_t blocks(unsigned int dev)
{
	uint64_t size = o.dev[dev].size - o.range[0];

	if (o.range[1] && o.range[1] < size)
		size = o.range[1];
	return size / o.stride;
}

/* Every block once, in an order of chance. */
static void shuffle(unsigned int dev)
{
	uint64_t i, j, n = blocks(dev);
	uint32_t *p = malloc(n * sizeof(*p)), swap;

	if (!p)
		die(EXIT_IO, "no memory");
	for (i = 0; i < n; i++)
		p[i] = i;
	for (i = n - 1; i > 0; i--) {
		j = rnd(&rnd_state) % (i + 1);
		swap = p[i];
		p[i] = p[j];
		p[j] = swap;
	}
	perm[dev] = p;
}

/* False: there is no more to be written. */
static bool choose(unsigned int dev, uint64_t *off)
{
	uint64_t n = blocks(dev), block;

	if (stopping || (o.ops && started >= o.ops))
		return false;
	if (o.seconds && now_us() - begin_us >= o.seconds * 1000000)
		return false;
	while (o.rate && !stopping &&
	       started > (now_us() - begin_us) * o.rate / 1000000 + o.qd)
		usleep(1000);
	if (o.order == RAND) {
		block = rnd(&rnd_state) % n;
	} else {
		block = next_block[dev]++;
		if (o.order == EACH && block >= n)
			return false;
		block %= n;
		if (o.order == EACH)
			block = perm[dev][block];
	}
	started++;
	*off = o.range[0] + block * o.stride;
	return true;
}

/* ---- the three ways to write -------------------------------------------------------- */

static struct io_uring ring;
static aio_context_t aio;

static void submit(struct flight *f)
{
	bool nowait = o.nowait && !f->retried;
	int fd = o.dev[f->dev].fd;

	if (o.how == AIO) {
		struct iocb *one = &f->iocb;

		memset(one, 0, sizeof(*one));
		one->aio_data = (uintptr_t)f;
		one->aio_lio_opcode = IOCB_CMD_PWRITE;
		one->aio_fildes = fd;
		one->aio_buf = (uintptr_t)payload;
		one->aio_nbytes = o.bs;
		one->aio_offset = f->off;
		one->aio_rw_flags = nowait ? RWF_NOWAIT : 0;
		if (syscall(SYS_io_submit, aio, 1, &one) != 1)
			die(EXIT_IO, "io_submit: %s", errname(errno));
	} else {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (!sqe)
			die(EXIT_IO, "the ring has no room");
		io_uring_prep_write(sqe, fd, payload, o.bs, f->off);
		sqe->rw_flags = nowait ? RWF_NOWAIT : 0;
		io_uring_sqe_set_data(sqe, f);
		if (io_uring_submit(&ring) < 0)
			die(EXIT_IO, "io_uring cannot submit");
	}
}

/* One completion: waits for it. */
static struct flight *reap(int *res)
{
	struct flight *f;

	if (o.how == AIO) {
		struct io_event ev;
		long n;

		do {
			n = syscall(SYS_io_getevents, aio, 1, 1, &ev, NULL);
		} while (n < 0 && errno == EINTR);
		if (n != 1)
			die(EXIT_IO, "io_getevents: %s", errname(errno));
		f = (struct flight *)(uintptr_t)ev.data;
		*res = ev.res;
	} else {
		struct io_uring_cqe *cqe;
		int ret;

		do {
			ret = io_uring_wait_cqe(&ring, &cqe);
		} while (ret == -EINTR);
		if (ret)
			die(EXIT_IO, "io_uring: %s", errname(ret));
		f = io_uring_cqe_get_data(cqe);
		*res = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
	}
	return f;
}

static int outcome(int res)
{
	return res < 0 ? res : (uint64_t)res != o.bs ? -EIO : 0;
}

static void run_queue(void)
{
	static struct flight all[FLIGHT_MAX];
	unsigned int i, d, n = 0;
	struct flight *f;
	int res, err;

	if (o.how == AIO ? syscall(SYS_io_setup, FLIGHT_MAX, &aio) :
			   io_uring_queue_init(FLIGHT_MAX, &ring, 0))
		die(EXIT_IO, "cannot set the queue up");
	for (i = 0; i < o.qd; i++) {
		for (d = 0; d < (unsigned int)o.ndevs; d++) {
			f = &all[n];
			f->dev = d;
			if (!choose(d, &f->off))
				continue;
			f->start = now_us();
			submit(f);
			n++;
		}
	}
	while (n) {
		f = reap(&res);
		err = outcome(res);
		note(now_us() - f->start, err);
		if (err == -EAGAIN && o.retry && !f->retried) {
			f->retried = true;
			f->start = now_us();
			submit(f);
			continue;
		}
		f->retried = false;
		if (!choose(f->dev, &f->off)) {
			n--;
			continue;
		}
		f->start = now_us();
		submit(f);
	}
}

static void run_sync(void)
{
	struct iovec iov = { payload, o.bs };
	uint64_t off, start;
	ssize_t n;

	while (choose(0, &off)) {
		start = now_us();
		n = pwritev2(o.dev[0].fd, &iov, 1, off,
			     o.nowait ? RWF_NOWAIT : 0);
		note(now_us() - start, outcome(n < 0 ? -errno : n));
		if (n < 0 && errno == EAGAIN && o.retry) {
			start = now_us();
			n = pwritev2(o.dev[0].fd, &iov, 1, off, 0);
			note(now_us() - start, outcome(n < 0 ? -errno : n));
		}
	}
}

static int do_write(void)
{
	struct sigaction sa = { .sa_handler = on_term };
	pthread_t thread;
	int i;

	if (o.qd * o.ndevs > FLIGHT_MAX || !o.qd || !o.bs || o.bs % SECTOR ||
	    (o.how == SYNC && o.qd * o.ndevs > 1))
		die(EXIT_USAGE, "so much in flight is not possible");
	if (o.stride < o.bs)
		o.stride = o.bs;
	sigaction(SIGTERM, &sa, NULL);
	payload = buffer_alloc(o.bs);
	memset(payload, 0xc5, o.bs);
	rnd_state = (o.seed + 1) * 0x9e3779b97f4a7c15ull;
	for (i = 0; i < o.ndevs; i++) {
		if (!blocks(i))
			die(EXIT_USAGE, "there is no room for a block");
		if (o.order == EACH)
			shuffle(i);
	}
	if (pthread_create(&thread, NULL, sleeper, NULL))
		die(EXIT_IO, "cannot start a thread");
	begin_us = now_us();
	if (o.how == SYNC)
		run_sync();
	else
		run_queue();
	say((now_us() - begin_us) / 1000);
	return seen.errors || (seen.again && !o.nowait) ? EXIT_IO : 0;
}

/* ---- cuts -------------------------------------------------------------------------- */

static int do_cut(void)
{
	struct cbw_transaction t = { .size = sizeof(t) };
	static struct cbw_action actions[DEVS_MAX];
	uint64_t start, cut, done, gp;
	struct stat st;
	void *buf = buffer_alloc(4096);
	int control, i, err = 0, res;

	control = open("/dev/cbw-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		die(EXIT_IO, "/dev/cbw-control: %s", errname(errno));
	if (io_uring_queue_init(DEVS_MAX, &ring, 0))
		die(EXIT_IO, "no io_uring");
	for (i = 0; i < o.ndevs; i++) {
		if (fstat(o.dev[i].fd, &st))
			die(EXIT_IO, "%s: %s", o.path[i], errname(errno));
		actions[i].type = CBW_ACTION_SNAPSHOT_START;
		actions[i].dev.major = major(st.st_rdev);
		actions[i].dev.minor = minor(st.st_rdev);
	}
	t.nr_actions = o.ndevs;
	t.action_size = sizeof(actions[0]);
	t.actions = (uintptr_t)actions;
	gp = now_us();
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		die(EXIT_IO, "membarrier: %s", errname(errno));
	start = now_us();
	gp = start - gp;
	if (ioctl(control, CBW_TRANSACTION, &t))
		die(EXIT_IO, "transaction: %s", errname(errno));
	cut = now_us();
	for (i = 0; i < o.ndevs; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		/* all into one buffer: nobody looks at it */
		io_uring_prep_read(sqe, o.dev[i].fd, buf, 4096, o.offset);
	}
	if (io_uring_submit(&ring) != o.ndevs)
		die(EXIT_IO, "io_uring cannot submit");
	o.bs = 4096;
	for (i = 0; i < o.ndevs; i++) {
		reap(&res);
		if (outcome(res))
			err = outcome(res);
	}
	done = now_us();
	printf("cut=");
	for (i = 0; i < (int)sizeof(t.out_cut.b); i++)
		printf("%02x", t.out_cut.b[i]);
	printf(" cut_us=%llu readable_us=%llu gp_us=%llu read=%s\n",
	       (unsigned long long)(cut - start),
	       (unsigned long long)(done - cut), (unsigned long long)gp,
	       err ? errname(err) : "ok");
	return err ? EXIT_IO : 0;
}

/* ---- sums and memory ------------------------------------------------------------------ */

static int do_sum(const char *extents)
{
	uint64_t off, len, pos, hash, *w;
	size_t piece = 1 << 20, n, i;
	void *buf = buffer_alloc(piece);
	FILE *in = fopen(extents, "r");
	char line[256];
	int ret;

	if (!in)
		die(EXIT_IO, "%s: %s", extents, errname(errno));
	while (fgets(line, sizeof(line), in)) {
		if (sscanf(line, "%lu %lu", &off, &len) != 2)
			die(EXIT_USAGE, "%s: no extent: %s", extents, line);
		hash = 0xcbf29ce484222325ull;
		for (pos = 0; pos < len; pos += n) {
			n = len - pos < piece ? len - pos : piece;
			ret = read_full(o.dev[0].fd, buf, n, off + pos);
			if (ret)
				die(EXIT_IO, "%s: read at %llu: %s", o.path[0],
				    (unsigned long long)(off + pos),
				    errname(ret));
			for (i = 0, w = buf; i < n / sizeof(*w); i++)
				hash = (hash ^ w[i]) * 0x100000001b3ull;
		}
		printf("%llu %llu %016llx\n", (unsigned long long)off,
		       (unsigned long long)len, (unsigned long long)hash);
	}
	fclose(in);
	return 0;
}

/* The first and the last words of each page say which page and pass it is. */
static int do_dirty(uint64_t mib)
{
	uint64_t page, pass, pages = mib << 8, bad = 0, start, step, longest = 0;
	uint64_t *mem = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t begin = now_us();

	if (mem == MAP_FAILED)
		die(EXIT_IO, "mmap: %s", errname(errno));
	for (pass = 0; pass <= o.passes; pass++) {
		for (page = 0; page < pages; page++) {
			uint64_t *p = mem + page * 512;

			start = now_us();
			if (pass && (p[0] != page + 1 || p[511] != pass ||
				     p[1] != (page ^ o.seed)))
				bad++;
			p[0] = page + 1;
			p[1] = page ^ o.seed;
			p[511] = pass + 1;
			step = now_us() - start;
			if (step > longest)
				longest = step;
		}
	}
	printf("pages=%llu passes=%llu bad=%llu longest=%llu ms=%llu\n",
	       (unsigned long long)pages, (unsigned long long)o.passes,
	       (unsigned long long)bad, (unsigned long long)longest,
	       (unsigned long long)((now_us() - begin) / 1000));
	return bad ? EXIT_DIFFERS : 0;
}

/* ---- the command line ------------------------------------------------------------------ */

static int word(const char *opt, const char *s, const char *const *words, int n)
{
	int i;

	for (i = 0; i < n; i++)
		if (!strcmp(s, words[i]))
			return i;
	die(EXIT_USAGE, "--%s: not '%s'", opt, s);
}

static void options(int argc, char **argv)
{
	static const char *const hows[] = { "uring", "aio", "sync" };
	static const char *const orders[] = { "rand", "seq", "each" };
	static const struct option opts[] = {
		{ "ops", 1, NULL, 'n' },     { "seconds", 1, NULL, 's' },
		{ "qd", 1, NULL, 'q' },	     { "bs", 1, NULL, 'b' },
		{ "range", 1, NULL, 'r' },   { "order", 1, NULL, 'o' },
		{ "seed", 1, NULL, 'S' },    { "rate", 1, NULL, 'R' },
		{ "how", 1, NULL, 'h' },     { "nowait", 0, NULL, 'N' },
		{ "retry", 0, NULL, 'T' },   { "passes", 1, NULL, 'p' },
		{ "offset", 1, NULL, 'O' },  { "stride", 1, NULL, 't' },
		{ 0 },
	};
	char *colon;
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'n':
			o.ops = parse_size(optarg);
			break;
		case 's':
			o.seconds = parse_size(optarg);
			break;
		case 'q':
			o.qd = parse_size(optarg);
			break;
		case 'b':
			o.bs = parse_size(optarg);
			break;
		case 't':
			o.stride = parse_size(optarg);
			break;
		case 'S':
			o.seed = parse_size(optarg);
			break;
		case 'R':
			o.rate = parse_size(optarg);
			break;
		case 'p':
			o.passes = parse_size(optarg);
			break;
		case 'O':
			o.offset = parse_size(optarg);
			break;
		case 'o':
			o.order = word("order", optarg, orders, 3);
			break;
		case 'h':
			o.how = word("how", optarg, hows, 3);
			break;
		case 'N':
			o.nowait = true;
			break;
		case 'T':
			o.retry = true;
			break;
		case 'r':
			colon = strchr(optarg, ':');
			if (!colon)
				die(EXIT_USAGE, "--range OFFSET:LENGTH");
			*colon = '\0';
			o.range[0] = parse_size(optarg);
			o.range[1] = parse_size(colon + 1);
			break;
		default:
			die(EXIT_USAGE, "see the head of cbw-probe.c");
		}
	}
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";
	bool write = !strcmp(cmd, "write"), sum = !strcmp(cmd, "sum");
	int i, ret;

	if (!write && !sum && strcmp(cmd, "cut") && strcmp(cmd, "dirty"))
		die(EXIT_USAGE, "write, cut, sum or dirty; see the head of cbw-probe.c");
	argc--;
	argv++;
	options(argc, argv);
	argc -= optind;
	argv += optind;
	if (!strcmp(cmd, "dirty")) {
		if (argc != 1)
			die(EXIT_USAGE, "dirty MIB");
		return do_dirty(parse_size(argv[0]));
	}
	if (argc < 1 || argc > DEVS_MAX || (sum && argc != 2))
		die(EXIT_USAGE, "%d devices given", argc);
	o.ndevs = sum ? 1 : argc;
	for (i = 0; i < o.ndevs; i++) {
		o.path[i] = argv[i];
		ret = target_open(&o.dev[i], argv[i], write ? O_RDWR : O_RDONLY);
		if (ret)
			die(EXIT_IO, "%s: %s", argv[i], errname(ret));
		if (o.range[0] >= o.dev[i].size)
			die(EXIT_USAGE, "--range lies behind the end of %s", argv[i]);
	}
	return write ? do_write() : sum ? do_sum(argv[1]) : do_cut();
}
