#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 100
# long
#
# The union of increments has every changed block, whatever is in flight at the
# cuts. A chain is built as a backup does it: a full image from the first
# snapshot, then what the snapshots limited to a bitmap let one read, laid over
# it. Each image has to be a consistent cut of the load, and the last one,
# after the load, the device itself. With aborts (snapshot removed before a
# commit) the increments grow, with commits they do not.
#
#	increments.sh [SEED [SECONDS]]	seconds between cuts, default 0.4
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
secs=${2:-0.4}

# commit SNAPSHOT: what it rotated; through it, no one else may
commit()
{
	cbw-ioctl commit "/dev/mapper/$1" "$(snap_get "$1" cut)"
}

# cut CHUNK before|after [FEATURES]: a snapshot between two marks
cut()
{
	mark_before=$(cbw-check mark "$CBW_TMP/load.log")
	snap shot dut "$store" "$@" || return
	mark_after=$(cbw-check mark "$CBW_TMP/load.log")
}

consistent()
{
	cbw-check order "$CBW_TMP/load.log" "$1" --before "$mark_before" \
		--after "$mark_after" --gen "$BASE_GEN"
}

# chain CHUNK commit|abort
chain()
{
	local chunk=$1 how=$2 i

	cut "$chunk" 2 bitmap b || return
	# the full one reads without the limit: everything is dirty
	cbw-check overlay "$CBW_TMP/img" /dev/mapper/shot --chunk $((chunk * 512)) || return
	commit shot && dm_remove shot || return
	cp "$CBW_TMP/img" "$CBW_TMP/full"
	consistent "$CBW_TMP/img" || { echo "the full one"; return 1; }
	for i in 1 2 3; do
		nap "$secs"
		((i < 3)) || load_stop load || return
		cut "$chunk" 2 bitmap b || return
		# aborted ones are increments of the full one
		[[ $how == commit ]] || cp "$CBW_TMP/full" "$CBW_TMP/img"
		cbw-check overlay "$CBW_TMP/img" /dev/mapper/shot --chunk $((chunk * 512)) \
			--extents-out "$CBW_TMP/ext" || return
		# a second time, while the load goes on
		cbw-check overlay "$CBW_TMP/img" /dev/mapper/shot --chunk $((chunk * 512)) \
			--extents-in "$CBW_TMP/ext" || return
		[[ $how == abort ]] || commit shot || return
		dm_remove shot || return
		consistent "$CBW_TMP/img" || { echo "increment $i"; return 1; }
	done
	cbw-check compare "$CBW_TMP/img" /dev/mapper/dut
}

# run GRANULARITY CHUNK commit|abort LOAD...
run()
{
	local gran=$1 chunk=$2 how=$3

	shift 3
	fill dut || return
	rm -f "$CBW_TMP/img"
	truncate -s $((len * 512)) "$CBW_TMP/img"
	msg dut bitmap_add b granularity "$gran" || return
	# all of it is dirty
	fill dut || return
	load_start load dut -- "$@" || return
	chain "$chunk" "$how" || return
	msg dut bitmap_remove b
}

nullb origin 12 512
nullb store 14 512
len=$(($(sectors "$origin") - 13))
t "make the device" cbw dut "$origin" $len
load=(--uring 2:16 --bs 512:20K --max-iops 1500 --range 0:6M)
t "commits, bitmap and chunk 4 KiB" run 4096 8 commit "${load[@]}"
t "commits, bitmap 64 KiB, chunk 4 KiB" run 65536 8 commit "${load[@]}"
t "commits, bitmap 4 KiB, chunk 64 KiB, write-zeroes" \
	run 4096 128 commit --uring 2:8 --sync 2 --mix 1:1:0 --bs 512:40K --max-iops 1500 --range 3M:7M
t "aborts, bitmap 512 bytes, chunk 64 KiB" run 512 128 abort "${load[@]}"

# What the two halves hold, without any snapshot.
halves()
{
	msg dut bitmap_add h granularity 4096 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 8192 || return
	expect "dirty after 8 KiB" "$(bitmap_get dut h dirty)" 8192 || return
	msg dut bitmap_rotate h | grep -qE '^[0-9a-f]{32}$' ||
		{ wrong "bitmap_rotate does not reply a cut id"; return; }
	expect "dirty after the rotate" "$(bitmap_get dut h dirty)" 8192 || return
	[[ $(bitmap_get dut h flags) == *b* ]] || { wrong "not busy"; return; }
	refused EBUSY msg dut bitmap_rotate h || return
	cbw-load one /dev/mapper/dut --offset 64K --len 4096 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 || return
	msg dut bitmap_abort h || return
	expect "dirty after the abort" "$(bitmap_get dut h dirty)" 12288 || return
	expect "base after the abort" "$(bitmap_get dut h base)" \
		00000000000000000000000000000000 || return
	cutid=$(msg dut bitmap_rotate h) || return
	cbw-load one /dev/mapper/dut --offset 1M --len 512 || return
	msg dut bitmap_commit h || return
	expect "dirty after the commit" "$(bitmap_get dut h dirty)" 4096 || return
	expect "base after the commit" "$(bitmap_get dut h base)" "$cutid" || return
	# a base says that all changes since are there: after clear or disable it
	# would be a lie
	msg dut bitmap_clear h || return
	expect "base after clear" "$(bitmap_get dut h base)" \
		00000000000000000000000000000000 || return
	expect "dirty after clear" "$(bitmap_get dut h dirty)" 0 || return
	msg dut bitmap_disable h || return
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 || return
	expect "dirty while disabled" "$(bitmap_get dut h dirty)" 0 || return
	msg dut bitmap_enable h || return
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 || return
	expect "dirty after enable" "$(bitmap_get dut h dirty)" 4096 || return
	# the last granule is short, and counts to the device's end
	cbw-load one /dev/mapper/dut --offset $((len - 1))s --len 512 || return
	expect "dirty with the last granule" "$(bitmap_get dut h dirty)" \
		$((4096 + len * 512 % 4096)) || return
	msg dut bitmap_rotate h >/dev/null && msg dut bitmap_commit h || return
	msg dut bitmap_disable h && msg dut bitmap_enable h || return
	expect "base after disable and enable" "$(bitmap_get dut h base)" \
		00000000000000000000000000000000 || return
	msg dut bitmap_remove h
}
t "rotate, commit, abort, clear, disable, enable by message" halves
finish
