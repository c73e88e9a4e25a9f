/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libcbw - talk to dm-cbw: tracked devices, bitmaps, snapshots, sessions
 *
 * Two things are behind it: the control device /dev/cbw-control (its contract is
 * <linux/dm-cbw.h>, whose structs this header uses) and libdevmapper, for the
 * mapped devices themselves.
 *
 * Units:	offsets, lengths and sizes are in bytes, unless a name says otherwise.
 * Results:	functions that return int return 0 or a negative errno value; then
 *		@err, if not NULL, holds one line for people. @err is left alone on
 *		success, out parameters are left alone on failure, unless a
 *		function says otherwise.
 * Names:	bitmap names are bytes, NUL terminated here; texts of errors show
 *		bytes outside printable ASCII as \xHH.
 * Threads:	a session, and a transaction, belong to one thread at a time. The
 *		functions of mapped devices use libdevmapper, which has global
 *		state: one thread of the process at a time.
 * Signals:	no handlers; EINTR is returned where the kernel lets a call be
 *		interrupted.
 * udev:	as libdevmapper: without udevd (or with DM_DISABLE_UDEV set in the
 *		environment) the library makes the nodes in /dev/mapper itself.
 */
#ifndef LIBCBW_H
#define LIBCBW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/dm-cbw.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CBW_CUT_HEX	33	/* text of a cut id, with the NUL */
#define CBW_DM_NAME_MAX	127	/* bytes in the name of a mapped device */

/**
 * struct cbw_error - what went wrong
 * @code: errno value, positive; the negative of what the function returned
 * @msg:  one line for people, without a newline
 */
struct cbw_error {
	int code;
	char msg[512];
};

/* ---- small things ------------------------------------------------------ */

/** cbw_cut_to_text - write a cut id as 32 hex digits; returns @text */
char *cbw_cut_to_text(const struct cbw_cut_id *cut, char text[CBW_CUT_HEX]);

/** cbw_cut_from_text - read 32 hex digits; -EINVAL for anything else */
int cbw_cut_from_text(const char *text, struct cbw_cut_id *cut);

/** cbw_cut_is_none - whether it is all zero */
bool cbw_cut_is_none(const struct cbw_cut_id *cut);

/** cbw_cut_equal - whether the two are the same */
bool cbw_cut_equal(const struct cbw_cut_id *a, const struct cbw_cut_id *b);

/**
 * cbw_escape - bytes outside printable ASCII, space and backslash as \xHH
 * @name: NUL terminated
 * @buf:  for the text, always NUL terminated; cut short when it is too small
 * @len:  its size; 4 * strlen(name) + 1 holds everything
 *
 * Return: @buf.
 */
char *cbw_escape(const char *name, char *buf, size_t len);

/** cbw_name_check - whether a bitmap may be called so; -EINVAL and the text */
int cbw_name_check(const char *name, struct cbw_error *err);

/** cbw_reason_text - enum cbw_reason as in the status, "-" for none */
const char *cbw_reason_text(unsigned int reason);

/** cbw_state_text - enum cbw_snapshot_state as in the status */
const char *cbw_state_text(unsigned int state);

/* ---- sessions ---------------------------------------------------------- */

/**
 * struct cbw_session - an open file of the control device (opaque)
 *
 * When the last descriptor of it is closed, also by the death of the process, the
 * kernel aborts whatever the session began and neither committed nor detached.
 */
struct cbw_session;

/** cbw_session_open - open the control device, check that it speaks our version */
int cbw_session_open(struct cbw_session **session, struct cbw_error *err);

/** cbw_session_close - close it; NULL is fine */
void cbw_session_close(struct cbw_session *session);

/** cbw_session_fd - its descriptor, for poll(); owned by the session */
int cbw_session_fd(const struct cbw_session *session);

/* ---- transactions ------------------------------------------------------ */

/**
 * struct cbw_txn - actions that are to be done at one instant (opaque)
 *
 * The functions that add an action copy what they are given. An error of one of
 * them spoils the transaction: cbw_txn_run() then returns it again, so a caller may
 * look only there.
 */
struct cbw_txn;

/** cbw_txn_new - an empty transaction; NULL: no memory */
struct cbw_txn *cbw_txn_new(void);
void cbw_txn_free(struct cbw_txn *txn);

/** cbw_txn_bitmap_add - @granularity 0: the default; @flags: CBW_ADD_* */
int cbw_txn_bitmap_add(struct cbw_txn *txn, struct cbw_devno dev,
		       const char *name, uint32_t granularity, uint32_t flags,
		       struct cbw_error *err);

