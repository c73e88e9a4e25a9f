#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 100
#
# What can go wrong below, and what then has to happen: the guest goes on, the
# snapshot says that it failed and why, and its reads fail with EIO, never with
# wrong data. With on_cbw_error break_guest_write it is the other way round.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
modprobe -q dm-flakey
nullb origin 4 512
nullb store 6 512
len=$(sectors "$origin")
t "make the device" cbw dut "$origin"
keep
load=(--uring 2:15 --sync 2 --bs 512:64K)

# breaks REASON SECONDS: under a load that never sees an error; afterwards
# the snapshot gives EIO everywhere
breaks()
{
	local reason=$1 rc=0

	load_start load dut -- "${load[@]}" || return
	until_true "$2" snap_is shot state failed || rc=1
	nap 0.1
	load_stop load || { echo "the guest saw it"; rc=1; }
	snap_failed shot "$reason" || rc=1
	at /dev/mapper/shot 0 EIO || rc=1
	at /dev/mapper/shot $((len / 2))s EIO || rc=1
	snap_is shot held 0 || { dmsetup status shot; rc=1; }
	return $rc
}

store_full()
{
	fill dut && dm_create tiny "0 1024 linear $store 0" &&
		snap shot dut /dev/mapper/tiny 8 || return
	breaks store-full 5 || return
	dm_remove shot && dm_remove tiny
}
t "a store that is too small" store_full

store_error()
{
	# reads would be fine
	dm_create bad "0 $len flakey $store 0 0 1000 1 error_writes" || return
	fill dut && snap shot dut /dev/mapper/bad 8 || return
	breaks store-io 5 || return
	dm_remove shot && dm_remove bad
}
t "a store that fails on write" store_error

# hang NAME: a store that takes no more
hang()
{
	dm_create hang "0 $len linear $store 0" &&
		snap shot dut /dev/mapper/hang 8 "$@" && dm_suspend --nolockfs hang
}

unhang()
{
	dm_resume hang && dm_remove shot && dm_remove hang
}

store_hangs()
{
	local rc=0

	fill dut && hang 4 cbw_timeout_ms 700 buffer_kib 512 || return
	breaks timeout 8 || rc=1
	# nobody was held for much longer than that
	(($(snap_get shot maxhold) < 3000000)) ||
		{ echo "held for $(snap_get shot maxhold) us"; rc=1; }
	unhang || rc=1
	return $rc
}
t "a store that hangs" store_hangs

# Nobody notices a store that hangs for a short time.
store_hiccup()
{
	local rc=0

	fill dut && hang 2 buffer_kib 512 || return
	load_start load dut -- "${load[@]}" || return
	nap 0.7
	dm_resume hang || return
	nap 0.3
	load_stop load || rc=1
	snap_is shot state '@(active|drained)' || { dmsetup status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot && dm_remove hang || rc=1
	return $rc
}
t "a store that hangs for a moment" store_hiccup

# The source is suspended while writes are held for a store that hangs: at once
# when it need not flush, else within cbw_timeout_ms.
suspend_hanging()
{
	local rc=0 start scale=${CBW_BUDGET_SCALE:-1} bound

	bound=$((1500 * scale))
	fill dut && hang 4 cbw_timeout_ms $bound buffer_kib 512 || return
	load_start load dut -- "${load[@]}" || return
	until_true 5 writes_held || { echo "nothing is held"; rc=1; }
	start=$(now_ms)
	dm_suspend --nolockfs --noflush dut && dm_resume dut || rc=1
	(($(now_ms) - start < bound)) || { echo "noflush: $(($(now_ms) - start)) ms"; rc=1; }
	start=$(now_ms)
	dm_suspend --nolockfs dut && dm_resume dut || rc=1
	(($(now_ms) - start < bound + 3500 * scale)) || { echo "flush: $(($(now_ms) - start)) ms"; rc=1; }
	nap 0.1
	load_stop load || rc=1
	unhang || rc=1
	return $rc
}

writes_held()
{
	(($(snap_get shot held) > 0))
}
t "the source is suspended while the store hangs" suspend_hanging

# ---- the origin -------------------------------------------------------------------

# Sectors 1024 to 1031 cannot be read. A write to the same chunk of 64 KiB
# (sectors 1024 to 1151) goes on; that chunk cannot be read, and no other.
poison()
{
	local rc=0 i

	fill dut || return
	dm_suspend dut && dm_reload dut "0 $len cbw /dev/mapper/holes" && dm_resume dut || return
	snap shot dut "$store" 128 || return
	cbw-load one /dev/mapper/dut --offset 1100s --len 4096 --gen 50 ||
		{ echo "the guest's write failed"; rc=1; }
	cbw-load one /dev/mapper/dut --offset 0 --len 64K --gen 50 || rc=1
	at /dev/mapper/shot 1100s EIO || rc=1
	at /dev/mapper/shot 1030s EIO || rc=1
	for i in 0 64 1023 1152 $((len - 1)); do
		at /dev/mapper/shot ${i}s "*gen=$BASE_GEN *" || rc=1
	done
	snap_is shot state active || { dmsetup status shot; rc=1; }
	cbw-ioctl snapinfo /dev/mapper/shot | grep -q ' poisoned=1$' ||
		{ cbw-ioctl snapinfo /dev/mapper/shot; rc=1; }
	dm_remove shot || rc=1
	dm_suspend dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut || return
	return $rc
}
t "an origin with holes" dm_create holes "0 1024 linear $origin 0
1024 8 error
1032 $((len - 1032)) linear $origin 1032"
keep
t "a sector that cannot be read poisons its chunk only" poison

# Reads the snapshot until it fails; wrong data never.
right_until_eio()
{
	local rc=0

	while ((rc == 0)); do
		cbw-check verify /dev/mapper/shot --gen "$BASE_GEN"
		rc=$?
	done
	((rc == 3))
}

gone()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 60 || return
	load_start load dut -- "${load[@]}" --ignore-errors --max-iops 1000 || return
	bg reader right_until_eio
	nap 0.2
	"$@" || rc=1
	snap_failed shot source-gone || rc=1
	at /dev/mapper/shot 0 EIO || rc=1
	at /dev/mapper/shot 2M EIO || rc=1
	cbw-ioctl snapinfo /dev/mapper/shot | grep ' state=3 reason=6 ' || { echo "SNAPSHOT_INFO does not say so"; rc=1; }
	load_stop load || rc=1
	bg_wait reader 10 || { echo "the reader"; rc=1; }
	dm_remove shot && dm_remove dut || rc=1
	cbw dut "$origin" || rc=1
	return $rc
}

