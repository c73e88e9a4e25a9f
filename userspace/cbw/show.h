/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_SHOW_H
#define CBW_SHOW_H

#include "libcbw.h"

struct json_object;

struct json_object *json_bitmap(const struct cbw_bitmap *b);
void show_bitmap(const struct cbw_bitmap *b, const char *indent);

#endif
