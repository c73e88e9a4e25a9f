#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 100
# long
#
# read_once: a chunk that one bio reads whole is released, when its data has come and
# not before; parts of chunks and failed reads release nothing. With delay hooks for
# who reads, writes and releases at the same time.
#
#	read-once.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
seed "${1-}"
S=/dev/mapper/shot

one()
{
	cbw-load one "/dev/mapper/$1" --offset "$2" --len "$3" --gen "$4" "${@:5}"
}

# rd OFFSET LENGTH [BS]: in one piece, or in pieces of BS
rd()
{
	cbw-check read $S "$1" "$2" --bs "${3:-$2}"
}

# counts RELEASED USED: chunks
counts()
{
	[[ $(snap_get shot released) == "$1" && $(snap_get shot used) == "$2" ]] ||
		wrong "expected $1 released, $2 in the store: $(dmsetup status shot)"
}

# stays GEN FILE...: nothing but that fill was read
stays()
{
	local bad

	bad=$(grep -hv "gen=$1 writer=0 seq=0$" "${@:2}" | head -n 1)
	[[ -z $bad ]] || wrong "read '$bad'"
}

# Whole chunks go, from wherever they were; parts do not.
whole_chunks()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 read_once || return
	one dut 0 32K 101 || return			# chunks 0 to 7 in the store
	nap 0.3
	counts 0 8 || rc=1
	rd 0 8K 2048 && counts 0 8 || rc=1		# halves
	rd 512 7168 && counts 0 8 || rc=1		# from within one to within the next
	rd 2K 8K && counts 1 7 || rc=1			# chunk 1, and parts of two
	at $S 4096 ENODATA && at $S 0 "*gen=$BASE_GEN *" && at $S 8192 "*gen=$BASE_GEN *" || rc=1
	at $S 8K "*gen=$BASE_GEN *" && rd 8K 24K && counts 7 1 || rc=1
	rd 64K 64K && counts 23 1 || rc=1		# from the origin
	expect "chunks needed" "$(snap_get shot needed)" $((chunks - 8 - 16)) || rc=1
	# what was released needs no copy
	one dut 64K 64K 102 && expect copied "$(snap_get shot copied)" 8 || rc=1
	at $S 64K ENODATA || rc=1
	dm_remove shot || rc=1
	return $rc
}
nullb origin 4 512
nullb store 6 512
t "make the device" cbw dut "$origin"
t "make a store of 512 KiB" dm_create small "0 1024 linear $store 0"
keep
chunks=$(($(sectors "$origin") / 8))
t "whole chunks are released, parts are not" whole_chunks

# In memory: what was read before it was written to the store is not written.
from_memory()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 read_once || return
	hook arm store-write timeout_ms 10000
	one dut 0 256K 101 || return			# a batch
	hook_wait store-write || return
	one dut 512K 8K 101 || return
	cbw-check at $S 512K 16 >"$CBW_TMP/m.out" || rc=1
	stays "$BASE_GEN" "$CBW_TMP/m.out" && counts 2 64 || rc=1
	hook release store-write
	rd 0 256K && counts 66 0 || rc=1
	at $S 512K ENODATA || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "from memory" from_memory

# The last chunk is short: whole when read to the device's end.
short_chunk()
{
	local rc=0 len=8191

	dm_create cut "0 $len linear $origin 0" && cbw sdut /dev/mapper/cut || return
	fill sdut && snap shot sdut "$store" 128 1 read_once || return
	one sdut $((len - 3))s 1536 101 || return
	rd $((len - 126))s $((126 * 512)) && counts 0 1 || rc=1
	rd $((len - 127))s $((126 * 512)) && counts 0 1 || rc=1
	rd $((len - 127))s $((127 * 512)) && counts 1 0 || rc=1
	at $S $((len - 1))s ENODATA || rc=1
	dm_remove shot && dm_remove sdut && dm_remove cut || rc=1
	return $rc
}
t "a short last chunk" short_chunk

