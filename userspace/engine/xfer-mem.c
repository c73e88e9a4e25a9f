// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The pipeline from memory to memory (tmpfs): there is nothing to wait for but each other.
 *
 * A file in memory is extended by one writer at a time, and a second one would spin in the kernel.
 * So one thread at a time writes what there is, until there is nothing; the others read ahead, and
 * sleep when all buffers are full, until half of them are free: waking a thread takes longer
 * than a piece. Pieces are written as they come, so nothing here may depend on their order; what
 * is to be synced or limited in between goes by xfer_run().
 */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "cbw.h"
#include "xfer-int.h"

#define TICK_NS		200000000
#define SLOTS		2u	/* for each thread */

/**
 * struct mem_run
 * @lock: of all that follows it
 * @wake: for threads that sleep; @end: for who waits for them
 * @free: slots of which nothing is needed, the last used first
 * @ready: those that are to be written, in a ring from @first on
 * @reading: how many are being read
 * @writer: a thread writes: the owner's place() and write() are its
 * @left: there is nothing more to be read
 * @ret, @err: of the first error
 */
struct mem_run {
	struct xfer x;
	uint32_t piece;
	unsigned int slots;
	pthread_mutex_t lock;
	pthread_cond_t wake, end;
	struct slot *free[XFER_WORKERS_MAX * SLOTS], *ready[XFER_WORKERS_MAX * SLOTS];
	unsigned int nr_free, first, nr_ready, reading, ended;
	bool writer, left;
	int ret;
	struct cbw_error err;
};

struct mem_thread {
	struct mem_run *run;
	unsigned int nr;
};

/* The first one counts; with the lock. */
static void fail(struct mem_run *r, int ret, const struct cbw_error *err)
{
	if (!ret || r->ret)
		return;
	r->ret = ret;
	r->err = *err;
}

/* With the lock. */
static bool finished(struct mem_run *r)
{
	if (stop_signal && !r->ret)
		r->ret = fail_with(&r->err, EINTR, "stopped by signal %d", (int)stop_signal);
	return r->ret || (r->left && !r->reading && !r->writer && !r->nr_ready);
}

/* By the writer, without the lock. */
static int write_slot(struct mem_run *r, struct slot *s, unsigned int worker)
{
	int nr = r->x.ops.place(r->x.ctx, &s->piece, &s->bufs, s->write, &s->err), i, ret;

	if (nr < 0)
		return nr;
	for (i = 0; i < nr; i++) {
		ret = xfer_thread_write(&r->x, s, &s->write[i], worker);
		if (ret)
			return ret;
	}
	return 0;
}

/* All that there is; with the lock, which is given up meanwhile. */
static void write_ready(struct mem_run *r, unsigned int worker)
{
	r->writer = true;
	while (r->nr_ready && !r->ret) {
		struct slot *s = r->ready[r->first];
		int ret;

		r->first = (r->first + 1) % r->slots;
		r->nr_ready--;
		pthread_mutex_unlock(&r->lock);
		ret = write_slot(r, s, worker);
		pthread_mutex_lock(&r->lock);
		if (!ret && r->x.ops.done)
			ret = r->x.ops.done(r->x.ctx, &s->piece, &s->err);
		fail(r, ret, &s->err);
		r->free[r->nr_free++] = s;
		if (r->nr_free == r->slots / 2)
			pthread_cond_broadcast(&r->wake);
	}
	r->writer = false;
}

/* Without the lock. */
static int read_slot(struct mem_run *r, struct slot *s, unsigned int worker)
{
	int ret;

	s->got = 0;
	s->task = TASK_READ;
	xfer_job(&r->x, &s->job, worker);
	if (!s->job_read)
		return s->job_ret;
	ret = r->x.ops.read_failed(r->x.ctx, &s->piece, &s->bufs, s->job_read, &s->err);
	return ret || !r->x.ops.work ? ret :
		r->x.ops.work(r->x.ctx, &s->piece, &s->bufs, worker, &s->err);
}

