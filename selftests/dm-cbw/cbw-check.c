// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Judges what cbw-load wrote: see stamp.h.
 *
 *	cbw-check verify DEV --gen N [--index N]  every sector is of that fill
 *	cbw-check compare A B			  equal, byte by byte
 *	cbw-check save DEV IMAGE
 *	cbw-check diff A B EXTENTS		  what differs lies in EXTENTS
 *	cbw-check overlay IMAGE SNAP --chunk B [--extents-in F] [--extents-out F]
 *		copies what can be read of SNAP (else ENODATA) over IMAGE
 *	cbw-check order LOG IMAGE... [--before T] [--after T] [--gen N]
 *		what is not of the load is of fill N; no write is missing that was acknowledged before T, or before one
 *		that is there was issued; none is there that was issued after T
 *	cbw-check mark LOG			  a T: now
 *	cbw-check at DEV OFFSET [SECTORS]	  what is there, or the error's name
 *	cbw-check read DEV [OFFSET LENGTH] [--bs B]	reads, and says how it went
 *
 * EXTENTS files have lines "offset length" in bytes.  IMAGEs of `order` are
 * in the order of the devices of the load; "-" leaves one out.
 * Status: 0 yes; 1 no, and why; 2 usage; 3 I/O error.
 */
#include <fcntl.h>
#include <getopt.h>
#include <unistd.h>

#include "stamp.h"

#define PIECE	(1u << 20)

static struct {
	uint32_t gen, index, chunk, bs;
	uint64_t before, after;
	const char *extents_in, *extents_out;
} o = { .after = UINT64_MAX, .chunk = 4096, .bs = PIECE };

typedef unsigned long long ull;

static void must_open(struct target *t, const char *path, int flags)
{
	int ret = target_open(t, path, flags);

	if (ret)
		die(EXIT_IO, "%s: %s", path, errname(ret));
}

static void must_read(struct target *t, const char *path, void *buf,
		      size_t len, uint64_t off)
{
	int ret = read_full(t->fd, buf, len, off);

	if (ret)
		die(EXIT_IO, "%s: read of %zu bytes at %llu: %s", path, len,
		    (ull)off, errname(ret));
}

static size_t piece_at(const struct target *t, uint64_t off)
{
	return t->size - off < PIECE ? t->size - off : PIECE;
}

static int do_verify(const char *path)
{
	struct stamp want, *got = buffer_alloc(PIECE);
	uint64_t off, sector, bad = 0;
	struct target t;
	size_t len, i;

	must_open(&t, path, O_RDONLY);
	for (off = 0; off < t.size; off += len) {
		len = piece_at(&t, off);
		must_read(&t, path, got, len, off);
		for (i = 0; i < len / SECTOR; i++) {
			sector = off / SECTOR + i;
			stamp_make(&want, sector, o.index, o.gen, 0, 0);
			if (!memcmp(&want, got + i, SECTOR) || bad++)
				continue;
			printf("%s: first wrong sector %llu: has %s, not %s\n",
			       path, (ull)sector,
			       stamp_describe(got + i, sector, o.index),
			       stamp_describe(&want, sector, o.index));
		}
	}
	if (bad)
		printf("%s: %llu of %llu sectors are wrong\n", path, (ull)bad,
		       (ull)(t.size / SECTOR));
	return bad ? EXIT_DIFFERS : 0;
}

struct extents {
	uint64_t (*v)[2];
	size_t nr;
};

static void extents_load(struct extents *e, const char *path)
{
	FILE *f = fopen(path, "r");
	ull off, len;
	int n;

	if (!f)
		die(EXIT_IO, "%s: %s", path, strerror(errno));
	e->nr = 0;
	e->v = NULL;
	while ((n = fscanf(f, "%llu %llu%*[^\n]", &off, &len)) == 2) {
		e->v = reallocarray(e->v, e->nr + 1, sizeof(*e->v));
		if (!e->v)
			die(EXIT_IO, "no memory");
		e->v[e->nr][0] = off;
		e->v[e->nr++][1] = len;
	}
	if (n != EOF || ferror(f))
		die(EXIT_IO, "%s: line %zu is not 'offset length'", path,
		    e->nr + 1);
	fclose(f);
}

