/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what sysfs says of block devices */
#ifndef CBW_SYSFS_H
#define CBW_SYSFS_H

#include <stdbool.h>
#include <stddef.h>

#include "libcbw.h"

/* The first line of a file of the device; false: there is none, or nothing in it. */
bool sysfs_line(struct cbw_devno dev, const char *name, char *buf, size_t len);
/* Name of the file behind a loop device, for free(); NULL: it is none. */
char *loop_file(struct cbw_devno dev);

#endif
