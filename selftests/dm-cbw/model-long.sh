#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 3900
# long
#
# model.sh for an hour; an hour in a debug kernel, too.
exec "${0%/*}/model.sh" "${1-}" 3600
