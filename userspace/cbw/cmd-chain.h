/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CBW_CMD_CHAIN_H
#define CBW_CMD_CHAIN_H

/* verbs of "cbw chain" */
int chain_merge_verb(int argc, char **argv);
int chain_prune_verb(int argc, char **argv);

#endif
