// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A writer whose data names itself: see stamp.h.
 *
 *	cbw-load fill DEV [--gen N] [--index N]
 *	cbw-load one DEV --offset B --len B [--op write|zero|discard]
 *		[--gen N] [--writer N] [--index N] [--nowait]
 *	cbw-load run DEV... --log FILE [--seconds N] [--ops N] [--uring T:QD]
 *		[--sync N] [--mix W:Z:D] [--bs MIN:MAX] [--align B] [--seq]
 *		[--range OFF:LEN] [--seed N] [--gen N] [--records N]
 *		[--max-iops N] [--ignore-errors]
 *
 * `run` writes on all devices at once until it gets SIGTERM, or so many
 * seconds or operations are over, waits for what is in flight and says how
 * much it did.  --uring writers keep QD writes in flight each, --sync ones do
 * one operation of the mix after the other.  Status: 0; 2 usage; 3 an I/O
 * error, whose name is printed.
 */
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "stamp.h"

static struct {
	struct target dev[OPLOG_DEVS];
	const char *path[OPLOG_DEVS];
	int ndevs;
	struct oplog *log;
	const char *log_path;
	uint64_t records;
	uint64_t offset, len;		/* one */
	uint64_t range_off, range_len;	/* run */
	uint32_t min, max, align;
	uint32_t gen, writer, index;
	enum op_type op;
	bool seq, ignore_errors, nowait;
	unsigned int seconds, rings, depth, syncs;
	unsigned int mix[3];
	uint64_t ops, seed, max_iops;
} o = {
	.records = 400000, .min = 4096, .max = 4096, .gen = 1, .op = OP_WRITE,
	.mix = { 1, 0, 0 },
};

static volatile sig_atomic_t stopping;
static uint64_t started, done[4], errors, cursor[OPLOG_DEVS];
static struct timespec begin;

static void on_term(int sig)
{
	(void)sig;
	stopping = 1;
}

static double elapsed(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9;
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

static void stamp_buffer(void *buf, uint64_t off, uint32_t len, uint32_t dev,
			 uint32_t gen, uint32_t writer, uint64_t seq)
{
	struct stamp *s = buf;
	uint32_t i;

	for (i = 0; i < len / SECTOR; i++)
		stamp_make(s + i, off / SECTOR + i, dev, gen, writer, seq);
}

/* 0 or a negative errno. */
static int zero_range(struct target *t, uint64_t off, uint64_t len)
{
	uint64_t range[2] = { off, len };

	/* REQ_OP_WRITE_ZEROES where the device has it, ... */
	if (!fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off,
		       len))
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	/* ... else zeroes that are written */
	if (!t->block)
		return -EOPNOTSUPP;
	return ioctl(t->fd, BLKZEROOUT, range) ? -errno : 0;
}

static int discard_range(struct target *t, uint64_t off, uint64_t len)
{
	uint64_t range[2] = { off, len };

	if (!t->block)
		return -EOPNOTSUPP;
	return ioctl(t->fd, BLKDISCARD, range) ? -errno : 0;
}

static int do_fill(void)
{
	struct target *t = &o.dev[0];
	uint32_t piece = 1 << 20, len;
	void *buf = buffer_alloc(piece);
	uint64_t off;
	int ret;

	for (off = 0; off < t->size; off += len) {
		len = t->size - off < piece ? t->size - off : piece;
		stamp_buffer(buf, off, len, o.index, o.gen, 0, 0);
		ret = write_full(t->fd, buf, len, off);
		if (ret)
			die(EXIT_IO, "%s: write at %llu: %s", o.path[0],
			    (unsigned long long)off, errname(ret));
	}
	return 0;
}

static int do_one(void)
{
	struct target *t = &o.dev[0];
	struct iovec iov;
	ssize_t n;
	int ret;

	if (!o.len || o.len % SECTOR || o.offset % SECTOR || o.len > 1u << 30)
		die(EXIT_USAGE, "--offset and --len have to be whole sectors");
	clock_gettime(CLOCK_MONOTONIC, &begin);
	if (o.op == OP_ZERO) {
		ret = zero_range(t, o.offset, o.len);
	} else if (o.op == OP_DISCARD) {
		ret = discard_range(t, o.offset, o.len);
	} else {
		iov.iov_len = o.len;
		iov.iov_base = buffer_alloc(o.len);
		stamp_buffer(iov.iov_base, o.offset, o.len, o.index, o.gen,
			     o.writer, 0);
		n = pwritev2(t->fd, &iov, 1, o.offset,
			     o.nowait ? RWF_NOWAIT : 0);
		ret = n < 0 ? -errno : n != (ssize_t)o.len ? -EIO : 0;
	}
	printf("%s %.0f ms\n", ret ? errname(ret) : "ok", elapsed() * 1000);
	return ret ? EXIT_IO : 0;
}

