/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 - read and write qcow2 version 3 images
 *
 * The library does the metadata; bulk data may be moved by the caller with any
 * I/O it likes (io_uring, O_DIRECT), since writing hands out places in the file
 * (qcow2_alloc_write()) and reading hands out places in the files of a backing
 * chain (qcow2_map()). qcow2_read() and qcow2_write() are the synchronous
 * convenience over both.
 *
 * Units:	every offset, length and size is in bytes, unless its name says
 *		clusters.
 * Results:	functions that return int return 0, or a negative errno value;
 *		then @err, if not NULL, holds a text that names file, field and
 *		value. @err is left alone on success. Out parameters are left
 *		alone on failure, unless the function says otherwise.
 *		Codes in use: EINVAL (the caller's argument), EBUSY (not now, see there),
 *		ENODATA (qcow2_bitmap_place()), EUCLEAN (the file
 *		contradicts the format: damaged, cut short or hostile), EOPNOTSUPP
 *		(well formed, but uses what this library does not do), ELOOP (the
 *		backing chain is a loop or too deep), ENOENT, EACCES, EIO, ENOSPC,
 *		EFBIG (a table would outgrow what QEMU accepts), ENOMEM, EROFS
 *		(the image is open for reading only), ESHUTDOWN (an earlier flush
 *		failed, see qcow2_flush(), or memory or space ran out in the middle
 *		of a change of the metadata), as they come.
 * Trust:	whatever is in an image file is checked before it is used; a
 *		hostile image yields an error, never a wild access. The name of
 *		the backing file is in the image too: see %QCOW2_OPEN_SAME_DIR.
 * Threads:	an image may be used by several threads, each call takes the
 *		image's lock (also for its I/O); only qcow2_close() must be
 *		alone. Different images are independent. No global state.
 * Signals, fork: no handlers; every descriptor is close-on-exec.
 * Not shared:	nobody else may write a file while it is open here.
 */
#ifndef QCOW2_H
#define QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QCOW2_MIN_CLUSTER	512u
#define QCOW2_MAX_CLUSTER	(2u << 20)
#define QCOW2_DEFAULT_CLUSTER	(64u << 10)
#define QCOW2_MAX_CHAIN		256u	/* layers, the top image included */
#define QCOW2_MAX_BACKING_NAME	1023u	/* bytes, without the NUL */
#define QCOW2_MAX_L1_BYTES	(32u << 20)	/* QEMU's limit */
#define QCOW2_MAX_REFTABLE_BYTES (8u << 20)	/* QEMU's limit */
#define QCOW2_MAX_BITMAPS	65535u	/* QEMU's limit */
#define QCOW2_MAX_BITMAP_NAME	1023u	/* bytes, without the NUL */

/* Header extension types */
#define QCOW2_EXT_END			0x00000000u
#define QCOW2_EXT_BACKING_FORMAT	0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES		0x6803f857u
#define QCOW2_EXT_BITMAPS		0x23852875u
#define QCOW2_EXT_CRYPTO		0x0537be77u
#define QCOW2_EXT_DATA_FILE		0x44415441u
#define QCOW2_EXT_PADDING		0x43425750u	/* ours: no content, may be there more than once */

/**
 * struct qcow2_error - what went wrong
 * @code: errno value, positive; the negative of what the function returned
 * @msg:  one line for people, without a newline; bytes of file names outside
 *	  printable ASCII come as \xHH
 */
struct qcow2_error {
	int code;
	char msg[512];
};

/**
 * struct qcow2_image - an open image with its backing chain (opaque)
 *
 * Layer 0 is the image itself, layer 1 its backing file and so on.
 */
struct qcow2_image;

/**
 * struct qcow2_header_ext - a header extension
 * @type: extension type; not one of QCOW2_EXT_* above when given to
 *	  qcow2_create()
 * @len:	bytes in @data, without the padding to 8 the format asks for
 * @data:	content; when given to qcow2_create() it is copied
 * @data_offset: where in the file @data lies, in what qcow2_get_ext() fills in.
 *		When given to qcow2_create(): where it has to lie, a multiple of
 *		8 within the first cluster, 0 = anywhere; what is left open in
 *		front becomes %QCOW2_EXT_PADDING.
 */
struct qcow2_header_ext {
	uint32_t type;
	uint32_t len;
	const void *data;
	uint64_t data_offset;
};

/* ---- create, open, close ---------------------------------------------- */

/* flags of struct qcow2_create_opts */
#define QCOW2_CREATE_EXCL	(1u << 0)  /* -EEXIST if the file exists; else it is emptied */
#define QCOW2_CREATE_NO_BACKING	(1u << 1)  /* record the backing file, do not open it */
#define QCOW2_CREATE_BITMAPS	(1u << 2)  /* keep a slot for the bitmaps extension, see qcow2_edit_commit() */

/**
 * struct qcow2_create_opts - what qcow2_create() shall make; zero = default
 * @virtual_size: guest size, any number of bytes; bounded by the 32 MiB an L1
 *	table may have (64 KiB clusters: 2 PiB; 512 bytes: 128 GiB). QEMU rounds
 *	a size up to 512; so should who wants stock tools to see the same size.
 * @cluster_size: power of two, %QCOW2_MIN_CLUSTER to %QCOW2_MAX_CLUSTER,
 *	0 = %QCOW2_DEFAULT_CLUSTER
 * @backing_file: name as it is to stand in the image, NULL = none. A relative
 *	name means relative to the directory of the new image.
 * @backing_format: "qcow2" or "raw"; must be given with @backing_file
 * @ext: @ext_count private header extensions, copied
 * @ext_count: 0 = none. All of the header must fit into one cluster.
 * @flags: QCOW2_CREATE_*
 * @mode: permissions of the new file (before umask), 0 = 0600
 */
struct qcow2_create_opts {
	uint64_t virtual_size;
	uint32_t cluster_size;
	const char *backing_file;
	const char *backing_format;
	const struct qcow2_header_ext *ext;
	unsigned int ext_count;
	unsigned int flags;
	unsigned int mode;
};

/**
 * qcow2_create - make a new image file, open for writing and reading
 * @path: where; not created or emptied before the options were found good and
 *	  the backing chain was opened
 * @opts: see there
 * @img:  the image; the caller closes it with qcow2_close()
 * @err:  may be NULL
 *
 * The header reaches the file in the first qcow2_flush(), last of all: until
 * then the file is no qcow2 image for anybody, so what a crash leaves is
 * recognised as incomplete. After a failure the file, if it was created, is
 * left for the caller to remove. The caller makes the directory entry durable
 * (fsync of the directory), and uses a temporary name and rename() if it
 * flushes more than once before the content is complete.
 */
int qcow2_create(const char *path, const struct qcow2_create_opts *opts,
		 struct qcow2_image **img, struct qcow2_error *err);

/* flags of qcow2_open() */
#define QCOW2_OPEN_WRITE	(1u << 0)  /* layer 0 writable; the others never are */
#define QCOW2_OPEN_NO_BACKING	(1u << 1)  /* layer 0 alone; see below */
#define QCOW2_OPEN_SAME_DIR	(1u << 2)  /* refuse backing names that contain a '/' (for chains of doubtful origin) */
#define QCOW2_OPEN_REUSE	(1u << 3)  /* with WRITE: free clusters first, from the beginning of the file; else new ones are appended */

/**
 * qcow2_open - open an image and its backing chain
 * @path:  qcow2 image, a regular file or a block device
 * @flags: QCOW2_OPEN_*
 * @img:   the image; the caller closes it with qcow2_close()
 * @err:   may be NULL
 *
 * Backing files may be qcow2 or raw, files or block devices; relative names
 * are resolved against the directory of the image that names them. A missing
 * format is refused, not guessed (a raw guest disk could pretend to be qcow2).
 * With %QCOW2_OPEN_NO_BACKING ranges that only the backing file could tell are
 * %QCOW2_RUN_UNALLOCATED in qcow2_map() and -EOPNOTSUPP in qcow2_read().
 *
 * Refused by name (-EOPNOTSUPP): version 2, encryption, and the incompatible
 * features dirty, corrupt, external data file, compression type other than
 * deflate, extended L2 entries, and any unknown one. For writing also:
 * internal snapshots, refcounts that are not 16 bits wide.
 *
 * The first change clears the autoclear bits, as the format demands of who does
 * not maintain what they stand for: all but that of bitmaps; that one, too, when
 * guest data is changed and a bitmap that records (%QCOW2_BITMAP_AUTO, not
 * %QCOW2_BITMAP_IN_USE) would miss it, or the bitmaps cannot be read. The image
 * has no bitmaps then, and qcow2_repair() gives back their clusters. A damaged
 * bitmap directory does not keep an image from being opened: only the calls for
 * bitmaps fail.
 * %QCOW2_OPEN_REUSE trusts the refcounts: a cluster in use that they call free
 * would be overwritten. See qcow2_check().
 */
int qcow2_open(const char *path, unsigned int flags, struct qcow2_image **img,
	       struct qcow2_error *err);

/**
 * qcow2_close - close an image and its chain, free everything
 * @img: may be NULL
 *
 * Does not flush: what was not flushed is dropped, the file then holds what the
 * last qcow2_flush() made durable (and perhaps unreferenced clusters behind it,
 * which qcow2_check() does not count while their refcount is 0).
 */
void qcow2_close(struct qcow2_image *img);

/* ---- what is it ------------------------------------------------------- */

enum qcow2_format {
	QCOW2_FORMAT_QCOW2,
	QCOW2_FORMAT_RAW,
};

/**
 * struct qcow2_layer - facts about one layer
 * @format:	how the file is read
 * @fd:		descriptor of the file, owned by the image, valid until
 *		qcow2_close(). O_RDWR for a writable layer 0, else O_RDONLY;
 *		never O_DIRECT: who wants that opens /proc/self/fd/<fd> anew.
 * @path:	name it was opened by (owned by the image)
 * @virtual_size: guest bytes
 * @file_size:	bytes of the file or device; of a writable layer: end of what is
 *		allocated
 * @cluster_size: 0 for raw
 * @backing_file: name as it stands in the image, NULL = none (owned by the image)
 * @backing_format: as it stands in the image, NULL = none (owned by the image)
 * @incompatible, @compatible, @autoclear: feature bits
 * @snapshots:	number of internal snapshots (they are not looked at)
 */
struct qcow2_layer {
	enum qcow2_format format;
	int fd;
	const char *path;
	uint64_t virtual_size;
	uint64_t file_size;
	uint32_t cluster_size;
	const char *backing_file;
	const char *backing_format;
	uint64_t incompatible;
	uint64_t compatible;
	uint64_t autoclear;
	uint32_t snapshots;
};

/** qcow2_layers - number of layers, at least 1 */
unsigned int qcow2_layers(const struct qcow2_image *img);

/**
 * qcow2_get_layer - facts about one layer
 * @layer: 0 to qcow2_layers() - 1, else -EINVAL
 */
int qcow2_get_layer(struct qcow2_image *img, unsigned int layer,
		    struct qcow2_layer *info);

/** qcow2_size - guest size of the image (layer 0), bytes */
uint64_t qcow2_size(const struct qcow2_image *img);

/** qcow2_cluster_size - cluster size of the image (layer 0), bytes */
uint32_t qcow2_cluster_size(const struct qcow2_image *img);

/** qcow2_fd - descriptor of layer 0, see struct qcow2_layer */
int qcow2_fd(const struct qcow2_image *img);

/**
 * qcow2_get_ext - find a header extension of layer @layer
 * @type: extension type
 * @ext:  filled in; @ext->data is owned by the image, and valid until a call
 *	  of qcow2_set_ext() or qcow2_edit_commit()
 *
 * Return: 0, -ENOENT, or -EINVAL for a bad @layer.
 */
int qcow2_get_ext(struct qcow2_image *img, unsigned int layer, uint32_t type,
		  struct qcow2_header_ext *ext);

/**
 * qcow2_ext_offset - where in the file the data of a header extension lies
 * @type:   extension type; of the image (layer 0)
 * @offset: the absolute offset
 *
 * Return: 0 or -ENOENT. Tools that rewrite the header (QEMU, when bitmaps change)
 * move extensions: who relies on a place asks, and restores it by qcow2_set_ext().
 */
int qcow2_ext_offset(struct qcow2_image *img, uint32_t type, uint64_t *offset);

/**
 * qcow2_set_ext - add or replace a private header extension
 * @type:   not one of QCOW2_EXT_*
 * @data:   @len bytes, copied
 * @data_offset: where in the file @data has to begin, as in struct
 *	    qcow2_header_ext; 0 = anywhere
 *
 * For an image that is open for writing. Flushes first, as qcow2_flush() does,
 * then the header cluster is arranged anew and written by one write: the
 * extensions of backing format, bitmaps (or their slot) and data file, then those
 * that were there, then this one. What had padding in front keeps its place if
 * that is possible, what has to lie at @data_offset does. A feature name table
 * is left out when there is no room. The backing file name comes last.
 *
 * A power cut in the middle of that write can tear the header, unlike all else
 * that the library does: do it when the image is made (in an image that was not
 * flushed yet nothing is written), or with a copy at hand.
 *
 * The caller may write the data in place, through qcow2_fd(), where it lies
 * behind the first 512 bytes of the file: the library writes them only here, and
 * in the case qcow2_edit_commit() names, and both read them again before.
 */
int qcow2_set_ext(struct qcow2_image *img, uint32_t type, const void *data,
		  uint32_t len, uint64_t data_offset, struct qcow2_error *err);

/* ---- read ------------------------------------------------------------- */

/**
 * enum qcow2_run_type - where the bytes of a run are
 * @QCOW2_RUN_ZERO: they read as zeros, nothing to read
 * @QCOW2_RUN_DATA: plain, at run.host_offset of run.fd
 * @QCOW2_RUN_COMPRESSED: only qcow2_read() can tell; at most one cluster
 * @QCOW2_RUN_UNALLOCATED: not in the layer asked (qcow2_map_layer()), or the
 *	backing file is not open (%QCOW2_OPEN_NO_BACKING)
 */
enum qcow2_run_type {
	QCOW2_RUN_ZERO,
	QCOW2_RUN_DATA,
	QCOW2_RUN_COMPRESSED,
	QCOW2_RUN_UNALLOCATED,
};

#define QCOW2_LAYER_NONE	UINT32_MAX

/**
 * struct qcow2_run - a range of the guest with one answer
 * @offset:	guest offset, the one asked
 * @length:	bytes, at least 1, at most what was asked
 * @type:	see enum qcow2_run_type
 * @layer:	the layer that decides; %QCOW2_LAYER_NONE when no layer has the
 *		range (it is then ZERO, or UNALLOCATED, see there)
 * @fd:		file of that layer for DATA, else -1; never to be closed
 * @host_offset: place in @fd for DATA, else 0. The range host_offset to
 *		host_offset + length lies within the file (of a writable
 *		layer: within what is allocated, the file is extended by flush).
 */
struct qcow2_run {
	uint64_t offset;
	uint64_t length;
	enum qcow2_run_type type;
	uint32_t layer;
	int fd;
	uint64_t host_offset;
};

/**
 * qcow2_map - where are the bytes from @offset on, through the whole chain
 * @offset: guest offset, any byte below the size
 * @length: how far to look, at least 1, offset + length <= size
 * @run:    the run that begins at @offset
 *
 * Neighbouring clusters with the same answer, contiguous in the same file, make
 * one run; coalescing stops at a bound on the work, so the next run may have
 * the same type. Shows also what was allocated and not flushed yet.
 */
int qcow2_map(struct qcow2_image *img, uint64_t offset, uint64_t length,
	      struct qcow2_run *run, struct qcow2_error *err);

/**
 * qcow2_map_layer - what does one layer alone say
 *
 * As qcow2_map(), with %QCOW2_RUN_UNALLOCATED where the layer leaves the answer
 * to its backing file (or, without one, where it has nothing). offset + length
 * <= the size of that layer. A raw layer is all DATA.
 */
int qcow2_map_layer(struct qcow2_image *img, unsigned int layer,
		    uint64_t offset, uint64_t length, struct qcow2_run *run,
		    struct qcow2_error *err);

/**
 * qcow2_read - read through the chain
 * @offset: guest offset, any byte
 * @buf:    @length bytes, any alignment; undefined after a failure
 * @length: offset + length <= size; 0 is fine
 */
int qcow2_read(struct qcow2_image *img, uint64_t offset, void *buf,
	       size_t length, struct qcow2_error *err);

/* ---- write (layer 0 of an image that is open for writing) -------------- */

/**
 * qcow2_alloc_write - get a place in the file for guest data
 * @offset:  guest offset, multiple of the cluster size
 * @length:  bytes, at least 1; a multiple of the cluster size, or up to the end
 *	     of the image: only whole clusters, since nothing fills the rest from
 *	     the backing file (use qcow2_write() for parts)
 * @host_offset: where in qcow2_fd() to write, multiple of the cluster size
 * @got:     bytes that are contiguous there, from the beginning of the range, at
 *	     least one cluster (or all, if that is less), at most @length
 *
 * The caller writes [host_offset, host_offset + got) by itself, and all of it,
 * before it calls qcow2_flush(); call again for the rest. If its write fails it
 * must not flush any more (or write the range again first). It may write up to the
 * end of the last cluster (O_DIRECT and a size that is not aligned). A range
 * that is allocated already is given again (overwritten in place), unless it is
 * compressed. Reading a range between alloc and write gives whatever is there.
 * New clusters are appended to the file in the order of the calls, or, with
 * %QCOW2_OPEN_REUSE, are the lowest free ones.
 */
int qcow2_alloc_write(struct qcow2_image *img, uint64_t offset,
		      uint64_t length, uint64_t *host_offset, uint64_t *got,
		      struct qcow2_error *err);

/**
 * qcow2_set_zero - make a range read as zeros, without data
 * @offset: multiple of the cluster size
 * @length: multiple of the cluster size, or up to the end of the image; 0 is fine
 *
 * Without a backing file unallocated clusters read as zeros anyway and stay
 * unallocated. A cluster that had a place keeps it for a later write.
 */
int qcow2_set_zero(struct qcow2_image *img, uint64_t offset, uint64_t length,
		   struct qcow2_error *err);

/**
 * qcow2_write - write, synchronously, any byte range
 * @buf: @length bytes
 *
 * Parts of clusters that are new in this layer are filled up from the backing
 * chain (-EOPNOTSUPP if that is needed and the chain is not open). After a
 * failure the content of the clusters it touches is undefined.
 */
int qcow2_write(struct qcow2_image *img, uint64_t offset, const void *buf,
		size_t length, struct qcow2_error *err);

/**
 * qcow2_flush - make everything so far durable, in crash-safe order
 *
 * Data, refcounts and new L2 tables, fsync; what refers to them (refcount table,
 * then L1, L2 tables that were durable already, header), fsync. After a crash the image is
 * as the previous flush left it (apart from ranges overwritten in place), with
 * leaked clusters at most; before the first flush it has no header.
 *
 * All ranges from qcow2_alloc_write() must have been written, i.e. the writes
 * have completed, and nobody allocates or writes meanwhile. After a failure
 * it is not known what reached the disk: all further writing calls
 * and flushes fail with -ESHUTDOWN; reading goes on. Memory held for metadata
 * does not grow with the distance between flushes (but for 16 bytes per
 * compressed cluster that is replaced).
 */
int qcow2_flush(struct qcow2_image *img, struct qcow2_error *err);

/* ---- check ------------------------------------------------------------ */

/**
 * struct qcow2_check_report - what qcow2_check() found; as qemu-img check counts
 * @corruptions: refcount too low, overlapping or misplaced clusters, wrong
 *		 COPIED flags: data is, or on the next write will be, damaged
 * @leaks:	 clusters with a refcount above their use: wasted space only
 * @allocated_clusters, @compressed_clusters, @zero_clusters: guest clusters
 * @total_clusters: guest size in clusters
 * @end_offset:	 end of the last cluster in use
 * @first:	 text of the first corruption or else leak; empty if none
 * @bitmaps:	 bitmaps in the directory (0 if it is damaged: a corruption)
 * @bitmaps_in_use: of these, in use: not valid, whoever changed them did not end
 * @bitmaps_inconsistent: of these, with a table that is damaged (a corruption),
 *		 or, in use, not of the image's size
 * @leaks_fixed: clusters that qcow2_repair() corrected
 */
struct qcow2_check_report {
	uint64_t corruptions;
	uint64_t leaks;
	uint64_t allocated_clusters;
	uint64_t compressed_clusters;
	uint64_t zero_clusters;
	uint64_t total_clusters;
	uint64_t end_offset;
	char first[256];
	uint32_t bitmaps;
	uint32_t bitmaps_in_use;
	uint32_t bitmaps_inconsistent;
	uint64_t leaks_fixed;
};

/**
 * qcow2_check - compare refcounts with use, in one layer (not its backing files)
 * @layer:  a qcow2 layer (raw: nothing to check, an empty report)
 * @report: filled in, also with what was found, when 0 is returned
 *
 * Reads the file, so changes that were not flushed are -EBUSY. Return: 0 when
 * the check was done, whatever it found; an error when it could not be done
 * (-EOPNOTSUPP with internal snapshots, or bitmaps that
 * use what this library does not know). Bitmaps are counted when they are valid
 * (autoclear bit 0). Memory: 2 bytes per cluster of the file, where it is used.
 */
int qcow2_check(struct qcow2_image *img, unsigned int layer,
		struct qcow2_check_report *report, struct qcow2_error *err);

/* flags of qcow2_repair() */
#define QCOW2_REPAIR_LEAKS	(1u << 0)  /* lower refcounts that are too high */

/**
 * qcow2_repair - correct refcounts of the image, which is open for writing
 * @flags:  %QCOW2_REPAIR_LEAKS, has to be given
 * @report: what was found, as by qcow2_check(), and how much was corrected; also
 *	    filled in with -EUCLEAN
 *
 * -EUCLEAN, and nothing is touched, if there is any corruption: then it is not
 * certain what is in use. -EBUSY with changes that were not flushed, or while
 * bitmaps are edited. A guest cluster or L2 table in use once, with a higher
 * refcount, stays as it is, and a leak: its COPIED flag would have to change with
 * the refcount. After a crash less was corrected, no more than that.
 */
int qcow2_repair(struct qcow2_image *img, unsigned int flags,
		 struct qcow2_check_report *report, struct qcow2_error *err);

/* ---- bitmaps (of layer 0) ---------------------------------------------- */

#define QCOW2_BITMAP_IN_USE	(1u << 0)  /* not valid: being changed, or whoever did so was cut off */
#define QCOW2_BITMAP_AUTO	(1u << 1)  /* enabled: records the writes to the image */

/**
 * struct qcow2_bitmap - facts about one bitmap
 * @name:	any bytes but NUL, no certain encoding; followed by a NUL, owned by
 *		the image, valid until a commit, or until the bitmaps are dropped
 *		because guest data is changed (see qcow2_open())
 * @name_len:	bytes in @name, 1 to %QCOW2_MAX_BITMAP_NAME
 * @flags:	QCOW2_BITMAP_*
 * @granularity_bits: one bit stands for 2^granularity_bits bytes; 9 to 31
 * @granules:	bits: the size of the image by the granularity, rounded up
 * @bytes:	of the bitmap as it is stored: granule n is bit n % 8 (0 is the
 *		least significant) of byte n / 8
 * @table_entries, @table_offset: where the table is that names its clusters
 */
struct qcow2_bitmap {
	const char *name;
	uint16_t name_len;
	uint32_t flags;
	uint8_t granularity_bits;
	uint64_t granules;
	uint64_t bytes;
	uint32_t table_entries;
	uint64_t table_offset;
};

/**
 * qcow2_bitmap_count - how many bitmaps are there
 *
 * The directory is read and checked as a whole by the first call that wants it:
 * one bad entry is an error of all of them (EUCLEAN, or EOPNOTSUPP for extra data,
 * unknown flags and types). An image whose autoclear bit 0 is not set has none.
 */
int qcow2_bitmap_count(struct qcow2_image *img, unsigned int *nr,
		       struct qcow2_error *err);

/**
 * qcow2_get_bitmap - facts about one bitmap
 * @i: 0 to the count - 1, else -EINVAL; in the order of the directory
 */
int qcow2_get_bitmap(struct qcow2_image *img, unsigned int i,
		     struct qcow2_bitmap *b);

/** qcow2_find_bitmap - the number of the bitmap of that name, or -ENOENT */
int qcow2_find_bitmap(struct qcow2_image *img, const char *name, size_t len,
		      unsigned int *i);

/**
 * qcow2_bitmap_read - read the bits
 * @offset: of the bytes described in struct qcow2_bitmap
 * @buf:    @len bytes, offset + len <= bytes; undefined after a failure
 *
 * Bits behind the last granule come as 0. Bitmaps in use can be read, too: what
 * it is worth is the caller's to judge.
 */
int qcow2_bitmap_read(struct qcow2_image *img, unsigned int i, uint64_t offset,
		      void *buf, size_t len, struct qcow2_error *err);

/**
 * qcow2_bitmap_place - where in the file the bits lie, if they lie in one piece
 * @host_offset: of the first byte. The clusters are all there, one after the other.
 *
 * Return: 0, -ENODATA if not, or an error.
 */
int qcow2_bitmap_place(struct qcow2_image *img, unsigned int i,
		       uint64_t *host_offset, struct qcow2_error *err);

/**
 * struct qcow2_bitmaps_edit - a new bitmap directory in the making (opaque)
 *
 * It begins with no bitmaps; what is not kept or added is gone after the commit.
 * Until then the image has the old ones. One edit at a time (-EBUSY); it has to
 * end, by commit or abort, before the image is closed.
 */
struct qcow2_bitmaps_edit;

/**
 * qcow2_bitmaps_edit_begin - begin to make a new directory
 *
 * The image is open for writing. The old bitmaps must be sound: directory, tables,
 * and refcounts of 1 for what they take (-EUCLEAN). Guest data should not be
 * written until the commit: bitmaps that record would miss it (-EBUSY if old
 * ones would).
 */
int qcow2_bitmaps_edit_begin(struct qcow2_image *img,
			     struct qcow2_bitmaps_edit **edit,
			     struct qcow2_error *err);

/** qcow2_edit_keep - take over old bitmap @i, with these flags */
int qcow2_edit_keep(struct qcow2_bitmaps_edit *edit, unsigned int i,
		    uint32_t flags, struct qcow2_error *err);

/** qcow2_edit_keep_as - take over old bitmap @i, with another name */
int qcow2_edit_keep_as(struct qcow2_bitmaps_edit *edit, unsigned int i,
		       const char *name, size_t len, uint32_t flags,
		       struct qcow2_error *err);

/**
 * qcow2_edit_clusters - data clusters that a bitmap of the image takes
 * @granularity_bits: 9 to 31
 */
uint64_t qcow2_edit_clusters(const struct qcow2_image *img,
			     unsigned int granularity_bits);

/**
 * qcow2_edit_alloc - get clusters that lie in a row
 * @host_offset: where they begin
 *
 * For qcow2_edit_add_at() of the same edit; the commit frees those that no
 * bitmap took. Before they are written they hold anything.
 */
int qcow2_edit_alloc(struct qcow2_bitmaps_edit *edit, uint64_t clusters,
		     uint64_t *host_offset, struct qcow2_error *err);

/**
 * qcow2_edit_add - a new bitmap in new clusters, which lie in a row
 * @name:  @len bytes, 1 to %QCOW2_MAX_BITMAP_NAME, no NUL, no other bitmap's in the
 *	   new directory; copied
 * @flags: QCOW2_BITMAP_*
 * @host_offset: where in qcow2_fd() they begin. Before the commit the caller writes
 *	   qcow2_edit_clusters() whole clusters there (zeros behind the bits).
 */
int qcow2_edit_add(struct qcow2_bitmaps_edit *edit, const char *name, size_t len,
		   unsigned int granularity_bits, uint32_t flags,
		   uint64_t *host_offset, struct qcow2_error *err);

/**
 * qcow2_edit_add_at - a new bitmap in clusters that are there
 * @host_offset: multiple of the cluster size. qcow2_edit_clusters() clusters from
 *	   there on are data of old bitmaps (several, in part, as they lie) that
 *	   are not kept, or came from qcow2_edit_alloc(), and no other bitmap of
 *	   the new directory has them; else -EINVAL.
 */
int qcow2_edit_add_at(struct qcow2_bitmaps_edit *edit, const char *name,
		      size_t len, unsigned int granularity_bits, uint32_t flags,
		      uint64_t host_offset, struct qcow2_error *err);

/**
 * qcow2_edit_commit - replace the old directory by the new one, on disk
 * @edit: is gone afterwards, also after a failure
 *
 * What the bitmaps hold was written. Does what qcow2_flush() does, so what is said
 * there holds. Then the header is made to name the new directory, by one write of
 * the first 512 bytes of the file, and what only the old bitmaps had is freed.
 * After a crash the image has the old bitmaps or the new ones, with leaked
 * clusters at most. After a failure that is one of the two, too; if it came
 * when the header was written nothing more can be written (-ESHUTDOWN).
 *
 * Where the bitmaps extension does not lie within the first 512 bytes, in images
 * that other tools made or that were not created with %QCOW2_CREATE_BITMAPS, the
 * header is arranged anew the first time: see qcow2_set_ext().
 */
int qcow2_edit_commit(struct qcow2_bitmaps_edit *edit, struct qcow2_error *err);

/**
 * qcow2_edit_abort - drop the new directory
 * @edit: may be NULL; is gone afterwards. The next flush frees its clusters.
 */
void qcow2_edit_abort(struct qcow2_bitmaps_edit *edit);

/*
 * To come: compressed writes (qcow2_write_compressed), external data files, change
 * of the backing file. None of them changes what is above.
 */

#ifdef __cplusplus
}
#endif

#endif /* QCOW2_H */
