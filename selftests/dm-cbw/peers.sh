#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 100
# long
#
# Defects that other tools of this kind have, reproduced there, not here.
#
#	peers.sh [SNAPSHOTS]		so many, one after the other; default 8
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
count=${1:-8}
modprobe -q ext4
nullb origin 24 512
nullb store 28 512
t "make the device" cbw dut "$origin"
keep

# rm and fstrim under a snapshot change the deleted file's content there.
fstrim_under_snapshot()
{
	local m=$CBW_TMP/mnt rc=0 sums

	mkdir -p "$m" && mkfs.ext4 -q -F -m 0 /dev/mapper/dut &&
		mount /dev/mapper/dut "$m" || return
	cbw-load fill "$store"	# data that is no zeros
	head -c 8M "$store" >"$m/file" && head -c 1M "$store" >"$m/kept" || rc=1
	sync -f "$m"
	sums=$(cd "$m" && md5sum file kept)
	fsfreeze -f "$m" && cbw-check save /dev/mapper/dut "$CBW_TMP/ref"
	snap shot dut "$store" 8 || rc=1
	fsfreeze -u "$m"
	rm "$m/file" && sync -f "$m" && fstrim "$m" || rc=1
	head -c 4M /dev/zero >"$m/other" && sync -f "$m" || rc=1
	cbw-check compare "$CBW_TMP/ref" /dev/mapper/shot || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	umount "$m" || rc=1
	mount -o ro,noload /dev/mapper/shot "$m" || return
	(cd "$m" && md5sum -c --quiet) <<<"$sums" || rc=1
	umount "$m" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "rm and fstrim under a snapshot" fstrim_under_snapshot

# A discard of everything takes memory and store, overflows and kills the snapshot.
huge_discard()
{
	local rc=0 before after

	fill dut && dm_create tiny "0 512 linear $store 0" &&
		snap shot dut /dev/mapper/tiny 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 64K --gen 9 || rc=1
	before=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
	blkdiscard /dev/mapper/dut || rc=1
	after=$(awk '/^MemAvailable/ { print $2 }' /proc/meminfo)
	((before - after < 4096)) || { echo "the discard took $((before - after)) KiB"; rc=1; }
	expect "chunks in the store" "$(snap_get shot used)" 16 || rc=1
	snap_is shot state active || { dmsetup status shot; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	# what was preserved has been discarded, the rest is as it was
	at /dev/mapper/dut 0 zeros || rc=1
	at /dev/mapper/dut 1M "*gen=$BASE_GEN *" || rc=1
	dm_remove shot && dm_remove tiny || rc=1
	return $rc
}
t "a discard of everything, a small store" huge_discard

# Discards do not inflate an increment where they are not passed down, and are
# recorded where they are.
discard_marks()
{
	local rc=0

	fill dut && msg dut bitmap_add b granularity 4096 || return
	snap shot dut "$store" 8 || return
	blkdiscard -o 0 -l $((1 << 20)) /dev/mapper/dut || rc=1
	expect "dirty bytes, not passed down" "$(bitmap_get dut b dirty)" 0 || rc=1
	dm_remove shot || rc=1
	blkdiscard -o 0 -l $((1 << 20)) /dev/mapper/dut || rc=1
	expect "dirty bytes, passed down" "$(bitmap_get dut b dirty)" $((1 << 20)) || rc=1
	msg dut bitmap_remove b || rc=1
	return $rc
}
t "discards and increments" discard_marks

# NOWAIT writes get EAGAIN as long as there is a snapshot.
nowait()
{
	local rc=0 out

	fill dut || return
	out=$(cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 9 --nowait)
	[[ $out != EOPNOTSUPP* ]] || { wrong "the device does not take NOWAIT"; return; }
	snap shot dut "$store" 8 || return
	# nothing is preserved yet: it would have to wait
	out=$(cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 9 --nowait)
	[[ $out == EAGAIN* ]] || { wrong "a first write says '$out'"; rc=1; }
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 9 || rc=1
	out=$(cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen 9 --nowait)
	[[ $out == ok* ]] || { wrong "a write to a preserved chunk says '$out'"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "NOWAIT" nowait

# A limit larger than the store: writes past its end.
past_the_end()
{
	local rc=0 size=2040		# 15 chunks, and a rest that cannot be used

	cbw-load fill "$store" --gen 77 || return
	dm_create part "0 $size linear $store 0" &&
		dm_create rest "0 $(($(sectors "$store") - size)) linear $store $size" || return
	cbw-check save /dev/mapper/rest "$CBW_TMP/rest" || return
	fill dut && snap shot dut /dev/mapper/part 128 || return
	expect "capacity" "$(snap_get shot capacity)" 15 || rc=1
	# as much as there is room for, then one more
	cbw-load one /dev/mapper/dut --offset 0 --len 960K --gen 9 || rc=1
	nap 0.3
	snap_is shot state active || { dmsetup status shot; rc=1; }
	cbw-load one /dev/mapper/dut --offset 16M --len 4096 --gen 9 || rc=1
	snap_failed shot store-full || rc=1
	cbw-check compare "$CBW_TMP/rest" /dev/mapper/rest || rc=1
	dm_remove shot && dm_remove rest && dm_remove part || rc=1
	return $rc
}
t "nothing is written past the store's end" past_the_end

# A snapshot made without suspending an active origin is silently corrupt for
# writes that span chunks.
active_origin()
{
	local i rc=0

	for i in 1 2; do
		fill dut && load_start load dut -- --uring 2:16 --bs 8K:300K || return
		nap 0.2
		before=$(cbw-check mark "$CBW_TMP/load.log")
		snap shot dut "$store" 8 || return
		after=$(cbw-check mark "$CBW_TMP/load.log")
		nap 0.2
		load_stop load || rc=1
		cbw-check order "$CBW_TMP/load.log" /dev/mapper/shot --before "$before" \
			--after "$after" --gen "$BASE_GEN" || rc=1
		dm_remove shot || rc=1
	done
	return $rc
}
t "an active origin is not suspended" active_origin

# Many snapshots, one after the other: changes stay there.
many()
{
	local i rc=0

	fill dut && msg dut bitmap_add b granularity 4096 || return
	cbw-load one /dev/mapper/dut --offset 1M --len 4096 --gen 9 || rc=1
	for ((i = 0; i < count; i++)); do
		snap shot dut "$store" 8 2 bitmap b || return
		at /dev/mapper/shot 1M '*gen=9 *' || { echo "round $i"; return 1; }
		at /dev/mapper/shot 2M ENODATA || { echo "round $i"; return 1; }
		dm_remove shot || return
	done
	expect "dirty bytes" "$(bitmap_get dut b dirty)" 4096 || rc=1
	msg dut bitmap_remove b || rc=1
	return $rc
}
t "$count snapshots, one after the other" many
finish
