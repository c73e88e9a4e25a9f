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
 *		the backing file is in the image too, and that of a data file:
 *		see %QCOW2_OPEN_SAME_DIR.
 * Threads:	an image may be used by several threads, each call takes the
 *		image's lock (also for its I/O); only qcow2_close() must be
 *		alone. Different images are independent. No global state (but see
 *		qcow2_compress()).
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

/* How clusters are compressed: an image has one type */
#define QCOW2_COMPRESSION_DEFLATE	0u
#define QCOW2_COMPRESSION_ZSTD		1u

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
#define QCOW2_CREATE_NO_DATA_FILE (1u << 8)  /* record the data file, neither open nor make it */

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
 * @compression: QCOW2_COMPRESSION_*, what compressed clusters will be; zstd
 *	needs QEMU 5.1 to read the image, whether it has such clusters or not
 * @data_file: name of an external data file as it is to stand in the image, NULL =
 *	none. A relative name means relative to the directory of the new image here,
 *	but to the working directory in QEMU (7.2, 10.0): who wants both gives an
 *	absolute one. A file or device that exists is taken with what it has, and never
 *	emptied; else it is made. Files are extended to @virtual_size, a device must
 *	have it.
 * @data_file_raw: @data_file alone is the guest's disk too, now and whatever is
 *	written: all of it is data at once (what it has is what the guest reads).
 *	Needs an L2 entry for each cluster, which is written here: 8 bytes (1 TiB:
 *	128 MiB with clusters of 64 KiB, 4 MiB with clusters of 2 MiB). Not with
 *	@backing_file.
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
	unsigned int compression;
	const char *data_file;
	bool data_file_raw;
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
 * gone again, and so is a data file; one that was there has the size that it had.
 * The caller makes the directory entry durable
 * (fsync of the directory), and uses a temporary name and rename() if it
 * flushes more than once before the content is complete.
 */
int qcow2_create(const char *path, const struct qcow2_create_opts *opts,
		 struct qcow2_image **img, struct qcow2_error *err);

/* flags of qcow2_open() */
#define QCOW2_OPEN_WRITE	(1u << 0)  /* layer 0 writable; the others never are */
#define QCOW2_OPEN_NO_BACKING	(1u << 1)  /* layer 0 alone; see below */
#define QCOW2_OPEN_SAME_DIR	(1u << 2)  /* refuse backing names that contain a '/' (for chains of doubtful origin);
					    * names of data files too */
#define QCOW2_OPEN_NO_DATA_FILE	(1u << 8)  /* data files are not opened: metadata alone; see below */
#define QCOW2_OPEN_PUNCH	(1u << 9)  /* with WRITE: what becomes free is punched out of the file, where that can be had */
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
 * An external data file is opened as the image that names it is (for writing or
 * not); a relative name is resolved as that of a backing file. With
 * %QCOW2_OPEN_NO_DATA_FILE everything works that needs no data of the guest:
 * qcow2_map() and qcow2_read() are -EOPNOTSUPP where the data file has it, as are
 * qcow2_alloc_write() and qcow2_write(). -ELOOP if a data file is another file of
 * the image or its chain too.
 *
 * Refused by name (-EOPNOTSUPP): version 2, encryption, and the incompatible
 * features dirty, corrupt, extended L2 entries, and any unknown one; a
 * compression type other than deflate and zstd. For writing also:
 * internal snapshots, refcounts that are not 16 bits wide.
 *
 * The first change clears the autoclear bits, as the format demands of who does
 * not maintain what they stand for: all but that of a raw data file, which stays
 * what it is, and that of bitmaps; that one goes, too, when
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
 * @compression: QCOW2_COMPRESSION_*, 0 for raw
 * @data_file:	name of the external data file as it stands in the image, NULL =
 *		none (owned by the image)
 * @data_fd:	its descriptor, -1 if there is none or it is not open; else as @fd
 * @l1_offset, @l1_bytes: where the L1 table lies in the file, 0 for raw
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
	unsigned int compression;
	const char *data_file;
	int data_fd;
	uint64_t l1_offset;
	uint32_t l1_bytes;
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
 * qcow2_data_fd - descriptor of the file that has the guest's data of layer 0
 *
 * That of the external data file (-1 if it is not open), without one qcow2_fd().
 */
int qcow2_data_fd(const struct qcow2_image *img);

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
 * Written are the sectors of 512 bytes from the first that differs to the last. If
 * that is more than one, a power cut in the middle of that write can tear the header,
 * unlike all else that the library does: do it when the image is made (in an image that
 * was not flushed yet nothing is written), or with a copy at hand.
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
 * @fd:		file of that layer for DATA (its data file, if it has one), else -1;
 *		never to be closed
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
 * @host_offset: where in qcow2_data_fd() to write, multiple of the cluster size
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
 * %QCOW2_OPEN_REUSE, are the lowest free ones. With an external data file the
 * place is @offset, in that file; a file (not a device) has been extended to it,
 * and becomes longer than the guest if more is written.
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
 * unallocated. A cluster that had a place keeps it for a later write. A raw data
 * file is zeroed itself, at once (a hole, where that can be had).
 */
int qcow2_set_zero(struct qcow2_image *img, uint64_t offset, uint64_t length,
		   struct qcow2_error *err);

/* flags of qcow2_discard() */
#define QCOW2_DISCARD_BACKING	(1u << 0)  /* the backing file decides again what the range reads as */

/**
 * qcow2_discard - give up the places that a range has in the file
 * @offset: multiple of the cluster size
 * @length: multiple of the cluster size, or up to the end of the image; 0 is fine
 * @flags: without %QCOW2_DISCARD_BACKING it reads as zeros, as after qcow2_set_zero()
 *
 * The places are free with the next flush, and with %QCOW2_OPEN_PUNCH then leave the
 * file. -EOPNOTSUPP with an external data file.
 */
