/* SPDX-License-Identifier: GPL-2.0-or-later */
/* notes that a container has failed, outside of it */
#ifndef CBW_MARKER_H
#define CBW_MARKER_H

#include "libcbw.h"

#define MARKER_DIR	"/var/lib/cbw/failed"

/* Leaves one, durable when it returns. */
int marker_write(const struct cbw_cut_id *id, uint64_t generation, struct cbw_error *err);
/* The newest generation of a container that has failed; 0: none is known. */
uint64_t marker_read(const struct cbw_cut_id *id);
void marker_remove(const struct cbw_cut_id *id);

#endif
