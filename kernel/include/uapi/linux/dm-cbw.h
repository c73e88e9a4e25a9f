/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * dm-cbw: copy-before-write snapshots and named dirty bitmaps for any block
 * device.  This is the contract of the control device /dev/cbw-control.
 */
#ifndef _UAPI_LINUX_DM_CBW_H
#define _UAPI_LINUX_DM_CBW_H

#include <linux/ioctl.h>
#include <linux/types.h>

/**
 * DOC: General ioctl format
 *
 * The calls follow the conventions of iommufd:
 *
 *  - Numbers are made with _IO(), so they do not depend on the size of the
 *    struct.  The first member of each struct is ``__u32 size``, which the
 *    caller sets to the size of the struct it was compiled with.  A smaller
 *    struct than the kernel's is read as if the missing tail were zero; a
 *    larger one is accepted while the unknown tail is zero.
 *  - Offsets, lengths and sizes are in bytes, 64 bit.
 *  - Pointers are passed as __u64.
 *  - Flags and reserved members have to be zero where nothing is defined.
 *
 * All calls need CAP_SYS_ADMIN at open of the device.  Errors that any call
 * can return:
 *
 *  - ENOTTY: the call is not known.
 *  - E2BIG: the struct has a tail that is not known and not zero.
 *  - EINVAL: the struct is too short, a reserved member or an unknown flag is
 *    not zero, or an argument is outside its range.
 *  - EOPNOTSUPP: the argument is known but not supported by this module.
 *  - EFAULT: a pointer is bad.
 *  - ENODEV: there is no device of the kind the call asks for with this number.
 *  - ESTALE: the device is there but the cut id is not, or no more, one of
 *    this device.  A device number is reused, a cut id never is.
 *  - ENOENT: no bitmap of that name.
 *
 * A session is an open file description of the control device.  What a
 * session began with CBW_TRANSACTION it owns: when its last file descriptor
 * is closed, whatever was neither committed nor handed over with
 * CBW_SESSION_DETACH is aborted, in the background, and the snapshots it started
 * and did not hand over protect nothing any more (they are drained).
 */
#define CBW_TYPE	0xCB

enum {
	CBW_CMD_BASE = 0x80,
	CBW_CMD_INFO = CBW_CMD_BASE,
	CBW_CMD_TRANSACTION = 0x81,
	CBW_CMD_COMMIT = 0x82,
	CBW_CMD_ABORT = 0x83,
	CBW_CMD_SESSION_DETACH = 0x84,
	CBW_CMD_RELEASE = 0x85,
	CBW_CMD_SNAPSHOT_INFO = 0x86,
	CBW_CMD_BITMAP_LIST = 0x87,
	CBW_CMD_BITMAP_EXTENTS = 0x88,
	CBW_CMD_BITMAP_READ = 0x89,
	CBW_CMD_BITMAP_LOAD = 0x8a,
	CBW_CMD_MARK_DIRTY = 0x8b,
	CBW_CMD_STATS = 0x8c,
	CBW_CMD_CONTAINER_ATTACH = 0x8d,
	CBW_CMD_CONTAINER_DETACH = 0x8e,
	CBW_CMD_CONTAINER_INFO = 0x8f,
	CBW_CMD_CONTAINER_GROW = 0x90,
};

/* Longest name of a bitmap, in bytes; any bytes but NUL and '/'. */
#define CBW_NAME_MAX		1023
/* Granularity of a bitmap in bytes: a power of two in this range. */
#define CBW_GRANULARITY_MIN	512u
#define CBW_GRANULARITY_MAX	(2u << 30)
#define CBW_GRANULARITY_DEFAULT	(64u << 10)
/* Actions in one transaction. */
#define CBW_ACTIONS_MAX		4096
/* Devices' limits. */
#define CBW_BITMAPS_MAX		128
#define CBW_SNAPSHOTS_MAX	32

/**
 * struct cbw_devno - a block device
 * @major: major number
 * @minor: minor number
 */
struct cbw_devno {
	__u32 major;
	__u32 minor;
};

/**
 * struct cbw_cut_id - name of a cut
 * @b: 16 random bytes; all zero means "none" (as a bitmap's base) or "any"
 *     (where a call says that it takes it)
 *
 * A cut is a point in time on one or more devices.
 */
