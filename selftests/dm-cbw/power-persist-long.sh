#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 1500
# long
#
# Five loads with 60 power cuts each, and mutations that have to be noticed.
exec "${0%/*}/power-persist.sh" "${1:-}" 60 5
