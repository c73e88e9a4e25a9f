#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 45
#
# Writes that must not wait (RWF_NOWAIT): those that need not, go; those that would
# have to, say EAGAIN, and leave nothing behind.
#
#	nowait.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin debug
seed "${1-}"
modprobe -q dm-delay
nullb origin 4 512
nullb store 4 512
t "make the device" cbw dut "$origin"
keep
hows=(sync aio uring)

# probe HOW OFFSET LENGTH [OPTIONS...]: every block once, without waiting
probe()
{
	cbw-probe write /dev/mapper/dut --how $1 --range $2:$3 --order each --nowait --seed $SEED "${@:4}" \
		>"$CBW_TMP/probe.out"
}

# all_are DONE AGAIN: without an error
all_are()
{
	[[ $(said probe writes)/$(said probe again)/$(said probe errors) == "$1/$2/0" ]] ||
		wrong "expected $1 done and $2 EAGAIN: $(<"$CBW_TMP/probe.out")"
}

idle_snapshot()
{
	snap_is shot held 0 && snap_is shot copied $1 && snap_is shot used $1 && snap_is shot maxhold $2 ||
		wrong "$(cbw-dm status shot)"
}

no_snapshot()
{
	local how rc=0

	fill dut || return
	for how in "${hows[@]}"; do
		probe $how 0 64K && all_are 16 0 || { echo "$how"; rc=1; }
	done
	msg dut bitmap_add b granularity 4096 || return
	for how in "${hows[@]}"; do
		probe $how 0 64K && all_are 16 0 || { echo "$how, tracked"; rc=1; }
	done
	expect "dirty bytes" "$(bitmap_get dut b dirty)" 65536 || rc=1
	msg dut bitmap_remove b || rc=1
	return $rc
}
t "no snapshot, tracked or not: they go" no_snapshot

needed()
{
	local how rc=0

	fill dut && msg dut bitmap_add b granularity 4096 && snap shot dut "$store" 8 || return
	for how in "${hows[@]}"; do
		probe $how 0 64K
		all_are 0 16 || { echo "$how"; rc=1; }
	done
	# a part of it is needed, the first or the last
	cbw-load one /dev/mapper/dut --offset 72K --len 4096 --gen 9 || rc=1
	for how in "${hows[@]}"; do
		probe $how 68K 8K --bs 8K
		all_are 0 1 || { echo "$how, the first part is needed"; rc=1; }
		probe $how 72K 8K --bs 8K
		all_are 0 1 || { echo "$how, the last part is needed"; rc=1; }
	done
	# of all that nothing was begun, held or marked
	nap 0.2
	idle_snapshot 1 '+([0-9])' || rc=1
	expect "dirty bytes" "$(bitmap_get dut b dirty)" 4096 || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	at /dev/mapper/dut 0 "*gen=$BASE_GEN *" || rc=1
	dm_remove shot && msg dut bitmap_remove b || rc=1
	return $rc
}
t "needed chunks: EAGAIN, and nothing else" needed

not_needed()
{
	local how rc=0

	fill dut && snap shot dut "$store" 8 2 on_cbw_error $1 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 64K --gen 9 || rc=1
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" $((128 << 10))+$((64 << 10)) || rc=1
	for how in "${hows[@]}"; do
		probe $how 0 64K && all_are 16 0 || { echo "$how, preserved"; rc=1; }
		probe $how 0 64K --bs 64K && all_are 1 0 || { echo "$how, preserved, in one piece"; rc=1; }
		probe $how 128K 64K && all_are 16 0 || { echo "$how, released"; rc=1; }
	done
	idle_snapshot 16 '+([0-9])' || rc=1
	at /dev/mapper/shot 0 "*gen=$BASE_GEN *" || rc=1
	# all that the snapshot needs is nothing
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" 0+$((4 << 20)) || rc=1
	for how in "${hows[@]}"; do
		probe $how 0 4M --bs 64K && all_are 64 0 || { echo "$how, drained"; rc=1; }
	done
	dm_remove shot || rc=1
	return $rc
}
t "preserved and released chunks: they go" not_needed break_snapshot
t "the same, break_guest_write" not_needed break_guest_write

# A snapshot that has failed needs nothing.
failed()
{
	local rc=0

	fill dut && dm_create tiny "0 64 linear $store 0" && snap shot dut /dev/mapper/tiny 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 64K --gen 9 || rc=1
	snap_failed shot store-full || rc=1
	probe sync 1M 64K && all_are 16 0 || rc=1
	dm_remove shot && dm_remove tiny || rc=1
	return $rc
}
t "a failed snapshot: they go" failed

# What writes without waiting first and waits if it has to, as io_uring does in itself:
# all of it gets done, the snapshot is right.
mixed()
{
	local rc=0 how depth

	fill dut && snap shot dut "$store" 8 || return
	cbw-probe write /dev/mapper/dut --how uring --qd 16 --order each --range 0:1M >"$CBW_TMP/probe.out" || rc=1
	all_are 256 0 || { echo "io_uring on its own"; rc=1; }
	for how in "${hows[@]}"; do
		[[ $how == sync ]] && depth=1 || depth=16
		cbw-probe write /dev/mapper/dut --how $how --order rand --range 1M:2M --ops 1000 --nowait --retry --seed $SEED \
			--qd $depth >"$CBW_TMP/probe.out" || { echo "$how"; rc=1; }
		expect "writes done, $how" "$(said probe writes)" 1000 || rc=1
		expect "errors, $how" "$(said probe errors)" 0 || rc=1
	done
	expect "chunks in the store" "$(snap_get shot used)" "$(snap_get shot copied)" || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "those that wait if they have to" mixed

# The gate is shut while a cut is made: EAGAIN, not a park.
gate()
{
	local rc=0 out

	fill dut || return
	hook arm gate-shut timeout_ms 20000
	bg P msg dut bitmap_add c
	hook_wait gate-shut || return
	bg W cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 9 --nowait
	until_true 5 bg_ended W || { echo "it waits at the gate"; rc=1; }
	hook release gate-shut
	bg_wait P 10 || rc=1
	until_true 5 bg_ended W
	unset 'BG[W]'
	out=$(<"$CBW_TMP/W.out")
	[[ $out == EAGAIN* ]] || { echo "at the gate: '$out'"; rc=1; }
	at /dev/mapper/dut 0 "*gen=$BASE_GEN *" || rc=1
	msg dut bitmap_remove c || rc=1
	return $rc
}

# As the origin can, so can we: dm-delay has no NOWAIT.
as_the_origin()
{
	local rc=0 a b

	dm_create slow "0 8192 delay $origin2 0 0" || return
	a=$(cbw-load one /dev/mapper/slow --offset 0 --len 4096 --nowait)
	cbw ndut /dev/mapper/slow || return
	b=$(cbw-load one /dev/mapper/ndut --offset 0 --len 4096 --nowait)
	[[ ${a%% *} == EOPNOTSUPP && ${b%% *} == EOPNOTSUPP ]] || { echo "the origin says $a, the device $b"; rc=1; }
	dm_remove ndut && dm_remove slow || rc=1
	return $rc
}
nullb origin2 4 512
t "an origin that has no NOWAIT" as_the_origin
# with the gate shut a CPU spins: nothing of null_blk's may wait for it
t "remove the device" dm_remove dut
ramdisks 1 4
origin=/dev/ram0
t "make a device on a RAM disk" cbw dut "$origin"
t "the gate is shut: EAGAIN" gate
finish
