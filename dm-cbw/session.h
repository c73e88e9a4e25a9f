/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DM_CBW_SESSION_H
#define DM_CBW_SESSION_H

#include "cbw.h"

#include <linux/poll.h>

/**
 * struct cbw_session - an open file of the control device
 * @work: aborts what it owns when it is closed, and frees it
 * @node: in the list of those who are told of events, its lock (event.c)
 * @events: what has happened and was not read yet, a ring; that lock, too
 * @first: the oldest of them
 * @nr: their number
 * @lost: how many were lost before @first
 * @waitq: woken when there are any
 * @dead: it was closed: nobody has to wait for @work to know that
 *
 * What it owns is marked as such where it is (bitmap->cur.session, snap->session), under
 * cbw_config_mutex.
 */
struct cbw_session {
	struct work_struct work;
	struct list_head node;
	struct cbw_event events[CBW_EVENTS_MAX];
	unsigned int first;
	unsigned int nr;
	unsigned int lost;
	wait_queue_head_t waitq;
	bool dead;
};

struct cbw_session *cbw_session_open(void);
void cbw_session_work(struct work_struct *work);
void cbw_session_close(struct cbw_session *session);
/* event.c */
void cbw_events_open(struct cbw_session *session);
void cbw_events_close(struct cbw_session *session);
ssize_t cbw_events_read(struct cbw_session *session, char __user *buf, size_t count,
			bool nonblock);
__poll_t cbw_events_poll(struct cbw_session *session, struct file *file,
			 poll_table *wait);

bool cbw_session_died(const struct cbw_bitmap *b);
int cbw_session_detach(struct cbw_session *session, const struct cbw_cut_id *cut);

#endif /* DM_CBW_SESSION_H */
