// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages to a cbw device: transactions of one action on one device.
 */
#include "cbw.h"

#include <linux/slab.h>

static int bad(const char *what)
{
	DMERR_LIMIT("message: %s", what);
	return -EINVAL;
}

static int parse_add(unsigned int argc, char **argv, u32 *granularity, u32 *flags)
{
	unsigned int i;

	for (i = 0; i < argc; i++) {
		if (!strcasecmp(argv[i], "disabled")) {
			*flags |= CBW_ADD_DISABLED;
		} else if (!strcasecmp(argv[i], "transient")) {
			*flags |= CBW_ADD_TRANSIENT;
		} else if (!strcasecmp(argv[i], "granularity")) {
			if (++i == argc)
				return bad("granularity needs a number of bytes");
			if (kstrtou32(argv[i], 10, granularity) ||
			    !is_power_of_2(*granularity) ||
			    *granularity < CBW_GRANULARITY_MIN ||
			    *granularity > CBW_GRANULARITY_MAX)
				return bad("bad granularity: a power of two from 512 to 2147483648 bytes");
		} else {
			return bad("bitmap_add <name> [granularity <bytes>] [disabled] [transient]");
		}
	}
	return 0;
}

static int message_commit(struct cbw_device *dev, struct cbw_name name)
{
	struct cbw_container *container;
	struct cbw_bitmap *b;
	int r;

	cbw_config_lock();
	container = cbw_container_sync_begin(dev);
	b = cbw_bitmap_find(dev, name);
	r = !b ? -ENOENT : cbw_bitmap_commit(dev, b, NULL, NULL, NULL);
	cbw_config_unlock();
	r = cbw_container_sync_end(container, r);
	if (r != -ESTALE)
		return r;
	return bad("bitmap_commit: the bitmap is not rotated");
}

static int message_abort(struct cbw_device *dev, struct cbw_name name)
{
	struct cbw_bitmap *b;
	int r;

	cbw_config_lock();
	b = cbw_bitmap_find(dev, name);
	r = !b ? -ENOENT : cbw_bitmap_abort_start(b);
	if (!r)
		kref_get(&b->ref);
	cbw_config_unlock();
	if (!r)
		return cbw_bitmap_abort_wait(b);
	return b ? bad("bitmap_abort: the bitmap is not rotated") : r;
}

enum verb {
	ADD, REMOVE, CLEAR, ENABLE, DISABLE, ROTATE, MERGE, COPY, RENAME, COMMIT, ABORT
};

static const char * const verbs[] = {
	[ADD] = "bitmap_add",
	[REMOVE] = "bitmap_remove",
	[CLEAR] = "bitmap_clear",
	[ENABLE] = "bitmap_enable",
	[DISABLE] = "bitmap_disable",
	[ROTATE] = "bitmap_rotate",
	[MERGE] = "bitmap_merge",
	[COPY] = "bitmap_copy",
	[RENAME] = "bitmap_rename",
	[COMMIT] = "bitmap_commit",
	[ABORT] = "bitmap_abort",
};

/**
 * struct other - a bitmap that a verb takes besides the first
 * @devt: its device; 0: the one that the message is for
 * @name: its name
 */
struct other {
	dev_t devt;
	struct cbw_name name;
};

/* [<major>:<minor>/]<name>; no name has a slash. */
static int parse_other(char *arg, struct other *other)
{
	char *slash = strchr(arg, '/');
	unsigned int major, minor;
	char end;

	other->devt = 0;
	if (slash) {
		*slash = '\0';
		if (sscanf(arg, "%u:%u%c", &major, &minor, &end) != 2)
			return bad("a bitmap of another device is <major>:<minor>/<name>");
		other->devt = MKDEV(major, minor);
		if (MAJOR(other->devt) != major || MINOR(other->devt) != minor || !other->devt)
			return -ENODEV;
		arg = slash + 1;
	}
	if (cbw_name_unescape(arg, &other->name))
		return bad("bad name of the other bitmap: 1 to 1023 bytes, no '/', \\xHH for special ones");
	return 0;
}

static int act_other(struct cbw_txn *txn, struct cbw_device *dev, enum verb verb,
		     struct cbw_name name, const struct other *other)
{
	struct cbw_device *from = other->devt ? cbw_device_find(other->devt) : dev;

	if (!from)
		return -ENODEV;
	if (verb == COPY)
		return cbw_txn_copy(txn, dev, name, from, other->name);
	return cbw_txn_merge(txn, dev, name, from, other->name);
}

