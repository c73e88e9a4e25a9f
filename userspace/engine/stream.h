/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A volume as a stream, for pipes: what sink_stream() writes and stream_restore() takes.
 *
 *	"cbw stream 1\n"  8 bytes size of the volume
 *	records: 4 bytes type, 4 bytes length of what follows, 8 bytes offset
 *		"data"	@length bytes of the volume, and their CRC-32C, 4 bytes (not in @length)
 *		"end."	length 0; offset: number of data records before; then 4 bytes, the CRC-32C
 *			of all their checksums, so that none is missing
 *
 * Numbers are little endian.  Offsets go up; what no record has is zeros.  A stream without an
 * end is not complete.
 */
#ifndef CBW_STREAM_H
#define CBW_STREAM_H

#include "sink.h"

/* bytes of a record's data at most */
#define STREAM_PIECE	XFER_PIECE

struct stream_in {
	int fd;
	uint64_t size;
};

/* Reads the head from @fd: -EUCLEAN if it is none. */
int stream_open(struct stream_in *in, int fd, struct cbw_error *err);
/* All the rest, to @dst, which is not flushed. -EUCLEAN: it is damaged, or ends early. */
int stream_restore(struct stream_in *in, struct sink *dst, struct cbw_error *err);

/* Lines of JSON: about what was copied, and about a range that is lost. */
void json_copied(uint64_t data, uint64_t unchanged, uint64_t zero, uint64_t unreadable);
void json_lost(uint64_t offset, uint64_t length, const char *why);

#endif
