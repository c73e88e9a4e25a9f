// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copying ahead of a sequential writer, so that its next writes find their chunks
 * preserved already.
 *
 * A stream is seen when a write needs chunks that begin just where the last copies for
 * it ended.  From then on a window of chunks beyond its writes is copied, by a worker:
 * no write waits for more than its own chunks.  When a write passes the middle of the window
 * (snap->ahead_at, looked at without a lock by every write) half a window more
 * is begun, so that the stream does not catch up and never has more than a window
 * ahead of it.
 *
 * It is a hint: not above half a full store or buffer, nothing is waited for, and a chunk that
 * cannot be read ahead stays as it was.
 */
#include "cbw.h"

/* The widest window: no more than this is copied ahead of a writer. */
#define AHEAD_BYTES	(256u << 10)
/* What is read in one piece; a writer that has become ready goes first. */
#define AHEAD_PIECE	(64u << 10)

static u32 window_max(const struct cbw_snap *snap)
{
	return AHEAD_BYTES >> (snap->shift + SECTOR_SHIFT);
}

void cbw_ahead_init(struct cbw_snap *snap)
{
	unsigned int i;

	snap->ahead_at = CBW_AHEAD_NONE;
	for (i = 0; i < CBW_STREAMS; i++)
		snap->streams[i].next = U64_MAX;
}

/* Is there room for what nobody may need? */
bool cbw_ahead_room(const struct cbw_snap *snap)
{
	lockdep_assert_held(&snap->lock);
	return snap->nr_used * 2 < snap->nr_slots &&
	       (snap->nr_filled - snap->nr_idle) * 2 <= snap->nr_batches;
}

/* Have @nr chunks more copied for a stream: a window, or half of one when it is half-way. */
static void stream_advance(struct cbw_snap *snap, unsigned int i, u64 from, u32 nr)
{
	struct cbw_stream *s = &snap->streams[i];
	u64 to = min(from + nr, snap->nr_chunks);

	lockdep_assert_held(&snap->lock);
	s->next = to;
	/* Past snap->lock, cbw_snap_remove() relies on nothing being queued when over. */
	if (from >= to || READ_ONCE(snap->over) || !cbw_ahead_room(snap)) {
		s->next = from;
		WRITE_ONCE(snap->ahead_at, CBW_AHEAD_NONE);
		return;
	}
	if (snap->ahead_to != from || snap->ahead_from >= snap->ahead_to)
		snap->ahead_from = from;
	snap->ahead_to = to;
	snap->ahead_stream = i;
	WRITE_ONCE(snap->ahead_at, to - s->window / 2);
	queue_work(cbw_wq, &snap->ahead_work);
}

/**
 * cbw_ahead_seen - a write has begun copies
 * @snap: the snapshot
 * @from: the first chunk that it had copied
 * @end: the end of the write, in chunks
 *
 * Any context.
 */
void cbw_ahead_seen(struct cbw_snap *snap, u64 from, u64 end)
{
	struct cbw_stream *s;
	unsigned long flags;
	unsigned int i;

	if (!window_max(snap))
		return;
	spin_lock_irqsave(&snap->lock, flags);
	for (i = 0; i < CBW_STREAMS; i++)
		if (snap->streams[i].next == from)
			break;
	if (i == CBW_STREAMS) {
		snap->stream = (snap->stream + 1) % CBW_STREAMS;
		if (snap->stream == snap->ahead_stream)
			WRITE_ONCE(snap->ahead_at, CBW_AHEAD_NONE);
		s = &snap->streams[snap->stream];
		s->next = end;
		s->window = 0;
	} else {
		s = &snap->streams[i];
		s->window = clamp_t(u64, max_t(u64, s->window * 2ULL, 2 * (end - from)),
				    1, window_max(snap));
		stream_advance(snap, i, end, s->window);
	}
	spin_unlock_irqrestore(&snap->lock, flags);
}

/* A write has come to snap->ahead_at.  Any context. */
void cbw_ahead_kick(struct cbw_snap *snap)
{
	struct cbw_stream *s;
	unsigned long flags;

	spin_lock_irqsave(&snap->lock, flags);
	if (snap->ahead_at != CBW_AHEAD_NONE) {
		s = &snap->streams[snap->ahead_stream];
		s->window = min(s->window * 2, window_max(snap));
		stream_advance(snap, snap->ahead_stream, s->next,
			       max(1u, s->window / 2));
	}
	spin_unlock_irqrestore(&snap->lock, flags);
}

/* Process context; may wait for the origin's queue. */
void cbw_ahead_work(struct work_struct *work)
{
	struct cbw_snap *snap = container_of(work, struct cbw_snap, ahead_work);
	unsigned int piece = max(1u, AHEAD_PIECE / cbw_chunk_bytes(snap));
	u64 from, to;

	for (;;) {
		struct cbw_hold hold = { .bio = NULL };

		spin_lock_irq(&snap->lock);
		from = snap->ahead_from;
		to = min(snap->ahead_to, from + piece);
		snap->ahead_from = max(from, to);
		spin_unlock_irq(&snap->lock);
		if (from >= to)
			break;
		cbw_copy_hold(snap, (sector_t)from << snap->shift,
			      (sector_t)(to - from) << snap->shift, &hold);
		cbw_copies_submit(&hold);
		cond_resched();
	}
}