struct cbw_cut_id {
	__u8 b[16];
};

/**
 * struct cbw_info - ioctl(CBW_INFO)
 * @size: sizeof(struct cbw_info)
 * @flags: must be 0
 * @out_version: version of the module's interface, 1
 * @out_reserved: 0
 * @out_features: 0, for features that are optional later
 *
 * Says that this is dm-cbw, and which.
 */
struct cbw_info {
	__u32 size;
	__u32 flags;
	__u32 out_version;
	__u32 out_reserved;
	__aligned_u64 out_features;
};
#define CBW_INFO _IO(CBW_TYPE, CBW_CMD_INFO)

/**
 * enum cbw_action_type - what an action of a transaction does
 * @CBW_ACTION_BITMAP_ADD: make bitmap @name, recording unless
 *	CBW_ADD_DISABLED is set.  EEXIST when there is one; EINVAL for a bad name
 *	or granularity; ENOSPC when the device has CBW_BITMAPS_MAX bitmaps;
 *	ENOMEM when there is no memory, or the bitmaps' limit is reached.
 * @CBW_ACTION_BITMAP_REMOVE: remove bitmap @name.  EBUSY while it is frozen.
 * @CBW_ACTION_BITMAP_CLEAR: forget what it recorded, and its base: no increment can
 *	be made from it before the next commit.  EBUSY as above.
 * @CBW_ACTION_BITMAP_ENABLE: record from the cut on.  One that did not record loses its
 *	base, as above.  EBUSY as above.
 * @CBW_ACTION_BITMAP_DISABLE: do not record from the cut on, and forget the base, as
 *	above.  EBUSY as above.
 * @CBW_ACTION_BITMAP_ROTATE: freeze what was recorded until the cut and go on
 *	recording into an empty bitmap.  The caller's session owns the frozen
 *	half until CBW_COMMIT or CBW_ABORT.  EBUSY as above.  May name a bitmap
 *	that an earlier action of the same transaction adds.
 * @CBW_ACTION_SNAPSHOT_START: the cut of the armed snapshot @dev.  When the snapshot
 *	has the feature ``bitmap``, this rotates that bitmap too, and a
 *	BITMAP_ROTATE of the same bitmap in the same transaction is EINVAL.
 *	EBUSY when it was started before.
 * @CBW_ACTION_BITMAP_MERGE: add what @name2 of @dev2 has recorded until the cut to
 *	bitmap @name.  The two may have any granularities: a granule becomes dirty when
 *	any part of it is dirty in the source.  Neither base changes.  Where @dev2 is
 *	another device, what is in flight there may be missing: suspend it first if that
 *	matters.  EINVAL when
 *	the devices have different sizes; EBUSY while either of the two is frozen.
 * @CBW_ACTION_BITMAP_COPY: make bitmap @name with the granularity, the state and the
 *	content that @name2 of @dev2 has at the cut.  It has the source's base, too, if it
 *	records and, where @dev2 is another device, that is suspended: a write that is in
 *	flight there would be missing.  Errors as for ADD and MERGE.
 * @CBW_ACTION_BITMAP_RENAME: call bitmap @name @name2 from the cut on.  EEXIST when there
 *	is one of that name; EBUSY while it is frozen.
 */
enum cbw_action_type {
	CBW_ACTION_BITMAP_ADD = 1,
	CBW_ACTION_BITMAP_REMOVE = 2,
	CBW_ACTION_BITMAP_CLEAR = 3,
	CBW_ACTION_BITMAP_ENABLE = 4,
	CBW_ACTION_BITMAP_DISABLE = 5,
	CBW_ACTION_BITMAP_ROTATE = 6,
	CBW_ACTION_SNAPSHOT_START = 7,
	CBW_ACTION_BITMAP_MERGE = 8,
	CBW_ACTION_BITMAP_COPY = 9,
	CBW_ACTION_BITMAP_RENAME = 10,
};

/* struct cbw_action.flags for CBW_ACTION_BITMAP_ADD */
#define CBW_ADD_DISABLED	(1u << 0)	/* do not record yet */
#define CBW_ADD_TRANSIENT	(1u << 1)	/* never persist it */

