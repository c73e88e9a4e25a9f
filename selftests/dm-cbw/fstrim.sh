#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# Discards under a snapshot, up to an fstrim of a file system of 10 GiB with a store of
# 64 MiB: the store does not fill, what the snapshot has does not change, and what
# nobody needs is passed down.
#
#	fstrim.sh [MIB]		size of the file systems; default 10240
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
mib=${1:-10240}
modprobe -a ext4 xfs
nullb origin 4 512
nullb store 64 512
t "make the device" cbw dut "$origin"
keep

info()
{
	cbw-ioctl snapinfo /dev/mapper/$1 | tr ' ' '\n' | sed -n "s/^$2=//p"
}

discard()
{
	cbw-load one /dev/mapper/dut --op discard --offset "$1" --len "$2"
}

# ---- what is passed down, to the byte ------------------------------------------------

# discards COMMAND...: the sectors that reach the origin are in $down
discards()
{
	local before

	before=$(io_stat "$origin" discarded)
	"$@" || return
	down=$(($(io_stat "$origin" discarded) - before))
}

nothing_needed()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 1M --gen 9 &&
		cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" $((1 << 20))+$((1 << 20)) || rc=1
	# preserved and released, in one piece
	discards discard 0 2M || rc=1
	expect "sectors passed down" $down 4096 || rc=1
	expect "bytes not passed down" "$(info shot discards_deferred)" 0 || rc=1
	at /dev/mapper/dut 0 zeros && at /dev/mapper/dut 1M zeros && at /dev/mapper/dut 2044K zeros || rc=1
	at /dev/mapper/shot 1020K "*gen=$BASE_GEN *" && at /dev/mapper/shot 1M ENODATA || rc=1
	dm_remove shot || rc=1
	# no snapshot at all
	discards discard 2M 2M || rc=1
	expect "sectors passed down" $down 4096 || rc=1
	return $rc
}
t "where nothing is needed they are passed down" nothing_needed

partly_needed()
{
	local rc=0 i

	fill dut && msg dut bitmap_add b granularity 4096 && snap shot dut "$store" 8 || return
	# 0 to 64K preserved, 256K to 320K released, 1020K to 1M preserved
	cbw-load one /dev/mapper/dut --offset 0 --len 64K --gen 9 &&
		cbw-load one /dev/mapper/dut --offset 1020K --len 4096 --gen 9 &&
		cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" $((256 << 10))+$((64 << 10)) || rc=1
	msg dut bitmap_clear b || rc=1
	used=$(snap_get shot used)
	discards discard 0 4M || rc=1
	expect "sectors passed down" $down $((132 * 2)) || rc=1
	expect "bytes not passed down" "$(info shot discards_deferred)" $(((4096 - 132) << 10)) || rc=1
	expect "dirty bytes" "$(bitmap_get dut b dirty)" $((132 << 10)) || rc=1
	expect "chunks in the store" "$(snap_get shot used)" "$used" || rc=1
	for i in 0 60 256 316 1020; do
		at /dev/mapper/dut ${i}K zeros || rc=1
	done
	for i in 64 252 320 1016 1024 4092; do
		at /dev/mapper/dut ${i}K "*gen=$BASE_GEN *" || rc=1
	done
	for i in 0 64 252 320 1020 4092; do
		at /dev/mapper/shot ${i}K "*gen=$BASE_GEN *" || rc=1
	done
	# whatever is not whole chunks: nothing of a needed one
	discards cbw-load one /dev/mapper/dut --op discard --offset $((127))s --len 1024 || rc=1
	expect "sectors passed down at a border" $down 1 || rc=1
	at /dev/mapper/dut 64K "*gen=$BASE_GEN *" || rc=1
	dm_remove shot && msg dut bitmap_remove b || rc=1
	return $rc
}
t "where a part is needed they are split" partly_needed

# What one of two snapshots needs is not passed down.
two_snapshots()
{
	local rc=0

	dm_create first "0 8192 linear $store 0" && dm_create second "0 8192 linear $store 8192" || return
	fill dut && snap shot dut /dev/mapper/first 8 || return
	cbw-load one /dev/mapper/dut --offset 0 --len 1M --gen 9 || rc=1
	snap shotb dut /dev/mapper/second 8 || return
	cbw-load one /dev/mapper/dut --offset 512K --len 256K --gen 10 || rc=1
	discards discard 0 4M || rc=1
	expect "sectors passed down" $down 512 || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	at /dev/mapper/shotb 512K '*gen=9 *' && at /dev/mapper/shotb 0 '*gen=9 *' &&
		at /dev/mapper/shotb 1M "*gen=$BASE_GEN *" || rc=1
	dm_remove shot && dm_remove shotb && dm_remove first && dm_remove second || rc=1
	return $rc
}
t "two snapshots" two_snapshots

# ---- a file system --------------------------------------------------------------------

