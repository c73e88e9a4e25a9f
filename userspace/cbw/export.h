/* SPDX-License-Identifier: GPL-2.0-or-later */
/* export: points in time as sources of the NBD server */
#ifndef CBW_EXPORT_H
#define CBW_EXPORT_H

#include "grow.h"
#include "libcbw.h"
#include "nbd.h"

/* ---- planes (export-plane.c) -------------------------------------------- */

/**
 * struct plane - one bit for each 2^@shift bytes of a volume
 *
 * Bits are set, never cleared, by any thread.
 */
struct plane {
	uint64_t *word;
	uint64_t bits;
	unsigned int shift;
};

int plane_init(struct plane *p, uint64_t size, uint64_t unit, struct cbw_error *err);
void plane_free(struct plane *p);
/* Whole units that the range covers; the volume's end ends the last one. */
void plane_set_inside(struct plane *p, uint64_t offset, uint64_t length, uint64_t size);
/* Every unit that the range touches. */
void plane_set_touched(struct plane *p, uint64_t offset, uint64_t length);
/* The bit at @offset, and for how many bytes it is the same: 1 to @length. */
bool plane_run(const struct plane *p, uint64_t offset, uint64_t length, uint64_t *run);

/* ---- a snapshot (export-point.c) ---------------------------------------- */

/**
 * struct point - a snapshot that is exported
 * @source: for the server
 * @fd: O_DIRECT: the page cache would know neither what was released nor why a read failed
 * @limited: only what was dirty is protected
 * @lock: of @session
 * @dirty, @gone: what the frozen bitmap says, and what of it was discarded
 * @kept: what is protected, if @limited
 * @released: what the reader has given back, if it may
 * @served: what has been sent, if that counts
 */
struct point {
	struct nbd_source source;
	struct cbw_session *session;
	struct cbw_dm_dev snap;
	struct cbw_cut_id cut;
	int fd;
	uint32_t chunk;
	bool limited;
	bool has_bitmap;
	struct cbw_bitmap bitmap;
	pthread_mutex_t lock;
	struct plane dirty, gone, kept, released, served;
};

/**
 * point_open - make a source of a snapshot
 * @p: @session is there; @snap: the snapshot
 * @bitmap: that was frozen at its cut; NULL: the one, if there is one
 * @release: trim releases; @count: note what was sent
 * @resume: of a snapshot of which something was released too
 */
int point_open(struct point *p, const char *bitmap, bool release, bool count, bool resume,
	       struct cbw_error *err);
void point_close(struct point *p);
/* -EIO with the reason if the snapshot failed */
int point_alive(struct point *p, struct cbw_error *err);
/* Bytes that are dirty, or @all, and were neither sent nor released. */
uint64_t point_unread(const struct point *p, bool all);

/* ---- an image of a chain (export-chain.c) -------------------------------- */

struct qcow2_image;

struct chain_source {
	struct nbd_source source;
	struct qcow2_image *img;
	bool whole;
	char *bitmap;
};

/* Exit statuses; what is wrong was said. @id, @bitmap: NULL: not given */
int chain_source_open(struct chain_source *c, const char *path, const char *id,
		      const char *bitmap);
void chain_source_close(struct chain_source *c);

/* ---- a snapshot for the time of an export (export-dev.c) ------------------ */

/**
 * struct export_dev - a tracked device whose snapshot is made for the export
 * @bitmap: to rotate at the cut; NULL: none
 * @only_changed: protect what it says is dirty, no more
 * @json: a store that grows is told in JSON
 * @grow, @grower: who makes a store of ours larger
 */
struct export_dev {
	struct cbw_dm_dev dev;
	struct cbw_dm_dev snap;
	const char *bitmap;
	bool only_changed;
	bool freeze;
	bool force;
	bool json;
	uint64_t chunk;
	struct cbw_cut_id cut;
	struct grow grow;
	struct grower grower;
	struct store store;
	bool have_store, have_snap, have_cut;
};

/* @store: NULL or "auto": one of ours */
int export_dev_cut(struct export_dev *d, const char *store, struct cbw_session *session,
		   struct cbw_error *err);
/* The cut becomes the bitmap's base. */
int export_dev_commit(struct export_dev *d, struct cbw_session *session, struct cbw_error *err);
/* Removes the snapshot; what was not committed is as if it had not been. */
void export_dev_end(struct export_dev *d, struct cbw_session *session);

#endif
