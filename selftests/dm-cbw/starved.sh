#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# A write that needs chunks of several snapshots, one of which keeps it waiting: it has no room,
# its store fails or hangs, it breaks or goes, or the source is suspended. No write is lost, none
# waits for ever, and the other snapshots have their data.
#
#	starved.sh [NAME...]		only these functions
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin debug
only=" $* "
modprobe -a dm-delay dm-flakey
# Reads end where they were submitted, so in that order.
ramdisks 4 4
origin=/dev/ram0
len=$(sectors $origin)
t "make the device" cbw dut $origin
# Until it is suspended, or as long as a hook would hold: what is removed waits for them.
t "make an origin whose reads hang" \
	dm_create stuck "0 $len delay $origin 0 $((20000 * ${CBW_BUDGET_SCALE:-1})) $origin 0 0"
keep

run()
{
	[[ $only == "  " || $only == *" $2 "* ]] || return 0
	t "$@"
}

# shot N STORE CHUNK [FEATURES...]: snapshot sN on the device hN; a store that is bad takes no
# writes
shot()
{
	local n=$1 table="linear /dev/ram$1 0"

	[[ $2 != bad ]] || table="flakey /dev/ram$n 0 0 1000 1 error_writes"
	dm_create h$n "0 $len $table" && snap s$n dut /dev/mapper/h$n "${@:3}"
}

hang()
{
	dm_suspend --nolockfs h$1
}

none()
{
	local d rc=0

	for d in s1 s2 s3 h1 h2 h3; do
		[[ ! -e /dev/mapper/$d ]] || dm_remove $d || rc=1
	done
	return $rc
}

one()
{
	cbw-load one /dev/mapper/dut --offset "$1" --len "$2" --gen 90
}

release()
{
	cbw-ioctl release /dev/mapper/$1 "$(snap_get $1 cut)" "$2+$3" || wrong "release $*"
}

# held_in SNAPSHOT NUMBER
held_in()
{
	until_true 5 snap_is $1 held $2 || wrong "$2 writes should be held: $(cbw-dm status $1)"
}

# goes_on LABEL: it ends, without an error
goes_on()
{
	bg_wait $1 5 || wrong "the write $1 is stuck or lost"
}

# waits LABEL: it does not end
waits()
{
	not_yet 400 bg_ended $1 || wrong "$1 did not wait"
}

# base DEVICE OFFSET...: has what was there at the cut
base()
{
	local d=$1 o rc=0

	shift
	for o; do
		at /dev/mapper/$d $o "*gen=$BASE_GEN *" || rc=1
	done
	return $rc
}

# right SNAPSHOT...: they have all of the cut, and nobody waits for them
right()
{
	local s rc=0

	for s; do
		snap_is $s state active && snap_is $s held 0 || { cbw-dm status $s; rc=1; }
		cbw-check verify /dev/mapper/$s --gen "$BASE_GEN" || { echo "$s is wrong"; rc=1; }
	done
	return $rc
}

# ---- no room -------------------------------------------------------------------------------

# The least buffer there is, in chunks as large as a batch: there is room for two of them. Those
# that are written here have others in between, so that nothing is read ahead.
narrow=(512 2 buffer_kib 512)
C0=0K C1=768K C2=1536K C3=2304K C4=3072K

# narrow_one N STORE [FEATURES...]: sN is the narrow one of two
narrow_one()
{
	local i

	fill dut || return
	for i in 1 2; do
		if ((i == $1)); then
			shot $i $2 "${3-512}" "${@:4}" || return
		else
			shot $i good 8 || return
		fi
	done
}

starved_in()
{
	local n=$1 other=$((3 - $1)) rc=0

	narrow_one $n good "${narrow[@]}" && hang $n || return
	one $C0 4K && one $C1 4K || return
	bg W one $C2 16K
	held_in s$n 1 || return
	# it does not wait for one after the other
	until_true 3 snap_is s$other copied 6 || { echo "the other copies nothing"; rc=1; }
	held_in s$other 0 && waits W && base dut $C2 || rc=1
	dm_resume h$n || return
	goes_on W || rc=1
	right s1 s2 || rc=1
	none || rc=1
	return $rc
}
run "starved in the first of two" starved_in 1
run "starved in the second of two" starved_in 2

# both_full: two snapshots without room
both_full()
{
	fill dut && shot 1 good "${narrow[@]}" && shot 2 good "${narrow[@]}" && hang 1 && hang 2 &&
		one $C0 4K && one $C1 4K
}

