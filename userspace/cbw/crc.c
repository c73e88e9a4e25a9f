// SPDX-License-Identifier: GPL-2.0-or-later
/* CRC-32C, eight bytes at a time */
#include <endian.h>
#include <string.h>

#include "crc.h"

#define POLY	0x82f63b78u	/* reflected */

static uint32_t table[8][256];

static void make_table(void)
{
	uint32_t i, k;

	for (i = 0; i < 256; i++) {
		uint32_t c = i;

		for (k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ POLY : c >> 1;
		table[0][i] = c;
	}
	for (i = 0; i < 256; i++)
		for (k = 1; k < 8; k++)
			table[k][i] = table[k - 1][i] >> 8 ^
				table[0][table[k - 1][i] & 255];
}

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	const unsigned char *p = buf;

	if (!table[0][1])
		make_table();
	crc = ~crc;
	for (; len >= 8; len -= 8, p += 8) {
		uint64_t v;

		memcpy(&v, p, 8);
		v = le64toh(v) ^ crc;
		crc = table[7][v & 255] ^ table[6][v >> 8 & 255] ^
			table[5][v >> 16 & 255] ^ table[4][v >> 24 & 255] ^
			table[3][v >> 32 & 255] ^ table[2][v >> 40 & 255] ^
			table[1][v >> 48 & 255] ^ table[0][v >> 56];
	}
	for (; len; len--, p++)
		crc = crc >> 8 ^ table[0][(crc ^ *p) & 255];
	return ~crc;
}

uint32_t crc_cluster(uint32_t crc, uint64_t offset, const void *buf,
		     size_t cluster)
{
	uint64_t le = htole64(offset);

	crc = crc32c(crc, &le, sizeof(le));
	return crc32c(crc, buf, cluster);
}
