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

/**
 * struct cbw_transaction - ioctl(CBW_TRANSACTION)
 * @size: sizeof(struct cbw_transaction)
 * @flags: must be 0
 * @nr_actions: 1 to CBW_ACTIONS_MAX
 * @action_size: sizeof(struct cbw_action)
 * @actions: pointer to the array of actions
 * @out_failed: after an error, which action failed (0 for the first);
 *	@nr_actions when it was none of them
 * @reserved: must be 0
 * @out_cut: the id of the cut
 *
 * Does all actions at one instant on all devices, or none: a write that was
 * acknowledged before another one was issued is never missing from a cut that
 * has the other, on whatever devices of the transaction the two were.  Writes
 * that are in flight at the cut may be on either side of it.  Actions on one
 * device are done in their order: what one of them makes or renames the next ones may
 * name.
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
	__u32 reserved;
	struct cbw_cut_id out_cut;
};
#define CBW_TRANSACTION _IO(CBW_TYPE, CBW_CMD_TRANSACTION)

/**
 * enum cbw_commit_mode - what a commit does with the frozen bitmap
 * @CBW_COMMIT_ON_SUCCESS: drop the frozen half; the cut becomes the bitmap's base
 * @CBW_COMMIT_NEVER: merge the frozen half back, the base stays, as CBW_ABORT
 * @CBW_COMMIT_ALWAYS: EOPNOTSUPP in this version
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
 * snapshot: its bitmap).  Committing a cut that is committed already is a success.
 * EBUSY: the cut belongs to another session.  ESTALE: not a cut of this
 * device, or aborted.
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
 * @CBW_REASON_SOURCE_RESIZED: not in this version: a source with snapshots cannot
 *	change its size
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

/* struct cbw_extent.flags */
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
 * @offset: in: where to begin, bytes; out: where to go on; the device's size when that was all
 * @out_granularity: bytes
 * @reserved: must be 0
 *
 * Lists the dirty extents, in order; what is not listed is clean.  The frozen half does
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

#endif /* _UAPI_LINUX_DM_CBW_H */
