#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# A full backup with a user's bitmap that does not record: it records again from the cut on and
# stays what it was (transient or not, its granularity); when there is no cut, or the backup
# fails, it is as it was, with all that it had.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"
NONE=00000000000000000000000000000000

setup()
{
	nullb origin 16 512 && nullb store 16 512 && target_dir 100 || return
	tool 0 create dut "$origin" --container "$CBW_TMP/c.qcow2" || return
	DM_DEVS+=(dut)
	tool 0 bitmap add dut t --granularity 4096 --transient &&
		tool 0 bitmap add dut p --granularity 4096 && fill dut &&
		tool 0 bitmap disable dut t && tool 0 bitmap disable dut p || return
	truncate -s 64K "$CBW_TMP/small"
}

# is NAME FLAGS DIRTY
is()
{
	expect "flags of $1" "$(bitmap_get dut $1 flags)" "$2" &&
		expect "dirty in $1" "$(bitmap_get dut $1 dirty)" "$3" &&
		expect "granularity of $1" "$(bitmap_get dut $1 granularity)" 4096
}

as_before()
{
	is t - $((16 << 20)) && is p p $((16 << 20)) && no_snapshots
}

# No chunk fits into the store.
no_cut()
{
	local b

	for b in t p; do
		tool 1 backup dut --to "$TO/x.raw" --bitmap $b --store "$CBW_TMP/small" --chunk 1M &&
			tool 1 backup dut --to "$TO/c" --bitmap $b --store "$CBW_TMP/small" \
				--chunk 1M || return
	done
	as_before
}

fails()
{
	local b

	for b in t p; do
		tool 1 backup dut --to "nbd+unix:///?socket=$CBW_TMP/nothing" --bitmap $b \
			--store "$store" && says "the bitmap is as it was" || return
	done
	as_before
}

# What it has is no longer all that there is to say, but there is no base to trust it by.
killed()
{
	bg b "$CBW" backup dut --to "$TO/k.raw" --bitmap t --store "$store" --rate 1M
	until_true 10 test -s "$TO/k.raw.part" && kill -KILL "${BG[b]}" || return
	bg_wait b 20
	until_true 10 bitmap_is dut t flags e && is t e $((16 << 20)) &&
		expect base "$(bitmap_get dut t base)" $NONE || return
	tool 4 backup dut --to "$TO/k.raw" --bitmap t --incremental --store "$store" &&
		says "no base" && tool 0 bitmap disable dut t
}

# Who gives it up later knows that it was disabled.
given_up()
{
	bg b "$CBW" backup dut --to "$TO/r" --bitmap p --store "$store" --rate 1M --resumable
	until_true 10 compgen -G "$TO/r/dut/*.part" && kill -KILL "${BG[b]}" || return
	bg_wait b 20
	[[ $(bitmap_get dut p flags) == *e* ]] &&
		tool 1 backup dut --to "$TO/r" --bitmap p --store "$CBW_TMP/small" --chunk 1M &&
		says "is given up" && as_before
}

done_well()
{
	tool 0 backup dut --to "$TO/t.raw" --bitmap t --store "$store" && is t e 0 &&
		tool 0 backup dut --to "$TO/c" --bitmap p --store "$store" && is p ep 0 || return
	cbw-load one /dev/mapper/dut --offset 1M --len 4096 --gen $((GEN += 1)) || return
	tool 0 backup dut --to "$TO/t.raw" --bitmap t --incremental --store "$store" &&
		cbw-check compare "$TO/t.raw" /dev/mapper/dut &&
		tool 0 backup dut --to "$TO/c" --bitmap p --incremental --store "$store" &&
		is t e 0 && is p ep 0
}

# The container is full and cannot grow, and a bitmap has to be replaced.
full_container()
{
	local origin2 box second i

	nullb origin2 16 512 && nullb box 2 512 && tool 0 create dut2 "$origin2" --container "$box" &&
		DM_DEVS+=(dut2) || return
	tool 0 backup dut2 --to "$TO/d" --differential --store "$store" || return
	second=$(chain_bitmap "$TO/d/dut2")-d &&
		tool 0 bitmap disable dut2 "$second" || return
	for ((i = 0; i < 60; i++)); do
		"$CBW" bitmap add dut2 "f$i" || break
	done
	((i < 60)) || wrong "the container is never full" || return
	tool 0 backup dut2 --to "$TO/d" --full --store "$store" &&
		[[ $(bitmap_get dut2 "$second" flags) == *e* ]]
}

t "set up" setup
keep
t "there is no cut" no_cut
t "it fails after the cut" fails
t "it is killed" killed
t "it is killed, and given up by the next one" given_up
t "it is done" done_well
t "no room for two" full_container
drop_stale
umount "$TO"
finish
