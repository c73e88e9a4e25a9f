/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * dm-cbw: what the kernel keeps in a container, and the calls about it.  Included by
 * <linux/dm-cbw.h>.
 */
#ifndef _UAPI_LINUX_DM_CBW_CONTAINER_H
#define _UAPI_LINUX_DM_CBW_CONTAINER_H

#include <linux/types.h>

/**
 * DOC: The container
 *
 * A container keeps the bitmaps of one device on another block device, so that they
 * survive a reboot and a power cut.  Its format, a qcow2 image, is user space's business;
 * the kernel is told places in it, and writes there:
 *
 *  - the state, in two slots that are written in turn: which bitmaps there are, their
 *    bases, and where the rest lies.  The valid slot with the larger sequence number
 *    counts;
 *  - the bits of each bitmap, one after the other, as CBW_BITMAP_READ gives them;
 *  - two intents: bitmaps of coarse regions.  In a region that has a bit in either of them
 *    any granule may be dirty, whatever the bitmaps say.
 *
 * A bit of a bitmap is set in memory only after the intent of its region is durable.  A
 * checkpoint writes what has changed in the bitmaps and retires intents after that.  So
 * after a power cut each bitmap, together with all granules of the regions in either
 * intent, has all that was written since its base.
 *
 * All numbers are little-endian.  Offsets are bytes from the container's start.
 */

/* Bytes of a slot of the state; a multiple of 4096. */
#define CBW_STATE_SLOT_SIZE	28672
#define CBW_STATE_MAGIC		0x4554415453574243ULL	/* "CBWSTATE" */
#define CBW_STATE_VERSION	1

/* struct cbw_state.flags */
#define CBW_STATE_CLEAN		(1u << 0)	/* exact; the device was taken down in order */
#define CBW_STATE_UNTRACKED	(1u << 1)	/* writes may have gone by: trust no base */
#define CBW_STATE_ATTACHING	(1u << 2)	/* not clean, but not resumed yet, either */

/**
 * struct cbw_state - the beginning of a slot
 * @magic: CBW_STATE_MAGIC
 * @version: CBW_STATE_VERSION
 * @crc32c: CRC-32C of the first @length bytes of the slot, with 0 in this place
 * @length: bytes of the slot in use, this header included
 * @flags: CBW_STATE_*
 * @seq: counts up with each state that is written
 * @generation: counts up with each attachment
 * @container: id of the container, random
 * @boot_id: of the kernel that attached it last
 * @device_size: of the device in bytes
 * @written: with CBW_STATE_CLEAN: sectors written and discarded on the device so far, as its
 *	statistics have it, when it was suspended for that; of a device that was never resumed,
 *	as in &struct cbw_container_attach
 * @intent_offset: where the intents lie
 * @intent_length: bytes of each of them, a multiple of 4096
 * @region_shift: log2 of the bytes of a region; bit i % 8 of byte i / 8 is region i
 * @nr_bitmaps: their number
 * @binding_length: bytes that follow this header, then zeroes up to a multiple of 8: what
 *	tells the volume; user space's, the kernel passes it on from state to state
 * @reserved: 0
 *
 * Then come @nr_bitmaps of &struct cbw_state_bitmap.
 */
struct cbw_state {
	__le64 magic;
	__le32 version;
	__le32 crc32c;
	__le32 length;
	__le32 flags;
	__le64 seq;
	__le64 generation;
	__u8 container[16];
	__u8 boot_id[16];
	__le64 device_size;
	__le64 written;
	__le64 intent_offset[2];
	__le64 intent_length;
	__le32 region_shift;
	__le32 nr_bitmaps;
	__le32 binding_length;
	__le32 reserved;
};

/* struct cbw_state_bitmap.flags */
#define CBW_STATE_ENABLED	(1u << 0)	/* records */

/**
 * struct cbw_state_bitmap - a bitmap in a slot
 * @entry_size: bytes from this entry to the next, a multiple of 8
 * @flags: CBW_STATE_ENABLED
 * @granularity: bytes
 * @name_len: length of @name in bytes, 1 to CBW_NAME_MAX
 * @offset: where its bits lie, a multiple of 4096
 * @length: bytes that are set aside there, at least as many as it has bits for, a multiple
 *	of 4096
 * @crc32c: user space's: CRC-32C of the bits when the container is closed; the kernel
 *	writes 0
 * @reserved: 0
 * @base: its base, as in &struct cbw_bitmap_entry
 * @name: not NUL terminated, zero padded
 */
