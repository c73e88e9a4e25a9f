/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside of the qcow2 library. All functions here want the image's lock held.
 *
 * Tables in caches are as on disk (big endian); the L1 and the refcount table
 * are in host order.
 */
#ifndef QCOW2_INT_H
#define QCOW2_INT_H

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "qcow2.h"

#define Q2_MAGIC		0x514649fbu
#define Q2_V3_HEADER_LEN	104u
#define Q2_HEADER_LEN		112u
#define Q2_MAX_HEADER		QCOW2_MAX_CLUSTER

#define Q2_INCOMPAT_DIRTY	(1ull << 0)
#define Q2_INCOMPAT_CORRUPT	(1ull << 1)
#define Q2_INCOMPAT_DATA_FILE	(1ull << 2)
#define Q2_INCOMPAT_COMPRESSION	(1ull << 3)
#define Q2_INCOMPAT_EXTL2	(1ull << 4)
#define Q2_AUTOCLEAR_BITMAPS	(1ull << 0)
#define Q2_AUTOCLEAR_DATA_RAW	(1ull << 1)

/* L1 and L2 entries */
#define Q2_COPIED		(1ull << 63)
#define Q2_COMPRESSED		(1ull << 62)
#define Q2_ZERO			(1ull << 0)
#define Q2_OFFSET_MASK		0x00fffffffffffe00ull
#define Q2_L1_RESERVED		0x7f000000000001ffull
#define Q2_L2_RESERVED		0x3f000000000001feull
/* In the L1 in memory only: the L1 on disk does not refer to this table yet */
#define Q2_L1_PENDING		(1ull << 0)

#define Q2_REFT_RESERVED	0x1ffull

/* the part of the header that is replaced by one write of one sector */
#define Q2_SECTOR		512u
#define Q2_BITMAPS_EXT_LEN	24u

/* bitmap tables; QEMU's limits */
#define Q2_BM_RESERVED		0xff000000000001feull
#define Q2_BM_ONES		(1ull << 0)
#define Q2_BM_DIR_ENTRY		24u	/* fixed part of an entry */
#define Q2_BM_MAX_BYTES		(512u << 20)	/* serialised, in whole clusters */
#define Q2_BM_MAX_DIR		(1024ull * QCOW2_MAX_BITMAPS)
#define Q2_BM_MIN_BITS		9u
#define Q2_BM_MAX_BITS		31u

struct q2_label {
	char s[96];
};

struct q2_ent {
	uint64_t key;
	struct q2_ent *hnext;
	struct q2_ent *prev, *next;	/* by use, the latest first */
	bool dirty;
	void *buf;
};

struct q2_cache {
	size_t bufsize;
	unsigned int max, used;
	unsigned int mask;
	struct q2_ent **hash;
	struct q2_ent *ents;
	struct q2_ent lru;
};

struct q2_span {
	uint64_t first, count;	/* clusters */
};

/* clusters that the bitmaps of the directory on disk take */
struct q2_own {
	uint64_t first, count;
	uint32_t bitmap;	/* index; UINT32_MAX: the directory */
	bool data;		/* else the table */
};

struct q2_writer {
	uint64_t end;		/* next cluster to hand out */
	uint64_t limit;		/* clusters that fit (block device) */
	uint64_t *reft;
	uint64_t reft_entries;
	uint64_t reft_lo, reft_hi;	/* entries that differ from the disk's */
	bool reft_moved;
	uint64_t packed;	/* end of the last compressed cluster, room behind it */
	struct q2_cache refb;	/* refcount blocks by index */
	uint64_t l1_lo, l1_hi;	/* entries that differ from the disk's */
	struct q2_span *frees;	/* to be freed once nothing on disk refers to them */
	size_t nr_frees, max_frees;
	bool fresh;		/* no header on disk yet */
	bool begun;		/* the first change was announced (autoclear) */
	bool dirty;
	bool failed;
	bool reuse;		/* free clusters below the end are handed out, too */
	bool punch;		/* what becomes free leaves the file */
	uint64_t hint;		/* no cluster below is known to be free */
	struct qcow2_bitmaps_edit *edit;	/* begun and not ended */
};

