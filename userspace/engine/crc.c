// SPDX-License-Identifier: GPL-2.0-or-later
/* CRC-32C: by the processor where it can, else eight bytes at a time by tables */
#include <endian.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "crc.h"

#define POLY	0x82f63b78u	/* reflected */

/* Streams side by side: the instruction takes three cycles, and one can begin in each. */
#define LANE	1024u

static uint32_t table[8][256];
/* powers[k]: x^(8 * 2^k), to go on over 2^k bytes of zeros */
static uint32_t powers[64];
/* what a lane, and two of them, do to a checksum in front */
static uint32_t over_lane, over_two;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool have_hw;

/* a * b modulo the polynomial, in the reflected order of bits */
static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t p = 0;

	for (; a; a <<= 1) {
		if (a >> 31)
			p ^= b;
		b = b & 1 ? b >> 1 ^ POLY : b >> 1;
	}
	return p;
}

static uint32_t power(uint64_t bytes)
{
	uint32_t p = 1u << 31;	/* 1 */
	unsigned int k;

	for (k = 0; bytes; k++, bytes >>= 1)
		if (bytes & 1)
			p = multiply(powers[k], p);
	return p;
}

static void make_tables(void)
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
	powers[0] = 1u << 23;	/* x^8 */
	for (k = 1; k < 64; k++)
		powers[k] = multiply(powers[k - 1], powers[k - 1]);
	over_lane = power(LANE);
	over_two = power(2 * LANE);
#ifdef __x86_64__
	have_hw = __builtin_cpu_supports("sse4.2");
#endif
}

static uint32_t crc_soft(uint32_t crc, const unsigned char *p, size_t len)
{
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
	return crc;
}

#ifdef __x86_64__
static inline uint64_t word(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

__attribute__((target("sse4.2")))
static uint32_t crc_hw(uint32_t crc, const unsigned char *p, size_t len)
{
	uint64_t a = crc;

	while (len >= 3 * LANE) {
		uint64_t b = 0, c = 0;
		size_t i;

		for (i = 0; i < LANE; i += 8) {
			a = __builtin_ia32_crc32di(a, word(p + i));
			b = __builtin_ia32_crc32di(b, word(p + LANE + i));
			c = __builtin_ia32_crc32di(c, word(p + 2 * LANE + i));
		}
		a = multiply(over_two, (uint32_t)a) ^ multiply(over_lane, (uint32_t)b) ^ c;
		p += 3 * LANE;
		len -= 3 * LANE;
	}
	for (; len >= 8; len -= 8, p += 8)
		a = __builtin_ia32_crc32di(a, word(p));
	for (; len; len--, p++)
		a = __builtin_ia32_crc32qi((uint32_t)a, *p);
	return (uint32_t)a;
}
#else
static uint32_t crc_hw(uint32_t crc, const unsigned char *p, size_t len)
{
	return crc_soft(crc, p, len);
}
#endif

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
	pthread_once(&once, make_tables);
	return ~(have_hw ? crc_hw(~crc, buf, len) : crc_soft(~crc, buf, len));
}

uint32_t crc32c_combine(uint32_t a, uint32_t b, uint64_t len_b)
{
	pthread_once(&once, make_tables);
	return multiply(power(len_b), a) ^ b;
}

uint32_t crc_cluster(uint32_t crc, uint64_t offset, const void *buf,
		     size_t cluster)
{
	uint64_t le = htole64(offset);

	crc = crc32c(crc, &le, sizeof(le));
	return crc32c(crc, buf, cluster);
}