# starved_in_both FIRST: the store that comes back first
starved_in_both()
{
	local rc=0

	both_full || return
	bg W one $C2 4K
	held_in s1 1 && held_in s2 0 || return
	dm_resume h$1 || return
	# when its turn has come in the first it waits in the second
	if (($1 == 1)); then
		held_in s1 0 && held_in s2 1 || rc=1
	fi
	waits W && base dut $C2 || rc=1
	dm_resume h$((3 - $1)) || return
	goes_on W || rc=1
	right s1 s2 || rc=1
	none || rc=1
	return $rc
}
run "starved in two, room in the first" starved_in_both 1
run "starved in two, room in the second" starved_in_both 2

# Who was looked at and found no room stays the first. The first that is served is the one whose
# read is stopped.
in_their_order()
{
	local rc=0

	fill dut && shot 1 good "${narrow[@]}" && shot 2 good "${narrow[@]}" && hang 1 && hang 2 || return
	one $C0 4K || return
	hook arm copy-read count 2 timeout_ms 20000
	bg W0 one $C1 4K
	hook_wait copy-read 2 || return
	bg W1 one $C2 4K
	held_in s1 2 || return
	bg W2 one $C3 4K
	held_in s1 3 || return
	bg W3 one $C4 4K
	held_in s1 4 || return
	# has them looked at, in vain
	hook release copy-read
	goes_on W0 || rc=1
	nap 0.3
	hook arm copy-read timeout_ms 20000
	dm_resume h1 || return
	hook_wait copy-read || return
	held_in s2 2 || rc=1
	dm_resume h2 || return
	goes_on W2 || rc=1
	goes_on W3 || rc=1
	bg_alive W1 || { echo "W1 was not the first"; rc=1; }
	hook release copy-read
	goes_on W1 || rc=1
	right s1 s2 || rc=1
	none || rc=1
	return $rc
}
run "first come, first served" in_their_order

# full_in_steps: s1 has no room, its first store write is stopped, and the second chunk's has
# not begun
full_in_steps()
{
	hook arm store-write sector 0 count 2 timeout_ms 20000
	# s2 writes a little later
	one $C0 4K && hook_wait store-write 2 && one $C1 4K
}

# There is room again, but those that starve are still being served: a newcomer queues up behind.
newcomer()
{
	local rc=0 w

	narrow_one 1 good "${narrow[@]}" && full_in_steps || return
	bg W1 one $C2 4K
	held_in s1 1 || return
	bg W2 one $C3 4K
	held_in s1 2 || return
	bg W3 one 1540K 4K
	held_in s1 3 || return
	# room for W1 only: W3 will find that it needs nothing any more
	release s1 786432 262144 || return
	goes_on W1 || return
	held_in s1 2 || return
	# keeps W3 in its turn
	hook arm map-epoch sector 3080 timeout_ms 6000
	hook release store-write
	hook_wait map-epoch || return
	until_true 3 eval '(($(io_stat /dev/mapper/h1 writes) >= 2))' || { wrong "there is no room"; return; }
	bg N one $C4 4K
	until_true 2 snap_is s1 held 1 || { echo "it was not held"; rc=1; }
	hook release map-epoch
	for w in W2 W3 N; do
		goes_on $w || rc=1
	done
	right s2 && base s1 $C0 $C2 $C3 $C4 && held_in s1 0 || rc=1
	none || rc=1
	return $rc
}
run "a newcomer waits its turn" newcomer

# Served in s1, where others have preserved its chunk meanwhile, it starves in s2; those behind
# it are served nevertheless.
turn_of_the_other()
{
	local rc=0 w

	fill dut && shot 1 good "${narrow[@]}" && shot 2 good "${narrow[@]}" && hang 2 && full_in_steps || return
	bg W1 one $C2 4K
	held_in s1 1 || return
	bg W2 one $C3 4K
	held_in s1 2 || return
	bg W3 one 1540K 4K
	held_in s1 3 || return
	bg W4 one $C4 4K
	held_in s1 4 || return
	# room for W1 only
	release s1 786432 262144 || return
	held_in s2 1 && held_in s1 3 || return
	hook release store-write
	held_in s2 4 && held_in s1 0 || rc=1
	base dut $C2 $C3 $C4 || rc=1
	dm_resume h2 || return
	for w in W1 W2 W3 W4; do
		goes_on $w || rc=1
	done
	right s2 && base s1 $C0 $C2 $C3 $C4 && held_in s2 0 || rc=1
	none || rc=1
	return $rc
}
run "the turn of one, starved in the other" turn_of_the_other

