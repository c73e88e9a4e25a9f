/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_ROOM_H
#define CBW_ROOM_H

#include "libcbw.h"

/* More room in the container of @dev, for a bitmap of this granularity (0: the default). */
int container_make_room(struct cbw_session *session, const struct cbw_dm_dev *dev,
			uint32_t granularity, struct cbw_error *err);

#endif
