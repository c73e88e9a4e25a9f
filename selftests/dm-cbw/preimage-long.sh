#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 900
# long
#
# preimage.sh for longer.
#
#	preimage-long.sh [SEED]
exec "${0%/*}/preimage.sh" "${1-}" 10
