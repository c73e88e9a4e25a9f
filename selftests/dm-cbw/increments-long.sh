#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 900
# long
#
# increments.sh for longer.
#
#	increments-long.sh [SEED]
exec "${0%/*}/increments.sh" "${1-}" 10
