/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bringing a volume and its container together, and apart */
#ifndef CBW_ATTACH_H
#define CBW_ATTACH_H

#include "container.h"
#include "room.h"

/**
 * struct container_opts - of the command line; 0: the default
 * @size: of a new file, or bytes that an old one has at least
 */
struct container_opts {
	const char *path;
	uint64_t region;
	uint64_t size;
	uint64_t timeout_ms;
	const char *policy;
	bool force;
	bool force_full;
	bool elsewhere;
};

/* What is wrong with them: EXIT_USAGE and said; else -1. */
int container_opts_check(const char *command, const struct container_opts *opts);

/*
 * cbw attach DEV, or for @origin not NULL cbw create DEV ORIGIN, with a container. Returns an
 * exit status, and has said what there is to say.
 */
int container_attach(const char *dev, const char *origin, const struct container_opts *opts);

/*
 * Takes the target away from @dev, which has a container: @end does so (cbw_dm_detach or the
 * like). An exit status.
 */
int container_detach(const char *what, const struct cbw_dm_dev *dev,
		     int (*end)(const struct cbw_dm_dev *dev, void *arg, struct cbw_error *err),
		     void *arg);

#endif
