/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_RESTORE_H
#define CBW_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "chain.h"

struct qcow2_image;

/**
 * open_entry - open the image of an entry with all below it
 *
 * Checks that images and manifest mean the same: ids in the images' headers, sizes,
 * names of backing files. -EUCLEAN if not. As long as it is open none of them is merged;
 * -EBUSY if one is being merged now.
 */
int open_entry(const struct chain *chain, const struct entry *e,
	       struct qcow2_image **img, struct cbw_error *err);

/** open_alone - an image of which only its own header and tables count, and its own data */
int open_alone(const char *path, struct qcow2_image **img, struct cbw_error *err);

/**
 * check_layer - whether a layer of an open image is that of an entry
 * @parent: entry below, NULL: @e is a full one
 */
int check_layer(struct qcow2_image *img, unsigned int layer,
		const struct chain *chain, const struct entry *e,
		const struct entry *parent, struct cbw_error *err);

/* Whether this error says that the chain contradicts itself. */
bool distrust(int ret);

/**
 * pick_chain - the one chain that DIR or DIR/VOLUME means
 *
 * Says what is wrong; EXIT_OK, EXIT_FAILED or EXIT_DISTRUST.
 */
int pick_chain(const char *what, const char *path, struct chain *chain);

/* The entry of --until, or the newest; NULL, which has been said. */
const struct entry *pick_entry(const char *what, const struct chain *chain,
			       const char *until);

#endif
