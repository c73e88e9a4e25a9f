/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fields of a qcow2 header, all big endian */
#ifndef CBW_IMAGE_INT_H
#define CBW_IMAGE_INT_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define Q_MAGIC			0x514649fbu
#define Q_HEADER		112u
#define Q_AUTOCLEAR_BITMAPS	1ull
#define Q_DIR_ENTRY		24u
#define Q_OFFSET_MASK		0x00fffffffffffe00ull
#define Q_EXT_END		0u
#define Q_EXT_FORMAT		0xe2792acau
#define Q_EXT_BITMAPS		0x23852875u
/* what QEMU accepts */
#define Q_BITS_MIN		9u
#define Q_BITS_MAX		31u
#define Q_BITMAPS_MAX		65535u
#define Q_DIR_MAX		(64u << 20)
#define Q_BITMAP_BYTES_MAX	(512u << 20)
#define Q_NAME_MAX		1023u

enum {
	Q_VERSION = 4, Q_BACKING_OFF = 8, Q_BACKING_LEN = 16, Q_CLUSTER_BITS = 20, Q_SIZE = 24,
	Q_CRYPT = 32, Q_L1_ENTRIES = 36, Q_L1_OFF = 40, Q_REFT_OFF = 48, Q_REFT_CLUSTERS = 56,
	Q_SNAPSHOTS = 60, Q_INCOMPAT = 72, Q_AUTOCLEAR = 88, Q_REFCOUNT_ORDER = 96,
	Q_LENGTH = 100,
};

static inline uint16_t get16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void put16(void *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put32(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void put64(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

#endif
