#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 180
# long
# only: stable backports sid
#
# Forward progress when memory is short: the device with a live snapshot carries the
# swap, or a file system whose writer may have little memory. All goes on, nobody is
# killed, and the snapshot is right, or has failed and says why. The debug kernels have no
# control groups of memory.
#
#	pressure.sh [SEED|- [long]]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
[[ ${1--} == - ]] && seed || seed "$1"
long=${2-}
modprobe -q ext4
cg=/sys/fs/cgroup/cbw-pressure
mib=$((${#long} ? 192 : 64))

# Their memory is filled once and stays: null_blk would need some to take a write.
nullb origin $mib 4096 discard=0
nullb store $mib 4096 discard=0
t "make the device" cbw dut "$origin"
fill dut && cbw-load fill "$store"
keep

oom_kills()
{
	local k v

	while read -r k v; do
		[[ $k != oom_kill ]] || echo "$v"
	done </proc/vmstat
}

# Lives in a control group of its own with so much memory, in MiB.
limited()
{
	local max=$1

	shift
	echo $((max << 20)) >$cg/memory.max && echo "$BASHPID" >$cg/cgroup.procs && exec "$@"
}

# the_snapshot REASON...: right, or failed for one of these; nobody was held too long
the_snapshot()
{
	local rc=0 state reason hold

	state=$(snap_get shot state) reason=$(snap_get shot reason) hold=$(snap_get shot maxhold)
	figure "$T_NAME: $state $reason, copied $(snap_get shot copied), longest hold $hold us, swapped out $(swapped_out) pages"
	case $state in
	active|drained)
		cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1 ;;
	failed)	[[ " $* " == *" $reason "* ]] || wrong "$(cbw-dm status shot)" || rc=1 ;;
	*)	wrong "$(cbw-dm status shot)" || rc=1 ;;
	esac
	snap_is shot held 0 || { cbw-dm status shot; rc=1; }
	((hold < 33000000)) || { wrong "held for $hold us"; rc=1; }
	expect "killed for want of memory" "$(oom_kills)" "$killed" || rc=1
	return $rc
}

swapped_out()
{
	local k v

	while read -r k v; do
		[[ $k != pswpout ]] || echo "$v"
	done </proc/vmstat
}

base()
{
	fill dut
	killed=$(oom_kills)
}

# Whatever is left of a test that went wrong would need the swap.
stop_all()
{
	local i

	for i in "${!BG[@]}"; do
		kill -KILL "${BG[$i]}"
		until_true 20 bg_ended $i
		unset "BG[$i]"
	done
}

# on_swap FEATURES -- COMMAND...: with swap on the device, and a snapshot of all of it
on_swap()
{
	local rc=0 features=() out

	while [[ $1 != -- ]]; do
		features+=("$1")
		shift
	done
	shift
	base || return
	out=$(swapped_out)
	snap shot dut "$store" 8 "${features[@]}" && mkswap /dev/mapper/dut >/dev/null &&
		swapon /dev/mapper/dut || return
	"$@" || rc=1
	stop_all
	(($(swapped_out) - out > 4000)) || { wrong "only $(($(swapped_out) - out)) pages were swapped out"; rc=1; }
	swapoff /dev/mapper/dut || rc=1
	the_snapshot map-limit || rc=1
	dm_remove shot || rc=1
	return $rc
}

# More than its group may have: reclaim of the group writes to the swap.
in_a_group()
{
	local rc=0

	bg D limited 20 cbw-probe dirty $((mib - 20)) --passes 1 --seed $SEED
	bg_wait D 120 || { echo "the process"; rc=1; }
	figure "$T_NAME: $(<"$CBW_TMP/D.out")"
	return $rc
}

# Two at once, so that some read from swap while others write to it.
two_in_a_group()
{
	local rc=0

	bg D limited $((mib / 3)) cbw-probe dirty $((mib / 3)) --passes 2 --seed $SEED
	bg E limited $((mib / 3)) cbw-probe dirty $((mib / 3)) --passes 2 --seed $((SEED + 1))
	bg_wait D 120 || { echo "the one process"; rc=1; }
	bg_wait E 120 || { echo "the other process"; rc=1; }
	return $rc
}

# The machine itself has less than what is dirtied: the rest is taken away as huge pages.
whole_machine()
{
	local rc=0 free

	echo 3 >/proc/sys/vm/drop_caches
	free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
	echo $(((free - 96) / 2)) >/proc/sys/vm/nr_hugepages
	free=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
	figure "$T_NAME: $free MiB are left"
	bg D cbw-probe dirty $((free + 44)) --passes 1 --seed $SEED
	bg_wait D 120 || { echo "the process"; rc=1; }
	figure "$T_NAME: $(<"$CBW_TMP/D.out")"
	echo 0 >/proc/sys/vm/nr_hugepages
	return $rc
}

# A file system, written through the page cache by a group that may have little of it.
file_system()
{
	m=$CBW_TMP/mnt
	base || return
	mkdir -p "$m"
	mkfs.ext4 -q -F -m 0 -J size=8 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 /dev/mapper/dut
}

# writers MIB: what they may have together, of the 32 that they write
writers()
{
	local rc=0 i

	mount -o noinit_itable /dev/mapper/dut "$m" || return
	for i in 1 2; do
		truncate -s 16M "$m/$i"
		bg "F$i" limited $1 cbw-load fill "$m/$i" --gen $i
	done
	for i in 1 2; do
		bg_wait F$i 120 || { echo "writer $i"; rc=1; }
	done
	sync -f "$m" || rc=1
	for i in 1 2; do
		cbw-check verify "$m/$i" --gen $i || rc=1
	done
	umount "$m" || rc=1
	figure "$T_NAME: copied $(snap_get shot copied), longest hold $(snap_get shot maxhold) us"
	expect "killed for want of memory" "$(oom_kills)" "$killed" || rc=1
	return $rc
}

on_a_file_system()
{
	local rc=0 m

	file_system && cbw-check save /dev/mapper/dut "$CBW_TMP/ref" && snap shot dut "$store" 8 "$@" || return
	writers 10 || rc=1
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	cbw-check compare "$CBW_TMP/ref" /dev/mapper/shot || rc=1
	dm_remove shot || rc=1
	rm "$CBW_TMP/ref"
	return $rc
}

# The store hangs: the timeout is what lets the writers go on, and the snapshot is lost.
# The group may have more here. All of its pages that are under writeback stay so for
# two seconds, as with any device that does not answer for so long; a group that has nothing
# else to reclaim is the OOM killer's by then.
store_hangs()
{
	local rc=0 m

	file_system && dm_create hang "0 $(sectors "$store") linear $store 0" &&
		snap shot dut /dev/mapper/hang 8 4 buffer_kib 512 cbw_timeout_ms 2000 &&
		dm_suspend --nolockfs hang || return
	writers 24 || rc=1
	snap_failed shot timeout || rc=1
	dm_resume hang && dm_remove shot && dm_remove hang || rc=1
	return $rc
}

echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir $cg || exit
t "swap, a group that may have little" on_swap -- in_a_group
[[ -z $long ]] || t "swap, two processes" on_swap 2 buffer_kib 512 -- two_in_a_group
t "swap, break_guest_write" on_swap 4 on_cbw_error break_guest_write buffer_kib 512 -- in_a_group
t "swap, the machine has little" on_swap -- whole_machine
t "a file system, writers that may have little" on_a_file_system 2 buffer_kib 512
t "a file system, the store hangs" store_hangs
rmdir $cg
finish