/* The other bitmaps of a merge, a copy or a rename: a transaction of their own. */
static int message_others(struct cbw_device *dev, enum verb verb, struct cbw_name name,
			  unsigned int argc, char **argv)
{
	struct other *others;
	struct cbw_txn txn = {};
	unsigned int i;
	int r = 0;

	if (!argc || (argc > 1 && verb != MERGE))
		return bad(verb == MERGE ? "bitmap_merge <target> <source>..." :
			   verb == COPY ? "bitmap_copy <new> <source>" :
			   "bitmap_rename <old> <new>");
	others = kcalloc(argc, sizeof(*others), GFP_NOIO);
	if (!others)
		return -ENOMEM;
	for (i = 0; i < argc && !r; i++)
		r = parse_other(argv[i], &others[i]);
	if (!r && verb == RENAME && others->devt)
		r = bad("bitmap_rename: the new name is on the same device");
	if (r)
		goto out;
	do {
		cbw_txn_begin(&txn, NULL);
		r = 0;
		if (verb == RENAME)
			r = cbw_txn_rename(&txn, dev, name, others->name);
		for (i = 0; i < argc && !r && verb != RENAME; i++)
			r = act_other(&txn, dev, verb, name, &others[i]);
		r = cbw_txn_end(&txn, r);
		r = cbw_txn_retry(&txn, r);
	} while (r == -EAGAIN);
out:
	kfree(others);
	return r;
}

static int act(struct cbw_txn *txn, struct cbw_device *dev, enum verb verb,
	       struct cbw_name name, u32 granularity, u32 flags)
{
	switch (verb) {
	case ADD:
		return cbw_txn_add(txn, dev, name, granularity, flags);
	case REMOVE:
		return cbw_txn_remove(txn, dev, name);
	case CLEAR:
		return cbw_txn_clear(txn, dev, name);
	case ENABLE:
		return cbw_txn_enable(txn, dev, name, true);
	case DISABLE:
		return cbw_txn_enable(txn, dev, name, false);
	case ROTATE:
		return cbw_txn_rotate(txn, dev, name, NULL);
	default:
		return -EINVAL;
	}
}

/**
 * cbw_message - a message to a cbw device
 * @ti: the table instance
 * @argc: words
 * @argv: words, overwritten
 * @result: the reply
 * @maxlen: room for it
 *
 * May sleep.  1: there is a reply.  EEXIST, ENOENT, ENODEV, EBUSY, EINTR, or EINVAL with a
 * log line.
 */
int cbw_message(struct dm_target *ti, unsigned int argc, char **argv,
		char *result, unsigned int maxlen)
{
	struct cbw_target *ct = ti->private;
	u32 granularity = 0, flags = 0;
	struct cbw_txn txn = {};
	struct cbw_name name;
	unsigned int sz = 0;
	int verb, r;

	for (verb = 0; verb < ARRAY_SIZE(verbs); verb++)
		if (!strcasecmp(argv[0], verbs[verb]))
			break;
	if (verb == ARRAY_SIZE(verbs))
		return bad("unknown: bitmap_add, _remove, _clear, _enable, _disable, _rotate, _merge, _copy, _rename, _commit and _abort are known");
	if (argc < 2)
		return bad("a bitmap's name is needed");
	if (verb != ADD && verb != MERGE && verb != COPY && verb != RENAME && argc > 2)
		return bad("one bitmap's name is all that is taken");
	if (cbw_name_unescape(argv[1], &name))
		return bad("bad bitmap name: 1 to 1023 bytes, no '/', \\xHH for special ones");
	if (verb == ADD) {
		r = parse_add(argc - 2, argv + 2, &granularity, &flags);
		if (r)
			return r;
	}
	if (verb == MERGE || verb == COPY || verb == RENAME)
		return message_others(ct->dev, verb, name, argc - 2, argv + 2);
	if (verb == COMMIT)
		return message_commit(ct->dev, name);
	if (verb == ABORT)
		return message_abort(ct->dev, name);

	do {
		cbw_txn_begin(&txn, NULL);
		r = cbw_txn_end(&txn, act(&txn, ct->dev, verb, name,
					  granularity, flags));
		r = cbw_txn_retry(&txn, r);
	} while (r == -EAGAIN);
	if (r || verb != ROTATE)
		return r;
	DMEMIT("%*phN", (int)sizeof(txn.cut), txn.cut.b);
	return 1;
}
