#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
#
# The hazards of the design that need no control device: 1, 2, 3, 4, 8, 9. Each
# interleaving is forced with delay hooks, and each case runs twice: as it is,
# and with that hazard's cure taken out, which it has to notice.
#
#	hazards.sh [NUMBER...]		only these
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
only=" $* "

one()
{
	cbw-load one "/dev/mapper/$1" --offset "$2" --len "$3" --gen "$4" "${@:5}"
}

# ready_to_publish: what every case starts from
fresh()
{
	local b

	for b in b c; do
		bitmap_is dut $b dirty none || msg dut bitmap_remove $b || return
	done
	fill dut
}

# V is in flight at the cut; W, after it, has V's chunk copied before V lands:
# the backup has what was before V, so V has to be in the next increment.
write_in_flight_at_the_cut()
{
	local dirty

	fresh && msg dut bitmap_add b granularity 4096 || return
	hook arm map-marked sector 0 timeout_ms 20000
	bg V one dut 0 4096 100
	hook_wait map-marked || return
	msg dut bitmap_rotate b || return
	snap shot dut "$store" 128 || return
	bg W one dut 32K 4096 101
	bg_wait W 10 || { wrong "W waits for V"; return; }
	hook release map-marked
	bg_wait V 10 || return
	at /dev/mapper/shot 0 "*gen=$BASE_GEN *" || { wrong "V was not late"; return 1; }
	at /dev/mapper/dut 0 "*gen=100 *" || return
	msg dut bitmap_commit b || return
	dirty=$(bitmap_get dut b dirty)
	dm_remove shot || return
	case $dirty in
	8192)	return 0 ;;
	4096)	broken "V is in no increment: only 4096 bytes are dirty" ;;
	*)	wrong "$dirty bytes are dirty" ;;
	esac
}

# V has its epoch but no mark yet when a snapshot limited to the bitmap starts.
# W writes to the same granule: the snapshot must have preserved it.
frozen_bitmap_read_early()
{
	local rc=0 got

	fresh && msg dut bitmap_add b granularity 65536 || return
	# little may happen while V spins: any grace period would wait for it
	snap_load shot dut "$store" 128 2 bitmap b || return
	hook arm map-epoch sector 0 timeout_ms 20000
	bg V one dut 0 4096 100
	hook_wait map-epoch || return
	bg S dm_resume shot
	# without the cure it has nothing to protect
	until_true 5 snap_is shot state '@(active|drained)' ||
		{ wrong "the cut waits for V"; stacks; return 1; }
	# long enough for whoever does not wait
	not_yet 1500 snap_is shot state drained
	bg W one dut 32K 4096 101
	bg_wait W 10 || { wrong "W waits for V"; return; }
	hook release map-epoch
	bg_wait V 10 && bg_wait S 10 || return
	got=$(cbw-check at /dev/mapper/shot 32K)
	[[ $got == *"gen=$BASE_GEN "* ]] ||
		{ broken "the snapshot has '$got' of a granule that is dirty in its bitmap"; rc=$?; }
	dm_remove shot || return
	return $rc
}

# V is in flight under an epoch older than the one before the cut: who reads an
# unpreserved chunk waits for all older ones, else two readings differ.
older_epochs()
{
	local first second rc=0

	fresh || return
	hook arm map-marked sector 0 timeout_ms 20000
	bg V one dut 0 4096 100
	hook_wait map-marked || return
	msg dut bitmap_add c || return
	snap shot dut "$store" 8 || return
	bg R cbw-check at /dev/mapper/shot 0
	# long enough for whoever does not wait
	not_yet 1500 bg_ended R
	hook release map-marked
	bg_wait V 10 && bg_wait R 10 || return
	first=$(<"$CBW_TMP/R.out")
	second=$(cbw-check at /dev/mapper/shot 0)
	[[ $second == *"gen=100 "* ]] ||
		{ wrong "V had to be let through, but there is '$second'"; rc=1; }
	[[ $first == "$second" ]] ||
		{ broken "the first reading was '$first', the second '$second'"; rc=$?; }
	dm_remove shot || return
	return $rc
}

# R saw that the chunk is not preserved; W preserves and overwrites it; then R reads.
reader_and_writer()
{
	local got rc=0

	fresh && snap shot dut "$store" 8 || return
	hook arm snap-origin sector 0 timeout_ms 20000
	bg R cbw-check at /dev/mapper/shot 0
	hook_wait snap-origin || return
	bg W one dut 0 4096 101
	bg_wait W 5 || { broken "the guest's write waits for a reader"; return; }
	at /dev/mapper/dut 0 "*gen=101 *" || return
	hook release snap-origin
	bg_wait R 10 || return
	got=$(<"$CBW_TMP/R.out")
	[[ $got == *"gen=$BASE_GEN "* ]] ||
		{ broken "the snapshot gave '$got'"; rc=$?; }
	dm_remove shot || return
	return $rc
}

# A write is held for a store that hangs (break_guest_write): a suspend of the
# device that need not flush must not wait for that; the write is still done.
suspend_with_hanging_store()
{
	local rc=0

	fresh || return
	dm_create hang "0 $(sectors "$store") linear $store 0" || return
	snap shot dut /dev/mapper/hang 8 2 on_cbw_error break_guest_write || return
	dm_suspend --nolockfs hang || return
	bg W one dut 0 4096 101
	until_true 5 snap_is shot held 1 || { wrong "nothing is held"; return; }
	nap 0.3
	bg S dm_suspend --nolockfs --noflush dut
	until_true 5 bg_ended S || { broken "the suspend waits for the store"; rc=$?; }
	dm_resume hang || return
	bg_wait S 20 || return
	dm_resume dut && bg_wait W 10 || return
	at /dev/mapper/dut 0 "*gen=101 *" && at /dev/mapper/shot 0 "*gen=$BASE_GEN *" || return
	dm_remove shot && dm_remove hang || return
	return $rc
}