static bool extents_cover(const struct extents *e, uint64_t off)
{
	size_t i;

	for (i = 0; i < e->nr; i++)
		if (off >= e->v[i][0] && off - e->v[i][0] < e->v[i][1])
			return true;
	return false;
}

/* Compares; with extents, only what lies outside of them counts. */
static int do_compare(const char *pa, const char *pb, const char *extents)
{
	struct stamp *a = buffer_alloc(PIECE), *b = buffer_alloc(PIECE);
	uint64_t off, sector, bad = 0, inside = 0;
	struct extents e = { 0 };
	struct target ta, tb;
	size_t len, i;

	if (extents)
		extents_load(&e, extents);
	must_open(&ta, pa, O_RDONLY);
	must_open(&tb, pb, O_RDONLY);
	if (ta.size != tb.size) {
		printf("%s has %llu bytes, %s has %llu\n", pa, (ull)ta.size, pb,
		       (ull)tb.size);
		return EXIT_DIFFERS;
	}
	for (off = 0; off < ta.size; off += len) {
		len = piece_at(&ta, off);
		must_read(&ta, pa, a, len, off);
		must_read(&tb, pb, b, len, off);
		if (!memcmp(a, b, len))
			continue;
		for (i = 0; i < len / SECTOR; i++) {
			sector = off / SECTOR + i;
			if (!memcmp(a + i, b + i, SECTOR))
				continue;
			if (extents && extents_cover(&e, sector * SECTOR)) {
				inside++;
				continue;
			}
			if (bad++)
				continue;
			printf("first difference at sector %llu: %s has %s, %s has %s\n",
			       (ull)sector, pa,
			       stamp_describe(a + i, sector, o.index), pb,
			       stamp_describe(b + i, sector, o.index));
		}
	}
	if (bad)
		printf("%llu of %llu sectors differ%s\n", (ull)bad,
		       (ull)(ta.size / SECTOR),
		       extents ? " outside the extents" : "");
	else if (extents)
		printf("%llu sectors differ, all inside the extents\n",
		       (ull)inside);
	return bad ? EXIT_DIFFERS : 0;
}

static int do_save(const char *from, const char *to)
{
	void *buf = buffer_alloc(PIECE);
	struct target s, d;
	uint64_t off;
	size_t len;
	int ret;

	must_open(&s, from, O_RDONLY);
	d.fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (d.fd < 0)
		die(EXIT_IO, "%s: %s", to, errname(errno));
	for (off = 0; off < s.size; off += len) {
		len = piece_at(&s, off);
		must_read(&s, from, buf, len, off);
		ret = write_full(d.fd, buf, len, off);
		if (ret)
			die(EXIT_IO, "%s: write: %s", to, errname(ret));
	}
	return close(d.fd) ? EXIT_IO : 0;
}

struct overlay {
	struct target image, snap;
	const char *snap_path;
	uint64_t copied, out_off, out_len;
	FILE *out;
	void *buf;
};

static void overlay_note(struct overlay *v, uint64_t off, size_t len)
{
	if (v->out_len && v->out_off + v->out_len == off) {
		v->out_len += len;
		return;
	}
	if (v->out && v->out_len)
		fprintf(v->out, "%llu %llu\n", (ull)v->out_off,
			(ull)v->out_len);
	v->out_off = off;
	v->out_len = len;
}

/* A read that meets ENODATA is tried again in halves, down to a chunk. */
static void overlay_range(struct overlay *v, uint64_t off, size_t len)
{
	size_t half;
	int ret = read_full(v->snap.fd, v->buf, len, off);

	if (!ret) {
		ret = write_full(v->image.fd, v->buf, len, off);
		if (ret)
			die(EXIT_IO, "image: write: %s", errname(ret));
		v->copied += len;
		overlay_note(v, off, len);
		return;
	}
	if (ret != -ENODATA || o.extents_in)
		die(EXIT_IO, "%s: read of %zu bytes at %llu: %s", v->snap_path,
		    len, (ull)off, errname(ret));
	if (len <= o.chunk)
		return;
	for (half = o.chunk; half * 2 < len; half *= 2)
		;
	overlay_range(v, off, half);
	overlay_range(v, off + half, len - half);
}

