// SPDX-License-Identifier: GPL-2.0-or-later
/* the pipeline: io_uring in one thread, workers for what takes the processor */
#include <linux/magic.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "cbw.h"
#include "xfer-int.h"

#define SQ_ENTRIES	128
#define TICK_NS		200000000ull
/* how long to wait for requests in flight once the run has failed */
#define DRAIN_NS	10000000000ull
/* pieces that are in the processor's cache from the read to the write */
#define THREAD_PIECE	(256u << 10)

/* The buffers are at least so many of the longest pieces, and are gone through about so often. */
#define FEWEST		4
#define TURNS		32

/* kinds of requests, in the low bits of user_data */
enum kind {
	KIND_READ,
	KIND_WRITE,
	KIND_SYNC,
	KIND_EVENT,
};

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

enum xfer_how xfer_how_of(int fd)
{
	struct statfs fs;
	struct stat st;

	/* of a device it would be the file system with its node, which is in memory */
	if (fstat(fd, &st) || S_ISBLK(st.st_mode) || fstatfs(fd, &fs))
		return XFER_RING;
	switch ((unsigned long)fs.f_type) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case HUGETLBFS_MAGIC:
		return XFER_THREAD;
	default:
		return XFER_RING;
	}
}

unsigned int xfer_workers(const struct xfer_params *params)
{
	unsigned int nr = params->workers;
	cpu_set_t set;

	if (!nr)
		nr = sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned int)CPU_COUNT(&set);
	return nr < XFER_WORKERS_MAX ? nr : XFER_WORKERS_MAX;
}

static struct slot *slot_of(struct xfer *x, uint64_t nr)
{
	return &x->slot[nr % XFER_SLOTS];
}

static void stop(struct xfer *x, int ret)
{
	if (!x->ret)
		x->ret = ret;
}

static struct cbw_error *err_of(struct xfer *x)
{
	return x->ret ? NULL : x->err;
}

/* ---- workers ----------------------------------------------------------- */

static void give(struct xfer *x, struct slot *s, enum task task)
{
	s->task = task;
	x->in_flight++;
	workers_add(x->workers, &s->job);
}

/* A file in memory has one writer at a time: a second one would spin in the kernel. */
static void give_write(struct xfer *x, struct slot *s, bool memory)
{
	s->task = TASK_WRITE;
	x->in_flight++;
	if (memory)
		workers_add_serial(x->workers, &s->job);
	else
		workers_add(x->workers, &s->job);
}

/* ---- requests ---------------------------------------------------------- */

static struct io_uring_sqe *get_sqe(struct xfer *x)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&x->ring);
	int ret;

	while (!sqe) {
		ret = io_uring_submit(&x->ring);
		if (ret < 0 && ret != -EINTR && ret != -EAGAIN &&
		    ret != -EBUSY) {
			stop(x, fail_with(err_of(x), ret, "io_uring: %s",
					  strerror(-ret)));
			return NULL;
		}
		sqe = io_uring_get_sqe(&x->ring);
	}
	return sqe;
}

static uint64_t tag(const struct xfer *x, const struct slot *s, enum kind kind,
		    unsigned int nr)
{
	return (uint64_t)(s - x->slot) << 16 | nr << 4 | kind;
}

/* Whether @p lies in what is registered. */
static bool is_fixed(const struct xfer *x, const char *p)
{
	return x->fixed && p >= x->bufs.base && p < x->bufs.base + x->bufs.size;
}

static void submit_read(struct xfer *x, struct slot *s)
{
	struct io_uring_sqe *sqe = get_sqe(x);
	char *to = s->bufs.data + s->got;
	uint32_t len = s->piece.ask - s->got;
	uint64_t at = s->piece.src_offset + s->got;

	if (!sqe) {
		s->state = WRITTEN;
		return;
	}
	if (x->fixed)
		io_uring_prep_read_fixed(sqe, s->piece.fd, to, len, at, 0);
	else
		io_uring_prep_read(sqe, s->piece.fd, to, len, at);
	sqe->user_data = tag(x, s, KIND_READ, 0);
	s->state = READING;
	x->in_flight++;
}