/**
 * struct cbw_action - one action of a transaction
 * @type: enum cbw_action_type
 * @flags: flags of that type, else 0
 * @dev: the device with the cbw target; for SNAPSHOT_START the snapshot's device
 * @name: pointer to the bitmap's name, not NUL terminated; 0 for SNAPSHOT_START
 * @name_len: its length in bytes, 1 to CBW_NAME_MAX; 0 for SNAPSHOT_START
 * @granularity: for BITMAP_ADD: bytes, 0 for the default; else 0
 * @name2: for BITMAP_MERGE and BITMAP_COPY: pointer to the name of the source; for
 *	BITMAP_RENAME: to the new name; else 0
 * @dev2: for BITMAP_MERGE and BITMAP_COPY: the source's device; all zero: @dev
 * @name2_len: length of @name2 in bytes, as @name_len; else 0
 * @reserved: must be 0
 */
struct cbw_action {
	__u32 type;
	__u32 flags;
	struct cbw_devno dev;
	__aligned_u64 name;
	__u32 name_len;
	__u32 granularity;
	__aligned_u64 name2;
	struct cbw_devno dev2;
	__u32 name2_len;
	__u32 reserved;
};

/* struct cbw_transaction.flags */
#define CBW_TXN_FREEZE		(1u << 0)	/* freeze the file systems on top */

/* struct cbw_transaction.freeze_timeout_ms, milliseconds */
#define CBW_FREEZE_TIMEOUT_DEFAULT	10000
#define CBW_FREEZE_TIMEOUT_MAX		600000
/* Devices in a transaction with CBW_TXN_FREEZE. */
#define CBW_FREEZE_MAX			256

/**
 * struct cbw_transaction - ioctl(CBW_TRANSACTION)
 * @size: sizeof(struct cbw_transaction)
 * @flags: CBW_TXN_*
 * @nr_actions: 1 to CBW_ACTIONS_MAX
 * @action_size: sizeof(struct cbw_action)
 * @actions: pointer to the array of actions
 * @out_failed: after an error, which action failed (0 for the first);
 *	@nr_actions when it was none of them
 * @freeze_timeout_ms: with CBW_TXN_FREEZE: until the cut is made, 1 to
 *	CBW_FREEZE_TIMEOUT_MAX, or 0: CBW_FREEZE_TIMEOUT_DEFAULT; else 0
 * @out_cut: the id of the cut
 *
 * Does all actions at one instant on all devices, or none: a write that was
 * acknowledged before another one was issued is never missing from a cut that
 * has the other, on whatever devices of the transaction the two were.  Writes
 * that are in flight at the cut may be on either side of it.  Actions on one
 * device are done in their order: what one of them makes or renames the next ones may
 * name.
 *
 * With CBW_TXN_FREEZE the file systems that are mounted directly from the devices (not from
 * a partition, or another device on top, and not from those that are but the source of a
 * merge or copy) are frozen for the cut: what they have accepted is
 * written, and they need no recovery in a snapshot.  That is done in the order in which the
 * actions name the devices: one in a file of another one comes first.  E2BIG: more than
 * CBW_FREEZE_MAX devices.  ETIMEDOUT: that took longer than
 * @freeze_timeout_ms; nothing has changed, and what is frozen is thawed at that time; one
 * whose writeback hangs when that goes on.  EBUSY with @out_failed == @nr_actions: one of
 * them is frozen already (newer kernels freeze it once more).  They are thawed also when
 * the caller is killed, and before it waits for anything.
 *
 * Waits (killable) for an abort or a merge that is under way on a bitmap it names.  What
 * it merges is there when it returns: that takes until the writes that are in flight at
 * the cut have ended, since they may still mark a source.  Killed meanwhile it
 * returns EINTR, and the merge goes on (@out_failed is @nr_actions then); until it has
 * ended its target is busy.
 */
struct cbw_transaction {
	__u32 size;
	__u32 flags;
	__u32 nr_actions;
	__u32 action_size;
	__aligned_u64 actions;
	__u32 out_failed;
	__u32 freeze_timeout_ms;
	struct cbw_cut_id out_cut;
};
#define CBW_TRANSACTION _IO(CBW_TYPE, CBW_CMD_TRANSACTION)

