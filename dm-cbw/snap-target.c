// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cbw-snapshot target: table line, suspend and resume, status.
 *
 *   0 <len> cbw-snapshot <source> <store> <chunk_sectors> [<#features> <feature>...]
 */
#include "snap-read.h"

#include <linux/slab.h>

/* A writer's bio and its own read-ahead are far below this. */
#define BUFFER_KIB_MAX	(4u << 20)

static int parse_source(const char *arg, dev_t *devt)
{
	unsigned int major, minor;
	char dummy;

	if (sscanf(arg, "%u:%u%c", &major, &minor, &dummy) == 2) {
		*devt = MKDEV(major, minor);
		return MAJOR(*devt) == major && MINOR(*devt) == minor ? 0 : -EINVAL;
	}
	return lookup_bdev(arg, devt);
}

static int parse_features(struct dm_target *ti, struct dm_arg_set *as,
			  struct cbw_snap_args *args)
{
	static const struct dm_arg count[] = {
		{ 0, 11, "Bad number of features: 0 to 11 words" },
	};
	unsigned int left;
	int r;

	r = dm_read_arg_group(count, as, &left, &ti->error);
	if (r)
		return r;
	while (left) {
		const char *name = dm_shift_arg(as);
		char *val;

		left--;
		if (!strcasecmp(name, "armed")) {
			args->armed = true;
			continue;
		}
		if (!strcasecmp(name, "read_once")) {
			args->read_once = true;
			continue;
		}
		if (!strcasecmp(name, "discard_releases")) {
			args->discard_releases = true;
			continue;
		}
		if (strcasecmp(name, "bitmap") &&
		    strcasecmp(name, "on_cbw_error") &&
		    strcasecmp(name, "cbw_timeout_ms") &&
		    strcasecmp(name, "buffer_kib")) {
			ti->error = "Unknown feature: armed, bitmap, on_cbw_error, cbw_timeout_ms, buffer_kib, read_once and discard_releases are known";
			return -EINVAL;
		}
		if (!left) {
			ti->error = "The last feature needs a value";
			return -EINVAL;
		}
		val = (char *)dm_shift_arg(as);
		left--;
		if (!strcasecmp(name, "bitmap")) {
			if (cbw_name_unescape(val, &args->bitmap)) {
				ti->error = "Bad bitmap name: 1 to 1023 bytes, no '/', \\xHH for special ones";
				return -EINVAL;
			}
		} else if (!strcasecmp(name, "on_cbw_error")) {
			args->break_guest = !strcasecmp(val, "break_guest_write");
			if (!args->break_guest &&
			    strcasecmp(val, "break_snapshot")) {
				ti->error = "Bad on_cbw_error: break_snapshot or break_guest_write";
				return -EINVAL;
			}
		} else if (!strcasecmp(name, "cbw_timeout_ms")) {
			if (kstrtouint(val, 10, &args->timeout_ms) ||
			    args->timeout_ms > INT_MAX) {
				ti->error = "Bad cbw_timeout_ms: milliseconds, 0 for no bound";
				return -EINVAL;
			}
		} else if (kstrtouint(val, 10, &args->buffer_kib) ||
			   !args->buffer_kib ||
			   args->buffer_kib > BUFFER_KIB_MAX) {
			ti->error = "Bad buffer_kib: 1 to 4194304 KiB";
			return -EINVAL;
		}
	}
	if (as->argc) {
		ti->error = "More words behind the features than their number says";
		return -EINVAL;
	}
	return 0;
}

static int parse_chunk(struct dm_target *ti, const char *arg,
		       unsigned int *sectors)
{
	if (!strcmp(arg, "-")) {
		*sectors = CBW_CHUNK_SECTORS_MIN;
		return 0;
	}
	if (kstrtouint(arg, 10, sectors) || !is_power_of_2(*sectors) ||
	    *sectors < CBW_CHUNK_SECTORS_MIN || *sectors > CBW_CHUNK_SECTORS_MAX) {
		ti->error = "Bad chunk_sectors: a power of two from 8 to 2048, or -";
		return -EINVAL;
	}
	return 0;
}

static int check_store(struct dm_target *ti, struct block_device *source,
		       const struct cbw_snap_args *args)
{
	unsigned int chunk_bytes = args->chunk_sectors << SECTOR_SHIFT;
	const char *what;

	lockdep_assert_held(&cbw_config_mutex);
	if (cbw_bdev_in_use(args->store->bd_dev, NULL, &what)) {
		ti->error = (char *)what;
		return -EBUSY;
	}
	if (bdev_is_zoned(args->store)) {
		ti->error = "The store is a zoned device, which is not supported";
		return -EINVAL;
	}
	if (bdev_nr_sectors(args->store) < args->chunk_sectors) {
		ti->error = "The store is smaller than one chunk";
		return -ENOSPC;
	}
	if (bdev_logical_block_size(args->store) > bdev_logical_block_size(source)) {
		ti->error = "The store's logical blocks are larger than the source's";
		return -EINVAL;
	}
	if (bdev_logical_block_size(source) > chunk_bytes) {
		ti->error = "The chunk is smaller than the source's logical block";
		return -EINVAL;
	}
	return 0;
}

/* What a new snapshot needs of its source; again when everything is allocated. */
static int check_new(struct dm_target *ti, struct cbw_device *dev,
		     const struct cbw_snap_args *args)
{
	lockdep_assert_held(&cbw_config_mutex);
	if (!dev || dev->gone) {
		ti->error = "The source is not a device with a cbw table";
		return -ENODEV;
	}
	if (ti->len != dev->len) {
		ti->error = "The length differs from the source's";
		return -EINVAL;
	}
	if (dev->nr_snaps >= CBW_SNAPSHOTS_MAX) {
		ti->error = "The source has 32 snapshots, which is the most";
		return -ENOSPC;
	}
	if (args->bitmap.len && !cbw_bitmap_find(dev, args->bitmap)) {
		ti->error = "The source has no bitmap of that name";
		return -ENOENT;
	}
	return check_store(ti, cbw_bdev(&args->source), args);
}

/*
 * Called with cbw_config_mutex held; not while it allocates: that may be much, and may
 * take a while.
 */
static struct cbw_snap *snap_new(struct dm_target *ti, dev_t source,
				 struct cbw_snap_args *args)
{
	struct cbw_device *dev = cbw_device_find(source);
	struct cbw_snap *snap;
	int r;

	r = check_new(ti, dev, args);
	if (r)
		return ERR_PTR(r);
	cbw_device_get(dev);
	cbw_config_unlock();
	args->len = ti->len;
	snap = cbw_snap_create(dev, args, &ti->error);
	cbw_config_lock();
	r = PTR_ERR_OR_ZERO(snap);
	if (!r)
		r = check_new(ti, dev, args);
	if (!r && cbw_snap_find(disk_devt(dm_disk(dm_table_get_md(ti->table))))) {
		ti->error = "Another table was loaded into this device meanwhile";
		r = -EBUSY;
	}
	cbw_device_put(dev);
	if (r) {
		if (!IS_ERR(snap))
			cbw_snap_put(snap);
		return ERR_PTR(r);
	}
	snap->md = dm_table_get_md(ti->table);
	snap->devt = disk_devt(dm_disk(snap->md));
	list_add_tail(&snap->node, &dev->snaps);
	list_add_tail(&snap->all_node, &cbw_snaps);
	dev->nr_snaps++;
	return snap;
}

/* A reload may only grow the store. */
static int snap_reload(struct dm_target *ti, struct cbw_snap *snap, dev_t source,
		       const struct cbw_snap_args *args)
{
	bool same_bitmap = args->bitmap.len == snap->bitmap_len &&
			   !memcmp(args->bitmap.s ? args->bitmap.s : (u8 *)"",
				   snap->bitmap ? snap->bitmap : (u8 *)"",
				   snap->bitmap_len);

	if (source != snap->dev->devt || ti->len != snap->len ||
	    ilog2(args->chunk_sectors) != snap->shift ||
	    args->armed != snap->armed || args->break_guest != snap->break_guest ||
	    args->timeout_ms != snap->timeout_ms ||
	    args->buffer_kib != snap->buffer_kib ||
	    args->read_once != snap->read_once ||
	    args->discard_releases != snap->discard_releases || !same_bitmap) {
		ti->error = "A reload can change nothing but the size of the store";
		return -EINVAL;
	}
	if (args->store->bd_dev != snap->store_dev->bd_dev) {
		ti->error = "A reload cannot move the snapshot to another store";
		return -EINVAL;
	}
	if (bdev_nr_sectors(args->store) >> snap->shift < snap->nr_slots) {
		ti->error = "The store has become smaller";
		return -EINVAL;
	}
	return 0;
}

static int cbw_snap_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct cbw_snap_args args = { .timeout_ms = 30000 };
	struct cbw_snap_target *st;
	struct dm_arg_set as;
	struct cbw_snap *snap;
	dev_t source;
	int r;

	if (argc < 3) {
		ti->error = "Needs <source> <store> <chunk_sectors> [<#features> <feature>...]";
		return -EINVAL;
	}
	r = parse_chunk(ti, argv[2], &args.chunk_sectors);
	if (r)
		return r;
	as.argc = argc - 3;
	as.argv = argv + 3;
	if (as.argc) {
		r = parse_features(ti, &as, &args);
		if (r)
			return r;
	}
	r = parse_source(argv[0], &source);
	if (r) {
		ti->error = "No such source";
		return r;
	}
	r = dm_set_target_max_io_len(ti, CBW_READ_SECTORS_MAX);
	if (r)
		return r;
	st = kzalloc(sizeof(*st), GFP_KERNEL);
	if (!st) {
		ti->error = "Cannot allocate the target";
		return -ENOMEM;
	}
	r = dm_get_device(ti, argv[1], CBW_OPEN_RW, &st->store);
	if (r) {
		ti->error = "Cannot open the store (is it there, and not in use?)";
		goto free_target;
	}
	args.store = st->store->bdev;
	/* Not claimed: the source may well be mounted. */
	r = cbw_bdev_open(source, &args.source);
	if (r) {
		ti->error = "Cannot open the source";
		goto put_store;
	}

	cbw_config_lock();
	snap = cbw_snap_find(disk_devt(dm_disk(dm_table_get_md(ti->table))));
	if (snap) {
		r = snap_reload(ti, snap, source, &args);
		if (!r) {
			cbw_snap_get(snap);
			snap->instances++;
		}
	} else {
		snap = snap_new(ti, source, &args);
		r = PTR_ERR_OR_ZERO(snap);
		if (!r) {
			memset(&args.source, 0, sizeof(args.source));
			snap->instances = 1;
		}
	}
	cbw_config_unlock();
	cbw_bdev_close(&args.source);
	if (r)
		goto put_store;

	st->snap = snap;
	ti->private = st;
	ti->per_io_data_size = cbw_snap_io_size();
	if (args.discard_releases) {
		ti->num_discard_bios = 1;
		ti->discards_supported = true;
	}
	return 0;

put_store:
	dm_put_device(ti, st->store);
free_target:
	kfree(st);
	return r;
}