static void submit_write(struct xfer *x, struct slot *s, unsigned int nr)
{
	struct io_uring_sqe *sqe = get_sqe(x);
	const struct xfer_write *w = &s->write[nr];

	if (!sqe)
		return;
	if (is_fixed(x, w->data))
		io_uring_prep_write_fixed(sqe, w->fd, w->data, w->length, w->dst_offset, 0);
	else
		io_uring_prep_write(sqe, w->fd, w->data, w->length, w->dst_offset);
	sqe->user_data = tag(x, s, KIND_WRITE, nr);
	s->writes++;
	x->in_flight++;
}

static void arm_event(struct xfer *x)
{
	struct io_uring_sqe *sqe;

	if (x->event_armed)
		return;
	sqe = get_sqe(x);
	if (!sqe)
		return;
	io_uring_prep_read(sqe, workers_fd(x->workers), &x->event, sizeof(x->event), 0);
	sqe->user_data = KIND_EVENT;
	x->event_armed = true;
}

/* ---- the steps of the main thread ------------------------------------------ */

/* Whether the rate lets another piece go; else in how many nanoseconds. */
static bool may_read(const struct xfer *x, uint64_t *wait)
{
	uint64_t due;

	if (!x->params.rate)
		return true;
	due = (uint64_t)((double)x->read_bytes * 1e9 / (double)x->params.rate);
	due += x->start;
	*wait = now_ns();
	if (due <= *wait)
		return true;
	*wait = due - *wait;
	return false;
}

static uint32_t piece_max(const struct xfer *x)
{
	uint32_t max = x->how == XFER_THREAD ? THREAD_PIECE : pace_size(&x->pace);

	if (max < x->params.piece_min)
		max = x->params.piece_min;
	return x->params.piece_max && max > x->params.piece_max ? x->params.piece_max : max;
}

/* More than keep the threads busy would only leave the cache. */
static unsigned int depth(const struct xfer *x)
{
	unsigned int few = 3 * x->nr_workers + 2;

	return x->how == XFER_THREAD && few < XFER_SLOTS ? few : XFER_SLOTS;
}

/* What a piece of so many bytes takes of the buffers. */
static uint32_t room_for(const struct xfer *x, uint32_t bytes)
{
	uint32_t unit = x->params.piece_min;

	return unit ? (bytes + unit - 1) / unit * unit : bytes;
}

static bool take_bufs(struct xfer *x, struct slot *s)
{
	struct xfer_piece *p = &s->piece;
	uint32_t bytes = room_for(x, p->ask > p->length ? p->ask : (uint32_t)p->length);

	if (p->length > p->max || !bufs_room(&x->bufs, bytes)) {
		stop(x, fail_with(err_of(x), EINVAL, "a piece of %llu bytes, %u is the most",
				  (ull)p->length, p->max));
		return false;
	}
	s->mark = bufs_take(&x->bufs, bytes, &s->bufs);
	return true;
}

static uint64_t start_reads(struct xfer *x)
{
	uint64_t wait = TICK_NS;

	while (!x->end && !x->ret && x->tail - x->head < depth(x) &&
	       bufs_room(&x->bufs, room_for(x, piece_max(x))) && may_read(x, &wait)) {
		struct slot *s = slot_of(x, x->tail);
		int ret;

		s->piece = (struct xfer_piece){ .max = piece_max(x), .fd = -1 };
		ret = x->ops.next(x->ctx, &s->piece, x->err);
		if (ret < 0) {
			stop(x, ret);
			break;
		}
		if (!ret) {
			x->end = true;
			break;
		}
		s->got = 0;
		s->mark = 0;
		if (s->piece.how == XFER_NONE) {
			s->state = READ;
			x->tail++;
			continue;
		}
		if (!take_bufs(x, s))
			break;
		x->tail++;
		x->how = s->piece.how;
		x->read_bytes += s->piece.length;
		if (s->piece.how == XFER_RING) {
			submit_read(x, s);
		} else {
			s->state = READING;
			give(x, s, TASK_READ);
		}
	}
	return wait < TICK_NS ? wait : TICK_NS;
}