/* A write that was chosen: its record and its place. */
struct request {
	struct oprec *rec;
	struct target *t;
	void *buf;
};

struct writer {
	pthread_t thread;
	uint32_t id;
	uint64_t rnd;
};

static bool more(void)
{
	if (stopping || (o.seconds && elapsed() >= o.seconds))
		return false;
	if (__atomic_add_fetch(&started, 1, __ATOMIC_RELAXED) > o.ops && o.ops)
		return false;
	while (o.max_iops && !stopping &&
	       __atomic_load_n(&started, __ATOMIC_RELAXED) >
		       elapsed() * o.max_iops + 32)
		usleep(2000);
	return !stopping;
}

static void choose(struct writer *w, struct request *r, enum op_type op)
{
	unsigned int dev = rnd(&w->rnd) % o.ndevs;
	struct target *t = &o.dev[dev];
	uint32_t align = o.align > t->lbs ? o.align : t->lbs;
	uint64_t first = o.range_off, size = t->size - first, nr, off, len;

	if (o.range_len && o.range_len < size)
		size = o.range_len;
	len = o.min + rnd(&w->rnd) % (o.max - o.min + 1);
	len -= len % t->lbs;
	if (!len)
		len = t->lbs;
	if (len > size)
		len = size - size % t->lbs;
	if (o.seq) {
		off = __atomic_fetch_add(&cursor[dev], len, __ATOMIC_RELAXED) %
		      size;
		off -= off % align;
	} else {
		off = rnd(&w->rnd) % (size / align + 1) * align;
	}
	if (off + len > size)	/* the end is as likely as other places */
		off = size - len;
	off -= off % t->lbs;
	nr = __atomic_fetch_add(&o.log->nr, 1, __ATOMIC_SEQ_CST);
	if (nr >= o.log->max)
		die(EXIT_IO, "the log is full (--records %llu)",
		    (unsigned long long)o.log->max);
	r->t = t;
	r->rec = &o.log->rec[nr];
	r->rec->off = first + off;
	r->rec->len = len;
	r->rec->dev = dev;
	r->rec->op = op;
	r->rec->writer = w->id;
	if (op == OP_WRITE)
		stamp_buffer(r->buf, r->rec->off, len, dev, o.gen, w->id,
			     nr + 1);
	__atomic_store_n(&r->rec->issue, oplog_tick(o.log), __ATOMIC_SEQ_CST);
}

static void finish(struct request *r, int ret)
{
	if (ret) {
		r->rec->failed = 1;
		if (!__atomic_fetch_add(&errors, 1, __ATOMIC_RELAXED) ||
		    !o.ignore_errors)
			fprintf(stderr, "cbw-load: op %u at %llu+%u of %s: %s\n",
				r->rec->op, (unsigned long long)r->rec->off,
				r->rec->len, o.path[r->rec->dev],
				errname(ret));
		if (!o.ignore_errors)
			stopping = 1;
		return;
	}
	__atomic_store_n(&r->rec->ack, oplog_tick(o.log), __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&done[r->rec->op], 1, __ATOMIC_RELAXED);
}

static void *sync_writer(void *arg)
{
	struct writer *w = arg;
	unsigned int sum = o.mix[0] + o.mix[1] + o.mix[2], pick;
	struct request r = { .buf = buffer_alloc(o.max + 4096) };
	enum op_type op;
	int ret;

	while (more()) {
		pick = rnd(&w->rnd) % sum;
		op = pick < o.mix[0]		? OP_WRITE :
		     pick < o.mix[0] + o.mix[1] ? OP_ZERO :
						  OP_DISCARD;
		choose(w, &r, op);
		if (op == OP_WRITE)
			ret = write_full(r.t->fd, r.buf, r.rec->len, r.rec->off);
		else if (op == OP_ZERO)
			ret = zero_range(r.t, r.rec->off, r.rec->len);
		else
			ret = discard_range(r.t, r.rec->off, r.rec->len);
		finish(&r, ret);
	}
	free(r.buf);
	return NULL;
}