# gives_up N HOW: the snapshot in which it starves is lost. It goes on, and the other has its data.
gives_up()
{
	local n=$1 how=$2 other=$((3 - $1)) rc=0 scale=${CBW_BUDGET_SCALE:-1}

	case $how in
	removed)
		narrow_one $n good "${narrow[@]}" && hang $n || return ;;
	timeout)
		narrow_one $n good 512 4 buffer_kib 512 cbw_timeout_ms $((2000 * scale)) && hang $n || return ;;
	store-io)
		hook arm store-write sector 0 count 2 timeout_ms 20000
		narrow_one $n bad "${narrow[@]}" || return ;;
	esac
	one $C0 4K && one $C1 4K || return
	[[ $how != store-io ]] || hook_wait store-write 2 || return
	bg W one $C2 16K
	held_in s$n 1 && bg_alive W || return
	case $how in
	removed)
		bg R dmsetup remove --noudevsync s$n ;;
	timeout)
		bg_wait W $((2 * scale + 5)) || wrong "W is stuck or lost" || rc=1 ;;
	store-io)
		hook release store-write ;;
	esac
	[[ $how == timeout ]] || goes_on W || rc=1
	right s$other || rc=1
	if [[ $how == removed ]]; then
		bg_alive R || { echo "it is gone before its store writes"; rc=1; }
	else
		snap_failed s$n $how && snap_is s$n held 0 || rc=1
	fi
	[[ $how == store-io ]] || dm_resume h$n || return
	if [[ $how == removed ]]; then
		bg_wait R 5 && dm_forget s$n || return
	fi
	right s$other || rc=1
	none || rc=1
	return $rc
}
for n in 1 2; do
	for how in removed store-io timeout; do
		run "starved in number $n of two: $how" gives_up $n $how
	done
done

# ---- a shared read in flight -----------------------------------------------------------------

three()
{
	fill dut && shot 1 good 8 && shot 2 good 8 && shot 3 good 8
}

three_right()
{
	local s rc=0

	for s in s1 s2 s3; do
		snap_is $s copied 4 || { cbw-dm status $s; rc=1; }
	done
	right s1 s2 s3 && none || rc=1
	return $rc
}

suspended()
{
	local rc=0

	three || return
	hook arm copy-read count 3 timeout_ms 20000
	bg W one 64K 16K
	hook_wait copy-read 3 || return
	bg S dm_suspend --nolockfs dut
	waits S && bg_alive W || rc=1
	hook release copy-read
	bg_wait S 5 || wrong "the suspend" || rc=1
	# it was waited for
	goes_on W || rc=1
	dm_resume dut || return
	three_right || rc=1
	return $rc
}
run "suspend: waits for the write" suspended

nobody_held()
{
	snap_is s1 held 0 && snap_is s2 held 0 && snap_is s3 held 0
}

# The write is given back; the read is waited for, since another origin may come with the resume.
suspended_noflush()
{
	local rc=0

	three || return
	hook arm copy-read count 3 timeout_ms 20000
	bg W one 64K 16K
	hook_wait copy-read 3 || return
	bg S dm_suspend --nolockfs --noflush dut
	until_true 5 nobody_held || { echo "the write is not given back"; rc=1; }
	waits S || rc=1
	hook release copy-read
	bg_wait S 5 || wrong "the suspend" || rc=1
	waits W || rc=1
	dm_resume dut || return
	goes_on W || rc=1
	three_right || rc=1
	return $rc
}
run "suspend --noflush: gives the write back" suspended_noflush

on_origin()
{
	dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw $1" && dm_resume dut
}

# What hangs is one read.
one_read_hangs()
{
	local f

	read -r -a f < <(cbw-dm status stuck)
	[[ ${f[3]} == 1 ]]
}

# read_hangs: W waits for a read for all three
read_hangs()
{
	bg W one 64K 16K
	until_true 5 one_read_hangs && return
	wrong "the reads that hang are not one: $(cbw-dm status stuck)"
	unstick
	return 1
}

# The one that reads, which is the first, or one that shares it.
removed_sharing()
{
	local gone=s$1 rc=0 s

	three && on_origin /dev/mapper/stuck && read_hangs || return
	bg R dmsetup remove --noudevsync $gone
	waits W || rc=1
	bg_alive R || { echo "$gone is gone, its memory is being read into"; rc=1; }
	unstick || rc=1
	bg_wait R 5 && dm_forget $gone || rc=1
	goes_on W || rc=1
	on_origin $origin || return
	for s in s1 s2 s3; do
		[[ $s == "$gone" ]] && continue
		snap_is $s copied 4 && right $s || rc=1
	done
	none || rc=1
	return $rc
}
run "removed: the one that reads" removed_sharing 1
run "removed: one that shares the read" removed_sharing 2