static void cbw_snap_dtr(struct dm_target *ti)
{
	struct cbw_snap_target *st = ti->private;
	struct cbw_snap *snap = st->snap;
	bool last;

	cbw_config_lock();
	if (snap->ti == ti)
		snap->ti = NULL;
	last = !--snap->instances;
	if (last)
		cbw_snap_remove(snap);	/* unlocks */
	else
		cbw_config_unlock();
	if (last)
		cbw_bdev_close(&snap->source);
	cbw_snap_put(snap);
	dm_put_device(ti, st->store);
	kfree(st);
}

static int snap_cut(struct cbw_snap *snap)
{
	struct cbw_txn txn = {};
	int r;

	do {
		cbw_txn_begin(&txn, NULL);
		r = cbw_txn_end(&txn, cbw_txn_start(&txn, snap));
		r = cbw_txn_retry(&txn, r);
	} while (r == -EAGAIN);
	return r;
}

static int cbw_snap_preresume(struct dm_target *ti)
{
	struct cbw_snap_target *st = ti->private;
	struct cbw_snap *snap = st->snap;
	int r = 0;

	if (snap->store_dev != st->store->bdev ||
	    bdev_nr_sectors(st->store->bdev) >> snap->shift > snap->nr_slots) {
		r = cbw_store_grow(snap, st->store->bdev);
		if (r) {
			DMERR("%s: cannot grow the store: %d",
			      dm_device_name(snap->md), r);
			return r;
		}
	}
	if (!snap->armed && !snap->start_seq && !snap->over) {
		r = snap_cut(snap);
		if (r) {
			DMERR("%s: cannot make the cut: %s (%d)",
			      dm_device_name(snap->md),
			      r == -EBUSY ? "the bitmap is busy" :
			      r == -ENOENT ? "no such bitmap" : "error", r);
			return r;
		}
	}
	cbw_config_lock();
	snap->ti = ti;
	cbw_config_unlock();
	/* A discard needs a device that is not; writes fail all the same. */
	if (!snap->discard_releases)
		set_disk_ro(dm_disk(snap->md), true);
	return 0;
}

