#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 200
# only: kasan
#
# I/O that fails where the kernel is made to fail it: the first, second, ...
# bio to the store, reads of the store, chunks of the origin. The guest never
# sees the store's trouble; what cannot be read of the origin is lost by
# itself; a snapshot is right or says EIO.
#
#	inject-bio.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

FAULTS=/sys/kernel/debug/fail_make_request

faults_ready()
{
	echo 0 >$FAULTS/probability && echo 0 >$FAULTS/verbose && echo N >$FAULTS/task-filter
}

# faults DEV PERCENT TIMES [INTERVAL]: of the bios to that device
faults()
{
	echo "$3" >$FAULTS/times && echo "${4:-1}" >$FAULTS/interval && echo 0 >$FAULTS/space &&
		echo "$2" >$FAULTS/probability && echo 1 >"/sys/block/${1##*/}/make-it-fail"
}

faults_off()
{
	echo 0 >"/sys/block/${1##*/}/make-it-fail"
	echo 0 >$FAULTS/probability
}

begin
seed "${1-}"
RANDOM=$((SEED & 32767))
modprobe -q dm-dust
t "this kernel injects faults" faults_ready
nullb origin 4 512
nullb store 6 512
nullb base 4 512
len=$(sectors "$origin")
t "make the device" cbw dut "$origin"
keep
load=(--uring 2:7 --sync 2 --bs 512:64K)
S=/dev/mapper/shot

# ---- the store -----------------------------------------------------------------------

# Its K-th bio fails, under a load that has to go on.
kth_bio()
{
	local rc=0 k=$1

	shift
	fill dut && snap shot dut "$store" 8 || return
	faults "$store" 100 1 "$k" || return
	load_start load dut -- "${load[@]}" --ops 300 || rc=1
	bg_wait load 30 || { echo "the guest saw it"; rc=1; }
	until_true 5 hit || { echo "nothing failed"; rc=1; }
	snap_failed shot store-io || rc=1
	at $S 0 EIO && at $S 2M EIO || rc=1
	snap_is shot held 0 || { dmsetup status shot; rc=1; }
	faults_off "$store"
	dm_remove shot || rc=1
	return $rc
}

hit()
{
	(($(<$FAULTS/times) == 0))
}
for k in 1 2 3 5 8 13; do
	t "write $k to the store fails" kth_bio $k
done

guest_gets_it()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 2 on_cbw_error break_guest_write || return
	faults "$store" 30 -1 || return
	load_start load dut -- "${load[@]}" --ops 200 --ignore-errors || rc=1
	bg_wait load 60 || rc=1
	faults_off "$store"
	snap_is shot state active || { dmsetup status shot; rc=1; }
	snap_is shot held 0 || { dmsetup status shot; rc=1; }
	cbw-check verify $S --gen "$BASE_GEN" || rc=1
	# it still protects
	cbw-load one /dev/mapper/dut --offset 0 --len 4M --gen 91 || rc=1
	cbw-check verify $S --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "break_guest_write, writes to the store fail" guest_gets_it

store_idle()
{
	local a b

	a=$(<"/sys/block/${store##*/}/stat")
	nap 0.3
	b=$(<"/sys/block/${store##*/}/stat")
	[[ $a == "$b" ]]
}

store_reads()
{
	local rc=0 i eio=0 got

	fill dut && snap shot dut "$store" 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 4M --gen 90 || return
	until_true 10 store_idle
	faults "$store" 50 -1
	for i in {1..24}; do
		got=$(cbw-check at $S $((RANDOM * 8 % len))s)
		case $got in
		EIO)	eio=$((eio + 1)) ;;
		*" gen=$BASE_GEN "*) ;;
		*)	echo "read '$got'"; rc=1 ;;
		esac
	done
	faults_off "$store"
	((eio > 0 && eio < 24)) || { echo "$eio of 24 reads failed"; rc=1; }
	# a read that fails costs that read only
	snap_is shot state '@(active|drained)' || { dmsetup status shot; rc=1; }
	cbw-check verify $S --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "reads of the store fail" store_reads

# ---- the origin ------------------------------------------------------------------------

# 12 chunks cannot be read. What is not written of them can be read again when the
# origin is well; the others are lost; nothing else is.
dust()
{
	local rc=0 i c at=0 got bad=() table='' poisoned lost=0

	dm_create dust "0 $len dust $origin 0 4096" && dmsetup message dust 0 quiet || return
	fill dut && cbw-load fill "$base" --gen "$BASE_GEN" || return
	dm_suspend dut && dm_reload dut "0 $len cbw /dev/mapper/dust" && dm_resume dut || return
	snap shot dut "$store" 8 || return
	mapfile -t bad < <(for i in {1..12}; do echo $((RANDOM % (len / 8))); done | sort -nu)
	for c in "${bad[@]}"; do
		dmsetup message dust 0 addbadblock "$c" || rc=1
	done
	dmsetup message dust 0 enable || rc=1
	load_start load dut -- "${load[@]}" || return
	nap 2
	load_stop load || { echo "the guest saw it"; rc=1; }
	# the good ones, with the bad ones replaced
	for c in "${bad[@]}"; do
		((c * 8 == at)) || table+="$at $((c * 8 - at)) linear $S $at"$'\n'
		table+="$((c * 8)) 8 linear $base $((c * 8))"$'\n'
		at=$((c * 8 + 8))
	done
	((at == len)) || table+="$at $((len - at)) linear $S $at"$'\n'
	dm_create good "$table" || return
	cbw-check verify /dev/mapper/good --gen "$BASE_GEN" || rc=1
	dm_remove good
	for c in "${bad[@]}"; do
		at $S $((c * 8))s EIO || rc=1
	done
	snap_is shot state '@(active|drained)' || { dmsetup status shot; rc=1; }
	dmsetup message dust 0 disable
	poisoned=$(cbw-ioctl snapinfo $S | sed -n 's/.* poisoned=\([0-9]*\)$/\1/p')
	for c in "${bad[@]}"; do
		got=$(cbw-check at $S $((c * 8))s)
		case $got in
		EIO)	lost=$((lost + 1)) ;;
		*" gen=$BASE_GEN "*) ;;
		*)	echo "chunk $c has '$got'"; rc=1 ;;
		esac
	done
	expect "chunks that are lost" "$lost" "$poisoned" || rc=1
	((lost > 0)) || { echo "no bad chunk was written to"; rc=1; }
	dm_remove shot || rc=1
	dm_suspend dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut && dm_remove dust || rc=1
	return $rc
}
t "chunks of the origin that cannot be read" dust

# Its bios fail at random, reads for copies and the guest's own.
origin_random()
{
	local rc=0 i got eio=0

	fill dut && snap shot dut "$store" 8 || return
	faults "$origin" 3 -1 || return
	load_start load dut -- "${load[@]}" --ignore-errors || rc=1
	nap 2
	load_stop load || rc=1
	faults_off "$origin"
	snap_is shot state '@(active|drained)' || { dmsetup status shot; rc=1; }
	for i in {1..48}; do
		got=$(cbw-check at $S $((RANDOM * 8 % len))s)
		case $got in
		EIO)	eio=$((eio + 1)) ;;
		*" gen=$BASE_GEN "*) ;;
		*)	echo "read '$got'"; rc=1 ;;
		esac
	done
	echo "$eio of 48 chunks are lost"
	((eio < 48)) || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "bios to the origin fail at random" origin_random
finish