/**
 * enum cbw_commit_mode - what a commit does with the frozen bitmap
 * @CBW_COMMIT_ON_SUCCESS: drop the frozen half; the cut becomes the bitmap's base
 * @CBW_COMMIT_NEVER: merge the frozen half back, the base stays, as CBW_ABORT
 * @CBW_COMMIT_ALWAYS: the backup failed, but what the snapshot of the cut has released is
 *	safe in its target: merge back only the granules any chunk of which was not released;
 *	the cut becomes the bitmap's base.  The next increment is made on top of the
 *	unfinished one.  Nothing counts as released when the cut has no snapshot, or when
 *	@dev is the source and it has several; nor in a snapshot with ``read_once``, where
 *	what was read is released wherever it went, nor for another bitmap than the one
 *	that a snapshot is limited to.
 */
enum cbw_commit_mode {
	CBW_COMMIT_ON_SUCCESS = 0,
	CBW_COMMIT_NEVER = 1,
	CBW_COMMIT_ALWAYS = 2,
};

/**
 * struct cbw_commit - ioctl(CBW_COMMIT)
 * @size: sizeof(struct cbw_commit)
 * @flags: must be 0
 * @dev: the device with the cbw target, or a snapshot's device
 * @cut: the cut to commit
 * @mode: enum cbw_commit_mode
 * @reserved: must be 0
 *
 * Commits every bitmap of the device that was rotated at the cut (given a
 * snapshot: its bitmap).  Committing a cut that is committed already is a success as long
 * as a bitmap has it as its base; one that did not record at the cut, or was cleared,
 * disabled or committed anew since, has not, and ESTALE says so.
 * EBUSY: the cut belongs to another session.  ESTALE: not a cut of this
 * device, or aborted, or as above.
 *
 * CBW_COMMIT_NEVER and CBW_COMMIT_ALWAYS wait (killable) until what they merge back is
 * there.  Killed meanwhile they return EINTR, and the merge goes on.
 */
struct cbw_commit {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
	__u32 mode;
	__u32 reserved;
};
#define CBW_COMMIT _IO(CBW_TYPE, CBW_CMD_COMMIT)

/**
 * struct cbw_abort - ioctl(CBW_ABORT)
 * @size: sizeof(struct cbw_abort)
 * @flags: must be 0
 * @dev: the device with the cbw target, or a snapshot's device
 * @cut: the cut to abort
 *
 * Merges every bitmap frozen at the cut back into its recording half; the base
 * stays.  Returns when that is done.  Allowed whoever owns the cut.  ESTALE: not a
 * cut of this device that could still be aborted.
 */
struct cbw_abort {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
};
#define CBW_ABORT _IO(CBW_TYPE, CBW_CMD_ABORT)

/**
 * struct cbw_session_detach - ioctl(CBW_SESSION_DETACH)
 * @size: sizeof(struct cbw_session_detach)
 * @flags: must be 0
 * @cut: a cut this session made
 *
 * The session gives up the cut, on all devices; it stays frozen after close
 * and whoever names its id may commit or abort it.  ESTALE: the session has no such cut.
 */
struct cbw_session_detach {
	__u32 size;
	__u32 flags;
	struct cbw_cut_id cut;
};
#define CBW_SESSION_DETACH _IO(CBW_TYPE, CBW_CMD_SESSION_DETACH)

/**
 * struct cbw_range - a range of a device
 * @offset: in bytes
 * @length: in bytes
 */
struct cbw_range {
	__aligned_u64 offset;
	__aligned_u64 length;
};

/* Ranges in one CBW_RELEASE. */
#define CBW_RANGES_MAX		65536

/**
 * struct cbw_release - ioctl(CBW_RELEASE)
 * @size: sizeof(struct cbw_release)
 * @flags: must be 0
 * @dev: the snapshot's device
 * @cut: its cut
 * @nr_ranges: 1 to CBW_RANGES_MAX
 * @reserved: must be 0
 * @ranges: pointer to an array of struct cbw_range
 *
 * The reader has these ranges: they need not be preserved any longer, their space
 * in the store is free, copies of them in flight are cancelled, and reading them is
 * ENODATA.  Offset and length have to be multiples of the chunk, but a range may end at
 * the device's end; EINVAL else, and then nothing was released.  Releasing
 * twice is a success.
 */
struct cbw_release {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
	__u32 nr_ranges;
	__u32 reserved;
	__aligned_u64 ranges;
};
#define CBW_RELEASE _IO(CBW_TYPE, CBW_CMD_RELEASE)