static void *ring_writer(void *arg)
{
	struct writer *w = arg;
	struct request *slots = calloc(o.depth, sizeof(*slots)), *r;
	unsigned int inflight = 0, i;
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct request **spare = calloc(o.depth, sizeof(*spare));
	int ret;

	if (!slots || !spare)
		die(EXIT_IO, "no memory");
	for (i = 0; i < o.depth; i++) {
		slots[i].buf = buffer_alloc(o.max + 4096);
		spare[i] = &slots[i];
	}
	ret = io_uring_queue_init(o.depth, &ring, 0);
	if (ret)
		die(EXIT_IO, "no io_uring: %s", errname(ret));
	for (;;) {
		while (inflight < o.depth && more()) {
			r = spare[o.depth - ++inflight];
			choose(w, r, OP_WRITE);
			sqe = io_uring_get_sqe(&ring);
			if (!sqe)
				die(EXIT_IO, "the ring has no room");
			io_uring_prep_write(sqe, r->t->fd, r->buf, r->rec->len,
					    r->rec->off);
			io_uring_sqe_set_data(sqe, r);
		}
		if (!inflight)
			break;
		ret = io_uring_submit_and_wait(&ring, 1);
		if (ret < 0 && ret != -EINTR)
			die(EXIT_IO, "io_uring: %s", errname(ret));
		while (!io_uring_peek_cqe(&ring, &cqe)) {
			r = io_uring_cqe_get_data(cqe);
			ret = cqe->res;
			io_uring_cqe_seen(&ring, cqe);
			finish(r, ret < 0 ? ret :
				  (uint32_t)ret != r->rec->len ? -EIO : 0);
			spare[o.depth - inflight--] = r;
		}
	}
	io_uring_queue_exit(&ring);
	for (i = 0; i < o.depth; i++)
		free(slots[i].buf);
	free(slots);
	free(spare);
	return NULL;
}

static int do_run(void)
{
	unsigned int n = o.rings + o.syncs, i;
	struct sigaction sa = { .sa_handler = on_term };
	struct writer *w = calloc(n, sizeof(*w));

	if (!o.log_path)
		die(EXIT_USAGE, "run needs --log FILE");
	if (!n || n > 255)
		die(EXIT_USAGE, "run needs 1 to 255 writers: --uring or --sync");
	if (!w)
		die(EXIT_IO, "no memory");
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	o.log = oplog_create(o.log_path, o.records);
	o.log->ndevs = o.ndevs;
	o.log->gen = o.gen;
	for (i = 0; i < (unsigned int)o.ndevs; i++)
		o.log->size[i] = o.dev[i].size;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (i = 0; i < n; i++) {
		w[i].id = i + 1;
		w[i].rnd = (o.seed + 1) * 0x9e3779b97f4a7c15ull + i * 0x1234567ull;
		if (pthread_create(&w[i].thread, NULL,
				   i < o.rings ? ring_writer : sync_writer,
				   &w[i]))
			die(EXIT_IO, "cannot start a writer");
	}
	for (i = 0; i < n; i++)
		pthread_join(w[i].thread, NULL);
	printf("writes=%llu zeroes=%llu discards=%llu errors=%llu ms=%.0f\n",
	       (unsigned long long)done[OP_WRITE],
	       (unsigned long long)done[OP_ZERO],
	       (unsigned long long)done[OP_DISCARD],
	       (unsigned long long)errors, elapsed() * 1000);
	free(w);
	return errors && !o.ignore_errors ? EXIT_IO : 0;
}

/* "a:b" or "a:b:c" into numbers */
static void split(const char *opt, const char *s, uint64_t *v, int n)
{
	char *copy = strdup(s), *save = NULL, *p;
	int i = 0;

	if (!copy)
		die(EXIT_IO, "no memory");
	for (p = strtok_r(copy, ":", &save); p; p = strtok_r(NULL, ":", &save))
		if (i < n)
			v[i++] = parse_size(p);
		else
			i = n + 1;
	if (i != n)
		die(EXIT_USAGE, "--%s takes %d numbers with ':' between, not '%s'",
		    opt, n, s);
	free(copy);
}