/**
 * cbw_txn_bitmap - an action on one bitmap
 * @action: CBW_ACTION_BITMAP_REMOVE, _CLEAR, _ENABLE, _DISABLE or _ROTATE
 */
int cbw_txn_bitmap(struct cbw_txn *txn, enum cbw_action_type action,
		   struct cbw_devno dev, const char *name,
		   struct cbw_error *err);

/**
 * cbw_txn_bitmap_merge - add what another bitmap has recorded until the cut
 * @name: the target, of device @dev
 * @source: the other one, of device @source_dev, which has the same size; any granularity
 *
 * cbw_txn_run() returns when it is done, which is after the last write that was in flight at
 * the cut. EBUSY while either of them is frozen.
 */
int cbw_txn_bitmap_merge(struct cbw_txn *txn, struct cbw_devno dev, const char *name,
			 struct cbw_devno source_dev, const char *source,
			 struct cbw_error *err);

/**
 * cbw_txn_bitmap_copy - make a bitmap like another one
 * @name: the new one, of device @dev; the rest as above
 *
 * It has the granularity, the state and, if that records, the base of its source. A source on
 * another device gives its base only while that is suspended.
 */
int cbw_txn_bitmap_copy(struct cbw_txn *txn, struct cbw_devno dev, const char *name,
			struct cbw_devno source_dev, const char *source,
			struct cbw_error *err);

/** cbw_txn_bitmap_rename - bitmap @name of @dev is called @new_name from the cut on */
int cbw_txn_bitmap_rename(struct cbw_txn *txn, struct cbw_devno dev, const char *name,
			  const char *new_name, struct cbw_error *err);

/** cbw_txn_snapshot_start - the cut of armed snapshot @snapshot */
int cbw_txn_snapshot_start(struct cbw_txn *txn, struct cbw_devno snapshot,
			   struct cbw_error *err);

/**
 * cbw_txn_freeze - freeze the file systems on the devices for the cut
 * @timeout_ms: 1 to CBW_FREEZE_TIMEOUT_MAX; 0: the default
 *
 * cbw_txn_run() gives -ETIMEDOUT when they could not be frozen in time, -EBUSY when one of
 * them was frozen already; then nothing has changed. They are thawed in any case.
 */
int cbw_txn_freeze(struct cbw_txn *txn, uint32_t timeout_ms, struct cbw_error *err);

/**
 * cbw_txn_run - do all of it at one instant, or nothing
 * @cut: its id; may be NULL
 *
 * The error text names the action that failed, its device and bitmap.
 */
int cbw_txn_run(struct cbw_session *session, struct cbw_txn *txn,
		struct cbw_cut_id *cut, struct cbw_error *err);

/* ---- cuts -------------------------------------------------------------- */

/**
 * cbw_commit_cut - @dev: the tracked device, or the snapshot that has the bitmap
 *
 * CBW_COMMIT_ALWAYS: the backup failed, but what was released in the snapshot is safe: only
 * the rest is dirty again, and the next increment goes on top of the unfinished one.
 */
int cbw_commit_cut(struct cbw_session *session, struct cbw_devno dev,
		   const struct cbw_cut_id *cut, enum cbw_commit_mode mode,
		   struct cbw_error *err);

/** cbw_abort_cut - merge what was frozen at @cut back */
int cbw_abort_cut(struct cbw_session *session, struct cbw_devno dev,
		  const struct cbw_cut_id *cut, struct cbw_error *err);

/** cbw_detach_cut - the session gives @cut up; it stays until someone commits or aborts */
int cbw_detach_cut(struct cbw_session *session, const struct cbw_cut_id *cut,
		   struct cbw_error *err);

/**
 * cbw_release - the reader has these ranges of a snapshot
 * @nr: any number; more than CBW_RANGES_MAX go in several calls
 *
 * Offset and length: multiples of the chunk, but the end may be the device's.
 */
int cbw_release(struct cbw_session *session, struct cbw_devno snapshot,
		const struct cbw_cut_id *cut, const struct cbw_range *ranges,
		size_t nr, struct cbw_error *err);

/**
 * cbw_snapshot_get_info - the state of a snapshot
 * @cut: its cut, or NULL for any
 */
int cbw_snapshot_get_info(struct cbw_session *session,
			  struct cbw_devno snapshot,
			  const struct cbw_cut_id *cut,
			  struct cbw_snapshot_info *info,
			  struct cbw_error *err);

