/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_CRC_H
#define CBW_CRC_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli); begin with 0, goes on from @crc.  Any thread. */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

/* The checksum of A and B behind it: of that of A, that of B begun with 0, and B's length. */
uint32_t crc32c_combine(uint32_t a, uint32_t b, uint64_t len_b);

/*
 * One step of the checksum of an image: its data clusters in ascending order, each
 * preceded by its guest offset (64 bit, little endian); the last one padded
 * with zeros to a whole cluster.
 */
uint32_t crc_cluster(uint32_t crc, uint64_t offset, const void *buf,
		     size_t cluster);

/* Bytes that crc_cluster() takes in, for crc32c_combine(). */
#define CRC_CLUSTER_BYTES(cluster)	(8 + (uint64_t)(cluster))

#endif
