/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Models of an image's bitmaps, and random edits of both */
#ifndef BITMAPS_H
#define BITMAPS_H

#include "common.h"

#define MAX_BITMAPS	24

struct model {
	char name[64];
	size_t len;
	uint32_t flags;
	unsigned int bits;
	uint64_t granules, bytes;
	uint8_t *data;
};

struct models {
	struct model m[MAX_BITMAPS];
	unsigned int nr;
};

void models_copy(struct models *to, const struct models *from);
void models_free(struct models *m);
/* what is in the image is what the models say; false: the first difference is printed if @loud */
bool models_match(struct qcow2_image *img, const struct models *m, bool loud);
/* add a random bitmap to the edit and to @m */
void model_add(struct qcow2_image *img, struct qcow2_bitmaps_edit *edit, struct models *m, const char *name,
	       unsigned int bits, uint32_t flags);
/* a random edit that makes @now out of it; all but the commit */
struct qcow2_bitmaps_edit *random_edit(struct qcow2_image *img, struct models *now);

#endif /* BITMAPS_H */