struct cbw_state_bitmap {
	__le32 entry_size;
	__le32 flags;
	__le32 granularity;
	__le32 name_len;
	__le64 offset;
	__le64 length;
	__le32 crc32c;
	__le32 reserved;
	__u8 base[16];
	__u8 name[];
};

/**
 * struct cbw_place - a range of the container
 * @offset: bytes, a multiple of 4096
 * @length: bytes, a multiple of 4096, not 0
 */
struct cbw_place {
	__aligned_u64 offset;
	__aligned_u64 length;
};

/**
 * struct cbw_container_bitmap - where a bitmap's bits lie
 * @name: pointer to its name
 * @name_len: its length in bytes
 * @reserved: must be 0
 * @place: the place
 */
struct cbw_container_bitmap {
	__aligned_u64 name;
	__u32 name_len;
	__u32 reserved;
	struct cbw_place place;
};

/* struct cbw_container_attach.policy: after an error of the container */
#define CBW_CONTAINER_CONTINUE	0	/* go on without it at once */
#define CBW_CONTAINER_HOLD	1	/* try again until timeout_ms have passed */

/* Bytes of a binding. */
#define CBW_BINDING_MAX		8192
/* Places in one call. */
#define CBW_PLACES_MAX		4096
/* Bytes of an intent. */
#define CBW_INTENT_LENGTH_MAX	(64u << 20)
/* A region: 64 KiB to 1 GiB. */
#define CBW_REGION_SHIFT_MIN	16
#define CBW_REGION_SHIFT_MAX	30
/* struct cbw_container_attach.timeout_ms, milliseconds */
#define CBW_CONTAINER_TIMEOUT_DEFAULT	5000
#define CBW_CONTAINER_TIMEOUT_MAX	600000

/**
 * struct cbw_container_attach - ioctl(CBW_CONTAINER_ATTACH)
 * @size: sizeof(struct cbw_container_attach)
 * @flags: must be 0
 * @dev: the device; its table, which may be loaded and not live yet, has the feature
 *	``container``
 * @container: the block device that this feature names
 * @id: id of the container
 * @boot_id: of this kernel
 * @generation: of this attachment
 * @state_offset: the two slots, each of CBW_STATE_SLOT_SIZE bytes
 * @state_seq: the sequence number of the newest state there; that is in the slot
 *	@state_seq % 2, the kernel begins with the other one
 * @intent_offset: where the two intents lie
 * @intent_length: bytes of each of them, at most CBW_INTENT_LENGTH_MAX
 * @region_shift: log2 of the bytes of a region, CBW_REGION_SHIFT_MIN to _MAX
 * @timeout_ms: how long a guest write may be held for the container; 0: the default
 * @policy: CBW_CONTAINER_CONTINUE or _HOLD
 * @binding_len: bytes of the binding, at most CBW_BINDING_MAX
 * @binding: pointer to it
 * @bitmaps: pointer to an array of struct cbw_container_bitmap: where those bitmaps of the
 *	device lie that the container has; others that are not transient get a place
 * @nr_bitmaps: their number, at most CBW_BITMAPS_MAX
 * @nr_places: at most CBW_PLACES_MAX
 * @places: pointer to an array of struct cbw_place: what is free for bitmaps
 * @written: sectors written and discarded on the device so far, as its statistics have it,
 *	when its bitmaps were found to be right.  If they have another count when the device is
 *	resumed for the first time, with no write in flight, something has slipped by: then
 *	all bitmaps that record have no base any more, and all of them is dirty
 *
 * Delivers the layout of the container.  The caller has made the bitmaps and loaded what the
 * container has (CBW_BITMAP_LOAD).  When the call returns, all of them are on the
 * container, and the device may be resumed.  Until then a resume gives EAGAIN.
 *
 * EBUSY: the device is live, or has a container.  ENODEV: no such table.  ENOSPC: a
 * bitmap that has no place does not fit into @places, or the names do not fit into the
 * state.  EINVAL: places that are not aligned, overlap, or are not within the container, or
 * intents that are too small for the device.  EIO, ETIMEDOUT: the container cannot be written.
 */
struct cbw_container_attach {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_devno container;
	__u8 id[16];
	__u8 boot_id[16];
	__aligned_u64 generation;
	__aligned_u64 state_offset[2];
	__aligned_u64 state_seq;
	__aligned_u64 intent_offset[2];
	__aligned_u64 intent_length;
	__u32 region_shift;
	__u32 timeout_ms;
	__u32 policy;
	__u32 binding_len;
	__aligned_u64 binding;
	__aligned_u64 bitmaps;
	__u32 nr_bitmaps;
	__u32 nr_places;
	__aligned_u64 places;
	__aligned_u64 written;
};
#define CBW_CONTAINER_ATTACH _IO(CBW_TYPE, CBW_CMD_CONTAINER_ATTACH)