/**
 * enum cbw_snapshot_state - the state of a snapshot
 * @CBW_SNAPSHOT_ARMED: no cut was made yet, reads give EIO
 * @CBW_SNAPSHOT_ACTIVE: protects
 * @CBW_SNAPSHOT_DRAINED: nothing is needed any more; it still reads what it preserved
 * @CBW_SNAPSHOT_FAILED: lost, all reads give EIO; see the reason
 */
enum cbw_snapshot_state {
	CBW_SNAPSHOT_ARMED = 0,
	CBW_SNAPSHOT_ACTIVE = 1,
	CBW_SNAPSHOT_DRAINED = 2,
	CBW_SNAPSHOT_FAILED = 3,
};

/**
 * enum cbw_reason - why a snapshot failed
 * @CBW_REASON_NONE: it did not
 * @CBW_REASON_STORE_FULL: the store has no room
 * @CBW_REASON_STORE_IO: the store returned an error
 * @CBW_REASON_ORIGIN_IO: not in this version: what cannot be read is lost by
 *	itself, see &struct cbw_snapshot_info.out_poisoned
 * @CBW_REASON_TIMEOUT: a guest write would have been held longer than cbw_timeout_ms
 * @CBW_REASON_MAP_LIMIT: no memory for the map of chunks
 * @CBW_REASON_SOURCE_GONE: the source was removed under the snapshot
 * @CBW_REASON_SOURCE_RESIZED: the source was made smaller: what was not preserved behind
 *	its new end may be gone
 */
enum cbw_reason {
	CBW_REASON_NONE = 0,
	CBW_REASON_STORE_FULL = 1,
	CBW_REASON_STORE_IO = 2,
	CBW_REASON_ORIGIN_IO = 3,
	CBW_REASON_TIMEOUT = 4,
	CBW_REASON_MAP_LIMIT = 5,
	CBW_REASON_SOURCE_GONE = 6,
	CBW_REASON_SOURCE_RESIZED = 7,
};

/**
 * struct cbw_snapshot_info - ioctl(CBW_SNAPSHOT_INFO)
 * @size: sizeof(struct cbw_snapshot_info)
 * @flags: must be 0
 * @dev: the snapshot's device
 * @cut: in: its cut, or all zero for any; out: its cut, all zero while it is armed
 * @out_source: the device with the cbw target
 * @out_state: enum cbw_snapshot_state
 * @out_reason: enum cbw_reason
 * @out_chunk_size: bytes
 * @out_reserved: 0
 * @out_device_size: size of the snapshot in bytes
 * @out_store_used: chunks now in the store
 * @out_store_chunks: capacity of the store in chunks
 * @out_needed: chunks that are still needed
 * @out_released: chunks released
 * @out_copied: chunks copied so far
 * @out_held: guest writes that are held now
 * @out_max_hold_us: longest time a guest write was held, microseconds
 * @out_discards_deferred: guest discards that were not passed down because
 *	the snapshot needed the chunks, in bytes
 * @out_poisoned: chunks whose old content could not be read from the origin
 */
struct cbw_snapshot_info {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
	struct cbw_devno out_source;
	__u32 out_state;
	__u32 out_reason;
	__u32 out_chunk_size;
	__u32 out_reserved;
	__aligned_u64 out_device_size;
	__aligned_u64 out_store_used;
	__aligned_u64 out_store_chunks;
	__aligned_u64 out_needed;
	__aligned_u64 out_released;
	__aligned_u64 out_copied;
	__aligned_u64 out_held;
	__aligned_u64 out_max_hold_us;
	__aligned_u64 out_discards_deferred;
	__aligned_u64 out_poisoned;
};
#define CBW_SNAPSHOT_INFO _IO(CBW_TYPE, CBW_CMD_SNAPSHOT_INFO)

/* struct cbw_bitmap_entry.flags */
#define CBW_BITMAP_ENABLED	(1u << 0)	/* records */
#define CBW_BITMAP_BUSY		(1u << 1)	/* frozen, or an abort or a merge is under way */
#define CBW_BITMAP_PERSISTENT	(1u << 2)
#define CBW_BITMAP_INCONSISTENT	(1u << 3)

