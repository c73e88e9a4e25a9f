/* SPDX-License-Identifier: GPL-2.0-or-later */
/* the parts of a backup among themselves; backup.h is for the others */
#ifndef CBW_BACKUP_INT_H
#define CBW_BACKUP_INT_H

#include "backup.h"

/* The bitmap that says what is copied; that of a full one records for the next. */
static inline const char *job_bitmap(const struct job *j)
{
	return j->decision.type == ENTRY_DIFFERENTIAL ? j->second : j->chain.bitmap;
}

/* Makes the snapshots and the cut; checks that what was planned still holds. */
int backup_cut(struct backup *b, struct cbw_error *err);

/* Copies one volume; its image is durable then. */
int backup_copy(struct backup *b, struct job *j, struct cbw_error *err);

#endif