static int do_overlay(const char *image, const char *snap)
{
	struct overlay v = { .snap_path = snap, .buf = buffer_alloc(PIECE) };
	struct extents e = { 0 };
	uint64_t off, end;
	size_t len, i;

	must_open(&v.image, image, O_RDWR);
	must_open(&v.snap, snap, O_RDONLY);
	if (v.image.size != v.snap.size) {
		printf("%s has %llu bytes, %s has %llu\n", image,
		       (ull)v.image.size, snap, (ull)v.snap.size);
		return EXIT_DIFFERS;
	}
	if (o.extents_in) {
		extents_load(&e, o.extents_in);
	} else {
		e.nr = 1;
		e.v = calloc(1, sizeof(*e.v));
		if (!e.v)
			die(EXIT_IO, "no memory");
		e.v[0][1] = v.snap.size;
	}
	if (o.extents_out) {
		v.out = fopen(o.extents_out, "w");
		if (!v.out)
			die(EXIT_IO, "%s: %s", o.extents_out, strerror(errno));
	}
	for (i = 0; i < e.nr; i++) {
		end = e.v[i][0] + e.v[i][1];
		if (end > v.snap.size || end < e.v[i][0])
			die(EXIT_DIFFERS, "extent %zu ends behind the device", i);
		for (off = e.v[i][0]; off < end; off += len) {
			len = PIECE - off % PIECE;
			if (len > end - off)
				len = end - off;
			overlay_range(&v, off, len);
		}
	}
	overlay_note(&v, UINT64_MAX, 0);
	if (v.out && fclose(v.out))
		die(EXIT_IO, "%s: %s", o.extents_out, strerror(errno));
	printf("copied=%llu\n", (ull)v.copied);
	return close(v.image.fd) ? EXIT_IO : 0;
}

/* What the log says of one sector, and what was found there. */
struct place {
	uint32_t found;		/* record + 1; 0: the base */
	bool zero;
	uint64_t zero_ack;	/* last end of what may have zeroed it */
	uint64_t need;		/* issue of the latest write that has to be there */
	uint32_t need_rec;
};

static uint64_t ack_of(const struct oprec *r)
{
	uint64_t ack = __atomic_load_n(&r->ack, __ATOMIC_SEQ_CST);

	return ack ? ack : UINT64_MAX;
}

static int complain(const char *path, ull sector, const char *what,
		    const struct stamp *s, uint32_t dev)
{
	printf("%s: sector %llu: %s; it has %s\n", path, sector, what,
	       stamp_describe(s, sector, dev));
	return 1;
}

/* Pass 1: what is there; is it right by itself? Returns complaints. */
static int order_scan(struct oplog *log, struct place *pl, const char *path,
		      uint32_t dev, uint64_t *latest, uint64_t *base)
{
	struct stamp *buf = buffer_alloc(PIECE), *s;
	struct target t;
	uint64_t off, sector, nr;
	size_t len, i;
	int bad = 0;

	must_open(&t, path, O_RDONLY);
	if (t.size != log->size[dev]) {
		printf("%s has %llu bytes, device %u of the load %llu\n", path,
		       (ull)t.size, dev, (ull)log->size[dev]);
		return 1;
	}
	for (off = 0; off < t.size && bad < 5; off += len) {
		len = piece_at(&t, off);
		must_read(&t, path, buf, len, off);
		nr = log->nr < log->max ? log->nr : log->max;
		for (i = 0; i < len / SECTOR && bad < 5; i++) {
			const struct oprec *r;

			s = buf + i;
			sector = off / SECTOR + i;
			switch (stamp_check(s, sector, dev)) {
			case STAMP_ZERO:
				pl[sector].zero = true;
				continue;
			case STAMP_OK:
				break;
			default:
				bad += complain(path, sector, "wrong data", s,
						dev);
				continue;
			}
			if (!s->seq) {
				++*base;
				if (o.gen && s->gen != o.gen)
					bad += complain(path, sector,
							"of another base", s,
							dev);
				continue;
			}
			r = s->seq <= nr ? &log->rec[s->seq - 1] : NULL;
			if (!r || s->gen != log->gen || r->dev != dev ||
			    r->op != OP_WRITE || r->writer != s->writer ||
			    sector * SECTOR < r->off ||
			    sector * SECTOR >= r->off + r->len) {
				bad += complain(path, sector,
						"no such write in the log", s,
						dev);
				continue;
			}
			if (r->issue > o.after)
				bad += complain(path, sector,
						"of the future: issued after the cut",
						s, dev);
			if (r->issue > *latest)
				*latest = r->issue;
			pl[sector].found = s->seq;
		}
	}
	close(t.fd);
	free(buf);
	return bad;
}