static void status_table(struct cbw_snap_target *st, char *result,
			 unsigned int maxlen)
{
	struct cbw_snap *snap = st->snap;
	unsigned int sz = 0;
	unsigned int words = snap->armed + 2 * !!snap->bitmap_len +
			     2 * snap->break_guest +
			     2 * (snap->timeout_ms != 30000) +
			     2 * !!snap->buffer_kib + snap->read_once +
			     snap->discard_releases;

	DMEMIT("%u:%u %s %u", MAJOR(snap->dev->devt), MINOR(snap->dev->devt),
	       st->store->name, 1u << snap->shift);
	if (words)
		DMEMIT(" %u", words);
	if (snap->armed)
		DMEMIT(" armed");
	if (snap->bitmap_len) {
		struct cbw_name name = { snap->bitmap, snap->bitmap_len };

		DMEMIT(" bitmap ");
		if (sz < maxlen)
			sz += cbw_name_escape(name, result + sz, maxlen - sz);
	}
	if (snap->break_guest)
		DMEMIT(" on_cbw_error break_guest_write");
	if (snap->timeout_ms != 30000)
		DMEMIT(" cbw_timeout_ms %u", snap->timeout_ms);
	if (snap->buffer_kib)
		DMEMIT(" buffer_kib %u", snap->buffer_kib);
	if (snap->read_once)
		DMEMIT(" read_once");
	if (snap->discard_releases)
		DMEMIT(" discard_releases");
}

