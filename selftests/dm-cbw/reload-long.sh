#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 900
# long
#
# reload.sh for longer.
#
#	reload-long.sh [SEED]
exec "${0%/*}/reload.sh" "${1-}" 60
