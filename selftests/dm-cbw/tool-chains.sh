#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# Which backup it is to be: two chains from one volume do not mix; what cannot
# be an increment is a full backup with a reason and status 3, or with
# --incremental status 4; bitmaps with small granules.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"

setup()
{
	nullb origin 16 512 && nullb store 16 512 || return
	tracked dut "$origin" && target_dir 200 || return
	to=$TO/b
	fill dut && tool 0 backup dut --to "$to" --store "$store"
}

two_chains()
{
	tool 0 backup dut --to "$TO/c" --store "$store" || return
	cbw-load one /dev/mapper/dut --offset $((9 << 20)) --len 65536 --gen 50 || return
	tool 0 backup dut --to "$to" --store "$store" --incremental || return
	cbw-load one /dev/mapper/dut --offset $((5 << 20)) --len 65536 --gen 51 || return
	tool 0 backup dut --to "$TO/c" --store "$store" --incremental || return
	tool 0 verify "$TO/c" --against /dev/mapper/dut || return
	# the bitmap of one chain is of no use to the other
	local a b

	a=$(chain_bitmap "$to/dut")
	b=$(chain_bitmap "$TO/c/dut")
	[[ $a != "$b" ]] || return
	tool 4 backup dut --to "$TO/c" --store "$store" --incremental --bitmap "$a" || return
	says "the base of bitmap" || return
	tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to" --against /dev/mapper/dut
}

fallback()
{
	local b n

	b=$(chain_bitmap "$to/dut")
	tool 0 bitmap remove dut "$b" || return
	tool 4 backup dut --to "$to" --store "$store" --incremental || return
	says "the volume has no bitmap '$b'" || return
	tool 3 backup dut --to "$to" --store "$store" --auto || return
	says "an increment is impossible: the volume has no bitmap" || return
	tool 0 backup dut --to "$to" --store "$store" --auto && says "incremental" || return
	tool 0 bitmap disable dut "$b" || return
	cbw-load one /dev/mapper/dut --offset $((3 << 20)) --len 4096 --gen 60 || return
	tool 3 backup dut --to "$to" --store "$store" && says "disabled" || return
	# a gap that nobody sees any more
	tool 0 bitmap disable dut "$b" || return
	cbw-load one /dev/mapper/dut --offset $((6 << 20)) --len 4096 --gen 62 || return
	tool 0 bitmap enable dut "$b" || return
	tool 4 backup dut --to "$to" --store "$store" --incremental && says "no base" || return
	tool 3 backup dut --to "$to" --store "$store" && says "no base" || return
	cbw-load one /dev/mapper/dut --offset $((4 << 20)) --len 4096 --gen 61 || return
	tool 0 backup dut --to "$to" --store "$store" --incremental || return
	tool 0 verify "$to" --against /dev/mapper/dut && tool 0 verify "$to"
}

# Small granules: clusters of the increment are as small.
small_granules()
{
	tool 0 bitmap add dut fine --granularity 512 || return
	tool 0 backup dut --to "$TO/d" --store "$store" --bitmap fine || return
	cbw-load one /dev/mapper/dut --offset $(((3 << 20) + 512)) --len 512 --gen 70 || return
	cbw-load one /dev/mapper/dut --offset $(((7 << 20) - 512)) --len 1024 --gen 71 || return
	tool 0 backup dut --to "$TO/d" --store "$store" --bitmap fine --incremental --json || return
	grep -q '"copied":12288' "$TOOL_OUT" || wrong "not three chunks" || return
	tool 0 verify "$TO/d" --against /dev/mapper/dut
}

t "set up, a first chain" setup
keep
t "two chains from one volume do not mix" two_chains
t "what cannot be an increment: full and 3, or 4" fallback
t "a bitmap with small granules" small_granules
t "nothing is left" no_snapshots
umount "$TO"
finish