/* Pass 2: what has to be there, and what may have made zeros? */
static void order_log(struct oplog *log, struct place *pl, uint32_t dev,
		      uint64_t latest)
{
	uint64_t nr = log->nr < log->max ? log->nr : log->max, i, s;

	for (i = 0; i < nr; i++) {
		const struct oprec *r = &log->rec[i];
		uint64_t ack = ack_of(r);

		if (r->dev != dev || !r->issue)
			continue;
		for (s = r->off / SECTOR; s < (r->off + r->len) / SECTOR; s++) {
			if (r->op != OP_WRITE && r->issue <= o.after &&
			    ack > pl[s].zero_ack)
				pl[s].zero_ack = ack;
			if (r->op != OP_DISCARD && ack < latest &&
			    r->issue > pl[s].need) {
				pl[s].need = r->issue;
				pl[s].need_rec = i;
			}
		}
	}
}

/* Pass 3: is anything older than what has to be there? */
static int order_judge(struct oplog *log, struct place *pl, const char *path,
		       uint32_t dev, uint64_t latest)
{
	uint64_t s, have;
	int bad = 0;

	for (s = 0; s < log->size[dev] / SECTOR && bad < 5; s++) {
		const struct oprec *n = &log->rec[pl[s].need_rec];

		have = pl[s].found ? ack_of(&log->rec[pl[s].found - 1]) : 0;
		if (pl[s].zero) {
			have = pl[s].zero_ack;
			if (!have) {
				printf("%s: sector %llu has zeros that nobody wrote\n",
				       path, (ull)s);
				bad++;
				continue;
			}
		}
		if (!pl[s].need || have >= pl[s].need)
			continue;
		printf("%s: sector %llu lacks op %u of record %u at %llu+%u, issued %llu, acknowledged %llu, before %llu; it has %s %u, acknowledged %llu\n",
		       path, (ull)s, n->op, pl[s].need_rec + 1, (ull)n->off,
		       n->len, (ull)n->issue, (ull)ack_of(n), (ull)latest,
		       pl[s].zero ? "zeros, record" : "record", pl[s].found,
		       (ull)have);
		bad++;
	}
	return bad;
}

static int do_order(const char *log_path, char **images, int n)
{
	struct oplog *log = oplog_open(log_path);
	struct place *pl[OPLOG_DEVS] = { 0 };
	uint64_t latest = o.before, base = 0;
	int i, bad = 0;

	if (n != (int)log->ndevs)
		die(EXIT_USAGE, "%d images, but the load has %u devices", n,
		    log->ndevs);
	for (i = 0; i < n; i++) {
		if (!strcmp(images[i], "-"))
			continue;
		pl[i] = calloc(log->size[i] / SECTOR, sizeof(*pl[i]));
		if (!pl[i])
			die(EXIT_IO, "no memory");
		bad += order_scan(log, pl[i], images[i], i, &latest, &base);
	}
	for (i = 0; i < n; i++) {
		if (!pl[i])
			continue;
		order_log(log, pl[i], i, latest);
		bad += order_judge(log, pl[i], images[i], i, latest);
		free(pl[i]);
	}
	printf("%s: records %llu, latest write there issued at %llu, %llu sectors of the base\n",
	       bad ? "wrong" : "right", (ull)log->nr, (ull)latest, (ull)base);
	return bad ? EXIT_DIFFERS : 0;
}