static void place(struct xfer *x)
{
	while (x->place < x->tail && !x->ret && !x->quiet) {
		struct slot *s = slot_of(x, x->place);
		bool thread = false, memory = false;
		int nr, i;

		if (s->state != READ)
			break;
		nr = x->ops.place(x->ctx, &s->piece, &s->bufs, s->write, x->err);
		if (nr < 0) {
			stop(x, nr);
			break;
		}
		s->state = WRITING;
		s->writes = 0;
		s->nr = (unsigned int)nr;
		for (i = 0; i < nr; i++) {
			if (s->write[i].how == XFER_RING)
				submit_write(x, s, (unsigned int)i);
			else
				thread = true;
			memory |= s->write[i].how == XFER_THREAD;
		}
		if (thread) {
			s->writes++;
			give_write(x, s, memory);
		}
		if (!s->writes)
			s->state = WRITTEN;
		x->place++;
	}
}

static void retire(struct xfer *x)
{
	while (x->head < x->place && !x->ret) {
		struct slot *s = slot_of(x, x->head);
		int ret = 0;

		if (s->state != WRITTEN)
			break;
		if (x->ops.done)
			ret = x->ops.done(x->ctx, &s->piece, x->err);
		if (ret) {
			stop(x, ret);
			break;
		}
		if (s->piece.how != XFER_NONE)
			pace_moved(&x->pace, s->piece.length, now_ns());
		x->done_bytes += s->piece.length;
		s->state = FREE;
		bufs_give(&x->bufs, s->mark);
		x->head++;
	}
}

static void synced(struct xfer *x)
{
	int ret;

	if (x->ret)
		return;
	ret = x->ops.synced(x->ctx, x->err);
	if (ret)
		stop(x, ret);
}

static void start_sync(struct xfer *x)
{
	bool all = x->end && x->head == x->tail;
	struct io_uring_sqe *sqe = NULL;

	if (!x->ops.synced || x->syncing || x->ret || !x->done_bytes ||
	    (x->done_bytes < x->params.sync_bytes && !all))
		return;
	if (x->params.sync_fd < 0) {
		x->quiet = x->head != x->place;
		if (x->quiet)
			return;
	} else {
		sqe = get_sqe(x);
		if (!sqe)
			return;
	}
	if (x->ops.mark)
		x->ops.mark(x->ctx);
	x->done_bytes = 0;
	if (!sqe) {
		synced(x);
		return;
	}
	io_uring_prep_fsync(sqe, x->params.sync_fd, IORING_FSYNC_DATASYNC);
	sqe->user_data = KIND_SYNC;
	x->syncing = true;
	x->in_flight++;
}

/* ---- what has ended ------------------------------------------------------ */

/* The data is there. */
static void read_done(struct xfer *x, struct slot *s)
{
	int ret;

	s->state = READ;
	if (!x->ops.work || x->ret)
		return;
	if (s->piece.length > x->params.quick) {
		s->state = READING;
		give(x, s, TASK_WORK);
		return;
	}
	ret = x->ops.work(x->ctx, &s->piece, &s->bufs, 0, x->err);
	if (ret)
		stop(x, ret);
}

static void read_bad(struct xfer *x, struct slot *s, int code)
{
	int ret;

	s->state = READ;
	if (x->ret)
		return;
	ret = x->ops.read_failed(x->ctx, &s->piece, &s->bufs, code, x->err);
	if (ret) {
		stop(x, ret);
		return;
	}
	s->state = READING;
	read_done(x, s);
}

static void read_ended(struct xfer *x, struct slot *s, int res)
{
	if (res == -EINTR || res == -EAGAIN) {
		submit_read(x, s);
		return;
	}
	if (res <= 0) {
		/* 0: the file ends before it should */
		read_bad(x, s, res ? -res : EUCLEAN);
		return;
	}
	s->got += (uint32_t)res;
	if (s->got >= s->piece.length)
		read_done(x, s);
	else
		submit_read(x, s);
}

static void one_written(struct slot *s)
{
	if (!--s->writes)
		s->state = WRITTEN;
}

