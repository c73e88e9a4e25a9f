#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 300
# long
#
# pressure.sh with more to swap, and two processes at once.
exec "${0%/*}/pressure.sh" - long