/**
 * struct cbw_container_detach - ioctl(CBW_CONTAINER_DETACH)
 * @size: sizeof(struct cbw_container_detach)
 * @flags: CBW_DETACH_*
 * @dev: the device
 * @binding_len: bytes of the binding, at most CBW_BINDING_MAX
 * @reserved: must be 0
 * @binding: pointer to it: what tells the volume from now on
 *
 * Announces that the device is about to get another table, or to be removed: when it is
 * suspended for that, the bitmaps are written, and the state says CBW_STATE_CLEAN.  If it
 * is resumed with a cbw table after all, the state says so before the first write passes,
 * and the announcement is over.  Writes the bitmaps once before it returns, so that this
 * takes no time then.
 *
 * ENODEV: the device has no container.
 */
struct cbw_container_detach {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	__u32 binding_len;
	__u32 reserved;
	__aligned_u64 binding;
};
#define CBW_CONTAINER_DETACH _IO(CBW_TYPE, CBW_CMD_CONTAINER_DETACH)

/* struct cbw_container_detach.flags */
#define CBW_DETACH_CANCEL	(1u << 0)	/* take the announcement back */

/* struct cbw_container_info.out_flags */
#define CBW_CONTAINER_FAILED	(1u << 0)	/* nothing is written there any more */
#define CBW_CONTAINER_STOPPING	(1u << 1)	/* its end was announced */
#define CBW_CONTAINER_SLIPPED	(1u << 2)	/* the device was written to before it had it */

/**
 * struct cbw_container_info - ioctl(CBW_CONTAINER_INFO)
 * @size: sizeof(struct cbw_container_info)
 * @flags: CBW_INFO_*
 * @dev: the device
 * @out_container: the block device
 * @out_id: id of the container
 * @out_generation: of the attachment
 * @out_state_seq: sequence number of the newest state that is durable
 * @out_flags: CBW_CONTAINER_*
 * @out_region_shift: log2 of the bytes of a region
 * @out_regions: regions with an intent
 * @out_intent_writes: writes of intents so far
 * @out_intent_held: guest writes that were held for them so far
 * @out_checkpoints: checkpoints so far
 * @out_pages: 4096-byte pages of bitmaps that they have written
 * @out_free: bytes that are free for bitmaps
 *
 * With CBW_INFO_CHECKPOINT it first writes a checkpoint: what was recorded until then is
 * exact on the container, and the intents that no longer count are retired.
 *
 * ENODEV: the device has no container.  With CBW_INFO_CHECKPOINT: EIO: the container has
 * failed; EINTR: killed.
 */
struct cbw_container_info {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	struct cbw_devno out_container;
	__u8 out_id[16];
	__aligned_u64 out_generation;
	__aligned_u64 out_state_seq;
	__u32 out_flags;
	__u32 out_region_shift;
	__aligned_u64 out_regions;
	__aligned_u64 out_intent_writes;
	__aligned_u64 out_intent_held;
	__aligned_u64 out_checkpoints;
	__aligned_u64 out_pages;
	__aligned_u64 out_free;
};
#define CBW_CONTAINER_INFO _IO(CBW_TYPE, CBW_CMD_CONTAINER_INFO)

/* struct cbw_container_info.flags */
#define CBW_INFO_CHECKPOINT	(1u << 0)

/**
 * struct cbw_container_grow - ioctl(CBW_CONTAINER_GROW)
 * @size: sizeof(struct cbw_container_grow)
 * @flags: must be 0
 * @dev: the device
 * @nr_places: 1 to CBW_PLACES_MAX
 * @reserved: must be 0
 * @places: pointer to an array of struct cbw_place
 *
 * More room for bitmaps: when adding one gives ENOSPC.  Errors as for
 * CBW_CONTAINER_ATTACH.
 */
struct cbw_container_grow {
	__u32 size;
	__u32 flags;
	struct cbw_devno dev;
	__u32 nr_places;
	__u32 reserved;
	__aligned_u64 places;
};
#define CBW_CONTAINER_GROW _IO(CBW_TYPE, CBW_CMD_CONTAINER_GROW)

#endif /* _UAPI_LINUX_DM_CBW_CONTAINER_H */