/* ---- bitmaps ----------------------------------------------------------- */

/**
 * struct cbw_bitmap - a bitmap in the list
 * @name: NUL terminated, raw bytes
 * @flags: CBW_BITMAP_*
 * @granularity: bytes
 * @dirty_bytes: recording half and frozen half together
 * @base: last committed cut
 * @cut: cut at which it is frozen now, none if it is not
 */
struct cbw_bitmap {
	char name[CBW_NAME_MAX + 1];
	uint32_t flags;
	uint32_t granularity;
	uint64_t dirty_bytes;
	struct cbw_cut_id base;
	struct cbw_cut_id cut;
};

/**
 * cbw_bitmap_list - all bitmaps of a device
 * @list: array; the caller gives it to free()
 * @nr:   its length
 * @device_size: may be NULL
 */
int cbw_bitmap_list(struct cbw_session *session, struct cbw_devno dev,
		    struct cbw_bitmap **list, size_t *nr,
		    uint64_t *device_size, struct cbw_error *err);

/** cbw_bitmap_find - one bitmap; -ENOENT when the device has none of that name */
int cbw_bitmap_find(struct cbw_session *session, struct cbw_devno dev,
		    const char *name, struct cbw_bitmap *bitmap,
		    struct cbw_error *err);

/** cbw_extent_fn - called per dirty extent, in order; not 0 ends the iteration */
typedef int (*cbw_extent_fn)(const struct cbw_extent *extent, void *arg);

/**
 * cbw_bitmap_extents - iterate over the dirty extents of a bitmap
 * @cut:  NULL or none: the recording half; else the cut, for the frozen half
 * @from: where to begin
 *
 * An extent with CBW_EXTENT_DISCARDED was discarded as a whole: what is there does not
 * matter. Waits until the writes that were in flight at the cut have marked. Neighbouring
 * extents with equal flags may come in several pieces.
 * Return: 0, an error, or what @fn returned if that was not 0 (then without a
 * text in @err).
 */
int cbw_bitmap_extents(struct cbw_session *session, struct cbw_devno dev,
		       const char *name, const struct cbw_cut_id *cut,
		       uint64_t from, cbw_extent_fn fn, void *arg,
		       struct cbw_error *err);

/**
 * cbw_bitmap_read - the bits of a bitmap
 * @cut:    NULL or none: the recording half; else the cut, for the frozen half
 * @offset: in: the place on the device of the first bit, a multiple of 64 granules;
 *	    out: where to go on, the device's size when that was all
 * @data:   granule i of them is bit i % 8 of byte i / 8
 * @len:    in: room, a multiple of 8; out: bytes filled in; more than CBW_BITMAP_DATA_MAX is
 *	    not filled in by one call
 * @granularity: bytes; may be NULL
 */
int cbw_bitmap_read(struct cbw_session *session, struct cbw_devno dev, const char *name,
		    const struct cbw_cut_id *cut, uint64_t *offset, void *data,
		    size_t *len, uint32_t *granularity, struct cbw_error *err);

/**
 * cbw_bitmap_load - add bits that cbw_bitmap_read() gave to the recording half
 * @granularity: that of the bits, and of the bitmap
 * @offset: as above
 * @len:    a multiple of 8, at most CBW_BITMAP_DATA_MAX; 0 with a base: just that
 * @base:   NULL, or what the bitmap's base becomes: with the last of several calls. The
 *	    caller knows that nobody has written to the volume since the bits were read
 *
 * -EBUSY while it is frozen; -EINVAL for bits beyond the device's end, for another
 * granularity, or a base for a bitmap that does not record.
 */
int cbw_bitmap_load(struct cbw_session *session, struct cbw_devno dev, const char *name,
		    uint32_t granularity, uint64_t offset, const void *data, size_t len,
		    const struct cbw_cut_id *base, struct cbw_error *err);

/**
 * cbw_mark_dirty - mark what was changed behind the device's back
 * @name: NULL: in all bitmaps of the device
 * @nr:   any number; more than CBW_RANGES_MAX go in several calls
 */
int cbw_mark_dirty(struct cbw_session *session, struct cbw_devno dev, const char *name,
		   const struct cbw_range *ranges, size_t nr, struct cbw_error *err);

/* ---- containers -------------------------------------------------------- */

/*
 * A container keeps the bitmaps of a device on a block device. These are the kernel's four
 * calls; the format of the container around it is the business of their caller
 * (Documentation/formats.rst has that of the tool).
 */