static int do_at(const char *path, uint64_t off, uint64_t nr)
{
	uint64_t first = off / SECTOR, i;
	struct target t;
	size_t len;
	void *buf;
	int ret;

	must_open(&t, path, O_RDONLY);
	/* whole logical blocks */
	len = nr * SECTOR + off % t.lbs;
	len += (t.lbs - len % t.lbs) % t.lbs;
	off -= off % t.lbs;
	buf = buffer_alloc(len);
	ret = read_full(t.fd, buf, len, off);
	if (ret) {
		printf("%s\n", errname(ret));
		return EXIT_IO;
	}
	for (i = 0; i < nr; i++)
		printf("%s\n", stamp_describe((struct stamp *)buf + i + first -
						      off / SECTOR,
					      first + i, o.index));
	return 0;
}

static int do_read(const char *path, uint64_t off, uint64_t len)
{
	void *buf = buffer_alloc(o.bs);
	struct target t;
	uint64_t end;
	size_t n;
	int ret;

	must_open(&t, path, O_RDONLY);
	end = len ? off + len : t.size;
	for (; off < end; off += n) {
		n = end - off < o.bs ? end - off : o.bs;
		ret = read_full(t.fd, buf, n, off);
		if (ret) {
			printf("%s at %llu\n", errname(ret), (ull)off);
			return EXIT_IO;
		}
	}
	printf("ok\n");
	return 0;
}

static const struct command {
	const char *name;
	int min, max;
} commands[] = {
	{ "verify", 1, 1 }, { "compare", 2, 2 }, { "save", 2, 2 },
	{ "diff", 3, 3 },   { "overlay", 2, 2 }, { "order", 2, 9 },
	{ "mark", 1, 1 },   { "at", 2, 3 },	 { "read", 1, 3 },
};

int main(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "gen", 1, NULL, 'g' },	 { "index", 1, NULL, 'i' },
		{ "chunk", 1, NULL, 'c' },	 { "bs", 1, NULL, 'B' },
		{ "before", 1, NULL, 'b' },	 { "after", 1, NULL, 'a' },
		{ "extents-in", 1, NULL, 'I' },	 { "extents-out", 1, NULL, 'O' },
		{ 0 },
	};
	const char *cmd = argc > 1 ? argv[1] : "";
	size_t i;
	int c;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(cmd, commands[i].name))
			break;
	if (i == sizeof(commands) / sizeof(commands[0]))
		die(EXIT_USAGE, "see the head of cbw-check.c for the commands");
	argc--;
	argv++;
	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1)
		switch (c) {
		case 'g': o.gen = parse_size(optarg); break;
		case 'i': o.index = parse_size(optarg); break;
		case 'c': o.chunk = parse_size(optarg); break;
		case 'B': o.bs = parse_size(optarg); break;
		case 'b': o.before = parse_size(optarg); break;
		case 'a': o.after = parse_size(optarg); break;
		case 'I': o.extents_in = optarg; break;
		case 'O': o.extents_out = optarg; break;
		default: die(EXIT_USAGE, "see the head of cbw-check.c");
		}
	argc -= optind;
	argv += optind;
	if (argc < commands[i].min || argc > commands[i].max)
		die(EXIT_USAGE, "%s takes %d to %d arguments", cmd,
		    commands[i].min, commands[i].max);
	if (!o.chunk || o.chunk % SECTOR || !o.bs || o.bs % SECTOR)
		die(EXIT_USAGE, "--chunk and --bs are whole sectors");
	if (!strcmp(cmd, "verify"))
		return do_verify(argv[0]);
	if (!strcmp(cmd, "compare"))
		return do_compare(argv[0], argv[1], NULL);
	if (!strcmp(cmd, "save"))
		return do_save(argv[0], argv[1]);
	if (!strcmp(cmd, "diff"))
		return do_compare(argv[0], argv[1], argv[2]);
	if (!strcmp(cmd, "overlay"))
		return do_overlay(argv[0], argv[1]);
	if (!strcmp(cmd, "order"))
		return do_order(argv[0], argv + 1, argc - 1);
	if (!strcmp(cmd, "mark")) {
		printf("%llu\n", (ull)oplog_tick(oplog_open(argv[0])));
		return 0;
	}
	if (!strcmp(cmd, "at"))
		return do_at(argv[0], parse_size(argv[1]),
			     argc > 2 ? parse_size(argv[2]) : 1);
	return do_read(argv[0], argc > 1 ? parse_size(argv[1]) : 0,
		       argc > 2 ? parse_size(argv[2]) : 0);
}