static void write_ended(struct xfer *x, struct slot *s, unsigned int nr,
			int res)
{
	struct xfer_write *w = &s->write[nr];

	if (res == -EINTR || res == -EAGAIN ||
	    (res > 0 && (uint32_t)res < w->length)) {
		if (res > 0) {
			w->data = (char *)w->data + res;
			w->dst_offset += (uint32_t)res;
			w->length -= (uint32_t)res;
		}
		s->writes--;
		submit_write(x, s, nr);
		return;
	}
	if (res <= 0)
		stop(x, fail_with(err_of(x), res ? -res : EIO,
				  "%s: writing %u bytes at offset %llu: %s",
				  esc(x->params.target), w->length,
				  (ull)w->dst_offset,
				  res ? strerror(-res) : "nothing was written"));
	one_written(s);
}

static void sync_ended(struct xfer *x, int res)
{
	x->syncing = false;
	if (res < 0)
		stop(x, fail_with(err_of(x), -res, "%s: fdatasync: %s",
				  esc(x->params.target), strerror(-res)));
	else
		synced(x);
}

static void job_ended(struct xfer *x, struct slot *s)
{
	x->in_flight--;
	if (s->job_ret && !x->ret) {
		*x->err = s->err;
		stop(x, s->job_ret);
	}
	if (s->task == TASK_WRITE)
		one_written(s);
	else if (s->job_read)
		read_bad(x, s, s->job_read);
	else
		s->state = READ;
}

static void complete(struct xfer *x, const struct io_uring_cqe *cqe)
{
	enum kind kind = (enum kind)(cqe->user_data & 15);
	struct slot *s = &x->slot[cqe->user_data >> 16];
	struct job *job;

	if (kind == KIND_EVENT) {
		x->event_armed = false;
		while ((job = workers_ended(x->workers)))
			job_ended(x, (struct slot *)job);
		return;
	}
	x->in_flight--;
	if (kind == KIND_READ)
		read_ended(x, s, cqe->res);
	else if (kind == KIND_WRITE)
		write_ended(x, s, (unsigned int)(cqe->user_data >> 4 & 0xfff), cqe->res);
	else
		sync_ended(x, cqe->res);
}

static void wait_some(struct xfer *x, uint64_t ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (long long)(ns / 1000000000ull),
		.tv_nsec = (long long)(ns % 1000000000ull),
	};
	struct io_uring_cqe *cqe;
	unsigned int head, nr = 0;
	int ret;

	arm_event(x);
	ret = io_uring_submit_and_wait_timeout(&x->ring, &cqe, 1, &ts, NULL);
	if (ret < 0 && ret != -ETIME && ret != -EINTR && ret != -EAGAIN &&
	    ret != -EBUSY)
		stop(x, fail_with(err_of(x), ret, "io_uring: %s", strerror(-ret)));
	io_uring_for_each_cqe(&x->ring, head, cqe) {
		complete(x, cqe);
		nr++;
	}
	io_uring_cq_advance(&x->ring, nr);
}

/* Nothing is left to be done, or to be waited for. */
static bool finished(struct xfer *x)
{
	if (!x->ret)
		return x->end && x->head == x->tail && !x->syncing &&
		       (!x->ops.synced || !x->done_bytes);
	if (!x->stopped)
		x->stopped = now_ns();
	/* What hangs is left to the kernel, its buffers too. */
	x->abandoned = x->in_flight && now_ns() - x->stopped >= DRAIN_NS;
	return !x->in_flight || x->abandoned;
}

static void loop(struct xfer *x)
{
	for (;;) {
		uint64_t wait;
		int ret;

		if (stop_signal && !x->ret)
			stop(x, fail_with(x->err, EINTR, "stopped by signal %d",
					  (int)stop_signal));
		retire(x);
		start_sync(x);
		wait = start_reads(x);
		place(x);
		retire(x);
		start_sync(x);
		if (x->ops.tick && now_ns() - x->ticked >= TICK_NS) {
			x->ticked = now_ns();
			ret = x->ops.tick(x->ctx, err_of(x));
			if (ret)
				stop(x, ret);
		}
		if (finished(x))
			return;
		/* what needs no reading is placed at once, and makes room */
		if (!x->ret && !x->in_flight && x->head == x->tail && !x->end && may_read(x, &wait))
			continue;
		wait_some(x, wait);
	}
}

