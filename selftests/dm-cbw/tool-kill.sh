#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 75
#
# cbw backup killed at ten random moments: the chain is as it was, the bitmap as if the backup
# had not begun, and the next increment has everything. tool-kill-long does it 100 times.
#
#	tool-kill.sh [SEED [KILLS]]
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/kill.bash"
seed "${1-}"
kills=${2:-10}

# The first backup of a chain, killed: nothing is there, the next one is a full one.
first_killed()
{
	bg tool "$CBW" backup dut --to "$TO/c" --store "$store" --rate 1M
	until_true 10 any_active || return
	kill -KILL "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
	tool 1 restore "$TO/c" --to "$CBW_TMP/img" && says "no backup has been completed" || return
	tool 0 backup dut --to "$TO/c" --store "$store" && says "full backup 1" || return
	cbw-load one /dev/mapper/dut --offset 65536 --len 4096 --gen 90 || return
	tool 0 backup dut --to "$TO/c" --store "$store" --incremental &&
		tool 0 verify "$TO/c" --against /dev/mapper/dut || return
	expect "bitmaps" "$("$CBW" bitmap list dut | wc -l)" 2
}

t "set up, a full backup" setup
keep
t "killed at $kills moments" at_random KILL
t "the first backup killed" first_killed
t "nothing is left" no_snapshots
drop_stale
umount "$TO"
finish
