#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# Slots of the store and the memory in front of it: runs that lie partly in
# either, releases of what has not been written yet. With delay hooks.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
nullb origin 4 512
nullb store 4 512
t "make the device" cbw dut "$origin"
keep

# chunks FIRST [NUMBER]: writes them
chunks()
{
	cbw-load one /dev/mapper/dut --offset $(($1 * 4))K --len $((${2-1} * 4))K --gen 99
}

release()
{
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" $(($1 * 4096))+$((${2-1} * 4096))
}

# FIRST NUMBER of the chunks that have to read as they were
was()
{
	local got

	got=$(cbw-check at /dev/mapper/shot $(($1 * 4))K $(($2 * 8)) |
		grep -v "gen=$BASE_GEN writer=0 seq=0$" | head -n 1)
	[[ -z $got ]] || wrong "chunk $1 and on: '$got'"
}

# Two chunks in neighbouring slots, the first in the store, the second in memory:
# read in one piece, the second is not to be read from the store yet.
half_in_memory()
{
	local rc=0

	fill dut && dm_create one "0 512 linear $store 0" && snap shot dut /dev/mapper/one 8 || return
	chunks 10 && chunks 50 && chunks 100 62 || return
	nap 0.3		# a full segment, written and closed
	release 50 || return
	hook arm store-write timeout_ms 10000
	chunks 11 || return
	was 10 2 || rc=1
	hook release store-write
	nap 0.2
	was 10 2 || rc=1
	dm_remove shot && dm_remove one || rc=1
	return $rc
}
t "a run half in the store, half in memory" half_in_memory

# All of a batch is released before it was written: its memory has to come back.
released_unwritten()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 4 buffer_kib 512 cbw_timeout_ms 4000 || return
	hook arm store-write timeout_ms 20000
	chunks 0 64 || return
	hook_wait store-write || return
	chunks 64 64 || return
	release 64 64 || return
	hook release store-write
	nap 0.3
	# the same again: there have to be two batches still
	hook arm store-write timeout_ms 20000
	chunks 256 64 || return
	hook_wait store-write || return
	bg W chunks 320 64
	bg_wait W 3 || { echo "half of the buffer has leaked"; rc=1; }
	hook release store-write
	snap_is shot state active || { dmsetup status shot; rc=1; }
	was 256 128 || rc=1
	was 0 64 || rc=1
	at /dev/mapper/shot 256K ENODATA || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "a batch that is released before it was written" released_unwritten

# The store write fails while a reader has found the chunk in memory or store:
# whatever it gets, it is not what the store had before.
fails_under_a_reader()
{
	local rc=0 got

	cbw-load fill "$store" --gen 88
	dm_create bad "0 8192 flakey $store 0 0 1000 1 error_writes" || return
	fill dut && snap shot dut /dev/mapper/bad 8 || return
	hook arm store-write timeout_ms 10000
	chunks 0 64 || return
	hook_wait store-write || return
	bg R cbw-check read /dev/mapper/shot 0 256K --bs 4096
	nap 0.1
	hook release store-write
	snap_failed shot store-io || rc=1
	until_true 10 bg_ended R || { echo "the reader hangs"; return 1; }
	unset 'BG[R]'
	at /dev/mapper/shot 0 EIO || rc=1
	dm_remove shot && dm_remove bad || rc=1
	return $rc
}
t "a store write that fails under a reader" fails_under_a_reader

# The last chunk is short: whole when covered to the device's end.
short_chunk()
{
	local rc=0 len=8191

	dm_suspend dut && dm_remove dut && cbw dut "$origin" $len || return
	fill dut && snap shot dut "$store" 128 || return
	cbw-load one /dev/mapper/dut --offset $((len - 3))s --len 1536 --gen 99 || return
	snap_is shot copied 1 || { dmsetup status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	# the end of the device, or a whole chunk; nothing in between
	refused EINVAL cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" 4128768+512 || rc=1
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" 4128768+$((len * 512 - 4128768)) || rc=1
	at /dev/mapper/shot $((len - 1))s ENODATA || rc=1
	snap_is shot used 0 || { dmsetup status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "a short last chunk" short_chunk
finish