/**
 * struct cbw_bitmap_entry - a bitmap in the list
 * @entry_size: bytes from this entry to the next, a multiple of 8
 * @flags: CBW_BITMAP_*
 * @granularity: bytes
 * @name_len: length of @name in bytes
 * @dirty_bytes: dirty granules times granularity, of the recording half and, while
 *	there is one, the frozen half together; the last granule counts to the device's end
 * @base: id of the last committed cut: the bitmap has all changes since then; all
 *	zero if there is none, or if it was cleared or did not record since
 * @cut: id of the cut at which it was frozen, all zero if it is not frozen
 * @name: the name, not NUL terminated, zero padded
 */
struct cbw_bitmap_entry {
	__u32 entry_size;
	__u32 flags;
	__u32 granularity;
	__u32 name_len;
	__aligned_u64 dirty_bytes;
	struct cbw_cut_id base;
	struct cbw_cut_id cut;
	__u8 name[];
};

/**
 * struct cbw_bitmap_list - ioctl(CBW_BITMAP_LIST)
 * @size: sizeof(struct cbw_bitmap_list)
 * @flags: must be 0
 * @dev: the device with the cbw target
 * @buf_len: in: size of the buffer in bytes; out: the size that is needed
 * @out_nr: number of bitmaps
 * @buf: pointer to the buffer for struct cbw_bitmap_entry
 * @out_device_size: size of the device in bytes
 *
 * EMSGSIZE: the buffer is too small; @buf_len says what is needed now.
 */
struct cbw_bitmap_list {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	__u32 buf_len;
	__u32 out_nr;
	__aligned_u64 buf;
	__aligned_u64 out_device_size;
};
#define CBW_BITMAP_LIST _IO(CBW_TYPE, CBW_CMD_BITMAP_LIST)

/*
 * struct cbw_extent.flags.  DISCARDED comes with DIRTY: the last that happened to each of
 * these granules was a discard of all of it, so that what is there does not matter.  Who
 * does not care for that copies them like the others.
 */
#define CBW_EXTENT_DIRTY	(1u << 0)
#define CBW_EXTENT_DISCARDED	(1u << 1)

/**
 * struct cbw_extent - a run of granules with the same state
 * @offset: bytes, a multiple of the granularity
 * @length: bytes; the last one is cut at the device's end
 * @flags: CBW_EXTENT_*
 * @reserved: 0
 */
struct cbw_extent {
	__aligned_u64 offset;
	__aligned_u64 length;
	__u32 flags;
	__u32 reserved;
};

/* Extents in one CBW_BITMAP_EXTENTS. */
#define CBW_EXTENTS_MAX		65536

/**
 * struct cbw_bitmap_extents - ioctl(CBW_BITMAP_EXTENTS)
 * @size: sizeof(struct cbw_bitmap_extents)
 * @flags: must be 0
 * @dev: the device with the cbw target
 * @cut: all zero for the recording half; else the cut at which the bitmap was frozen,
 *	for the frozen half
 * @name: pointer to the bitmap's name
 * @name_len: its length in bytes
 * @nr_extents: in: room in the array, 1 to CBW_EXTENTS_MAX; out: how many were filled in
 * @extents: pointer to an array of struct cbw_extent
 * @offset: in: where to begin, bytes; out: where to go on; the device's size when that was
 *	all (for the frozen half the size it had at the cut)
 * @out_granularity: bytes
 * @reserved: must be 0
 *
 * Lists the dirty extents, in order; what is not listed is clean.  An extent ends where it
 * changes whether its granules are discarded.  The frozen half does
 * not change any more: the call waits (killable) until the last write that was in
 * flight at the cut and could still mark it has ended.  For either half it waits for what
 * is being merged into it.
 */
struct cbw_bitmap_extents {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
	__aligned_u64 name;
	__u32 name_len;
	__u32 nr_extents;
	__aligned_u64 extents;
	__aligned_u64 offset;
	__u32 out_granularity;
	__u32 reserved;
};
#define CBW_BITMAP_EXTENTS _IO(CBW_TYPE, CBW_CMD_BITMAP_EXTENTS)

/* Bytes of a bitmap in one CBW_BITMAP_READ or CBW_BITMAP_LOAD. */
#define CBW_BITMAP_DATA_MAX	(1u << 20)