fails_sharing()
{
	local bad=s$1 rc=0 i

	fill dut || return
	for i in 1 2 3; do
		if ((i == $1)); then shot $i bad 8; else shot $i good 8; fi || return
	done
	hook arm store-write sector 0 count 3 timeout_ms 20000
	one 1M 4K && hook_wait store-write 3 || return
	on_origin /dev/mapper/stuck && read_hangs || return
	hook release store-write
	snap_failed $bad store-io || rc=1
	waits W || rc=1
	unstick || rc=1
	goes_on W || rc=1
	on_origin $origin || return
	for i in 1 2 3; do
		[[ s$i == "$bad" ]] && continue
		snap_is s$i copied 5 && right s$i || rc=1
	done
	snap_is $bad held 0 && at /dev/mapper/$bad 64K EIO && at /dev/mapper/$bad 2M EIO || rc=1
	none || rc=1
	return $rc
}
run "its store fails: the one that reads" fails_sharing 1
run "its store fails: one that shares the read" fails_sharing 3

# ---- break_guest_write among those that share -------------------------------------------------

# guest N STORE: number N of three has it
guest()
{
	local i

	fill dut || return
	for i in 1 2 3; do
		if ((i == $1)); then
			shot $i $2 8 2 on_cbw_error break_guest_write || return
		else
			shot $i good 8 || return
		fi
	done
}

guest_store_fails()
{
	local rc=0

	guest $1 bad || return
	bg W one 64K 16K
	until_true 5 bg_ended W || { wrong "the write is stuck"; return; }
	grep -q EIO "$CBW_TMP/W.out" || { echo "no error: $(<"$CBW_TMP/W.out")"; rc=1; }
	unset 'BG[W]'
	base dut 64K 76K || rc=1
	three_right_but $1 0 || rc=1
	return $rc
}

# three_right_but N COPIED: which is what number N has
three_right_but()
{
	local i rc=0

	for i in 1 2 3; do
		snap_is s$i copied $((i == $1 ? $2 : 4)) || { cbw-dm status s$i; rc=1; }
	done
	right s1 s2 s3 && none || rc=1
	return $rc
}
run "break_guest_write, the one that reads: its store fails" guest_store_fails 1
run "break_guest_write, one that shares the read: its store fails" guest_store_fails 2

# guest_waits N: W has been preserved by the others, and waits for the store of number N
guest_waits()
{
	local i

	for i in 1 2 3; do
		until_true 5 snap_is s$i copied 4 || wrong "$(cbw-dm status s$i)" || return
		held_in s$i $((i == $1)) || return
	done
	waits W && base dut 64K 76K
}

guest_store_hangs()
{
	local rc=0

	guest $1 good && hang $1 || return
	bg W one 64K 16K
	guest_waits $1 || rc=1
	# who suspends without a flush does not wait for that store
	bg S dm_suspend --nolockfs --noflush dut
	bg_wait S 5 && dm_resume dut || rc=1
	guest_waits $1 || rc=1
	dm_resume h$1 || return
	goes_on W || rc=1
	three_right || rc=1
	return $rc
}
run "break_guest_write, the one that reads: its store hangs" guest_store_hangs 1
run "break_guest_write, one that shares the read: its store hangs" guest_store_hangs 3

# released N STATE: what W waits for is on its way to the store, or has not begun to
released()
{
	local n=$1 rc=0 i extra=0

	guest $n good && hang $n || return
	if [[ $2 == unwritten ]]; then
		# the worker is with another write
		hook arm store-write count 3 timeout_ms 20000
		bg V one 1M 4K
		hook_wait store-write 3 || return
		extra=1
	fi
	bg W one 64K 16K
	held_in s$n $((1 + extra)) || return
	until_true 5 snap_is s$n copied $((4 + extra)) || { cbw-dm status s$n; rc=1; }
	waits W || rc=1
	# half of it: it waits for the rest
	release s$n 65536 8192 || rc=1
	waits W || rc=1
	release s$n 73728 8192 || rc=1
	goes_on W || rc=1
	held_in s$n $extra || rc=1
	hook release store-write
	dm_resume h$n || return
	((extra == 0)) || goes_on V || rc=1
	until_true 3 snap_is s$n used $extra || { echo "slots have leaked"; cbw-dm status s$n; rc=1; }
	at /dev/mapper/s$n 64K ENODATA && at /dev/mapper/s$n 76K ENODATA && base s$n 80K 1M || rc=1
	for i in 1 2 3; do
		((i == n)) || right s$i || rc=1
	done
	none || rc=1
	return $rc
}
run "break_guest_write, the one that reads: released meanwhile" released 1 writing
run "break_guest_write, one that shares: released meanwhile" released 2 writing
run "break_guest_write, one that shares: released before it was written" released 3 unwritten
finish
