#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 100
# long
#
# Suspending, reloading, resuming and removing under load: nothing hangs, is
# lost or left. State belongs to the device, not to the table: bitmaps and
# snapshots survive a reload with another path to the origin.
#
#	reload.sh [SEED [ROUNDS]]	default 3 rounds each
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
rounds=${2:-3}
nullb origin 8 512
nullb store 10 512
len=$(sectors "$origin")
t "another path to the origin" dm_create path "0 $len linear $origin 0"
t "make the device" cbw dut "$origin"
t "a small part of the store" dm_create part "0 $((len / 2)) linear $store 0"
keep
load=(--uring 2:8 --sync 2 --mix 4:1:1 --bs 512:100K --max-iops 2000)

# under_load COMMAND: with a snapshot and a bitmap; both have to be right after it
under_load()
{
	local i rc=0

	fill dut && msg dut bitmap_add b granularity 4096 || return
	cbw-check save /dev/mapper/dut "$CBW_TMP/ref" || return
	snap shot dut "$store" 8 || return
	load_start load dut -- "${load[@]}" || return
	bg reader cbw-check compare "$CBW_TMP/ref" /dev/mapper/shot
	for ((i = 0; i < rounds; i++)); do
		"$@" $i || rc=1
		nap 0.1
	done
	bg_wait reader 30 || rc=1
	load_stop load || rc=1
	# all that differs from before is marked
	cbw-ioctl extents /dev/mapper/dut b | grep -v ok >"$CBW_TMP/ext"
	cbw-check diff "$CBW_TMP/ref" /dev/mapper/dut "$CBW_TMP/ext" || rc=1
	cbw-check compare "$CBW_TMP/ref" /dev/mapper/shot || rc=1
	# drained when the load has written everywhere
	snap_is shot state '@(active|drained)' || { dmsetup status shot; rc=1; }
	dm_remove shot && msg dut bitmap_remove b || rc=1
	return $rc
}

suspend_resume()
{
	local how=--nolockfs

	(($1 % 2)) && how=--noflush
	dm_suspend $how --nolockfs dut || return
	# the reader goes on meanwhile
	cbw-check at /dev/mapper/shot 0 >/dev/null || { wrong "no reading while suspended"; return; }
	dm_resume dut
}
t "suspend and resume" under_load suspend_resume

other_path()
{
	local to=$origin

	(($1 % 2)) || to=/dev/mapper/path
	dm_reload dut "0 $len cbw $to" || return
	# not in use yet, and may never be
	[[ $(dmsetup status dut) != *"$(stat -L -c '%Hr:%Lr' $to) "* ]] || { wrong "in use before the resume"; return; }
	dm_suspend --nolockfs dut && dm_resume dut
}
t "reload with another path to the origin" under_load other_path

discarded()
{
	dm_reload dut "0 $len cbw /dev/mapper/path" && dmsetup clear dut
}
t "reload that never comes to life" under_load discarded

snapshot_suspend()
{
	dm_suspend --nolockfs shot || return
	nap 0.05
	dm_resume shot
}
t "suspend and resume of the snapshot" under_load snapshot_suspend

source_in_use()
{
	refused EBUSY dmsetup remove --noudevsync dut
}
t "the source cannot be removed under its snapshot" under_load source_in_use

# The store has grown: a reload of the snapshot takes that up.
grow()
{
	local cap rc=0

	fill dut && snap shot dut /dev/mapper/part 8 || return
	cap=$(snap_get shot capacity)
	cbw-load one /dev/mapper/dut --offset 0 --len 2M --gen 99 || return
	dm_reload part "0 $((len + 2048)) linear $store 0" &&
		dm_suspend --nolockfs part && dm_resume part || return
	dm_reload shot "$(cbw-dm table shot)" &&
		dm_suspend --nolockfs shot && dm_resume shot || return
	(($(snap_get shot capacity) > cap)) || { dmsetup status shot; rc=1; }
	cbw-load one /dev/mapper/dut --offset 2M --len 6M --gen 99 || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "a larger store by reload" grow

# Snapshots come and go under load; also with a bitmap, which the removal aborts.
come_and_go()
{
	local i features rc=0

	fill dut && msg dut bitmap_add b || return
	load_start load dut -- "${load[@]}" || return
	for ((i = 0; i < rounds * 2; i++)); do
		features=
		((i % 3)) || features="2 bitmap b"
		snap shot dut "$store" $((8 << i % 5)) $features || { rc=1; break; }
		nap 0.05
		((i % 2)) || cbw-check at /dev/mapper/shot 1M >/dev/null
		dm_remove shot || { rc=1; break; }
		if ((i % 4 == 0)); then
			msg dut bitmap_rotate b >/dev/null && msg dut bitmap_commit b ||
				{ rc=1; break; }
		fi
	done
	load_stop load || rc=1
	msg dut bitmap_remove b || rc=1
	return $rc
}
t "snapshots come and go" come_and_go

# Removed with everything still in it.
remove_full()
{
	msg dut bitmap_add b && snap shot dut "$store" 8 || return
	load_start load dut -- --sync 4 --bs 512:300K || return
	nap 0.3
	load_stop load || return
	dm_remove shot && dm_remove dut || return
	cbw dut "$origin" || return
	expect "bitmaps of a new device" "$(dmsetup status dut | cut -d' ' -f5)" 0
}
t "removed with all its state" remove_full
finish
