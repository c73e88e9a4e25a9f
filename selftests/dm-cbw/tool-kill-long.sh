#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 600
# long
#
# tool-kill with a hundred kills, and others by SIGTERM and SIGINT.
#
#	tool-kill-long.sh [SEED [KILLS]]
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/kill.bash"
seed "${1-}"

t "set up, a full backup" setup
keep
kills=${2:-100}
t "killed at $kills moments" at_random KILL
kills=20
t "stopped at $kills moments" at_random TERM INT
t "nothing is left" no_snapshots
drop_stale
umount "$TO"
finish
