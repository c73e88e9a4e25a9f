/* SPDX-License-Identifier: GPL-2.0-or-later */
/* what is in a container, for people */
#ifndef CBW_REPORT_H
#define CBW_REPORT_H

#include <stdbool.h>

/* Not the directory of chains. */
bool is_container_path(const char *path);
/* Exit statuses. */
int container_info(const char *path, bool json);
int container_check(const char *path, bool fix, bool remove);

#endif
