#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 600
# long
#
# order.sh with a thousand cuts.
exec "${0%/*}/order.sh" 1000
