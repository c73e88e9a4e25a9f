// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sessions: who owns what a transaction froze.
 *
 * A session is an open file of the control device.  When it is closed, whatever it has
 * neither committed nor handed over is aborted.  Closing can neither fail nor wait,
 * so a worker does it; it needs no memory (bitmap.c: an abort only sets bits).
 */
#include "session.h"

#include <linux/slab.h>

/* May sleep.  NULL without memory. */
struct cbw_session *cbw_session_open(void)
{
	struct cbw_session *session = kzalloc(sizeof(*session), GFP_KERNEL);

	if (!session)
		return NULL;
	INIT_WORK(&session->work, cbw_session_work);
	cbw_events_open(session);
	return session;
}

/* Its owner is dead: give back what it froze, and stop protecting what it started. */
void cbw_session_work(struct work_struct *work)
{
	struct cbw_session *session = container_of(work, struct cbw_session, work);
	struct cbw_device *dev = NULL;
	struct cbw_bitmap *b;
	struct cbw_snap *snap;

	cbw_config_lock();
	while ((dev = cbw_device_next(dev))) {
		list_for_each_entry(b, &dev->bitmaps, node)
			if (b->cur.frozen && b->cur.owner == CBW_OWNER_SESSION &&
			    b->cur.session == session)
				cbw_bitmap_abort_start(b);
	}
	list_for_each_entry(snap, &cbw_snaps, all_node) {
		if (snap->session != session)
			continue;
		snap->session = NULL;
		cbw_snap_break(snap, CBW_OVER_ENDED);
	}
	cbw_config_unlock();
	kfree(session);
}

/* The last file descriptor was closed.  Neither fails nor waits. */
void cbw_session_close(struct cbw_session *session)
{
	cbw_events_close(session);
	WRITE_ONCE(session->dead, true);
	queue_work(cbw_wait_wq, &session->work);
}

/*
 * Is a bitmap frozen by a session that is dead, and its abort has yet to begin?  Then the
 * session has not been freed: who does that begins the aborts before.
 */
bool cbw_session_died(const struct cbw_bitmap *b)
{
	lockdep_assert_held(&cbw_config_mutex);
	return b->cur.frozen && !b->aborting && b->cur.owner == CBW_OWNER_SESSION &&
	       READ_ONCE(b->cur.session->dead);
}

/**
 * cbw_session_detach - the session gives a cut up
 * @session: the session
 * @cut: the cut
 *
 * Returns 0, or -ESTALE when it has no such cut.
 */
int cbw_session_detach(struct cbw_session *session, const struct cbw_cut_id *cut)
{
	struct cbw_device *dev = NULL;
	struct cbw_bitmap *b;
	struct cbw_snap *snap;
	int r = -ESTALE;

	cbw_config_lock();
	while ((dev = cbw_device_next(dev))) {
		list_for_each_entry(b, &dev->bitmaps, node) {
			if (!b->cur.frozen || b->cur.session != session ||
			    !cbw_cut_same(&b->cur.cut, cut))
				continue;
			b->cur.owner = CBW_OWNER_ANYONE;
			b->cur.session = NULL;
			r = 0;
		}
	}
	list_for_each_entry(snap, &cbw_snaps, all_node) {
		if (snap->session != session || !cbw_cut_same(&snap->cut, cut))
			continue;
		snap->session = NULL;
		r = 0;
	}
	cbw_config_unlock();
	return r;
}
