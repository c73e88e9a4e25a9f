// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A container without an image around it, for tests of what the kernel writes there, and a
 * judge of it that shares no code with the tool.
 *
 *	cbw-box attach DEV CONTAINER [--region BYTES] [--timeout MS] [--hold] [--written SECTORS]
 *		delivers the layout; recovers what is there (4: not to be trusted)
 *	cbw-box detach DEV [--cancel]
 *	cbw-box info DEV [--checkpoint]
 *	cbw-box state CONTAINER			the newest state, as text
 *	cbw-box dirty CONTAINER NAME		what a recovery would say is dirty
 *	cbw-box fuzz NAME ORIGIN CONTAINER SECONDS SEED
 *		layouts that are wrong in some places, at random: refused, or taken
 *	cbw-box judge CONTAINER NAME ORIGIN REFERENCE
 *		every granule in which ORIGIN and REFERENCE differ has to be dirty
 *
 * The state is in the first 64 KiB, then come the intents, then bitmaps.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define CLUSTER	65536ull

struct box {
	int fd;
	uint64_t size;
	uint8_t slot[CBW_STATE_SLOT_SIZE];	/* the newest state */
	struct cbw_state *s;			/* in there, NULL: none */
	uint8_t *intents;			/* both together */
};

static void die(const char *what)
{
	fprintf(stderr, "cbw-box: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint32_t crc32c(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0u;

	while (len--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void read_at(int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = pread(fd, buf, len, (off_t)off);

	if (n < 0)
		die("read");
	memset((char *)buf + n, 0, len - (size_t)n);
}

/* A block device was written behind the page cache's back. */
static int open_fresh(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		die(path);
	ioctl(fd, BLKFLSBUF, 0);
	return fd;
}

static int slot_valid(uint8_t *slot)
{
	struct cbw_state *s = (struct cbw_state *)slot;
	uint32_t crc = s->crc32c;
	int ok;

	if (s->magic != CBW_STATE_MAGIC || s->version != CBW_STATE_VERSION ||
	    s->length < sizeof(*s) || s->length > CBW_STATE_SLOT_SIZE)
		return 0;
	s->crc32c = 0;
	ok = crc32c(slot, s->length) == crc;
	s->crc32c = crc;
	return ok;
}

static void box_open(struct box *b, const char *path, int flags)
{
	uint8_t slot[CBW_STATE_SLOT_SIZE];
	off_t end;

	memset(b, 0, sizeof(*b));
	b->fd = open_fresh(path, flags);
	end = lseek(b->fd, 0, SEEK_END);
	if (end < 0)
		die(path);
	b->size = (uint64_t)end;
	for (unsigned int i = 0; i < 2; i++) {
		struct cbw_state *s = (struct cbw_state *)slot;

		read_at(b->fd, slot, sizeof(slot), i * sizeof(slot));
		if (!slot_valid(slot) || s->seq % 2 != i || (b->s && b->s->seq > s->seq))
			continue;
		memcpy(b->slot, slot, sizeof(slot));
		b->s = (struct cbw_state *)b->slot;
	}
	if (!b->s || !b->s->intent_length)
		return;
	b->intents = malloc(b->s->intent_length * 2);
	if (!b->intents)
		die("memory");
	read_at(b->fd, b->intents, b->s->intent_length, b->s->intent_offset[0]);
	read_at(b->fd, b->intents + b->s->intent_length, b->s->intent_length,
		b->s->intent_offset[1]);
	for (uint64_t i = 0; i < b->s->intent_length; i++)
		b->intents[i] |= b->intents[b->s->intent_length + i];
}

static struct cbw_state_bitmap *first_entry(struct box *b)
{
	return (void *)(b->slot + sizeof(*b->s) + ((b->s->binding_length + 7) & ~7u));
}

static struct cbw_state_bitmap *next_entry(struct cbw_state_bitmap *e)
{
	return (void *)((char *)e + e->entry_size);
}

static struct cbw_state_bitmap *find_entry(struct box *b, const char *name)
{
	struct cbw_state_bitmap *e = first_entry(b);

	for (uint32_t i = 0; i < b->s->nr_bitmaps; i++, e = next_entry(e))
		if (e->name_len == strlen(name) && !memcmp(e->name, name, e->name_len))
			return e;
	return NULL;
}

static uint64_t granules(const struct box *b, const struct cbw_state_bitmap *e)
{
	return (b->s->device_size + e->granularity - 1) / e->granularity;
}

static int get_bit(const uint8_t *p, uint64_t n)
{
	return p[n / 8] >> n % 8 & 1;
}

/* What a recovery says; bytes are a multiple of 8. */
static uint8_t *recovered(struct box *b, const struct cbw_state_bitmap *e, uint64_t *coarse)
{
	uint64_t nr = granules(b, e), bytes = (nr + 63) / 64 * 8;
	uint64_t region = 1ull << b->s->region_shift;
	uint8_t *bits = malloc(bytes);

	if (!bits)
		die("memory");
	read_at(b->fd, bits, bytes, e->offset);
	/* What is behind the last granule is nobody's. */
	for (uint64_t g = nr; g < bytes * 8; g++)
		bits[g / 8] &= ~(1u << g % 8);
	*coarse = 0;
	if (b->s->flags & CBW_STATE_CLEAN)
		return bits;
	for (uint64_t r = 0; r * region < b->s->device_size; r++) {
		uint64_t g = r * region / e->granularity, last;

		if (!get_bit(b->intents, r))
			continue;
		last = ((r + 1) * region - 1) / e->granularity;
		for (; g <= last && g < nr; g++) {
			*coarse += !get_bit(bits, g);
			bits[g / 8] |= 1u << g % 8;
		}
	}
	return bits;
}

static void print_hex(const uint8_t *p)
{
	for (int i = 0; i < 16; i++)
		printf("%02x", p[i]);
}

static int state(const char *path)
{
	struct cbw_state_bitmap *e;
	struct box b;

	box_open(&b, path, O_RDONLY);
	if (!b.s) {
		printf("none\n");
		return 1;
	}
	printf("seq %llu%s%s%s size %llu generation %llu written %llu\n", (unsigned long long)b.s->seq,
	       b.s->flags & CBW_STATE_CLEAN ? " clean" : "",
	       b.s->flags & CBW_STATE_UNTRACKED ? " untracked" : "",
	       b.s->flags & CBW_STATE_ATTACHING ? " attaching" : "",
	       (unsigned long long)b.s->device_size, (unsigned long long)b.s->generation,
	       (unsigned long long)b.s->written);
	e = first_entry(&b);
	for (uint32_t i = 0; i < b.s->nr_bitmaps; i++, e = next_entry(e)) {
		uint64_t coarse, dirty = 0, nr = granules(&b, e);
		uint8_t *bits = recovered(&b, e, &coarse);

		for (uint64_t g = 0; g < nr; g++)
			dirty += (uint64_t)get_bit(bits, g);
		printf("bitmap %.*s granularity %u %s base ", (int)e->name_len, e->name,
		       e->granularity, e->flags & CBW_STATE_ENABLED ? "enabled" : "disabled");
		print_hex(e->base);
		printf(" dirty %llu coarse %llu\n", (unsigned long long)dirty,
		       (unsigned long long)coarse);
		free(bits);
	}
	return 0;
}

static int dirty(const char *path, const char *name)
{
	struct cbw_state_bitmap *e;
	uint64_t coarse, nr, g, end;
	struct box b;
	uint8_t *bits;

	box_open(&b, path, O_RDONLY);
	e = b.s ? find_entry(&b, name) : NULL;
	if (!e) {
		fprintf(stderr, "cbw-box: no bitmap %s\n", name);
		return 1;
	}
	bits = recovered(&b, e, &coarse);
	nr = granules(&b, e);
	for (g = 0; g < nr; g = end) {
		for (end = g; end < nr && get_bit(bits, end) == get_bit(bits, g); end++)
			;
		if (get_bit(bits, g))
			printf("%llu %llu\n", (unsigned long long)(g * e->granularity),
			       (unsigned long long)((end - g) * e->granularity));
	}
	return 0;
}

static int judge(const char *path, const char *name, const char *origin, const char *reference)
{
	uint64_t coarse, nr, differ = 0, missed = 0, marked = 0;
	struct cbw_state_bitmap *e;
	int a = open_fresh(origin, O_RDONLY), r = open_fresh(reference, O_RDONLY);
	uint8_t *bits, *x, *y;
	struct box b;

	box_open(&b, path, O_RDONLY);
	e = b.s ? find_entry(&b, name) : NULL;
	if (!e || b.s->flags & CBW_STATE_UNTRACKED) {
		printf("no such bitmap to be trusted\n");
		return 4;
	}
	bits = recovered(&b, e, &coarse);
	nr = granules(&b, e);
	x = malloc(e->granularity);
	y = malloc(e->granularity);
	if (!x || !y)
		die("memory");
	for (uint64_t g = 0; g < nr; g++) {
		marked += (uint64_t)get_bit(bits, g);
		read_at(a, x, e->granularity, g * e->granularity);
		read_at(r, y, e->granularity, g * e->granularity);
		if (!memcmp(x, y, e->granularity))
			continue;
		differ++;
		if (get_bit(bits, g))
			continue;
		if (!missed++)
			printf("missed: granule %llu at %llu\n", (unsigned long long)g,
			       (unsigned long long)(g * e->granularity));
	}
	printf("%llu differ, %llu marked (%llu of them coarse), %llu missed, base ",
	       (unsigned long long)differ, (unsigned long long)marked,
	       (unsigned long long)coarse, (unsigned long long)missed);
	print_hex(e->base);
	printf("\n");
	return missed ? 1 : 0;
}

/* ---- the device ------------------------------------------------------------------- */

static int load(int fd, struct cbw_devno dev, struct box *b, struct cbw_state_bitmap *e)
{
	int enabled = e->flags & CBW_STATE_ENABLED;
	struct cbw_action add = {
		.type = CBW_ACTION_BITMAP_ADD,
		.flags = enabled ? 0 : CBW_ADD_DISABLED,
		.dev = dev,
		.name = (uintptr_t)e->name,
		.name_len = e->name_len,
		.granularity = e->granularity,
	};
	uint64_t coarse, bytes = (granules(b, e) + 63) / 64 * 8, at = 0;
	uint8_t *bits = recovered(b, e, &coarse);
	int ret = ctl_transaction(fd, &add, 1, NULL, NULL);

	printf("recovered %.*s, coarse: %llu KiB marked\n", (int)e->name_len, e->name,
	       (unsigned long long)(coarse * e->granularity >> 10));
	while (!ret && at < bytes) {
		uint64_t len = bytes - at < CBW_BITMAP_DATA_MAX ? bytes - at : CBW_BITMAP_DATA_MAX;
		struct cbw_bitmap_load cmd = {
			.size = sizeof(cmd),
			.dev = dev,
			.name = (uintptr_t)e->name,
			.name_len = e->name_len,
			.data = (uintptr_t)(bits + at),
			.data_len = (uint32_t)len,
			.offset = at * 8 * e->granularity,
			.granularity = e->granularity,
		};

		at += len;
		if (at == bytes && enabled) {
			cmd.flags = CBW_LOAD_BASE;
			memcpy(cmd.base.b, e->base, sizeof(e->base));
		}
		if (ioctl(fd, CBW_BITMAP_LOAD, &cmd))
			ret = -errno;
	}
	free(bits);
	return ret;
}

static int attach(int argc, char **argv)
{
	struct cbw_container_bitmap places[CBW_BITMAPS_MAX];
	struct cbw_container_attach cmd = { .size = sizeof(cmd), .region_shift = 22 };
	struct cbw_place room[CBW_BITMAPS_MAX + 1];
	struct cbw_bitmap_entry *list;
	struct cbw_state_bitmap *e;
	uint64_t size, at;
	struct box b;
	uint32_t nr;
	int fd, i;

	for (i = 4; i < argc; i++) {
		if (!strcmp(argv[i], "--hold"))
			cmd.policy = CBW_CONTAINER_HOLD;
		else if (!strcmp(argv[i], "--region") && ++i < argc)
			cmd.region_shift = (uint32_t)__builtin_ctzll(strtoull(argv[i], NULL, 10));
		else if (!strcmp(argv[i], "--timeout") && ++i < argc)
			cmd.timeout_ms = (uint32_t)strtoul(argv[i], NULL, 10);
		else if (!strcmp(argv[i], "--written") && ++i < argc)
			cmd.written = strtoull(argv[i], NULL, 10);
	}
	if (ctl_devno(argv[2], &cmd.dev) || ctl_devno(argv[3], &cmd.container))
		die("no block device");
	fd = ctl_open();
	if (fd < 0)
		die("control device");
	box_open(&b, argv[3], O_RDWR);
	errno = -ctl_list(fd, cmd.dev, &list, &nr, &size);
	if (errno)
		die(argv[2]);
	free(list);
	if (b.s && b.s->flags & CBW_STATE_UNTRACKED) {
		fprintf(stderr, "cbw-box: writes may have gone by: not to be trusted\n");
		return 4;
	}
	memset(cmd.id, 0x42, sizeof(cmd.id));
	cmd.generation = b.s ? b.s->generation + 1 : 1;
	cmd.state_offset[1] = CBW_STATE_SLOT_SIZE;
	cmd.state_seq = b.s ? b.s->seq : 0;
	if (b.s) {
		cmd.region_shift = b.s->region_shift;
		cmd.intent_length = b.s->intent_length;
	} else {
		cmd.intent_length = ((size >> cmd.region_shift) / 8 + 4096) / 4096 * 4096;
	}
	cmd.intent_offset[0] = CLUSTER;
	cmd.intent_offset[1] = CLUSTER + (cmd.intent_length + CLUSTER - 1) / CLUSTER * CLUSTER;
	at = 2 * cmd.intent_offset[1] - CLUSTER;
	e = b.s ? first_entry(&b) : NULL;
	for (uint32_t n = 0; b.s && n < b.s->nr_bitmaps; n++, e = next_entry(e)) {
		errno = -load(fd, cmd.dev, &b, e);
		if (errno)
			die("load");
		places[n] = (struct cbw_container_bitmap){
			.name = (uintptr_t)e->name,
			.name_len = e->name_len,
			.place = { e->offset, e->length },
		};
		cmd.nr_bitmaps++;
	}
	/* What is free lies between those that are not. */
	for (;;) {
		uint64_t next = b.size / CLUSTER * CLUSTER, end = 0;

		for (uint32_t n = 0; n < cmd.nr_bitmaps; n++) {
			if (places[n].place.offset >= at && places[n].place.offset < next) {
				next = places[n].place.offset;
				end = next + places[n].place.length;
			}
		}
		if (next > at)
			room[cmd.nr_places++] = (struct cbw_place){ at, next - at };
		if (!end)
			break;
		at = end;
	}
	cmd.bitmaps = (uintptr_t)places;
	cmd.places = (uintptr_t)room;
	fsync(b.fd);
	if (ioctl(fd, CBW_CONTAINER_ATTACH, &cmd))
		die("attach");
	return 0;
}

static int detach(const char *dev, int cancel)
{
	struct cbw_container_detach cmd = {
		.size = sizeof(cmd), .flags = cancel ? CBW_DETACH_CANCEL : 0,
	};
	int fd = ctl_open();

	if (fd < 0 || ctl_devno(dev, &cmd.dev) || ioctl(fd, CBW_CONTAINER_DETACH, &cmd))
		die("detach");
	return 0;
}

static int info(const char *dev, int checkpoint)
{
	struct cbw_container_info cmd = {
		.size = sizeof(cmd), .flags = checkpoint ? CBW_INFO_CHECKPOINT : 0,
	};
	int fd = ctl_open();

	if (fd < 0 || ctl_devno(dev, &cmd.dev) || ioctl(fd, CBW_CONTAINER_INFO, &cmd))
		die("info");
	printf("seq %llu regions %llu intent_writes %llu held %llu checkpoints %llu pages %llu free %llu%s%s%s\n",
	       (unsigned long long)cmd.out_state_seq, (unsigned long long)cmd.out_regions,
	       (unsigned long long)cmd.out_intent_writes, (unsigned long long)cmd.out_intent_held,
	       (unsigned long long)cmd.out_checkpoints, (unsigned long long)cmd.out_pages,
	       (unsigned long long)cmd.out_free,
	       cmd.out_flags & CBW_CONTAINER_FAILED ? " failed" : "",
	       cmd.out_flags & CBW_CONTAINER_STOPPING ? " stopping" : "",
	       cmd.out_flags & CBW_CONTAINER_SLIPPED ? " slipped" : "");
	return 0;
}

/* ---- layouts at random -------------------------------------------------------------- */

static uint64_t state_of_rnd;

static uint64_t rnd(void)
{
	state_of_rnd ^= state_of_rnd << 13;
	state_of_rnd ^= state_of_rnd >> 7;
	state_of_rnd ^= state_of_rnd << 17;
	return state_of_rnd * 0x2545f4914f6cdd1dull;
}

/* Something at the edge of what can be right. */
static uint64_t edge(uint64_t now, uint64_t size)
{
	static const uint64_t odd[] = {
		0, 1, 511, 4095, 4096, 28672, 65536, 65537, 1ull << 31, 1ull << 32, ~0ull,
		~0ull - 4095, 1ull << 63, (1ull << 63) - 4096,
	};

	switch (rnd() % 6) {
	case 0:
		return odd[rnd() % (sizeof(odd) / sizeof(odd[0]))];
	case 1:
		return size - 4096 + rnd() % 3 * 4096;
	case 2:
		return now + 4096;
	case 3:
		return now - 4096;
	case 4:
		return rnd() % size / 4096 * 4096;
	}
	return rnd();
}

/* @dev: its number changes each time */
static int make_device(const char *name, const char *origin, const char *box, uint64_t sectors,
		       struct cbw_devno *dev)
{
	char table[256];
	int ret = dm_make(name, dev);

	snprintf(table, sizeof(table), "0 %llu cbw %s 2 container %s", (unsigned long long)sectors,
		 origin, box);
	return ret ? ret : dm_load(name, table);
}

/* The two bitmaps of a device that is to be attached. */
static void add_bitmaps(int fd, struct cbw_devno dev)
{
	static const char * const names[] = { "a", "b" };

	for (int i = 0; i < 2; i++) {
		struct cbw_action add = {
			.type = CBW_ACTION_BITMAP_ADD, .dev = dev, .name = (uintptr_t)names[i],
			.name_len = 1, .granularity = i ? 65536 : 4096,
		};

		errno = -ctl_transaction(fd, &add, 1, NULL, NULL);
		if (errno)
			die("bitmap");
	}
}

static int fuzz(char **argv)
{
	const char *name = argv[2], *origin = argv[3], *box = argv[4];
	time_t end = time(NULL) + atoi(argv[5]);
	unsigned long tried = 0, taken = 0, errors[256] = { 0 };
	struct cbw_devno dev, container;
	uint64_t size, sectors;
	struct box b;
	int fd;

	state_of_rnd = strtoull(argv[6], NULL, 10) * 2 + 1;
	box_open(&b, origin, O_RDONLY);
	sectors = b.size / 512;
	box_open(&b, box, O_RDONLY);
	size = b.size;
	fd = ctl_open();
	if (fd < 0 || ctl_devno(box, &container))
		die("devices");
	errno = -make_device(name, origin, box, sectors, &dev);
	if (errno)
		die("device");
	while (time(NULL) < end) {
		struct cbw_place room[4] = { { 6 * CLUSTER, 4 * CLUSTER }, { 12 * CLUSTER, CLUSTER } };
		struct cbw_container_bitmap places[2] = {
			{ (uintptr_t)"a", 1, 0, { 4 * CLUSTER, CLUSTER } },
			{ (uintptr_t)"b", 1, 0, { 5 * CLUSTER, CLUSTER } },
		};
		uint8_t binding[64];
		struct cbw_container_attach cmd = {
			.size = sizeof(cmd), .container = container, .generation = 1,
			.state_offset = { 0, CBW_STATE_SLOT_SIZE },
			.intent_offset = { CLUSTER, 2 * CLUSTER }, .intent_length = CLUSTER,
			.region_shift = 20, .binding = (uintptr_t)binding,
			.binding_len = sizeof(binding), .bitmaps = (uintptr_t)places,
			.nr_bitmaps = 2, .places = (uintptr_t)room, .nr_places = 2,
		};
		/* what may be wrong */
		__u64 *wide[] = {
			&cmd.state_offset[0], &cmd.state_offset[1], &cmd.state_seq,
			&cmd.intent_offset[0], &cmd.intent_offset[1], &cmd.intent_length,
			&places[0].place.offset, &places[0].place.length, &places[1].place.offset,
			&places[1].place.length, &room[0].offset, &room[0].length, &room[1].offset,
			&room[1].length, &cmd.generation, &cmd.binding, &cmd.bitmaps, &cmd.places,
			&places[1].name,
		};
		__u32 *narrow[] = {
			&cmd.region_shift, &cmd.timeout_ms, &cmd.policy, &cmd.binding_len,
			&cmd.nr_bitmaps, &cmd.nr_places, &places[0].name_len, &cmd.flags,
			&places[1].reserved, &cmd.container.minor,
		};

		memset(binding, (int)rnd(), sizeof(binding));
		cmd.dev = dev;
		add_bitmaps(fd, dev);
		for (uint64_t i = rnd() % 3 + (tried % 16 != 0); i; i--) {
			if (rnd() % 3) {
				__u64 *p = wide[rnd() % (sizeof(wide) / sizeof(wide[0]))];

				*p = edge(*p, size);
			} else {
				*narrow[rnd() % (sizeof(narrow) / sizeof(narrow[0]))] = (uint32_t)edge(2, 64);
			}
		}
		tried++;
		/* what hangs for hours is right, but not wanted here */
		if (cmd.timeout_ms > 5000 && cmd.timeout_ms <= CBW_CONTAINER_TIMEOUT_MAX)
			cmd.timeout_ms = 5000;
		if (ioctl(fd, CBW_CONTAINER_ATTACH, &cmd))
			errors[errno & 255]++;
		else
			taken++;
		errno = -dm_remove(name);
		if (!errno)
			errno = -make_device(name, origin, box, sectors, &dev);
		if (errno)
			die("device");
	}
	printf("%lu layouts, %lu taken", tried, taken);
	for (int i = 1; i < 256; i++)
		if (errors[i])
			printf(", %lu %s", errors[i], strerrorname_np(i));
	printf("\n");
	return taken && taken < tried ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && !strcmp(argv[1], "attach"))
		return attach(argc, argv);
	if (argc >= 3 && !strcmp(argv[1], "detach"))
		return detach(argv[2], argc == 4);
	if (argc >= 3 && !strcmp(argv[1], "info"))
		return info(argv[2], argc == 4);
	if (argc == 3 && !strcmp(argv[1], "state"))
		return state(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "dirty"))
		return dirty(argv[2], argv[3]);
	if (argc == 7 && !strcmp(argv[1], "fuzz"))
		return fuzz(argv);
	if (argc == 6 && !strcmp(argv[1], "judge"))
		return judge(argv[2], argv[3], argv[4], argv[5]);
	fprintf(stderr, "usage: cbw-box attach|detach|info|state|dirty|judge ...\n");
	return 2;
}
