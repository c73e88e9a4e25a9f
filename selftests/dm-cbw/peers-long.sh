#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 300
# long
#
# peers.sh with more than 256 snapshots in sequence.
exec "${0%/*}/peers.sh" 260
