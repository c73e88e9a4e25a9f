// SPDX-License-Identifier: GPL-2.0-only
/*
 * The reads of copies: neighbouring chunks in one piece, straight to where a batch will
 * write them from.  Snapshots that need the same chunks for the same write share one read;
 * the others get what it has brought.
 */
#include "cbw.h"

#include <linux/highmem.h>

/* More is not copied where a read ends, which may be in an interrupt. */
#define SHARE_SECTORS	(SZ_256K >> SECTOR_SHIFT)
/* A write over many fragments is not worth a longer search. */
#define SHARE_SEARCH	32

static sector_t copy_sector(const struct cbw_copy *copy)
{
	return (sector_t)copy->first << copy->snap->shift;
}

static sector_t copy_sectors(const struct cbw_copy *copy)
{
	return cbw_chunk_end(copy->snap, copy->first + copy->nr - 1) - copy_sector(copy);
}

/* Where its data is in the memory of its batch. */
static size_t copy_offset(const struct cbw_copy *copy)
{
	return copy->slot * (size_t)cbw_chunk_bytes(copy->snap);
}

static void copy_bio_init(struct cbw_copy *copy)
{
	bio_init(&copy->bio, copy->origin->bdev, copy->vecs, copy->snap->batch_pages,
		 REQ_OP_READ);
}

/* ---- the end of a read --------------------------------------------------------------- */

static void read_ended(struct cbw_copy *copy)
{
	bio_uninit(&copy->bio);
	cbw_copy_finish(copy);
}

/*
 * A read failed: find out which of its chunks cannot be read.  Only those are lost to
 * the snapshot.
 */
static void copy_retry_work(struct work_struct *work)
{
	struct cbw_copy *copy = container_of(work, struct cbw_copy, work);
	struct cbw_snap *snap = copy->snap;
	size_t chunk_bytes = cbw_chunk_bytes(snap);
	unsigned int i;

	for (i = 0; i < copy->nr; i++) {
		u64 chunk = copy->first + i;
		sector_t sector = (sector_t)chunk << snap->shift;
		size_t len = (cbw_chunk_end(snap, chunk) - sector) << SECTOR_SHIFT;

		bio_uninit(&copy->bio);
		copy_bio_init(copy);
		copy->bio.bi_iter.bi_sector = sector;
		cbw_batch_add_pages(snap, copy->batch, &copy->bio,
				    (copy->slot + i) * chunk_bytes, len);
		if (submit_bio_wait(&copy->bio))
			copy->poison |= 1ULL << i;
	}
	read_ended(copy);
}

static void copy_read_done(void *data)
{
	struct cbw_copy *copy = data;

	if (likely(!copy->bio.bi_status)) {
		read_ended(copy);
		return;
	}
	INIT_WORK(&copy->work, copy_retry_work);
	queue_work(cbw_wait_wq, &copy->work);
}

static void copy_read_end(struct cbw_copy *copy)
{
	if (cbw_hook_defer(CBW_HOOK_COPY_READ, copy_sector(copy), copy_sectors(copy),
			   copy_read_done, copy))
		return;
	copy_read_done(copy);
}

static void share_data(const struct cbw_copy *from, const struct cbw_copy *to)
{
	size_t pos = copy_offset(from), to_pos = copy_offset(to);
	size_t left = copy_sectors(from) << SECTOR_SHIFT;

	while (left) {
		size_t n = min3(left, PAGE_SIZE - offset_in_page(pos),
				PAGE_SIZE - offset_in_page(to_pos));

		memcpy_page(to->batch->pages[to_pos >> PAGE_SHIFT], offset_in_page(to_pos),
			    from->batch->pages[pos >> PAGE_SHIFT], offset_in_page(pos), n);
		pos += n;
		to_pos += n;
		left -= n;
	}
}

static void copy_bio_end(struct bio *bio)
{
	struct cbw_copy *copy = container_of(bio, struct cbw_copy, bio);
	struct cbw_copy *sharer;

	/*
	 * Before the copy itself ends, and the memory of its batch may go.  Whatever became
	 * of its own chunks meanwhile, such as a release, the memory has the data.
	 */
	while (unlikely(sharer = copy->sharers)) {
		copy->sharers = sharer->next;
		sharer->bio.bi_status = bio->bi_status;
		if (!bio->bi_status)
			share_data(copy, sharer);
		copy_read_end(sharer);
	}
	copy_read_end(copy);
}

/* ---- the start ------------------------------------------------------------------------- */

static void copy_submit(struct cbw_copy *copy)
{
	size_t len = copy_sectors(copy) << SECTOR_SHIFT;

	copy->bio.bi_iter.bi_sector = copy_sector(copy);
	copy->bio.bi_end_io = copy_bio_end;
	WARN_ON_ONCE(cbw_batch_add_pages(copy->snap, copy->batch, &copy->bio,
					 copy_offset(copy), len) != len);
	submit_bio_noacct(&copy->bio);
}

static bool same_read(const struct cbw_copy *a, const struct cbw_copy *b)
{
	return copy_sector(a) == copy_sector(b) && copy_sectors(a) == copy_sectors(b) &&
	       a->origin == b->origin;
}

/*
 * Copies for other snapshots that would read the same.  All of them were begun before any
 * was submitted, so the read is as good for each as its own would be.
 */
static void copy_share(struct cbw_copy *copy, struct cbw_copy **list)
{
	sector_t nr = copy_sectors(copy), left = SHARE_SECTORS;
	unsigned int n;

	for (n = 0; *list && n < SHARE_SEARCH && left >= nr; n++) {
		struct cbw_copy *other = *list;

		if (!same_read(copy, other)) {
			list = &other->next;
			continue;
		}
		*list = other->next;
		copy_bio_init(other);
		other->next = copy->sharers;
		copy->sharers = other;
		left -= nr;
	}
}

/*
 * As they were begun: the write waits with the first, which is then the one that does the
 * read and ends last.  So it is not woken for the others one by one.
 */
static void reads_in_order(struct cbw_hold *hold)
{
	struct cbw_copy *copy = hold->reads, *next;

	hold->reads = NULL;
	for (; copy; copy = next) {
		next = copy->next;
		copy->next = hold->reads;
		hold->reads = copy;
	}
}

/**
 * cbw_copies_submit - submit the reads of the copies that were begun
 * @hold: has them
 *
 * Process context, no lock held.  In cbw_map() they sit on current->bio_list until
 * that returns; nothing waits for them there.
 */
void cbw_copies_submit(struct cbw_hold *hold)
{
	struct cbw_copy *copy;

	if (hold->reads && hold->reads->next)
		reads_in_order(hold);
	while ((copy = hold->reads)) {
		hold->reads = copy->next;
		copy_bio_init(copy);
		if (hold->reads)
			copy_share(copy, &hold->reads);
		copy_submit(copy);
	}
}
