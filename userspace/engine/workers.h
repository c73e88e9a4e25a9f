/* SPDX-License-Identifier: GPL-2.0-or-later */
/* threads that take jobs from a queue; the end of a job is told through an eventfd */
#ifndef CBW_WORKERS_H
#define CBW_WORKERS_H

#include <stdbool.h>

struct workers;

/**
 * struct job - embedded in what is to be done
 * @next: the queue's
 */
struct job {
	struct job *next;
};

/**
 * workers_start - @nr threads
 * @run: does a job; @worker is the number of its thread, 0 to @nr - 1
 *
 * NULL: no thread could be started. With fewer than asked it goes on.
 */
struct workers *workers_start(unsigned int nr, void (*run)(void *ctx, struct job *job,
							   unsigned int worker), void *ctx);

/* Becomes readable when a job ends and none that has was left: all have to be taken then. */
int workers_fd(const struct workers *w);
void workers_add(struct workers *w, struct job *job);
/*
 * The same, for jobs of which one at a time runs, in their order: what they do waits for the
 * others in any case, and would keep all threads from the rest.
 */
void workers_add_serial(struct workers *w, struct job *job);
/* A job that has ended, in any order, or NULL. */
struct job *workers_ended(struct workers *w);
/* Waits for what runs; jobs that were not begun are dropped. */
void workers_stop(struct workers *w);

#endif