/* ---- beginning and end --------------------------------------------------- */

/*
 * As many pieces as there can be. Once they are registered with the ring all of them take memory,
 * which is pinned; else, and with what is extra, only what is touched does. The kernel clears it
 * first, so where there is little to move there is less of it.
 */
static size_t bytes_of_buffers(const struct xfer_params *params)
{
	uint64_t piece = params->piece_max ? params->piece_max : XFER_PIECE;
	uint64_t most = piece * XFER_SLOTS < XFER_BUFFER ? piece * XFER_SLOTS : XFER_BUFFER;
	uint64_t bytes = FEWEST * piece;

	if (!params->bytes)
		return (size_t)most;
	while (bytes < params->bytes / TURNS)
		bytes *= 2;
	return (size_t)(bytes < most ? bytes : most);
}

static int make_buffers(struct xfer *x)
{
	struct iovec iov;
	int i;

	if (bufs_make(&x->bufs, bytes_of_buffers(&x->params), x->params.extra))
		return -ENOMEM;
	for (i = 0; i < XFER_SLOTS; i++)
		x->slot[i].bufs.own = xcalloc(1, x->params.own_size);
	/* saves looking the pages up each time; RLIMIT_MEMLOCK may be against it */
	iov = (struct iovec){ x->bufs.base, x->bufs.size };
	x->fixed = !io_uring_register_buffers(&x->ring, &iov, 1);
	return 0;
}

static int make_ring(struct xfer *x)
{
	static const unsigned int flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_COOP_TASKRUN,
		0,
	};
	size_t i;
	int ret = -EINVAL;

	/* older kernels do not know the cheaper ways */
	for (i = 0; i < sizeof(flags) / sizeof(flags[0]) && ret == -EINVAL; i++) {
		struct io_uring_params p = {
			.flags = IORING_SETUP_CQSIZE | flags[i],
			.cq_entries = XFER_SLOTS * XFER_WRITES_MAX,
		};

		ret = io_uring_queue_init_params(SQ_ENTRIES, &x->ring, &p);
	}
	return ret;
}

static void free_all(struct xfer *x)
{
	unsigned int i;

	io_uring_queue_exit(&x->ring);
	/* a worker that hangs has the slots, too */
	if (x->abandoned)
		return;
	if (x->workers)
		workers_stop(x->workers);
	for (i = 0; i < XFER_SLOTS; i++)
		free(x->slot[i].bufs.own);
	bufs_free(&x->bufs);
	free(x);
}

int xfer_run(const struct xfer_ops *ops, void *ctx,
	     const struct xfer_params *params, bool *abandoned, struct cbw_error *err)
{
	struct xfer *x = xcalloc(1, sizeof(*x));
	struct cbw_error dummy;
	int ret;

	if (abandoned)
		*abandoned = false;
	x->ops = *ops;
	x->params = *params;
	x->ctx = ctx;
	x->err = err ? err : &dummy;
	x->how = XFER_RING;
	x->nr_workers = xfer_workers(params);
	pace_begin(&x->pace, params->piece_min > XFER_PIECE_MIN ? params->piece_min : XFER_PIECE_MIN,
		   XFER_PIECE);
	ret = make_ring(x);
	if (ret) {
		free(x);
		return fail_with(err, -ret,
				 "io_uring cannot be set up: %s%s", strerror(-ret),
				 ret == -EPERM || ret == -ENOSYS ?
				 " (is kernel.io_uring_disabled set?)" : "");
	}
	if (make_buffers(x)) {
		io_uring_queue_exit(&x->ring);
		free(x);
		return fail_with(err, ENOMEM, "out of memory");
	}
	x->workers = workers_start(x->nr_workers, xfer_job, x);
	if (x->workers) {
		x->start = now_ns();
		loop(x);
	} else {
		stop(x, fail_with(err, EAGAIN, "no thread can be started"));
	}
	ret = x->ret;
	if (abandoned)
		*abandoned = x->abandoned;
	free_all(x);
	return ret;
}