/**
 * struct cbw_bitmap_read - ioctl(CBW_BITMAP_READ)
 * @size: sizeof(struct cbw_bitmap_read)
 * @flags: must be 0
 * @dev: the device with the cbw target
 * @cut: as in &struct cbw_bitmap_extents
 * @name: pointer to the bitmap's name
 * @name_len: its length in bytes
 * @data_len: in: bytes of room, a multiple of 8 from 8 to CBW_BITMAP_DATA_MAX; out: bytes
 *	filled in
 * @data: pointer to the buffer
 * @offset: in: the place on the device in bytes, of the first bit: a multiple of 64
 *	granules, at most the device's size (for the frozen half the size it had at the
 *	cut); out: where to go on, that size when that was all
 * @out_granularity: bytes
 * @reserved: must be 0
 *
 * Reads the bits as they are: granule i of those from @offset on is bit i % 8 of byte
 * i / 8, as in a qcow2 image.  A granule at the device's end has a bit, too; what fills the
 * last 8 bytes after it is 0.  Waits as CBW_BITMAP_EXTENTS does.
 */
struct cbw_bitmap_read {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
	__aligned_u64 name;
	__u32 name_len;
	__u32 data_len;
	__aligned_u64 data;
	__aligned_u64 offset;
	__u32 out_granularity;
	__u32 reserved;
};
#define CBW_BITMAP_READ _IO(CBW_TYPE, CBW_CMD_BITMAP_READ)

/* struct cbw_bitmap_load.flags */
#define CBW_LOAD_BASE		(1u << 0)	/* @base becomes the bitmap's base */

/**
 * struct cbw_bitmap_load - ioctl(CBW_BITMAP_LOAD)
 * @size: sizeof(struct cbw_bitmap_load)
 * @flags: CBW_LOAD_*
 * @dev: the device with the cbw target
 * @base: with CBW_LOAD_BASE: what the bitmap's base shall be; else all zero
 * @name: pointer to the bitmap's name
 * @name_len: its length in bytes
 * @data_len: bytes of data, a multiple of 8, at most CBW_BITMAP_DATA_MAX; may be 0 with
 *	CBW_LOAD_BASE
 * @data: pointer to the data, as CBW_BITMAP_READ gives it
 * @offset: the place on the device in bytes, of the first bit, as in
 *	&struct cbw_bitmap_read
 * @granularity: bytes, must be that of the bitmap
 * @reserved: must be 0
 *
 * For who keeps a bitmap over a time in which the device had no cbw table: adds the bits
 * to the recording half; none is ever taken away.  EINVAL when a bit beyond the device's
 * end is set.  EBUSY while it is frozen; waits (killable) for an abort or a merge that is
 * under way.
 *
 * With CBW_LOAD_BASE the caller says that the bitmap has all that was written since that
 * cut, so it belongs to the last of several calls.  That nobody has written to the
 * volume since the bits were read is for the caller to know.  EINVAL when the bitmap does
 * not record.
 */
struct cbw_bitmap_load {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_cut_id base;
	__aligned_u64 name;
	__u32 name_len;
	__u32 data_len;
	__aligned_u64 data;
	__aligned_u64 offset;
	__u32 granularity;
	__u32 reserved;
};
#define CBW_BITMAP_LOAD _IO(CBW_TYPE, CBW_CMD_BITMAP_LOAD)

/**
 * struct cbw_mark_dirty - ioctl(CBW_MARK_DIRTY)
 * @size: sizeof(struct cbw_mark_dirty)
 * @flags: must be 0
 * @dev: the device with the cbw target
 * @name: pointer to the bitmap's name; 0: all bitmaps of the device
 * @name_len: its length in bytes; 0: all
 * @nr_ranges: 1 to CBW_RANGES_MAX
 * @ranges: pointer to an array of struct cbw_range: any bytes within the device
 *
 * For who knows of changes that did not come through the device: marks every granule that
 * a range touches in the recording half, whatever the state of the bitmap, also of one
 * that does not record.  EINVAL when a range is empty or not within the device, and then
 * nothing was marked.  EINTR: killed before all were; so may the others be when the device
 * gets smaller, or the bitmap is removed, meanwhile.
 */
