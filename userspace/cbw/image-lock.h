/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who reads an image shares it (flock), who merges it has it alone: what a merge changes
 * in place must not be known from before to anybody who goes on reading.
 */
#ifndef CBW_IMAGE_LOCK_H
#define CBW_IMAGE_LOCK_H

#include "chain.h"

struct qcow2_image;

/* descriptors that hold the files of an image and all below it, while it is opened */
struct image_hold {
	int *fd;
	size_t nr;
};

/** image_hold - before @e is opened; -EBUSY if it is being merged */
int image_hold(const struct chain *chain, const struct entry *e,
	       struct image_hold *hold, struct cbw_error *err);

/** image_share - the open image holds its files itself, from now on until it is closed */
void image_share(struct qcow2_image *img);

void image_release(struct image_hold *hold);

#endif