# What was ever written, as `offset length`: all else reads as zeroes.
extents()
{
	cbw-ioctl extents /dev/mapper/big all | sed -n 's/^\([0-9]* [0-9]*\).*/\1/p'
}

# same WHAT DEVICE: as it was at the cut
same()
{
	cbw-probe sum "$2" "$CBW_TMP/extents" >"$CBW_TMP/sums" &&
		cmp -s "$CBW_TMP/sums" "$CBW_TMP/sums.cut" && return
	diff "$CBW_TMP/sums.cut" "$CBW_TMP/sums" | head -n 5
	wrong "$1: the snapshot has changed"
}

# files DIRECTORY...: of data that is no zeroes, nowhere the same
files()
{
	local d i

	for d in "$@"; do
		mkdir "$m/$d" || return
		for i in 1 2 3 4; do
			truncate -s 1M "$m/$d/$i" && cbw-load fill "$m/$d/$i" --gen $i --index ${#d} || return
		done
	done
}

# a file system COMMAND..., then its mount options for a snapshot
trim()
{
	local rc=0 options=$1 used trimmed before after written m=$CBW_TMP/mnt

	shift
	mkdir -p "$m"
	cbw big "$big" && msg big bitmap_add all granularity 65536 || return
	"$@" /dev/mapper/big && mount ${mount_new:+-o $mount_new} /dev/mapper/big "$m" || return
	files old kept gone || { echo "no files"; rc=1; }
	sync -f "$m"
	rm -r "$m/old"			# before the cut: free, and needed all the same
	sync -f "$m"
	sums=$(cd "$m" && md5sum kept/* gone/*)
	fsfreeze -f "$m"
	extents >"$CBW_TMP/extents"
	(($(awk '{ s += $2 } END { print s }' "$CBW_TMP/extents") > 12 << 20)) || { echo "what was written is not known"; rc=1; }
	cbw-probe sum /dev/mapper/big "$CBW_TMP/extents" >"$CBW_TMP/sums.cut" || rc=1
	msg big bitmap_add since granularity 65536
	snap shot big "$store" 8 || rc=1
	fsfreeze -u "$m"

	rm -r "$m/gone" && sync -f "$m" || rc=1
	nap 0.5
	used=$(snap_get shot used)
	before=$(bitmap_get big since dirty)
	written=$(io_stat /dev/mapper/big written)
	trimmed=$(fstrim -v "$m" | sed 's/.*(\([0-9]*\) bytes.*/\1/') || rc=1
	nap 0.3
	written=$(($(io_stat /dev/mapper/big written) - written))
	after=$(snap_get shot used)
	figure "$* of $mib MiB: $trimmed bytes trimmed, $used chunks in the store before and $after after, $written sectors written meanwhile"
	((trimmed > (mib - 512) << 20)) || { echo "only $trimmed bytes trimmed"; rc=1; }
	# a file system may write of its own accord; a discard takes nothing
	(((after - used) * 8 <= written)) || { echo "the store: $used before, $after after, $written sectors written"; rc=1; }
	(($(bitmap_get big since dirty) - before <= written * 65536)) ||
		{ echo "dirty: $before before, $(bitmap_get big since dirty) after"; rc=1; }
	(($(info shot discards_deferred) >= trimmed - (after << 12))) ||
		{ echo "not passed down: $(info shot discards_deferred) of $trimmed"; rc=1; }
	same "after the fstrim" /dev/mapper/shot || rc=1

	# that room is used again, and trimmed again
	files new && sync -f "$m" && rm -r "$m/new" && sync -f "$m" && fstrim "$m" || rc=1
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	same "after more writing" /dev/mapper/shot || rc=1
	umount "$m" || rc=1
	mount -o "$options" /dev/mapper/shot "$m" || return
	(cd "$m" && md5sum -c --quiet) <<<"$sums" || { echo "the files"; rc=1; }
	umount "$m" || rc=1

	# all is released: now it is passed down
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" 0+$((mib << 20)) || rc=1
	snap_is shot state drained && snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	mount ${mount_new:+-o $mount_new} /dev/mapper/big "$m" || return
	before=$(io_stat "$big" discarded)
	fstrim "$m" || rc=1
	(($(io_stat "$big" discarded) - before > (mib - 512) << 11)) ||
		{ echo "$(($(io_stat "$big" discarded) - before)) sectors passed down"; rc=1; }
	(cd "$m" && md5sum -c --quiet) <<<"$(grep kept <<<"$sums")" || { echo "the file that was kept"; rc=1; }
	umount "$m" || rc=1
	dm_remove shot && dm_remove big || rc=1
	blkdiscard -f "$big" 2>/dev/null || rc=1
	return $rc
}
nullb big $mib 512
mount_new=noinit_itable
t "fstrim of ext4 under a snapshot" trim ro,noload \
	mkfs.ext4 -q -F -m 0 -J size=8 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1
mount_new=
t "fstrim of XFS under a snapshot" trim ro,norecovery,nouuid mkfs.xfs -q -f -K
finish