/* the bitmaps of a valid directory; names point into @dir */
struct q2_bitmaps {
	unsigned int nr;
	struct qcow2_bitmap *b;
	uint32_t *by_name;	/* indices in ascending order of names */
	uint64_t dir_off, dir_len;
	uint8_t *dir;
};

struct q2_layer {
	enum qcow2_format format;
	int fd;
	char *path;
	char *name;		/* path made printable, for messages */
	dev_t dev, rdev;
	ino_t ino;
	uint64_t size;
	uint64_t file_size;
	bool made;		/* by qcow2_create(), which removes it if it fails; else ... */
	uint64_t was;		/* ... the size of a data file before that */
	/* qcow2 only, from here on */
	unsigned int cluster_bits;
	unsigned int l2_bits;
	unsigned int refcount_order;
	uint32_t cluster_size;
	uint64_t incompatible, compatible, autoclear;
	uint32_t snapshots;
	uint32_t l1_entries;
	uint64_t l1_off;
	uint64_t *l1;
	uint64_t reft_off;
	uint32_t reft_clusters;
	char *backing_file, *backing_format;
	char *data_file;	/* name of the external data file ... */
	struct q2_layer *data;	/* ... and the file, if it is open */
	uint8_t *header;
	struct qcow2_header_ext *ext;
	unsigned int ext_count;
	struct q2_bitmaps *bitmaps;	/* NULL: not loaded */
	struct q2_cache l2;
	unsigned int compression;	/* QCOW2_COMPRESSION_* */
	struct ZSTD_DCtx_s *zctx;
	uint8_t *zbuf;		/* one decompressed cluster ... */
	uint64_t zkey;		/* ... of this L2 entry, 0 = none */
	struct q2_writer *w;	/* open for writing */
};

struct qcow2_image {
	pthread_mutex_t lock;
	unsigned int nr_layers;
	bool no_backing;	/* the last layer's backing file is not open */
	struct q2_layer *layers[QCOW2_MAX_CHAIN];
};

/* what one layer says of a range */
struct q2_extent {
	enum qcow2_run_type type;
	uint64_t length;
	uint64_t host;
	uint64_t entry;		/* COMPRESSED: the L2 entry */
};

