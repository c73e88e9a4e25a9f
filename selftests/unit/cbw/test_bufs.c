// SPDX-License-Identifier: GPL-2.0-or-later
/* the ring of buffers: what is taken is one's own until it is given back, and there is always some */
#include "common.h"
#include "xfer-bufs.h"
#include "xfer.h"

#define PIECES	64
#define PAGE	4096u

struct taken {
	struct xfer_bufs bufs;
	uint32_t length;
	uint64_t mark;
	unsigned char fill;
};

static void fill(struct taken *t, bool extra)
{
	memset(t->bufs.data, t->fill, t->length);
	if (extra)
		memset(t->bufs.extra, ~t->fill, t->length);
}

static void still_there(const struct taken *t, bool extra)
{
	uint32_t i;

	for (i = 0; i < t->length; i++) {
		assert_int_equal((unsigned char)t->bufs.data[i], t->fill);
		if (extra)
			assert_int_equal((unsigned char)t->bufs.extra[i], (unsigned char)~t->fill);
	}
}

static void random_use(size_t size, uint32_t most, bool extra, unsigned int rounds)
{
	unsigned int head = 0, tail = 0, i;
	struct taken t[PIECES];
	struct bufs b;

	assert_int_equal(bufs_make(&b, size, extra), 0);
	for (i = 0; i < rounds; i++) {
		uint32_t length = 1 + (uint32_t)rand() % most;
		struct taken *s = &t[tail % PIECES];

		if (tail - head < PIECES && rand() % 3 && bufs_room(&b, length)) {
			*s = (struct taken){ .length = length, .fill = (unsigned char)tail };
			/* one without any, as zeros are */
			if (rand() % 8) {
				s->mark = bufs_take(&b, length, &s->bufs);
				assert_int_equal((s->bufs.data - b.base) % PAGE, 0);
				fill(s, extra);
			} else {
				s->length = 0;
			}
			tail++;
		} else if (head < tail) {
			still_there(&t[head % PIECES], extra);
			bufs_give(&b, t[head % PIECES].mark);
			head++;
		}
		/* whatever it was before, what is empty has room for the largest */
		if (head == tail)
			assert_true(bufs_room(&b, (uint32_t)size));
	}
	bufs_free(&b);
}

static void ring(void **state)
{
	(void)state;
	srand(11);
	random_use(16 * PAGE, 16 * PAGE, false, 3000);
	random_use(16 * PAGE, 3 * PAGE, true, 3000);
	random_use(PAGE, PAGE, true, 300);
	random_use(1u << 20, 100000, false, 1000);
}

/* As many as there is room for, all of them at once. */
static void is_used_whole(void **state)
{
	struct xfer_bufs out;
	struct bufs b;
	int n, i;

	(void)state;
	assert_int_equal(bufs_make(&b, 64 * PAGE, false), 0);
	for (i = 0; i < 3; i++) {
		uint64_t mark = 0;

		for (n = 0; bufs_room(&b, PAGE); n++)
			mark = bufs_take(&b, PAGE, &out);
		assert_int_equal(n, 64);
		bufs_give(&b, mark);
	}
	bufs_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring),
		cmocka_unit_test(is_used_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
