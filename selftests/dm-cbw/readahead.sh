#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# Copying ahead of a sequential writer: its next chunks are preserved when it comes to
# them. It is for nothing else, takes no more than a little room, and what goes wrong
# with it is nobody's trouble.
#
#	readahead.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
seed "${1-}"
modprobe -q dm-delay
nullb origin 8 512
nullb store 16 512
len=$(sectors "$origin")
t "make the device" cbw dut "$origin"
# Chunk 20 (sectors 160 to 167) cannot be read, but written.
t "make a hole" dm_create hole "0 160 linear $origin 0
160 8 error
168 $((len - 168)) linear $origin 168"
t "make an origin with it" dm_create holes "0 $len delay /dev/mapper/hole 0 0 $origin 0 0"
keep
ahead=64	# chunks: 256 KiB

# seq OFFSET NUMBER [SIZE]: so many writes, one after the other
seq_writes()
{
	cbw-probe write /dev/mapper/dut --order seq --range $1:4M --ops $2 --bs ${3-4096} >"$CBW_TMP/probe.out" ||
		wrong "$(<"$CBW_TMP/probe.out")"
}

one()
{
	cbw-load one /dev/mapper/dut --offset $1 --len $2 --gen 90
}

copied_within()
{
	local n

	n=$(snap_get shot copied)
	((n >= $1 && n <= $2)) || wrong "copied $n, expected $1 to $2"
}

info()
{
	cbw-ioctl snapinfo /dev/mapper/shot | tr ' ' '\n' | sed -n "s/^$1=//p"
}

release()
{
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" $(($1 << 12))+$(($2 << 12))
}