int qcow2_discard(struct qcow2_image *img, uint64_t offset, uint64_t length,
		  unsigned int flags, struct qcow2_error *err);

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
 * qcow2_compress - compress one cluster
 * @type:  QCOW2_COMPRESSION_*, that of the image, see struct qcow2_layer
 * @level: 1 to 9 (deflate) or 22 (zstd), 0 = the usual one
 * @in:    @cluster_size bytes; the caller fills the last cluster of an image up
 *	   with zeros
 * @out:   room for @cluster_size - 1 bytes
 * @out_len: bytes in @out, less than @cluster_size
 *
 * No image, no lock: as many threads as one likes may compress, while
 * qcow2_write_compressed() takes the results. A thread keeps what zstd needs (some 100
 * KiB to MiB, by the level) until it ends; it is never freed in the main thread.
 *
 * Return: 0; -E2BIG when it does not pay (the cluster did not become shorter: it
 * is to be written plain), -EINVAL, -ENOMEM.
 */
int qcow2_compress(unsigned int type, int level, const void *in,
		   size_t cluster_size, void *out, size_t *out_len);

/**
 * qcow2_write_compressed - put a compressed cluster into the file
 * @offset: guest offset, multiple of the cluster size
 * @data:   what qcow2_compress() made of the cluster's content with the image's
 *	    compression type; it is not looked at
 * @len:    1 to cluster size - 1
 *
 * Compressed clusters lie one behind the other, byte by byte; the first after a
 * flush begins at a multiple of 4096 (or of the cluster size, if that is less),
 * so that what is durable is not written again. What the guest cluster had
 * before becomes free with the next flush. The data is written by the call: a
 * failure leaves the guest cluster as it was. -EFBIG where the file has become
 * too long for the place to be told (clusters of 2 MiB: 512 TiB), -EOPNOTSUPP
 * with an external data file.
 */
int qcow2_write_compressed(struct qcow2_image *img, uint64_t offset,
			   const void *data, size_t len, struct qcow2_error *err);

/**
 * qcow2_read_compressed - a compressed cluster as it is in the file
 * @layer:  which has it, compressed (%QCOW2_RUN_COMPRESSED of qcow2_map_layer())
 * @offset: guest offset, multiple of the layer's cluster size
 * @buf:    room for @room bytes: one less than a cluster is enough for what
 *	    qcow2_compress() made
 * @len:    bytes in @buf: exactly what it takes, for qcow2_write_compressed() of an image
 *	    with clusters of the same size and the same compression type
 *
 * It is decompressed once, so what comes is known to be good. -EINVAL if it is not
 * compressed, -E2BIG if it does not fit.
 */
int qcow2_read_compressed(struct qcow2_image *img, unsigned int layer,
			  uint64_t offset, void *buf, size_t room, size_t *len,
			  struct qcow2_error *err);

/**
 * qcow2_peek_compressed - the same of one that is damaged: it is not looked at
 * @len: bytes in @buf: all sectors that it lies in, as far as there is room
 */
int qcow2_peek_compressed(struct qcow2_image *img, unsigned int layer, uint64_t offset,
			  void *buf, size_t room, size_t *len, struct qcow2_error *err);

/**
 * qcow2_set_backing - record another backing file, or none
 * @backing_file, @backing_format: as in struct qcow2_create_opts; NULL, NULL: none
 *
 * For an image that is open for writing with %QCOW2_OPEN_NO_BACKING, or has none, else
 * -EBUSY. As `qemu-img rebase -u`: neither file is looked at, what the image itself
 * does not have reads as the new one does. The header is written as by
 * qcow2_set_ext(), which see; if all of it lies in the first 512 bytes, a power cut
 * leaves the old one or the new one. The new backing file is not open: close the image
 * and open it again.
 */
int qcow2_set_backing(struct qcow2_image *img, const char *backing_file,
		      const char *backing_format, struct qcow2_error *err);

/**
 * struct qcow2_header_change - what is to be different in a header
 * @set_backing: record @backing_file and @backing_format
 * @ext: a private header extension to add or replace, NULL = none
 */
struct qcow2_header_change {
	bool set_backing;
	const char *backing_file, *backing_format;
	const struct qcow2_header_ext *ext;
};

/**
 * qcow2_plan_header - the header cluster as it would be after a change
 * @img:    flushed, layer 0; nothing in it is changed
 * @header: the bytes from the beginning of the file on; for free()
 * @len:    their number, a cluster
 *
 * For who wants to have the header at a safe place before it writes it, by itself,
 * while the image is not open.
 */
int qcow2_plan_header(struct qcow2_image *img, const struct qcow2_header_change *change,
		      void **header, size_t *len, struct qcow2_error *err);

/**
 * qcow2_flush - make everything so far durable, in crash-safe order
 *
 * The data file, fsync. Data, refcounts and new L2 tables, fsync; what refers to
 * them (refcount table, then L1, L2 tables that were durable already, header),
 * fsync. After a crash the image is as the previous flush left it (apart from
 * ranges overwritten in place), with leaked clusters at most; before the first
 * flush it has no header.
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
 * (-EOPNOTSUPP with internal snapshots, or bitmaps that use what this library does
 * not know). Bitmaps are counted when they are valid (autoclear bit 0). Data in an
 * external data file has no refcounts; that it is there is looked at if the file
 * is open. Memory: 2 bytes per cluster of the file, where it is used.
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

#ifdef __cplusplus
}
#endif

#include "qcow2-bitmap.h"

#endif /* QCOW2_H */
