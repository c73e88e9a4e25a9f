#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 150
# only: kasan
#
# Under load, allocations of the module's workers fail, some and then all of
# them, and those of the writers themselves. The guest never sees the former;
# a snapshot is right, or has failed and says that memory was the reason.
#
#	inject-workers.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

FAULTS=/sys/kernel/debug
KINDS=(failslab fail_page_alloc)
MANY=100000000

faults_ready()
{
	local d

	for d in "${KINDS[@]}"; do
		echo 0 >$FAULTS/$d/probability && echo 0 >$FAULTS/$d/verbose &&
			echo Y >$FAULTS/$d/task-filter &&
			echo N >$FAULTS/$d/ignore-gfp-wait || return
	done
	echo N >$FAULTS/fail_page_alloc/ignore-gfp-highmem &&
		echo 0 >$FAULTS/fail_page_alloc/min-order
}

# faults PERCENT: of the tasks that are marked; faults_off counts them
faults()
{
	local d

	for d in "${KINDS[@]}"; do
		echo $MANY >$FAULTS/$d/times
		echo "$1" >$FAULTS/$d/probability
	done
}

faults_off()
{
	local d n=0

	for d in "${KINDS[@]}"; do
		echo 0 >$FAULTS/$d/probability
		n=$((n + MANY - $(<$FAULTS/$d/times)))
	done
	HITS=$((HITS + n))
}

# The kernel's unbound workers and ours of last resort; others come and go.
mark_workers()
{
	local p comm

	for p in /proc/[0-9]*; do
		read -r comm 2>/dev/null <$p/comm || continue
		case $comm in
		kworker/u*|cbw|cbw-store|cbw-wait)
			echo 1 >$p/make-it-fail ;;
		esac
	done 2>/dev/null
}

unmark()
{
	local p

	faults_off
	for p in /proc/[0-9]*; do
		echo 0 >$p/make-it-fail
	done 2>/dev/null
}

begin debug
seed "${1-}"
t "this kernel injects faults" faults_ready
nullb origin 16 512
nullb store 18 512
# What null_blk allocates for its pages it has now.
cbw-load fill "$store" --gen 1
t "make the device" cbw dut "$origin"
msg dut bitmap_add b granularity 4096
keep
# No discards: null_blk would give pages away, and need new ones.
load=(--uring 2:15 --sync 2 --mix 9:1:0 --bs 512:64K)
FAILED=0 KEPT=0 HITS=0

# failed with map-limit, or right everywhere
right()
{
	if snap_is shot state failed; then
		FAILED=$((FAILED + 1))
		snap_is shot reason map-limit || { dmsetup status shot; return 1; }
		at /dev/mapper/shot 0 EIO
		return
	fi
	KEPT=$((KEPT + 1))
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN"
}

# round PERCENT SECONDS FEATURES...: the workers' allocations fail
round()
{
	local percent=$1 end rc=0

	end=$(($(now_ms) + $2 * 1000))
	shift 2
	fill dut && snap shot dut "$store" 8 "$@" || return
	msg dut bitmap_rotate b >"$CBW_TMP/cut" || return
	load_start load dut -- "${load[@]}" || return
	bg reader cbw-check verify /dev/mapper/shot --gen "$BASE_GEN"
	faults "$percent"
	while (($(now_ms) < end)); do
		mark_workers
		nap 0.2
	done
	unmark
	load_stop load || { echo "the guest saw it"; rc=1; }
	if ! bg_wait reader 30; then
		snap_is shot state failed || { echo "a reader saw it"; rc=1; }
	fi
	right || rc=1
	snap_is shot held 0 || { dmsetup status shot; rc=1; }
	dm_remove shot && msg dut bitmap_abort b || rc=1
	bitmap_is dut b flags e || until_true 5 bitmap_is dut b flags e || rc=1
	return $rc
}
t "one allocation in 50 of the workers fails" round 2 4
t "one in 10 fails" round 10 4
t "half of them fail" round 50 4
t "half of them fail, a small buffer" round 50 4 2 buffer_kib 512
t "all of them fail" round 100 4
t "all of them fail, break_guest_write" round 100 4 2 on_cbw_error break_guest_write
# There may be none: what workers need was set aside before.
echo "# $HITS allocations failed; $KEPT snapshots kept, $FAILED failed"
HITS=0

# The writers' own fail too: they get ENOMEM, or their write is done.
writers()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 || return
	load_start load dut -- "${load[@]}" --ignore-errors || return
	faults 5
	mark_workers
	echo 1 >"/proc/${BG[load]}/make-it-fail"
	for p in /proc/"${BG[load]}"/task/*; do
		echo 1 >$p/make-it-fail
	done
	nap 4
	unmark
	load_stop load || rc=1
	((HITS > 0)) || { echo "nothing was made to fail"; rc=1; }
	right || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "the writers' own allocations fail" writers
finish