# A megabyte, 4 KiB each: read in few pieces, and not far beyond its end.
sequential()
{
	local rc=0 reads

	fill dut && snap shot dut "$store" 8 || return
	reads=$(io_stat "$origin" reads)
	seq_writes 0 4 || rc=1
	nap 0.1
	copied_within 5 $((4 + ahead)) || { echo "after four writes"; rc=1; }
	seq_writes 16K 252 || rc=1
	nap 0.1
	reads=$(($(io_stat "$origin" reads) - reads))
	figure "256 writes in a row: $reads reads of the origin, $(snap_get shot copied) chunks copied"
	((reads <= 32)) || { wrong "$reads reads"; rc=1; }
	copied_within 256 $((256 + ahead)) || rc=1
	expect "chunks in the store" "$(snap_get shot used)" "$(snap_get shot copied)" || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "a sequential writer" sequential

# At no time is it further ahead than that.
never_far()
{
	local rc=0 n furthest=0 beyond

	fill dut && snap shot dut "$store" 8 || return
	for ((n = 0; n < 288; n += 12)); do
		seq_writes $((n * 4))K 12 || rc=1
		nap 0.1
		beyond=$(($(snap_get shot copied) - n - 12))
		((beyond <= furthest)) || furthest=$beyond
		((beyond >= 0)) || { wrong "$((n + 12)) written, $(snap_get shot copied) copied"; rc=1; }
	done
	figure "up to $furthest chunks ahead"
	((furthest > 0 && furthest <= ahead)) || { wrong "up to $furthest chunks ahead"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "how far ahead" never_far

# Up to the end of the device, in pieces that are no whole chunks.
to_the_end()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 || return
	cbw-probe write /dev/mapper/dut --order seq --range 7M:1M --bs 2560 --ops 409 >"$CBW_TMP/probe.out" || rc=1
	nap 0.1
	copied_within 256 256 || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "up to the end of the device" to_the_end

# Whoever does not write in a row has copied what he writes, nothing else.
not_sequential()
{
	local rc=0 i

	fill dut && snap shot dut "$store" 8 || return
	cbw-probe write /dev/mapper/dut --order seq --stride 8K --ops 200 >"$CBW_TMP/probe.out" || rc=1
	nap 0.1
	copied_within 200 200 || { echo "every second chunk"; rc=1; }
	for ((i = 63; i > 32; i--)); do
		one $((4 << 20 | i << 12)) 4096 >/dev/null || rc=1
	done
	copied_within 231 231 || { echo "backwards"; rc=1; }
	dm_remove shot || rc=1
	fill dut && snap shot dut "$store" 8 || return
	# the seed is one where no write begins where the last has ended
	cbw-probe write /dev/mapper/dut --order each --seed 3 --ops 150 >"$CBW_TMP/probe.out" || rc=1
	nap 0.1
	copied_within 150 $((150 + ahead)) || { echo "at random"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "writers that are not" not_sequential

# Room is for what is overwritten: above half a store nothing is copied ahead.
half_full()
{
	local rc=0

	dm_create small "0 1024 linear $store 0" && fill dut && snap shot dut /dev/mapper/small 8 || return
	# 64 of its 128 slots
	one 4M 256K >/dev/null || rc=1
	expect "chunks in the store" "$(snap_get shot used)" 64 || rc=1
	seq_writes 0 60 || rc=1
	nap 0.1
	copied_within 124 125 || rc=1
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot && dm_remove small || rc=1
	return $rc
}
t "a store that is half full" half_full

# What was released or preserved before is not copied again, whatever runs over it.
not_again()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 || return
	release 8 8 && release 40 1 || rc=1
	one $((24 << 12)) $((8 << 12)) >/dev/null || rc=1
	copied_within 8 8 || rc=1
	seq_writes 0 128 || rc=1
	nap 0.1
	# 128 but for 9 that were released
	copied_within 119 $((119 + ahead)) || rc=1
	expect "released" "$(snap_get shot released)" 9 || rc=1
	expect "chunks in the store" "$(snap_get shot used)" "$(snap_get shot copied)" || rc=1
	at /dev/mapper/shot 32K ENODATA && at /dev/mapper/shot 160K ENODATA &&
		at /dev/mapper/shot 28K "*gen=$BASE_GEN *" && at /dev/mapper/shot 164K "*gen=$BASE_GEN *" || rc=1
	# released after it was copied ahead: the slots come back
	release 0 2048 || rc=1
	until_true 3 snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	snap_is shot state drained || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "released and preserved chunks in its way" not_again

# A bad sector ahead of the writer is not in its way: the snapshot loses nothing that nobody
# overwrites, and not the chunks beside it.
bad_sector_ahead()
{
	local rc=0

	fill dut || return
	dm_suspend dut && dm_reload dut "0 $len cbw /dev/mapper/holes" && dm_resume dut || return
	snap shot dut "$store" 8 || return
	seq_writes 0 8 || { echo "the guest saw it"; rc=1; }
	nap 0.3
	expect "chunks that are lost" "$(info poisoned)" 0 || rc=1
	snap_is shot state active && snap_is shot held 0 || { cbw-dm status shot; rc=1; }
	expect "chunks in the store" "$(snap_get shot used)" "$(snap_get shot copied)" || rc=1
	at /dev/mapper/shot 0 "*gen=$BASE_GEN *" && at /dev/mapper/shot 28K "*gen=$BASE_GEN *" &&
		at /dev/mapper/shot 76K "*gen=$BASE_GEN *" && at /dev/mapper/shot 84K "*gen=$BASE_GEN *" || rc=1
	# up to it, over it and beyond: now one chunk is lost, as it has been overwritten
	seq_writes 32K 32 || { echo "the guest saw it"; rc=1; }
	nap 0.3
	expect "chunks that are lost" "$(info poisoned)" 1 || rc=1
	at /dev/mapper/shot 80K EIO && at /dev/mapper/shot 76K "*gen=$BASE_GEN *" &&
		at /dev/mapper/shot 84K "*gen=$BASE_GEN *" && at /dev/mapper/shot 156K "*gen=$BASE_GEN *" || rc=1
	dm_remove shot || rc=1
	on_again || rc=1
	return $rc
}

on_again()
{
	dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut
}
t "a bad sector ahead" bad_sector_ahead

# It could not be read ahead, but later it can be: then it is preserved.
bad_for_a_while()
{
	local rc=0

	fill dut || return
	dm_suspend dut && dm_reload dut "0 $len cbw /dev/mapper/holes" && dm_resume dut || return
	snap shot dut "$store" 8 || return
	seq_writes 0 8 || { echo "the guest saw it"; rc=1; }
	on_again || rc=1
	seq_writes 32K 64 || rc=1
	nap 0.1
	expect "chunks that are lost" "$(info poisoned)" 0 || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "a sector that could not be read ahead" bad_for_a_while

# Only what a bitmap says is dirty is protected, and copied.
limited()
{
	local rc=0

	fill dut && msg dut bitmap_add b granularity 4096 || return
	one 0 32K >/dev/null && one 64K 32K >/dev/null || rc=1
	snap shot dut "$store" 8 2 bitmap b || return
	until_true 5 snap_is shot needed 16 || { cbw-dm status shot; rc=1; }
	seq_writes 0 64 || rc=1
	nap 0.1
	copied_within 16 16 || rc=1
	at /dev/mapper/shot 0 '*gen=90 *' && at /dev/mapper/shot 92K '*gen=90 *' &&
		at /dev/mapper/shot 32K ENODATA && at /dev/mapper/shot 96K ENODATA || rc=1
	dm_remove shot && msg dut bitmap_remove b || rc=1
	return $rc
}
t "limited to a bitmap" limited

# break_guest_write: a chunk that is copied ahead makes no write fail, nor wait.
guest_policy()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 2 on_cbw_error break_guest_write || return
	seq_writes 0 128 || rc=1
	nap 0.2
	copied_within 128 $((128 + ahead)) || rc=1
	snap_is shot held 0 || { cbw-dm status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	release 0 2048 || rc=1
	until_true 3 snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "break_guest_write" guest_policy

# Several streams, readers and releases at the same time: the snapshot is right to the end.
readers_and_releases()
{
	local rc=0 i

	fill dut && snap shot dut "$store" 8 || return
	load_start load dut -- --seq --uring 1:4 --sync 1 --bs 512:16K --range 0:6M || return
	bg V verify_rest
	for ((i = 1536; i < 1760; i += 32)); do
		release $i 16 || rc=1
	done
	bg_wait V 40 || { echo "the reader"; rc=1; }
	load_stop load || rc=1
	snap_is shot state '@(active|drained)' || { cbw-dm status shot; rc=1; }
	dm_create part "0 $((12 << 10)) linear /dev/mapper/shot 0" || return
	cbw-check verify /dev/mapper/part --gen "$BASE_GEN" || rc=1
	for ((i = 1536; i < 1760; i += 32)); do
		at /dev/mapper/shot $((i * 4))K ENODATA && at /dev/mapper/shot $((i * 4 + 64))K "*gen=$BASE_GEN *" || rc=1
	done
	dm_remove part && dm_remove shot || rc=1
	return $rc
}

verify_rest()
{
	local i

	for i in 1 2 3; do
		cbw-check read /dev/mapper/shot 0 6M --bs 64K || return
	done
}
t "readers and releases in between" readers_and_releases
finish