static void status_info(struct cbw_snap *snap, char *result, unsigned int maxlen)
{
	static const char * const states[] = {
		[CBW_SNAPSHOT_ARMED] = "armed",
		[CBW_SNAPSHOT_ACTIVE] = "active",
		[CBW_SNAPSHOT_DRAINED] = "drained",
		[CBW_SNAPSHOT_FAILED] = "failed",
	};
	struct cbw_snapshot_info info;
	unsigned int sz = 0;

	cbw_config_lock();
	cbw_snap_info(snap, &info);
	cbw_config_unlock();
	DMEMIT("%s %s ", states[info.out_state], cbw_reason_name(info.out_reason));
	if (cbw_cut_none(&info.cut))
		DMEMIT("-");
	else
		DMEMIT("%*phN", (int)sizeof(info.cut), info.cut.b);
	DMEMIT(" %u %llu %llu %llu %llu %llu %llu %llu",
	       info.out_chunk_size >> SECTOR_SHIFT, info.out_store_used,
	       info.out_store_chunks, info.out_needed, info.out_released,
	       info.out_copied, info.out_held, info.out_max_hold_us);
}

static void cbw_snap_status(struct dm_target *ti, status_type_t type,
			    unsigned int flags, char *result, unsigned int maxlen)
{
	struct cbw_snap_target *st = ti->private;

	switch (type) {
	case STATUSTYPE_INFO:
		status_info(st->snap, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		status_table(st, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

/* Whole chunks of the store; dm asks no target for its limits that has no devices. */
static int cbw_snap_iterate_devices(struct dm_target *ti,
				    iterate_devices_callout_fn fn, void *data)
{
	struct cbw_snap_target *st = ti->private;
	sector_t sectors = bdev_nr_sectors(st->store->bdev);

	return fn(ti, st->store, 0, sectors >> st->snap->shift << st->snap->shift,
		  data);
}

/*
 * Not the store's limits, which are for writing slots: what is read from below is split
 * there.  A split here, where they end, would go through chunks.
 */
static void cbw_snap_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct cbw_snap_target *st = ti->private;
	struct block_device *source = cbw_bdev(&st->snap->source);

	blk_set_stacking_limits(limits);
	limits->logical_block_size = bdev_logical_block_size(source);
	limits->physical_block_size = bdev_physical_block_size(source);
	limits->io_min = limits->physical_block_size;
	limits->dma_alignment = max3((unsigned int)limits->dma_alignment,
				     (unsigned int)bdev_dma_alignment(source),
				     (unsigned int)bdev_dma_alignment(st->store->bdev));
	if (st->snap->discard_releases)
		cbw_offer_discards(limits, min(CBW_DISCARD_CHUNKS << st->snap->shift,
					       CBW_DISCARD_SECTORS),
				   cbw_chunk_bytes(st->snap));
}

struct target_type cbw_snap_target_type = {
	.name = "cbw-snapshot",
	.version = { 1, 0, 0 },
	.features = DM_TARGET_SINGLETON,
	.module = THIS_MODULE,
	.ctr = cbw_snap_ctr,
	.dtr = cbw_snap_dtr,
	.map = cbw_snap_map,
	.end_io = cbw_snap_end_io,
	.preresume = cbw_snap_preresume,
	.status = cbw_snap_status,
	.iterate_devices = cbw_snap_iterate_devices,
	.io_hints = cbw_snap_io_hints,
};
