/* SPDX-License-Identifier: GPL-2.0-or-later */
/* a child that makes the stores of a backup larger before they are full */
#ifndef CBW_GROW_H
#define CBW_GROW_H

#include <sys/types.h>

#include "store.h"

struct grow {
	const struct cbw_dm_dev *snap;
	struct store *store;
	const char *volume;	/* for messages */
};

struct grower {
	pid_t pid;		/* 0: none */
	int pipe;		/* it ends when that is closed */
};

/*
 * Begins to watch those stores that are ours. It is another process, since the copy may
 * wait for a disk just when a store has to grow, and libdevmapper is for one thread.
 */
int grow_start(struct grower *grower, const struct grow *list, size_t nr, bool json,
	       struct cbw_error *err);
/* Ends it: nothing of a snapshot or a store changes any more. */
void grow_stop(struct grower *grower);

#endif
