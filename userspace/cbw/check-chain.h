/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_CHECK_CHAIN_H
#define CBW_CHECK_CHAIN_H

#include <stdbool.h>

/**
 * check_chains - check the chains under a directory, all but the data
 * @fix: repair what can be
 *
 * Says what is wrong, and what was done. EXIT_OK, EXIT_FAILED (errors are left) or
 * EXIT_DISTRUST (images are others than the manifest means).
 */
int check_chains(const char *path, bool fix);

#endif