another_table()
{
	dm_reload dut "0 $len linear $origin 0" && dm_suspend --nolockfs dut && dm_resume dut
}
t "the source is forced away: wipe_table" gone timeout 20 dmsetup wipe_table --noudevsync dut
t "the source is forced away: another table" gone another_table

# A smaller table: loading it changes nothing; then what it has not preserved may be gone.
resized()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 60 || return
	dm_reload dut "0 $((len - 64)) cbw $origin" || return
	snap_is shot state active || { dmsetup status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_suspend dut && dm_resume dut || rc=1
	snap_failed shot source-resized || rc=1
	# the guest does not notice
	cbw-load one /dev/mapper/dut --offset 64K --len 4096 --gen 61 || rc=1
	dm_remove shot || rc=1
	dm_reload dut "0 $len cbw $origin" && dm_suspend dut && dm_resume dut || rc=1
	return $rc
}
t "the source shrinks" resized

# ---- break_guest_write ----------------------------------------------------------------

guest_full()
{
	local rc=0

	fill dut && dm_create tiny "0 512 linear $store 0" &&
		snap shot dut /dev/mapper/tiny 8 2 on_cbw_error break_guest_write || return
	cbw-load one /dev/mapper/dut --offset 0 --len 256K --gen 70 ||
		{ echo "there was room for this"; rc=1; }
	refused 'EIO|ENOSPC' cbw-load one /dev/mapper/dut --offset 1M --len 4096 --gen 70 || rc=1
	at /dev/mapper/dut 1M "*gen=$BASE_GEN *" || rc=1
	# what is preserved may be written
	cbw-load one /dev/mapper/dut --offset 0 --len 256K --gen 71 || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot && dm_remove tiny || rc=1
	return $rc
}
t "break_guest_write, store too small: the write gets the error" guest_full

guest_error()
{
	local rc=0

	dm_create bad "0 $len flakey $store 0 0 1000 1 error_writes" || return
	fill dut && snap shot dut /dev/mapper/bad 8 2 on_cbw_error break_guest_write || return
	refused EIO cbw-load one /dev/mapper/dut --offset 1M --len 4096 --gen 70 || rc=1
	at /dev/mapper/dut 1M "*gen=$BASE_GEN *" || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot && dm_remove bad || rc=1
	return $rc
}
t "break_guest_write, store fails: the write gets the error" guest_error

guest_hangs()
{
	local rc=0

	fill dut && hang 4 cbw_timeout_ms 500 on_cbw_error break_guest_write || return
	bg W cbw-load one /dev/mapper/dut --offset 1M --len 4096 --gen 70
	until_true 5 bg_ended W || { echo "held for ever"; rc=1; }
	grep -q 'EIO\|ETIMEDOUT\|ETIME' "$CBW_TMP/W.out" || { cat "$CBW_TMP/W.out"; rc=1; }
	unset 'BG[W]'
	at /dev/mapper/dut 1M "*gen=$BASE_GEN *" || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	unhang || rc=1
	return $rc
}
t "break_guest_write, store hangs: the write gets the error in time" guest_hangs
finish
