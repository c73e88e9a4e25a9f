/* SPDX-License-Identifier: GPL-2.0-or-later */
/* giving the kernel what is in a container */
#ifndef CBW_DELIVER_H
#define CBW_DELIVER_H

#include "container.h"

/**
 * struct delivery - what is delivered; the rest is of deliver() and deliver_report()
 * @anew: with empty bitmaps that have no base
 * @now: the volume as it was when its bitmaps were found to be right
 * @volume: the device of which @now has the statistics
 */
struct delivery {
	struct container *c;
	enum take take;
	bool anew;
	struct binding now;
	struct cbw_devno volume;
	struct cbw_cut_id boot_id;
	char binding[CBW_BINDING_MAX];
	uint32_t binding_len;
	struct cbw_place space;
	struct cbw_devno container;
	uint32_t policy;
	uint32_t timeout_ms;

	unsigned char *intent;
	uint64_t regions;
	uint64_t added[CBW_BITMAPS_MAX];	/* bytes, by recovery */
};

/* A cbw_dm_step; @arg: the delivery */
int deliver(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err);

/*
 * Once the device is live: says what was recovered, and whether a write has slipped by before.
 * @attached: with a hidden origin. An exit status.
 */
int deliver_report(struct delivery *d, const char *what, const struct cbw_dm_dev *live,
		   bool attached);
void delivery_free(struct delivery *d);

#endif
