/* SPDX-License-Identifier: GPL-2.0-or-later */
/* checksums of what an image itself has, one for each range of the guest */
#ifndef CBW_SUMS_H
#define CBW_SUMS_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the guest that one checksum is for: a multiple of every cluster size. */
#define SUMS_RANGE	(4u << 20)

/**
 * struct sums - as crc_cluster() makes them, each begun with 0 for its range
 * @crc: of the data clusters of range n, 0 if there are none
 * @nr: ranges, the last one may be cut by the end of the volume
 * @total: the same over all of the image
 */
struct sums {
	uint32_t *crc;
	uint64_t nr;
	uint32_t total;
};

/* @size: of the volume */
void sums_init(struct sums *s, uint64_t size);
void sums_free(struct sums *s);

/**
 * sums_add - take in what crc_cluster() gave for some clusters
 * @offset: of the first; all of them lie in one range, and behind those before
 * @crc: begun with 0
 * @bytes: sum of CRC_CLUSTER_BYTES()
 */
void sums_add(struct sums *s, uint64_t offset, uint32_t crc, uint64_t bytes);

#endif