# A read that fails releases nothing, neither one that cannot be read nor one that finds a
# released chunk among others.
failed_read()
{
	local rc=0

	dm_create holes "0 1024 linear $origin 0
1024 8 error
1032 7160 linear $origin 1032" && cbw hdut /dev/mapper/holes || return
	fill dut && snap shot hdut "$store" 8 1 read_once || return
	! rd 512K 64K && counts 0 0 || rc=1
	! rd 480K 64K && counts 0 0 || rc=1
	rd 516K 4K && counts 1 0 || rc=1
	one hdut 256K 4K 101 || return
	rd 256K 4K && counts 2 0 || rc=1
	! rd 252K 12K && counts 2 0 || rc=1
	at $S 252K "*gen=$BASE_GEN *" && at $S 260K "*gen=$BASE_GEN *" || rc=1
	dm_remove shot && dm_remove hdut && dm_remove holes || rc=1
	return $rc
}
t "a failed read releases nothing" failed_read

# W is held for a copy whose read is in flight; somebody reads the chunk: W goes at once.
cancel()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 read_once || return
	hook arm copy-read sector 0 timeout_ms 20000
	bg W one dut 0 4096 101
	hook_wait copy-read || return
	expect "writes held" "$(snap_get shot held)" 1 || return
	cbw-check at $S 0 8 >"$CBW_TMP/c.out" || rc=1
	stays "$BASE_GEN" "$CBW_TMP/c.out" || rc=1
	until_true 3 bg_ended W || { broken "the write waits for a copy that is not needed"; rc=$?; }
	expect "copies stopped" "$(hook_get copy-read stopped)" 1 || return
	hook release copy-read
	bg_wait W 10 || return
	nap 0.2
	at $S 0 ENODATA || rc=$BROKEN
	counts 1 0 && snap_is shot state active || { broken "late effect"; rc=$?; }
	dm_remove shot || return
	return $rc
}
hazard 5 "a copy in flight is cancelled" cancel

# R is on its way to the origin when W has the chunk preserved and overwrites it: R has to
# read again. It is released only then; before, R could not get it any more.
reader_and_writer()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 read_once || return
	hook arm snap-origin sector 0 timeout_ms 20000
	bg R cbw-check at $S 0 16
	hook_wait snap-origin || return
	one dut 0 4096 101 || return
	counts 0 1 || rc=1
	hook release snap-origin
	bg_wait R 10 || { broken "R got nothing"; return; }
	stays "$BASE_GEN" "$CBW_TMP/R.out" || { broken "R got it too late"; rc=$?; }
	counts 2 0 || rc=1
	at $S 0 ENODATA || rc=1
	dm_remove shot || return
	return $rc
}
hazard 4 "reader and writer of one chunk" reader_and_writer

# R is on its way to the origin, another reader releases the chunk, W overwrites it
# without a copy: there is nothing that R could be given.
two_readers_origin()
{
	local rc=0 got

	fill dut && snap shot dut "$store" 8 1 read_once || return
	hook arm snap-origin sector 0 timeout_ms 20000
	bg R cbw-check at $S 0 8
	hook_wait snap-origin || return
	rd 0 4096 && counts 1 0 || rc=1
	one dut 0 4096 101 && expect copied "$(snap_get shot copied)" 0 || rc=1
	hook release snap-origin
	until_true 10 bg_ended R || return
	unset 'BG[R]'
	got=$(head -n 1 "$CBW_TMP/R.out")
	[[ $got == ENODATA ]] || { broken "R got '$got'"; rc=$?; }
	dm_remove shot || return
	return $rc
}
hazard 4 "two readers of one chunk in the origin" two_readers_origin

# The same, and R is on its way to the store: its slots are not reused under it.
two_readers_store()
{
	local rc=0

	fill dut && snap shot dut /dev/mapper/small 8 1 read_once || return
	one dut 0 256K 101 || return
	nap 0.5
	hook arm snap-store sector 0 timeout_ms 20000
	bg R cbw-check at $S 0 512
	hook_wait snap-store || return
	rd 0 256K && counts 64 0 || rc=1
	one dut 1M 256K 102 || return			# the other segment
	bg W one dut 2M 256K 103
	nap 0.5			# if it has R's slots it is written by now
	hook release snap-store
	bg_wait R 10 || rc=1
	stays "$BASE_GEN" "$CBW_TMP/R.out" || { broken "R read what is not its"; rc=$?; }
	bg_wait W 10 || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	dm_remove shot || return
	return $rc
}
hazard 6 "two readers of one chunk in the store" two_readers_store