/** cbw_container_attach - deliver the layout; @attach is filled in but for its size */
int cbw_container_attach(struct cbw_session *session, struct cbw_container_attach *attach,
			 struct cbw_error *err);

/**
 * cbw_container_detach - announce that the device is about to lose its table
 * @binding: what tells the volume from now on, at most CBW_BINDING_MAX bytes
 *
 * The table is to be changed next (cbw_dm_detach(), cbw_dm_remove()).
 */
int cbw_container_detach(struct cbw_session *session, struct cbw_devno dev,
			 const void *binding, size_t len, struct cbw_error *err);

/** cbw_container_detach_cancel - take the announcement back */
int cbw_container_detach_cancel(struct cbw_session *session, struct cbw_devno dev,
				struct cbw_error *err);

/**
 * cbw_container_get_info - state of the container of a device; -ENODEV: it has none
 * @checkpoint: write one first
 */
int cbw_container_get_info(struct cbw_session *session, struct cbw_devno dev, bool checkpoint,
			   struct cbw_container_info *info, struct cbw_error *err);

/** cbw_container_grow - more room for bitmaps */
int cbw_container_grow(struct cbw_session *session, struct cbw_devno dev,
		       const struct cbw_place *places, size_t nr, struct cbw_error *err);

/* ---- what happens ------------------------------------------------------ */

/** cbw_stats_get - counts of held writes of a tracked device, since it is one */
int cbw_stats_get(struct cbw_session *session, struct cbw_devno dev,
		  struct cbw_stats *stats, struct cbw_error *err);

/**
 * cbw_event_next - the next event
 * @timeout_ms: how long to wait for it; 0: not, -1: for ever
 *
 * -ETIMEDOUT when there was none; -EINTR when a signal handler ran. For several
 * descriptors poll() cbw_session_fd() for POLLIN and call this with 0. Event types that
 * are not known are to be ignored.
 */
int cbw_event_next(struct cbw_session *session, int timeout_ms, struct cbw_event *event,
		   struct cbw_error *err);

/* ---- mapped devices ---------------------------------------------------- */

/**
 * enum cbw_dm_kind - what a mapped device is to us
 * @CBW_DM_OTHER: none of ours
 * @CBW_DM_TRACKED: has the cbw target
 * @CBW_DM_SNAPSHOT: has the cbw-snapshot target
 * @CBW_DM_HIDDEN: holds the own table of a volume that was attached
 */
enum cbw_dm_kind {
	CBW_DM_OTHER,
	CBW_DM_TRACKED,
	CBW_DM_SNAPSHOT,
	CBW_DM_HIDDEN,
};

/**
 * struct cbw_dm_dev - facts about a mapped device
 * @dev: its number
 * @name: name in /dev/mapper
 * @uuid: dm uuid, may be empty
 * @kind: enum cbw_dm_kind
 * @size: bytes
 * @open_count: who has it open
 * @suspended: whether it is
 * @read_only: whether it is
 * @loaded: a table is loaded that is not live yet
 * @origin: TRACKED: the origin; SNAPSHOT: the source; else 0:0
 * @attached: TRACKED: inserted with cbw_dm_attach() (its origin is HIDDEN)
 * @container: TRACKED: the block device that keeps its bitmaps, or 0:0
 */
struct cbw_dm_dev {
	struct cbw_devno dev;
	char name[CBW_DM_NAME_MAX + 1];
	char uuid[130];
	enum cbw_dm_kind kind;
	uint64_t size;
	int open_count;
	bool suspended;
	bool read_only;
	bool attached;
	bool loaded;
	struct cbw_devno origin;
	struct cbw_devno container;
};

/**
 * cbw_dm_find - look a mapped device up
 * @dev: path of its node or of a link to it, its name in /dev/mapper, or major:minor
 *
 * -ENOTBLK for a node that is no block device, -EINVAL for a block device that
 * is no mapped device, -ENXIO or -ENOENT for none.
 */
int cbw_dm_find(const char *dev, struct cbw_dm_dev *info,
		struct cbw_error *err);

/** cbw_dm_list - all mapped devices; @list is for free() */
int cbw_dm_list(struct cbw_dm_dev **list, size_t *nr, struct cbw_error *err);

/** cbw_dm_status - parameters of the first target's status line; @text is for free() */
int cbw_dm_status(const char *name, char **text, struct cbw_error *err);

/**
 * cbw_dm_open - open a mapped device by number
 * @flags: of open(2); O_CLOEXEC is added
 *
 * Makes the node when there is none. Returns the descriptor, checked to be that device's.
 */
