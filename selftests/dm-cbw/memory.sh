#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# What bitmaps and snapshots of 1 TiB take of the memory, and what happens at the
# limit of a snapshot's map.
#
#	memory.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
seed "${1-}"
LIMIT=/sys/module/dm_cbw/parameters/map_limit_mib
# It has no memory at all: what is written is gone, what is read says nothing.
nullb huge $((1 << 20)) 4096 memory_backed=0 discard=0
nullb store 4096 4096 memory_backed=0 discard=0
t "make a device of 1 TiB" cbw dut "$huge"
keep
# what the devices' own queues and the program take at their first use
cbw-probe write /dev/mapper/dut --range 0:64M --qd 32 --ops 1000 >/dev/null

# free_kib: with what can be given back at once, but for a little in per-CPU lists
echo 1000000 >/proc/sys/vm/percpu_pagelist_high_fraction
free_kib()
{
	local k v

	sync
	echo 3 >/proc/sys/vm/drop_caches
	nap 0.1		# what RCU frees
	while read -r k v _; do
		[[ $k != MemFree: ]] || echo "$v"
	done </proc/meminfo
}

# takes COMMAND UNDO: the KiB that the one takes in $took, the middle of five times:
# whatever else the machine does takes more meanwhile, or gives back what it took
# before, and neither makes a figure of the one time it hits
takes()
{
	local before between i all=()

	for i in 1 2 3 4 5; do
		before=$(free_kib)
		$1 || return
		between=$(free_kib)
		$2 || return
		all+=($((before - between)))
		echo "$1: $before, $between, $(free_kib)"
	done
	mapfile -t all < <(printf '%s\n' "${all[@]}" | sort -n)
	took=${all[2]}
}

# at_most WHAT KIB
at_most()
{
	figure "$1: $took KiB, at most $2"
	((took <= $2)) || wrong "$1: $took KiB, more than $2"
}

add_bitmaps()
{
	local i

	for i in {1..16}; do
		cbw-dm message dut bitmap_add b$i >/dev/null || return
	done
}

remove_bitmaps()
{
	local i

	for i in {1..16}; do
		cbw-dm message dut bitmap_remove b$i >/dev/null || return
	done
}

# Sixteen, so that the rest of the machine does not count. 2 MiB of each are the
# bits; the limit is a twentieth more.
bitmaps()
{
	takes add_bitmaps remove_bitmaps || return
	at_most "16 bitmaps of 1 TiB, 64 KiB" $((16 * 2150)) || return
	((took >= 15 * 2048)) || wrong "only $took KiB?"
}
t "bitmaps of 1 TiB" bitmaps

# chunks NUMBER RANGE: at random within
first_writes()
{
	cbw-probe write /dev/mapper/dut --order each --range $2 --qd 32 --ops $1 --seed $SEED >"$CBW_TMP/probe.out"
}

tiny_snapshot()
{
	snap tshot dut /dev/mapper/tiny 8 2 buffer_kib 512
}

# A buffer of 512 KiB and 64 slots of the store are not for the volume.
snapshot()
{
	local rc=0

	dm_create tiny "0 512 linear $store 0" && takes tiny_snapshot "dm_remove tshot" || return
	dm_remove tiny || rc=1
	at_most "a snapshot of 1 TiB, 4 KiB" $((33 * 1024 + 512)) || rc=1
	((took >= 31 * 1024)) || { wrong "only $took KiB?"; rc=1; }
	return $rc
}
t "a snapshot of 1 TiB" snapshot

# A tenth of the chunks of 3 GiB, in a store of 4 GiB: the KiB of their map in $took.
fill_map()
{
	local rc=0 before after

	snap shot dut "$store" 8 2 buffer_kib 512 || return
	before=$(free_kib)
	first_writes $chunks 0:3072M || { cat "$CBW_TMP/probe.out"; return 1; }
	until_true 5 written_out || { echo "not all is written"; rc=1; }
	after=$(free_kib)
	expect "chunks in the store" "$(snap_get shot used)" $chunks || { cbw-dm status shot; return 1; }
	took=$((before - after))
	figure "10 % at random: $took KiB, $((took * 1024 / chunks)) bytes per preserved chunk"
	# all of it comes back
	dm_remove shot || rc=1
	before=$after
	after=$(free_kib)
	figure "back after the snapshot: $((after - before)) KiB"
	((after - before > 32 * 1024)) || { echo "only $((after - before)) KiB have come back"; rc=1; }
	return $rc
}

# Once more if it seems to be too much: what else the machine has taken is in it.
map()
{
	local chunks=78643 most

	most=$((24 * chunks / 1024))
	fill_map || return
	((took <= most)) || fill_map || return
	at_most "$chunks chunks, 10 % at random" $most
}

written_out()
{
	local n

	n=$(io_stat "$store" written)
	nap 0.2
	(($(io_stat "$store" written) == n))
}
t "the map of a tenth of the chunks, at random" map

# ---- the limit of the map ----------------------------------------------------------------

# One chunk in every 256 MiB, each with a part of the map of its own, as far as the limit
# goes: whoever writes does not notice.
map_limit()
{
	local rc=0 used

	echo 1 >$LIMIT || return
	snap shot dut "$store" 8 || return
	sparse 2000 || { echo "the guest saw it: $(<"$CBW_TMP/probe.out")"; rc=1; }
	expect "writes done" "$(said probe writes)" 2000 || rc=1
	snap_failed shot map-limit || rc=1
	snap_is shot held 0 || { cbw-dm status shot; rc=1; }
	used=$(snap_get shot copied)
	figure "copied with a map of 1 MiB: $used"
	((used >= 150)) || { echo "1 MiB is enough for more than $used chunks"; rc=1; }
	cbw-check at /dev/mapper/shot 0 8 | grep -q EIO || { echo "the snapshot can be read"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}

sparse()
{
	cbw-probe write /dev/mapper/dut --order seq --stride 256M --qd 16 --ops $1 >"$CBW_TMP/probe.out"
}
t "at the map's limit the snapshot fails" map_limit

# The other policy: the write fails, and only where there is no room in the map.
map_limit_guest()
{
	local rc=0 n

	snap shot dut "$store" 8 2 on_cbw_error break_guest_write || return
	sparse 2000
	n=$(said probe writes)
	((n >= 150 && n < 2000)) || { echo "$(<"$CBW_TMP/probe.out")"; rc=1; }
	[[ $(said probe first) == ENOMEM ]] || { echo "the error is $(said probe first)"; rc=1; }
	snap_is shot state active && snap_is shot used "$n" || { cbw-dm status shot; rc=1; }
	# what is preserved may be written again
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 3 || rc=1
	# and with more room all else, too
	echo 64 >$LIMIT
	sparse 2000 || { echo "with 64 MiB: $(<"$CBW_TMP/probe.out")"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "at the map's limit, break_guest_write" map_limit_guest
finish