# Under load, each chunk read once: all of it is right, all is released, nothing is left.
under_load()
{
	local chunk=$1 rc=0 nr=$(($(sectors "$origin") / $1))

	fill dut && snap shot dut "$store" "$chunk" 1 read_once || return
	load_start load dut -- --uring 2:15 --sync 2 --mix 4:1:1 --bs 512:100K || return
	nap 0.2
	cbw-check save $S "$CBW_TMP/img" || rc=1
	load_stop load || rc=1
	cbw-check verify "$CBW_TMP/img" --gen "$BASE_GEN" || rc=1
	until_true 5 snap_is shot used 0
	counts $nr 0 || rc=1
	expect "needed" "$(snap_get shot needed)" 0 && expect "state" "$(snap_get shot state)" drained || rc=1
	(($(snap_get shot copied))) || { echo "nothing was copied"; rc=1; }
	at $S 0 ENODATA && at $S 2M ENODATA || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "under load, chunk 4 KiB" under_load 8
t "under load, chunk 64 KiB" under_load 128

# Several readers under load: each gets what it gets right, or ENODATA.
many_readers()
{
	local rc=0 i

	fill dut && cbw-check save /dev/mapper/dut "$CBW_TMP/r0" || return
	for i in 1 2 3; do
		cp "$CBW_TMP/r0" "$CBW_TMP/r$i" || return
	done
	snap shot dut "$store" 8 2 read_once discard_releases || return
	load_start load dut -- --uring 2:15 --sync 2 --mix 4:1:1 --bs 512:64K || return
	for i in 1 2 3; do
		bg R$i cbw-check overlay "$CBW_TMP/r$i" $S --chunk 4096
	done
	for i in 1 2 3; do
		bg_wait R$i 60 || rc=1
	done
	load_stop load || rc=1
	for i in 1 2 3; do
		cbw-check verify "$CBW_TMP/r$i" --gen "$BASE_GEN" || { echo "reader $i"; rc=1; }
	done
	until_true 5 snap_is shot used 0
	counts $chunks 0 || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "several readers under load" many_readers

# With everything else that a table can say, and loaded again as it is printed.
combined()
{
	local rc=0 table
	local words="on_cbw_error break_guest_write cbw_timeout_ms 5000 buffer_kib 1024 read_once discard_releases"

	msg dut bitmap_add b granularity 4096 || return
	fill dut && msg dut bitmap_rotate b >/dev/null && msg dut bitmap_commit b || return
	one dut 0 64K 50 || return
	snap shot dut "$store" 8 10 bitmap b $words || return
	table=$(dmsetup table shot)
	[[ $table == *" 8 10 bitmap b $words" ]] ||
		{ wrong "$table"; rc=1; }
	until_true 5 snap_is shot needed 16 || { dmsetup status shot; rc=1; }
	one dut 0 32K 101 || rc=1
	cbw-check at $S 0 512 >"$CBW_TMP/x.out" && { wrong "read what is not protected"; rc=1; }
	cbw-check at $S 0 128 >"$CBW_TMP/x.out" || rc=1
	stays 50 "$CBW_TMP/x.out" && counts 16 0 || rc=1
	until_true 5 snap_is shot state drained || rc=1
	refused 'EINVAL|EBUSY' cbw-dm load shot "${table/ 10 / 9 }" || rc=1
	refused 'EINVAL|EBUSY' cbw-dm load shot "$(sed 's/ 10 / 9 /; s/ read_once//' <<<"$table")" || rc=1
	refused 'EINVAL|EBUSY' cbw-dm load shot "$(sed 's/ 10 / 9 /; s/ discard_releases//' <<<"$table")" || rc=1
	dm_reload shot "$table" && dm_suspend shot && dm_resume shot || rc=1
	expect "the table" "$(dmsetup table shot)" "$table" || rc=1
	dm_remove shot && msg dut bitmap_remove b || rc=1
	return $rc
}
t "with all the other features" combined
finish
