#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# The hazards of the design that need the control device: 2 (extents), 5, 6, 7,
# and 10. See hazards.sh.
#
#	hazards-ioctl.sh [NUMBER...]	only these
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
only=" $* "

one()
{
	cbw-load one "/dev/mapper/$1" --offset "$2" --len "$3" --gen "$4" "${@:5}"
}

fresh()
{
	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut
}

release()
{
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" "$@"
}

# V has its epoch but no mark when the bitmap is rotated: its extents wait.
extents_wait()
{
	local rc=0 cut

	fresh && msg dut bitmap_add b granularity 65536 || return
	hook arm map-epoch sector 0 timeout_ms 20000
	bg V one dut 0 4096 100
	hook_wait map-epoch || return
	cut=$(msg dut bitmap_rotate b) || return
	bg E cbw-ioctl extents /dev/mapper/dut b "$cut"
	not_yet 1500 bg_ended E || { broken "the extents did not wait for V: $(<"$CBW_TMP/E.out")"; rc=$?; }
	hook release map-epoch
	bg_wait V 10 && bg_wait E 10 || return
	((rc)) || grep -q '^0 65536 1$' "$CBW_TMP/E.out" ||
		{ broken "V is not in the extents: $(<"$CBW_TMP/E.out")"; rc=$?; }
	msg dut bitmap_commit b || return
	return $rc
}

# An abort must not merge before V has marked the frozen half.
abort_waits()
{
	local rc=0

	fresh && msg dut bitmap_add b granularity 65536 || return
	hook arm map-epoch sector 0 timeout_ms 20000
	bg V one dut 0 4096 100
	hook_wait map-epoch || return
	msg dut bitmap_rotate b || return
	bg A msg dut bitmap_abort b
	not_yet 1500 bg_ended A || { broken "the abort did not wait for V"; rc=$?; }
	hook release map-epoch
	bg_wait V 10 && bg_wait A 10 || return
	bitmap_is dut b dirty 65536 || { broken "V is lost: $(dmsetup status dut)"; rc=$?; }
	return $rc
}

# W is held for a copy whose read is still in flight; the chunk is released: W
# goes at once, and whatever comes of the read later has no effect.
cancel()
{
	local rc=0

	fresh && snap shot dut "$store" 8 || return
	hook arm copy-read sector 0 timeout_ms 20000
	bg W one dut 0 4096 101
	hook_wait copy-read || return
	expect "writes held" "$(snap_get shot held)" 1 || return
	release 0+4096 || return
	until_true 3 bg_ended W ||
		{ broken "the write waits for a copy that was released"; rc=$?; }
	expect "copies stopped" "$(hook_get copy-read stopped)" 1 || return
	hook release copy-read
	bg_wait W 10 || return
	nap 0.2
	at /dev/mapper/shot 0 ENODATA || rc=$BROKEN
	snap_is shot released 1 && snap_is shot used 0 && snap_is shot state active ||
		{ broken "$(dmsetup status shot)"; rc=$?; }
	dm_remove shot || return
	return $rc
}

# The same, but the read of the released chunk fails in the end: it is released,
# not poisoned, and not needed again.
late_failure()
{
	local rc=0

	dm_create holes "0 1024 linear $origin2 0
1024 8 error
1032 7160 linear $origin2 1032" && cbw hdut /dev/mapper/holes || return
	snap shot hdut "$store" 128 || return
	hook arm copy-read timeout_ms 20000
	bg W one hdut 1100s 4096 101
	hook_wait copy-read || return
	release 524288+65536 || return
	bg_wait W 3 || rc=1
	hook release copy-read
	nap 0.5
	at /dev/mapper/shot 1100s ENODATA || rc=1
	cbw-ioctl snapinfo /dev/mapper/shot | grep ' released=1 .* poisoned=0$' ||
		{ cbw-ioctl snapinfo /dev/mapper/shot; rc=1; }
	one hdut 1100s 4096 102 || rc=1
	snap_is shot copied 0 || { dmsetup status shot; rc=1; }
	dm_remove shot && dm_remove hdut && dm_remove holes || return
	return $rc
}

# A chunk is released whose data is in a batch that is still being filled; another
# one gets its slot, and the batch goes to the store: it must be the other's data.
slot_reuse()
{
	local rc=0 got

	fresh && snap shot dut "$tiny" 8 || return
	one dut 0 4096 101 || return
	nap 0.4		# it has been written
	release 0+4096 || return
	# the rest of the segment, which closes it
	one dut 2M 256K 102 || return
	nap 1		# and has been written
	got=$(cbw-check at /dev/mapper/shot 2M 512 | grep -v "gen=$BASE_GEN writer=0 seq=0$" | head -n 1)
	[[ -z $got ]] || { broken "a chunk has the data of another: '$got'"; rc=$?; }
	dm_remove shot || return
	return $rc
}