/* The next one; with the lock, which is given up meanwhile. */
static void read_one(struct mem_run *r, unsigned int worker)
{
	struct slot *s = r->free[--r->nr_free];
	int ret;

	s->piece = (struct xfer_piece){ .max = r->piece, .fd = -1 };
	ret = r->x.ops.next(r->x.ctx, &s->piece, &s->err);
	if (ret > 0 && s->piece.how != XFER_NONE) {
		r->reading++;
		pthread_mutex_unlock(&r->lock);
		ret = read_slot(r, s, worker);
		pthread_mutex_lock(&r->lock);
		r->reading--;
		ret = ret ? ret : 1;
	}
	if (ret > 0) {
		r->ready[(r->first + r->nr_ready++) % r->slots] = s;
		return;
	}
	if (!ret)
		r->left = true;
	fail(r, ret, &s->err);
	r->free[r->nr_free++] = s;
}

static void *thread(void *arg)
{
	struct mem_thread *t = arg;
	struct mem_run *r = t->run;

	pthread_mutex_lock(&r->lock);
	while (!finished(r)) {
		if (r->nr_ready && !r->writer)
			write_ready(r, t->nr);
		else if (r->nr_free && !r->left)
			read_one(r, t->nr);
		else
			pthread_cond_wait(&r->wake, &r->lock);
	}
	r->ended++;
	pthread_cond_broadcast(&r->wake);
	pthread_cond_signal(&r->end);
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

/* The main thread's part: with the lock. */
static void watch(struct mem_run *r, unsigned int nr)
{
	struct cbw_error err;
	struct timespec ts;
	int ret;

	while (r->ended < nr) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += TICK_NS;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_nsec -= 1000000000;
			ts.tv_sec++;
		}
		pthread_cond_timedwait(&r->end, &r->lock, &ts);
		ret = r->x.ops.tick && !r->ret ? r->x.ops.tick(r->x.ctx, &err) : 0;
		fail(r, ret, &err);
		/* an error, or a signal, that who sleeps has not seen */
		if (r->ret || stop_signal)
			pthread_cond_broadcast(&r->wake);
	}
}

static void run_threads(struct mem_run *r, unsigned int nr)
{
	struct mem_thread t[XFER_WORKERS_MAX];
	pthread_t id[XFER_WORKERS_MAX];
	sigset_t all, old;
	unsigned int i;

	/* signals are for who called */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&r->lock);
	for (i = 0; i < nr; i++) {
		t[i] = (struct mem_thread){ r, i };
		if (pthread_create(&id[i], NULL, thread, &t[i]))
			break;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!i)
		r->ret = fail_with(&r->err, EAGAIN, "no thread can be started");
	watch(r, i);
	pthread_mutex_unlock(&r->lock);
	while (i)
		pthread_join(id[--i], NULL);
}

int xfer_run_mem(const struct xfer_ops *ops, void *ctx, const struct xfer_params *params,
		 struct cbw_error *err)
{
	size_t one = XFER_PIECE + (params->extra ? XFER_PIECE : 0);
	struct mem_run *r = xcalloc(1, sizeof(*r));
	unsigned int nr = xfer_workers(params), i;
	pthread_condattr_t attr;
	struct slot *slot;
	char *map;
	int ret;

	r->x.ops = *ops;
	r->x.params = *params;
	r->x.ctx = ctx;
	r->slots = nr * SLOTS;
	r->piece = params->piece_max ? params->piece_max : XFER_PIECE;
	map = mmap(NULL, r->slots * one, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED) {
		free(r);
		return fail_with(err, ENOMEM, "out of memory");
	}
	slot = xcalloc(r->slots, sizeof(*slot));
	for (i = 0; i < r->slots; i++) {
		slot[i].bufs.data = map + i * one;
		slot[i].bufs.extra = params->extra ? map + i * one + XFER_PIECE : NULL;
		slot[i].bufs.own = xcalloc(1, params->own_size);
		r->free[r->nr_free++] = &slot[i];
	}
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->wake, NULL);
	pthread_cond_init(&r->end, &attr);
	pthread_condattr_destroy(&attr);
	run_threads(r, nr);
	pthread_cond_destroy(&r->end);
	pthread_cond_destroy(&r->wake);
	pthread_mutex_destroy(&r->lock);
	for (i = 0; i < r->slots; i++)
		free(slot[i].bufs.own);
	free(slot);
	munmap(map, r->slots * one);
	ret = r->ret;
	if (ret && err)
		*err = r->err;
	free(r);
	return ret;
}