int cbw_dm_open(struct cbw_devno dev, int flags, struct cbw_error *err);

/** cbw_dm_create - make @name, the plain stacked tracked device on block device @origin */
int cbw_dm_create(const char *name, const char *origin, struct cbw_dm_dev *info,
		  struct cbw_error *err);

/**
 * cbw_dm_step - called with the device that has the table loaded, and not live yet
 *
 * Makes and loads the bitmaps, and calls cbw_container_attach(). Not 0, with @err filled in:
 * all is taken back.
 */
typedef int (*cbw_dm_step)(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err);

/** cbw_dm_create_container - as cbw_dm_create(), with a container (a block device) */
int cbw_dm_create_container(const char *name, const char *origin,
			    struct cbw_devno container, cbw_dm_step step, void *arg,
			    struct cbw_dm_dev *info, struct cbw_error *err);

/** cbw_dm_attach_container - as cbw_dm_attach(), with a container (a block device) */
int cbw_dm_attach_container(const char *dev, struct cbw_devno container, cbw_dm_step step,
			    void *arg, struct cbw_dm_dev *info, struct cbw_error *err);

/**
 * cbw_dm_attach_forget - take back what an attach that died has loaded into a mapped device
 *
 * That has the container open. -EBUSY if somebody else is changing the device's table.
 */
int cbw_dm_attach_forget(const char *dev, struct cbw_error *err);

/**
 * cbw_dm_remove - remove a device that cbw_dm_create() made
 *
 * -EBUSY while it is open or has snapshots, -EINVAL when it was attached, or is
 * no tracked device.
 */
int cbw_dm_remove(const char *name, struct cbw_error *err);

/**
 * cbw_dm_attach - insert the cbw target under a live mapped device
 * @dev: as cbw_dm_find()
 *
 * The device's own table moves to a hidden device, NAME-cbw-origin; the change is
 * one suspend and resume inside the kernel, so nothing is left half done when the
 * caller dies. The file system on it is not frozen, and may be mounted and under load.
 */
int cbw_dm_attach(const char *dev, struct cbw_dm_dev *info,
		  struct cbw_error *err);

/**
 * cbw_dm_detach - put the device's own table back, live
 * @force: also while snapshots live (they fail with source-gone)
 *
 * Its bitmaps end, but those in a container, if cbw_container_detach() was called before.
 * -EBUSY while a snapshot lives.
 */
int cbw_dm_detach(const char *dev, bool force, struct cbw_error *err);

/**
 * struct cbw_snapshot_opts - what cbw_snapshot_create() shall make
 * @name: name in /dev/mapper, NULL: one is chosen
 * @source: the tracked device
 * @store: block device
 * @chunk_size: bytes, 0 = the default
 * @armed: the cut is made by a transaction, not now
 * @bitmap: NULL, or the bitmap to rotate and to be limited to
 * @own: it is removed by cbw_snapshot_remove_stale() once this process is dead
 * @buffer_kib, @timeout_ms: <0: the default
 * @break_guest_write: on_cbw_error break_guest_write
 */
struct cbw_snapshot_opts {
	const char *name;
	struct cbw_devno source;
	struct cbw_devno store;
	uint32_t chunk_size;
	bool armed;
	bool own;
	bool break_guest_write;
	const char *bitmap;
	int64_t buffer_kib;
	int64_t timeout_ms;
};

/** cbw_snapshot_create - make a snapshot device, read-only, left alone by udev's rules */
int cbw_snapshot_create(const struct cbw_snapshot_opts *opts,
			struct cbw_dm_dev *info, struct cbw_error *err);

/**
 * cbw_snapshot_grow - let a snapshot use the size that its store has now
 *
 * For a store that has become larger (lvextend; a file and LOOP_SET_CAPACITY). The change is
 * one ioctl: whoever dies here leaves the snapshot as it was or grown. Reads of the snapshot
 * wait for it, writes to its source do not.
 */
int cbw_snapshot_grow(const char *name, struct cbw_error *err);

/** cbw_snapshot_remove - remove it; a bitmap it rotated and that was not committed is aborted */
int cbw_snapshot_remove(const char *name, struct cbw_error *err);

/**
 * cbw_snapshot_remove_stale - remove the snapshots whose owner is dead
 * @removed: how many; may be NULL
 *
 * Goes on after an error and returns the first.
 */
int cbw_snapshot_remove_stale(unsigned int *removed, struct cbw_error *err);

#ifdef __cplusplus
}
#endif

#endif /* LIBCBW_H */