# A snapshot's reader is on its way to the origin when the table is replaced by
# one with another origin: the new one must not be live before the reader is done.
reload_under_a_reader()
{
	local rc=0 got

	fresh && cbw-load fill "$other" --gen 90 && snap shot dut "$store" 8 || return
	hook arm snap-origin sector 0 timeout_ms 20000
	bg R cbw-check at /dev/mapper/shot 0
	hook_wait snap-origin || return
	dm_suspend --nolockfs dut || return
	dm_reload dut "0 $len cbw $other" || return
	bg P dm_resume dut
	nap 0.3
	bg W one dut 1M 4096 101
	not_yet 1500 bg_ended W || { broken "the new table is live while the old origin is read"; rc=$?; }
	hook release snap-origin
	bg_wait R 10 && bg_wait P 10 && bg_wait W 10 || return
	got=$(<"$CBW_TMP/R.out")
	[[ $got == *"gen=$BASE_GEN "* ]] || { broken "the reader got '$got'"; rc=$?; }
	dm_remove shot || return
	dm_suspend dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut || return
	return $rc
}

# W saw the gate shut, the gate opens, W parks: nobody would wake it.
parking_at_the_gate()
{
	local rc=0

	fresh || return
	hook arm gate-shut timeout_ms 20000
	hook arm gate-seen timeout_ms 20000
	bg P msg dut bitmap_add c
	hook_wait gate-shut || return
	bg W one dut 0 4096 101
	hook_wait gate-seen || return
	hook release gate-shut
	bg_wait P 10 || return
	hook release gate-seen
	until_true 3 bg_ended W || { broken "the write sleeps for ever"; rc=$?; }
	# the next publication would wake it
	msg dut bitmap_remove c || return
	bg_wait W 10 || return
	return $rc
}

# A reader that finds some of its chunks preserved when its read of the origin has
# ended; the origin is a partition, so that sectors there are not sectors here.
on_a_partition()
{
	local got rc=0

	fill pdut && snap pshot pdut "$store" 8 || return
	hook arm snap-origin sector 136 timeout_ms 20000
	bg R cbw-check at /dev/mapper/pshot 64K 128
	hook_wait snap-origin || return
	one pdut 68K 4096 101 && one pdut 0 4096 101 || return
	hook release snap-origin
	bg_wait R 10 || return
	got=$(grep -v "gen=$BASE_GEN writer=0 seq=0$" "$CBW_TMP/R.out" | head -n 1)
	[[ -z $got ]] || { wrong "the snapshot gave '$got'"; rc=1; }
	cbw-check verify /dev/mapper/pshot --gen "$BASE_GEN" || rc=1
	dm_remove pshot || return
	return $rc
}

# A discard was cut where needed chunks begin. Before it has the epoch that is over, and
# the next publication has the gate shut: it is held whole, since it cannot be cut again.
discard_cut_then_gate()
{
	local rc=0 scale=${CBW_BUDGET_SCALE:-1}

	scale=$((scale < 3 ? scale : 3))

	fill pdut && snap pshot pdut "$store" 8 && one pdut 0 4096 100 || return
	# both keep a CPU, so each goes on by itself
	hook arm map-discard timeout_ms $((3000 * scale))
	bg D one pdut 0 64K 0 --op discard
	hook_wait map-discard || return
	msg pdut bitmap_add one || return
	hook arm gate-shut timeout_ms $((4000 * scale))
	bg P msg pdut bitmap_add two
	bg_wait D 20 && bg_wait P 20 || rc=1
	(($(hook_get gate-seen expired) == gates + 1)) || { echo "it did not meet the gate"; rc=1; }
	cbw-check verify /dev/mapper/pshot --gen "$BASE_GEN" || rc=1
	snap_is pshot state active && snap_is pshot held 0 || { cbw-dm status pshot; rc=1; }
	msg pdut bitmap_remove one && msg pdut bitmap_remove two && dm_remove pshot || rc=1
	return $rc
}

discard_at_the_gate()
{
	local gates

	gates=$(hook_get gate-seen expired)
	# where it is seen to have met the gate
	hook arm gate-seen timeout_ms 1
	discard_cut_then_gate
}

run()
{
	[[ $only == "  " || $only == *" $1 "* ]] || return 0
	hazard "$@"
}

ramdisks 3 4
origin=/dev/ram0 other=/dev/ram1 store=/dev/ram2
len=$(sectors "$origin")
t "make the device" cbw dut "$origin"
keep
run 1 "write in flight at the cut" write_in_flight_at_the_cut
run 2 "frozen bitmap read too early" frozen_bitmap_read_early
run 3 "all older epochs" older_epochs
run 4 "reader and writer of one chunk" reader_and_writer
run 8 "suspend with a hanging store" suspend_with_hanging_store
run 8 "reload under a reader" reload_under_a_reader
run 9 "parking at the gate" parking_at_the_gate
if [[ $only == "  " ]]; then
	nullb disk 8 512
	sfdisk -q "$disk" <<<"2048,8192" >/dev/null
	until_true 5 test -b "${disk}p1"
	t "make a device on a partition" cbw pdut "${disk}p1"
	t "an origin on a partition" on_a_partition
	t "a discard that was cut meets the gate" discard_at_the_gate
fi
finish