static void options(int argc, char **argv)
{
	static const char *const names[] = {
		"gen", "index", "offset", "len", "op", "writer", "nowait",
		"log", "seconds", "ops", "uring", "sync", "mix", "bs", "align",
		"seq", "range", "seed", "records", "max-iops", "ignore-errors",
	};
	struct option opts[sizeof(names) / sizeof(names[0]) + 1] = { 0 };
	uint64_t v[3];
	int i, c;

	for (i = 0; i < (int)(sizeof(names) / sizeof(names[0])); i++) {
		opts[i].name = names[i];
		opts[i].has_arg = strcmp(names[i], "nowait") &&
				  strcmp(names[i], "seq") &&
				  strcmp(names[i], "ignore-errors");
	}
	while ((c = getopt_long(argc, argv, "", opts, &i)) != -1) {
		const char *n = c ? "" : names[i];

		if (c)
			die(EXIT_USAGE, "see the head of cbw-load.c");
		if (!strcmp(n, "gen"))
			o.gen = parse_size(optarg);
		else if (!strcmp(n, "index"))
			o.index = parse_size(optarg);
		else if (!strcmp(n, "offset"))
			o.offset = parse_size(optarg);
		else if (!strcmp(n, "len"))
			o.len = parse_size(optarg);
		else if (!strcmp(n, "writer"))
			o.writer = parse_size(optarg);
		else if (!strcmp(n, "nowait"))
			o.nowait = true;
		else if (!strcmp(n, "seq"))
			o.seq = true;
		else if (!strcmp(n, "ignore-errors"))
			o.ignore_errors = true;
		else if (!strcmp(n, "log"))
			o.log_path = optarg;
		else if (!strcmp(n, "seconds"))
			o.seconds = parse_size(optarg);
		else if (!strcmp(n, "ops"))
			o.ops = parse_size(optarg);
		else if (!strcmp(n, "seed"))
			o.seed = parse_size(optarg);
		else if (!strcmp(n, "records"))
			o.records = parse_size(optarg);
		else if (!strcmp(n, "max-iops"))
			o.max_iops = parse_size(optarg);
		else if (!strcmp(n, "sync"))
			o.syncs = parse_size(optarg);
		else if (!strcmp(n, "align"))
			o.align = parse_size(optarg);
		else if (!strcmp(n, "op"))
			o.op = !strcmp(optarg, "write")	  ? OP_WRITE :
			       !strcmp(optarg, "zero")	  ? OP_ZERO :
			       !strcmp(optarg, "discard") ? OP_DISCARD : 0;
		else if (!strcmp(n, "uring")) {
			split(n, optarg, v, 2);
			o.rings = v[0];
			o.depth = v[1];
		} else if (!strcmp(n, "bs")) {
			split(n, optarg, v, 2);
			o.min = v[0];
			o.max = v[1];
		} else if (!strcmp(n, "range")) {
			split(n, optarg, v, 2);
			o.range_off = v[0];
			o.range_len = v[1];
		} else if (!strcmp(n, "mix")) {
			split(n, optarg, v, 3);
			for (i = 0; i < 3; i++)
				o.mix[i] = v[i];
		}
	}
	if (!o.op)
		die(EXIT_USAGE, "--op is write, zero or discard");
	if (!o.min || o.max < o.min || o.max > 64u << 20)
		die(EXIT_USAGE, "--bs MIN:MAX, 1 to 64M");
	if (o.rings && (!o.depth || o.depth > 1024))
		die(EXIT_USAGE, "--uring WRITERS:DEPTH, depth 1 to 1024");
	if (o.syncs && !(o.mix[0] + o.mix[1] + o.mix[2]))
		die(EXIT_USAGE, "--mix of nothing");
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";
	int i, ret;

	if (strcmp(cmd, "fill") && strcmp(cmd, "one") && strcmp(cmd, "run"))
		die(EXIT_USAGE, "fill, one or run; see the head of cbw-load.c");
	argc--;
	argv++;
	options(argc, argv);
	o.ndevs = argc - optind;
	if (o.ndevs < 1 || o.ndevs > OPLOG_DEVS ||
	    (o.ndevs > 1 && strcmp(cmd, "run")))
		die(EXIT_USAGE, "%d devices given", o.ndevs);
	for (i = 0; i < o.ndevs; i++) {
		o.path[i] = argv[optind + i];
		ret = target_open(&o.dev[i], o.path[i], O_RDWR);
		if (ret)
			die(EXIT_IO, "%s: %s", o.path[i], errname(ret));
		if (o.range_off >= o.dev[i].size)
			die(EXIT_USAGE, "--range lies behind the end of %s",
			    o.path[i]);
	}
	if (!strcmp(cmd, "fill"))
		ret = do_fill();
	else if (!strcmp(cmd, "one"))
		ret = do_one();
	else
		ret = do_run();
	for (i = 0; i < o.ndevs; i++)
		if (close(o.dev[i].fd))
			die(EXIT_IO, "%s: close: %s", o.path[i], errname(errno));
	return ret;
}