/* util.c */
int q2_err(struct qcow2_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
char *q2_printable(const char *s);
struct q2_label q2_label(const char *s);
int q2_pread(struct q2_layer *l, void *buf, size_t len, uint64_t off,
	     const char *what, struct qcow2_error *err);
int q2_pwrite(struct q2_layer *l, const void *buf, size_t len, uint64_t off,
	      const char *what, struct qcow2_error *err);
int q2_sync(struct q2_layer *l, struct qcow2_error *err);
int q2_cache_init(struct q2_cache *c, size_t bufsize, size_t bytes);
void q2_cache_free(struct q2_cache *c);
struct q2_ent *q2_cache_find(struct q2_cache *c, uint64_t key);
struct q2_ent *q2_cache_victim(struct q2_cache *c);
void q2_cache_drop(struct q2_cache *c, struct q2_ent *e);
void q2_cache_insert(struct q2_cache *c, struct q2_ent *e, uint64_t key);

/* header.c */
int q2_header_parse(struct q2_layer *l, struct qcow2_error *err);
int q2_header_build(struct q2_layer *l, const struct qcow2_create_opts *opts,
		    struct qcow2_error *err);
void q2_header_update(uint8_t *hdr, const struct q2_layer *l);
int q2_ext_parse(struct q2_layer *l, size_t off, size_t end, struct qcow2_error *err);
size_t q2_header_length(const uint8_t *hdr);
void q2_header_set_backing(uint8_t *hdr, uint64_t off, uint32_t len);
void q2_header_set_autoclear(uint8_t *hdr, uint64_t bits);

/* ext.c */
const struct qcow2_header_ext *q2_ext_find(const struct q2_layer *l, uint32_t type);
bool q2_ext_is_ours(uint32_t type);
int q2_header_compose(struct q2_layer *l, const struct qcow2_header_ext *set, unsigned int nr,
		      const uint8_t *bitmaps, struct qcow2_error *err);
int q2_header_set_bitmaps(struct q2_layer *l, const uint8_t *bitmaps, struct qcow2_error *err);
int q2_header_rewrite(struct q2_layer *l, const struct qcow2_header_ext *set, unsigned int nr,
		      struct qcow2_error *err);
int q2_header_prepare(struct q2_layer *l, struct qcow2_error *err);
int q2_drop_autoclear(struct q2_layer *l, bool guest_data, struct qcow2_error *err);
int q2_writable(const struct q2_layer *l, struct qcow2_error *err);

/* bitmap.c */
int q2_bitmaps_load(struct q2_layer *l, struct q2_bitmaps **bm, struct qcow2_error *err);
void q2_bitmaps_forget(struct q2_layer *l);
uint64_t q2_bitmap_entries(const struct q2_layer *l, unsigned int granularity_bits);
int q2_bitmap_fits(struct q2_layer *l, const struct qcow2_bitmap *b, struct qcow2_error *err);
int q2_bitmap_table(struct q2_layer *l, const struct qcow2_bitmap *b, uint64_t first, uint64_t n,
		    uint64_t *entries, struct qcow2_error *err);
int q2_bitmap_entry_ok(struct q2_layer *l, const struct qcow2_bitmap *b, uint64_t idx, uint64_t entry,
		       struct qcow2_error *err);

/* bitmap-own.c */
int q2_own_load(struct q2_layer *l, struct q2_bitmaps *bm, struct q2_own **own, size_t *nr,
		struct qcow2_error *err);

/* chain.c */
bool q2_same_file(const struct q2_layer *a, const struct q2_layer *b);
void q2_unlink_made(const struct q2_layer *l);
int q2_open_file(const char *path, int oflags, unsigned int mode,
		 struct q2_layer **out, struct qcow2_error *err);
void q2_layer_free(struct q2_layer *l);
char *q2_resolve(const char *referrer, const char *name);
int q2_open_chain(struct qcow2_image *img, struct q2_layer *top,
		  unsigned int flags, struct qcow2_error *err);
int q2_check_backing_name(const char *referrer, const char *name,
			  const char *format, struct qcow2_error *err);
enum qcow2_format q2_backing_format(const char *format);

/* read.c */
bool q2_overlaps_meta(const struct q2_layer *l, uint64_t off, uint64_t len,
		      const char **what);
int q2_l2_get(struct q2_layer *l, uint64_t idx, struct q2_ent **ent,
	      struct qcow2_error *err);
int q2_map_layer(struct q2_layer *l, uint64_t off, uint64_t len,
		 struct q2_extent *x, struct qcow2_error *err);
int q2_read(struct qcow2_image *img, uint64_t off, uint8_t *buf, uint64_t len,
	    struct qcow2_error *err);
void q2_compressed_place(const struct q2_layer *l, uint64_t entry,
			 uint64_t *off, uint64_t *len);

/* compress.c */
int q2_decompress(struct q2_layer *l, uint64_t guest, uint64_t entry,
		  struct qcow2_error *err);
void q2_decompress_free(struct q2_layer *l);

/* datafile.c */
int q2_check_data_name(const char *referrer, const char *name,
		       struct qcow2_error *err);
int q2_data_open(struct qcow2_image *img, struct q2_layer *l,
		 unsigned int flags, struct qcow2_error *err);
int q2_data_create(struct qcow2_image *img, struct q2_layer *l,
		   const struct qcow2_create_opts *o, struct qcow2_error *err);
void q2_data_undo(struct q2_layer *l);
int q2_data_fill(struct q2_layer *l, struct qcow2_error *err);
int q2_data_alloc(struct q2_layer *l, uint64_t off, uint64_t len,
		  uint64_t *host, uint64_t *got, struct qcow2_error *err);
int q2_data_zero(struct q2_layer *l, uint64_t off, uint64_t len, bool *done,
		 struct qcow2_error *err);
int q2_data_decode(struct q2_layer *l, uint64_t guest, uint64_t entry,
		   uint64_t need, struct q2_extent *x, struct qcow2_error *err);

/* refcount.c */
uint64_t q2_refcount_in(const void *block, unsigned int order, uint64_t idx);
int q2_reft_load(struct q2_layer *l, uint64_t **table, uint64_t *entries,
		 struct qcow2_error *err);
int q2_refb_ok(const struct q2_layer *l, uint64_t idx, uint64_t off,
	       struct qcow2_error *err);
int q2_writer_init(struct q2_layer *l, struct qcow2_error *err);
int q2_writer_create(struct q2_layer *l, struct qcow2_error *err);
void q2_writer_free(struct q2_writer *w);
int q2_alloc(struct q2_layer *l, uint64_t want, uint64_t *first, uint64_t *got,
	     struct qcow2_error *err);
int q2_alloc_contig(struct q2_layer *l, uint64_t n, uint64_t *first,
		    struct qcow2_error *err);
int q2_ref(struct q2_layer *l, uint64_t cluster, bool *counted,
	   struct qcow2_error *err);
int q2_free_later(struct q2_layer *l, uint64_t off, uint64_t len,
		  struct qcow2_error *err);
int q2_do_frees(struct q2_layer *l, struct qcow2_error *err);
int q2_refcount_get(struct q2_layer *l, uint64_t cluster, uint16_t *count,
		    struct qcow2_error *err);
int q2_refb_write(struct q2_layer *l, struct qcow2_error *err);
int q2_free_now(struct q2_layer *l, uint64_t first, uint64_t count, struct qcow2_error *err);
int q2_refcount_lower(struct q2_layer *l, uint64_t cluster, uint16_t count, struct qcow2_error *err);

/* flush.c */
int q2_flush(struct q2_layer *l, struct qcow2_error *err);

/* write.c */
int q2_begin(struct q2_layer *l, struct qcow2_error *err);
int q2_l2_room(struct q2_layer *l, struct q2_ent **ent, struct qcow2_error *err);
int q2_l2_entry(struct q2_layer *l, uint64_t off, struct q2_ent **ent, uint64_t **p,
		struct qcow2_error *err);
void q2_l2_changed(struct q2_layer *l, struct q2_ent *e);
void q2_set_l1(struct q2_layer *l, uint64_t idx, uint64_t cluster);
int q2_drop_old(struct q2_layer *l, uint64_t entry, struct qcow2_error *err);

/* packed.c */
int q2_packed_flushed(struct q2_layer *l, struct qcow2_error *err);

static inline uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

static inline uint64_t q2_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t q2_max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline bool q2_has_data_file(const struct q2_layer *l)
{
	return l->incompatible & Q2_INCOMPAT_DATA_FILE;
}

/* the data file alone is the guest's disk as well */
static inline bool q2_data_raw(const struct q2_layer *l)
{
	return q2_has_data_file(l) && l->autoclear & Q2_AUTOCLEAR_DATA_RAW;
}

/* the file that has the guest's data */
static inline struct q2_layer *q2_data_of(struct q2_layer *l)
{
	return l->data ? l->data : l;
}

/* without overflow, for sizes up to 2^64 - 1 */
static inline uint64_t q2_div_up(uint64_t n, unsigned int bits)
{
	return (n >> bits) + ((n & ((1ull << bits) - 1)) != 0);
}

static inline bool q2_aligned(const struct q2_layer *l, uint64_t off)
{
	return !(off & (l->cluster_size - 1));
}

/* [off, off + len) lies below limit */
static inline bool q2_within(uint64_t off, uint64_t len, uint64_t limit)
{
	return off <= limit && len <= limit - off;
}

#endif /* QCOW2_INT_H */
