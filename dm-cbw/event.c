// SPDX-License-Identifier: GPL-2.0-only
/*
 * What has happened, as far as sessions are told: events, and counts of held writes.
 */
#include "session.h"

#include <linux/uaccess.h>

/* ---- events ------------------------------------------------------------------------- */

/* Guards the list and every session's ring.  Nobody sleeps or waits under it. */
static DEFINE_SPINLOCK(events_lock);
static LIST_HEAD(events_sessions);

void cbw_events_open(struct cbw_session *session)
{
	init_waitqueue_head(&session->waitq);
	spin_lock(&events_lock);
	list_add_tail(&session->node, &events_sessions);
	spin_unlock(&events_lock);
}

/* The file is closed: nobody reads or polls any more. */
void cbw_events_close(struct cbw_session *session)
{
	spin_lock(&events_lock);
	list_del(&session->node);
	spin_unlock(&events_lock);
}

/* The newest ones are kept: the state they tell of is what counts. */
static void event_add(struct cbw_session *session, const struct cbw_event *event)
{
	lockdep_assert_held(&events_lock);
	if (session->nr == CBW_EVENTS_MAX) {
		session->lost += session->events[session->first].lost + 1;
		session->first = (session->first + 1) % CBW_EVENTS_MAX;
		session->nr--;
	}
	session->events[(session->first + session->nr++) % CBW_EVENTS_MAX] = *event;
	wake_up_interruptible_poll(&session->waitq, EPOLLIN | EPOLLRDNORM);
}

/**
 * cbw_event - tell all sessions that something has happened
 * @type: enum cbw_event_type
 * @devt: to which device
 * @cut: a snapshot's cut, or NULL
 * @reason: enum cbw_reason
 *
 * Process context; does not sleep.
 */
void cbw_event(enum cbw_event_type type, dev_t devt, const struct cbw_cut_id *cut,
	       unsigned int reason)
{
	struct cbw_event event = {
		.size = sizeof(event),
		.type = type,
		.dev = { .major = MAJOR(devt), .minor = MINOR(devt) },
		.reason = reason,
	};
	struct cbw_session *session;

	if (cut)
		event.cut = *cut;
	spin_lock(&events_lock);
	list_for_each_entry(session, &events_sessions, node)
		event_add(session, &event);
	spin_unlock(&events_lock);
}

/* The oldest event.  Returns false when there is none. */
static bool event_take(struct cbw_session *session, struct cbw_event *event)
{
	bool any;

	spin_lock(&events_lock);
	any = session->nr;
	if (any) {
		*event = session->events[session->first];
		event->lost = session->lost;
		session->lost = 0;
		session->first = (session->first + 1) % CBW_EVENTS_MAX;
		session->nr--;
	}
	spin_unlock(&events_lock);
	return any;
}

/* What the first version of the record had. */
#define EVENT_MIN	offsetofend(struct cbw_event, lost)

/*
 * One event, as much of it as the reader knows.  May sleep.  What could not be copied out is
 * lost, but counted: a reader that gives a bad pointer has bigger trouble.
 */
ssize_t cbw_events_read(struct cbw_session *session, char __user *buf, size_t count,
			bool nonblock)
{
	struct cbw_event event;

	if (count < EVENT_MIN)
		return -EINVAL;
	count = min(count, sizeof(event));
	while (!event_take(session, &event)) {
		if (nonblock)
			return -EAGAIN;
		/* Pairs with the lock of who adds one: it is looked at again. */
		if (wait_event_interruptible(session->waitq, data_race(session->nr)))
			return -ERESTARTSYS;
	}
	if (!copy_to_user(buf, &event, count))
		return count;
	spin_lock(&events_lock);
	session->lost += event.lost + 1;
	spin_unlock(&events_lock);
	return -EFAULT;
}

__poll_t cbw_events_poll(struct cbw_session *session, struct file *file, poll_table *wait)
{
	poll_wait(file, &session->waitq, wait);
	/* Who adds one wakes those who wait here afterwards. */
	return data_race(session->nr) ? EPOLLIN | EPOLLRDNORM : 0;
}

/* ---- counts ---------------------------------------------------------------------------- */

/**
 * cbw_stats_held - a write that was held goes
 * @stats: the device's
 * @since: when it was first held
 * @failed: it goes back with an error
 *
 * Any context.
 */
void cbw_stats_held(struct cbw_counts *stats, ktime_t since, bool failed)
{
	u64 us = max_t(s64, ktime_us_delta(ktime_get(), since), 0);
	unsigned int bucket = us < 2 ? 0 : min(ilog2(us), CBW_STATS_BUCKETS - 1);
	s64 max = atomic64_read(&stats->max_held_us);

	atomic64_inc(&stats->hist[bucket]);
	atomic64_add(us, &stats->held_us);
	if (failed)
		atomic64_inc(&stats->failed);
	while (us > max && !atomic64_try_cmpxchg(&stats->max_held_us, &max, us))
		;
}

void cbw_stats_get(const struct cbw_counts *stats, struct cbw_stats *out)
{
	unsigned int i;

	out->out_held = 0;
	for (i = 0; i < CBW_STATS_BUCKETS; i++) {
		out->out_hist[i] = atomic64_read(&stats->hist[i]);
		out->out_held += out->out_hist[i];
	}
	out->out_held_us = atomic64_read(&stats->held_us);
	out->out_max_held_us = atomic64_read(&stats->max_held_us);
	out->out_failed = atomic64_read(&stats->failed);
	out->out_again = atomic64_read(&stats->again);
	out->out_marked_again = atomic64_read(&stats->marked_again);
	out->out_discards_deferred = atomic64_read(&stats->discards);
}
