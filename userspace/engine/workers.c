// SPDX-License-Identifier: GPL-2.0-or-later
/* threads that take jobs from a queue */
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cbw.h"
#include "workers.h"

/* first in, first out */
struct queue {
	struct job *first, **last;
};

struct thread {
	struct workers *w;
	pthread_t id;
	unsigned int nr;
};

/**
 * struct workers
 * @lock: guards @todo, @serial, @serial_runs, @ended, @stop
 * @more: there is something in @todo or @serial that may run, or @stop
 * @serial_runs: one of @serial is with a thread, the others wait for it
 */
struct workers {
	void (*run)(void *ctx, struct job *job, unsigned int worker);
	void *ctx;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct queue todo, serial, ended;
	bool serial_runs, stop;
	int event;
	unsigned int nr;
	struct thread thread[];
};

static void put(struct queue *q, struct job *job)
{
	job->next = NULL;
	*q->last = job;
	q->last = &job->next;
}

static struct job *take(struct queue *q)
{
	struct job *job = q->first;

	if (!job)
		return NULL;
	q->first = job->next;
	if (!q->first)
		q->last = &q->first;
	return job;
}

/* What may run; with the lock. */
static struct job *next(struct workers *w, bool *serial)
{
	*serial = w->serial.first && !w->serial_runs;
	if (!*serial)
		return take(&w->todo);
	w->serial_runs = true;
	return take(&w->serial);
}

static void *work(void *arg)
{
	struct thread *t = arg;
	struct workers *w = t->w;
	bool serial, told;
	uint64_t one = 1;
	struct job *job;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		job = next(w, &serial);
		if (!job) {
			pthread_cond_wait(&w->more, &w->lock);
			continue;
		}
		pthread_mutex_unlock(&w->lock);
		w->run(w->ctx, job, t->nr);
		pthread_mutex_lock(&w->lock);
		/* this thread itself looks for the next one */
		if (serial)
			w->serial_runs = false;
		told = w->ended.first;
		put(&w->ended, job);
		/*
		 * Who takes them takes all there are, so once is enough.  Cannot fail: it would
		 * have to be 2^64 - 1.
		 */
		if (!told && write(w->event, &one, sizeof(one)) < 0)
			abort();
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

struct workers *workers_start(unsigned int nr, void (*run)(void *ctx, struct job *job,
							   unsigned int worker), void *ctx)
{
	struct workers *w = xcalloc(1, sizeof(*w) + nr * sizeof(w->thread[0]));
	sigset_t all, old;

	w->run = run;
	w->ctx = ctx;
	w->todo.last = &w->todo.first;
	w->serial.last = &w->serial.first;
	w->ended.last = &w->ended.first;
	w->event = eventfd(0, EFD_CLOEXEC);
	if (w->event < 0) {
		free(w);
		return NULL;
	}
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->more, NULL);
	/* signals are for who called */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (w->nr < nr) {
		struct thread *t = &w->thread[w->nr];

		t->w = w;
		t->nr = w->nr;
		if (pthread_create(&t->id, NULL, work, t))
			break;
		w->nr++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!w->nr) {
		workers_stop(w);
		return NULL;
	}
	return w;
}

int workers_fd(const struct workers *w)
{
	return w->event;
}

void workers_add(struct workers *w, struct job *job)
{
	pthread_mutex_lock(&w->lock);
	put(&w->todo, job);
	pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
}

void workers_add_serial(struct workers *w, struct job *job)
{
	pthread_mutex_lock(&w->lock);
	put(&w->serial, job);
	if (!w->serial_runs)
		pthread_cond_signal(&w->more);
	pthread_mutex_unlock(&w->lock);
}

struct job *workers_ended(struct workers *w)
{
	struct job *job;

	pthread_mutex_lock(&w->lock);
	job = take(&w->ended);
	pthread_mutex_unlock(&w->lock);
	return job;
}

void workers_stop(struct workers *w)
{
	unsigned int i;

	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->more);
	pthread_mutex_unlock(&w->lock);
	for (i = 0; i < w->nr; i++)
		pthread_join(w->thread[i].id, NULL);
	pthread_cond_destroy(&w->more);
	pthread_mutex_destroy(&w->lock);
	close(w->event);
	free(w);
}