struct cbw_mark_dirty {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	__aligned_u64 name;
	__u32 name_len;
	__u32 nr_ranges;
	__aligned_u64 ranges;
};
#define CBW_MARK_DIRTY _IO(CBW_TYPE, CBW_CMD_MARK_DIRTY)

/* Buckets of the histogram in struct cbw_stats. */
#define CBW_STATS_BUCKETS	32

/**
 * struct cbw_stats - ioctl(CBW_STATS)
 * @size: sizeof(struct cbw_stats)
 * @flags: must be 0
 * @dev: the device with the cbw target
 * @out_held: guest writes that were held and have gone since: for copies of all snapshots
 *	and at cuts
 * @out_held_us: for how long all of these together, microseconds
 * @out_max_held_us: the longest of them
 * @out_failed: of these, how many ended with an error (break_guest_write)
 * @out_again: guest writes with REQ_NOWAIT that would have been held, and ended with EAGAIN
 * @out_marked_again: guest writes that were in flight at a cut and were marked again
 * @out_discards_deferred: guest discards that were not passed down because a snapshot
 *	needed the chunks, in bytes
 * @out_hist: of those in @out_held: bucket 0: less than 2 microseconds; bucket i: 2^i up to
 *	less than 2^(i + 1); the last one: and more
 *
 * Counts from when the device got its first cbw table.  What guest writes do that are not
 * held is not counted here; the block layer's statistics of the device have that.
 */
struct cbw_stats {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	__aligned_u64 out_held;
	__aligned_u64 out_held_us;
	__aligned_u64 out_max_held_us;
	__aligned_u64 out_failed;
	__aligned_u64 out_again;
	__aligned_u64 out_marked_again;
	__aligned_u64 out_discards_deferred;
	__aligned_u64 out_hist[CBW_STATS_BUCKETS];
};
#define CBW_STATS _IO(CBW_TYPE, CBW_CMD_STATS)

/**
 * enum cbw_event_type - what has happened
 * @CBW_EVENT_SNAPSHOT_FAILED: snapshot @dev is lost; &struct cbw_event.reason says why
 * @CBW_EVENT_SNAPSHOT_LOW_SPACE: four fifths of the store of snapshot @dev are taken
 * @CBW_EVENT_SNAPSHOT_DRAINED: nothing of snapshot @dev is needed any more
 * @CBW_EVENT_SOURCE_RESIZED: device @dev has another size
 * @CBW_EVENT_SOURCE_GONE: device @dev has no cbw table any more, and its bitmaps are gone
 * @CBW_EVENT_BITMAP_INCONSISTENT: not in this version
 * @CBW_EVENT_CONTAINER_FAILED: device @dev goes on without its container: its bitmaps are
 *	exact, but will not survive
 */
enum cbw_event_type {
	CBW_EVENT_SNAPSHOT_FAILED = 1,
	CBW_EVENT_SNAPSHOT_LOW_SPACE = 2,
	CBW_EVENT_SNAPSHOT_DRAINED = 3,
	CBW_EVENT_SOURCE_RESIZED = 4,
	CBW_EVENT_SOURCE_GONE = 5,
	CBW_EVENT_BITMAP_INCONSISTENT = 6,
	CBW_EVENT_CONTAINER_FAILED = 7,
};

/**
 * struct cbw_event - what read() of the control device returns
 * @size: sizeof(struct cbw_event) of the kernel
 * @type: enum cbw_event_type; be prepared for others
 * @dev: the device
 * @cut: for a snapshot its cut; else all zero
 * @reason: enum cbw_reason
 * @lost: how many were lost before this one, since nobody had read
 *
 * Each session gets all events from its open on.  It keeps the CBW_EVENTS_MAX newest ones.
 * read() returns one record, or as much of it as there is room for, so that who knows a
 * shorter one gets what it knows; EINVAL when there is less room than for the members up to
 * @lost.  It waits for one, or gives EAGAIN with O_NONBLOCK.  poll() says POLLIN when
 * there are any.  Who wants to be sure that nothing is missed opens the device first and
 * asks for the state then.
 */
struct cbw_event {
	__u32 size;
	__u32 type;
	struct cbw_devno dev;
	struct cbw_cut_id cut;
	__u32 reason;
	__u32 lost;
};
#define CBW_EVENTS_MAX		64

#include <linux/dm-cbw-container.h>

#endif /* _UAPI_LINUX_DM_CBW_H */