# R is on its way to a slot of the store and the chunk is released. The store is
# all in use or released: the next chunk must wait for R, not get its slot.
slot_of_a_reader()
{
	local rc=0 got

	fresh && snap shot dut "$tiny" 8 || return
	# a full segment of the store, so that it is read from there and not from memory
	one dut 0 256K 101 || return
	nap 0.5
	hook arm snap-store timeout_ms 20000
	bg R cbw-check at /dev/mapper/shot 0
	hook_wait snap-store || return
	release 0+262144 || return
	one dut 1M 256K 102 || return		# the other segment
	bg W one dut 2M 4096 103
	nap 0.5		# if it has its slot it is written by now
	hook release snap-store
	until_true 10 bg_ended R || return
	unset 'BG[R]'
	got=$(<"$CBW_TMP/R.out")
	case $got in
	*misplaced*)
		wrong "the reader got another chunk's data: '$got'"
		rc=1 ;;
	*"gen=$BASE_GEN "*|ENODATA)
		;;
	*)	wrong "the reader got '$got'"
		rc=1 ;;
	esac
	bg_wait W 10 || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	at /dev/mapper/shot 1M "*gen=$BASE_GEN *" || rc=1
	at /dev/mapper/shot 2M "*gen=$BASE_GEN *" || rc=1
	dm_remove shot || return
	return $rc
}

# The agent is killed: what it rotated is merged back, and whoever rotates it
# meanwhile waits.
session_dies()
{
	local rc=0 dirty

	fresh && msg dut bitmap_add b granularity 4096 || return
	one dut 0 4096 100 || return
	session_open
	session transaction rotate:/dev/mapper/dut:b || return
	one dut 64K 4096 101 || return
	hook arm abort-work timeout_ms 20000
	session_kill		# returns: the end of the process waits for nothing
	hook_wait abort-work || return
	[[ $(bitmap_get dut b flags) == *b* ]] ||
		{ wrong "not busy while the abort goes on"; rc=1; }
	bg T cbw-ioctl transaction rotate:/dev/mapper/dut:b
	not_yet 1000 bg_ended T || { wrong "the rotate did not wait for the abort"; rc=1; }
	hook release abort-work
	bg_wait T 10 || return
	# T has ended by now and is aborted itself
	until_true 5 bitmap_idle || { wrong "never idle again"; return; }
	dirty=$(bitmap_get dut b dirty)
	[[ $dirty == 8192 ]] || { broken "$dirty bytes are dirty, not 8192"; rc=$?; }
	return $rc
}

bitmap_idle()
{
	[[ $(bitmap_get dut b flags) != *b* ]]
}

# A huge discard is not kept from the device for one needed chunk, nor does it
# destroy what is needed. Only discards are split.
discards()
{
	local rc=0 used

	fresh && snap shot dut "$store" 8 || return
	one dut 0 64K 100 || return
	used=$(snap_get shot used)
	one dut 0 4M 0 --op discard || return
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" ||
		{ broken "the snapshot has changed"; rc=$?; }
	expect "chunks in the store" "$(snap_get shot used)" "$used" || rc=$BROKEN
	at /dev/mapper/dut 0 zeros ||
		{ wrong "what is preserved was not discarded"; rc=1; }
	at /dev/mapper/dut 1M "*gen=$BASE_GEN *" ||
		{ broken "what is needed was discarded"; rc=$?; }
	cbw-ioctl snapinfo /dev/mapper/shot | grep -q "discards_deferred=$((4032 << 10)) " ||
		{ cbw-ioctl snapinfo /dev/mapper/shot; rc=${rc/#0/1}; }
	dm_remove shot || return
	return $rc
}

run()
{
	[[ $only == "  " || $only == *" $1 "* ]] || return 0
	hazard "$@"
}

nullb origin 4 512
nullb origin2 4 512
nullb store 4 512
t "make the device" cbw dut "$origin"
t "make a store of 512 KiB" dm_create small "0 1024 linear $store 0"
# shellcheck disable=SC2034
tiny=/dev/mapper/small
keep
run 2 "extents read too early" extents_wait
run 2 "abort too early" abort_waits
run 5 "cancel" cancel
[[ $only != "  " ]] || t "a cancelled copy that fails late" late_failure
run 6 "slot reuse" slot_reuse
[[ $only != "  " ]] || t "a slot that is being read is not reused" slot_of_a_reader
run 7 "session dies" session_dies
run 10 "discards" discards
finish
