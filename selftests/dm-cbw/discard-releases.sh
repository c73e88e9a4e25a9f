#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# discard_releases: a discard of the snapshot's device releases the chunks it covers
# whole; nothing else can be written there. Without it a discard is refused, so that an
# fstrim of the mounted snapshot destroys nothing.
#
#	discard-releases.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
seed "${1-}"
S=/dev/mapper/shot

one()
{
	cbw-load one "/dev/mapper/$1" --offset "$2" --len "$3" --gen "$4" "${@:5}"
}

# trim OFFSET LENGTH
trim()
{
	one shot "$1" "$2" 0 --op discard
}

dev_of()
{
	stat -L -c '%Hr:%Lr' "$1"
}

# limit NAME: of the snapshot's queue
limit()
{
	local n

	n=$(dev_of $S) && echo "$(<"/sys/dev/block/$n/queue/$1")"
}

# counts RELEASED USED: chunks
counts()
{
	[[ $(snap_get shot released) == "$1" && $(snap_get shot used) == "$2" ]] ||
		wrong "expected $1 released, $2 in the store: $(dmsetup status shot)"
}

nullb origin 4 512
nullb store 6 512
t "make the device" cbw dut "$origin"
keep
chunks=$(($(sectors "$origin") / 8))

without_it()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 read_once || return
	expect "read-only" "$(blockdev --getro $S)" 1 || rc=1
	expect "discard_max_bytes" "$(limit discard_max_bytes)" 0 || rc=1
	refused 'EOPNOTSUPP|EPERM|EROFS|EACCES' trim 0 64K || rc=1
	counts 0 0 && at $S 0 "*gen=$BASE_GEN *" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "without it a discard is refused" without_it

releases()
{
	local chunk=$1 rc=0 c=$(($1 * 512)) nr=$(($(sectors "$origin") / $1))

	fill dut && snap shot dut "$store" "$chunk" 1 discard_releases || return
	expect "read-only" "$(blockdev --getro $S)" 0 || rc=1
	expect "granularity" "$(limit discard_granularity)" $c || rc=1
	(($(limit discard_max_bytes) >= c && $(limit discard_max_bytes) % c == 0)) ||
		{ wrong "discard_max_bytes is $(limit discard_max_bytes)"; rc=1; }
	expect "write_zeroes_max_bytes" "$(limit write_zeroes_max_bytes)" 0 || rc=1
	one dut 0 $((8 * c)) 101 || return
	nap 0.3
	counts 0 8 || rc=1
	trim 0 $((c - 512)) && counts 0 8 || rc=1		# less than a chunk
	trim 512 $((2 * c - 1024)) && counts 0 8 || rc=1	# parts of two
	trim $((c / 2)) $((2 * c)) && counts 1 7 || rc=1	# one, and parts of two
	at $S $c ENODATA && at $S 0 "*gen=$BASE_GEN *" && at $S $((2 * c)) "*gen=$BASE_GEN *" || rc=1
	trim 0 $((8 * c)) && counts 8 0 || rc=1
	trim 0 $((8 * c)) && counts 8 0 || rc=1			# again
	trim $((16 * c)) $((4 * c)) && counts 12 0 || rc=1	# never overwritten
	one dut $((16 * c)) $((4 * c)) 102 && expect copied "$(snap_get shot copied)" 8 || rc=1
	at $S $((20 * c)) "*gen=$BASE_GEN *" || rc=1
	blkdiscard -f $S || rc=1
	counts $nr 0 && expect needed "$(snap_get shot needed)" 0 || rc=1
	until_true 5 snap_is shot state drained || rc=1
	at $S $((20 * c)) ENODATA || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "releases whole chunks, 4 KiB" releases 8
t "releases whole chunks, 64 KiB" releases 128

short_chunk()
{
	local rc=0 len=8191

	dm_create cut "0 $len linear $origin 0" && cbw sdut /dev/mapper/cut || return
	fill sdut && snap shot sdut "$store" 128 1 discard_releases || return
	one sdut $((len - 3))s 1536 101 || return
	trim $((len - 127))s $((126 * 512)) && counts 0 1 || rc=1
	trim $((len - 127))s $((127 * 512)) && counts 1 0 || rc=1
	at $S $((len - 1))s ENODATA || rc=1
	dm_remove shot && dm_remove sdut && dm_remove cut || rc=1
	return $rc
}
t "a short last chunk" short_chunk

# Its data is read-only all the same.
nothing_else()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 discard_releases || return
	refused 'EIO|EROFS|EPERM' one shot 0 4096 77 || rc=1
	refused 'EIO|EROFS|EPERM|EOPNOTSUPP' one shot 64K 64K 77 --op zero || rc=1
	if blkdiscard -f --secure -l 64K $S; then
		wrong "a secure erase was accepted"
		rc=1
	fi
	counts 0 0 && snap_is shot state active || rc=1
	cbw-check verify $S --gen "$BASE_GEN" || rc=1
	cbw-check verify /dev/mapper/dut --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "it cannot be written, zeroed or erased" nothing_else

# Before the cut, and when the snapshot is lost, there is nothing to release.
wrong_state()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 2 armed discard_releases || return
	refused EIO trim 0 64K || rc=1
	counts 0 0 || rc=1
	dm_remove shot || rc=1
	dm_create tiny "0 64 linear $store 0" && snap shot dut /dev/mapper/tiny 8 1 discard_releases || return
	one dut 0 1M 101 || rc=1
	snap_failed shot store-full || rc=1
	refused EIO trim 2M 64K || rc=1
	dm_remove shot && dm_remove tiny || rc=1
	return $rc
}
t "armed or failed: an error" wrong_state

# W is held for a copy of a chunk that is discarded: it goes at once.
cancel()
{
	local rc=0

	fill dut && snap shot dut "$store" 8 1 discard_releases || return
	hook arm copy-read sector 0 timeout_ms 20000
	bg W one dut 0 4096 101
	hook_wait copy-read || return
	trim 0 1M || rc=1
	until_true 3 bg_ended W || { broken "the write waits for a copy that was released"; rc=$?; }
	expect "copies stopped" "$(hook_get copy-read stopped)" 1 || return
	hook release copy-read
	bg_wait W 10 || return
	nap 0.2
	at $S 0 ENODATA && counts 256 0 && snap_is shot state active || { broken "late effect"; rc=$?; }
	dm_remove shot || return
	return $rc
}
hazard 5 "a copy in flight is cancelled" cancel

# Load on the source, discards on the snapshot, readers: who reads gets the pre-image or
# ENODATA, and what was not discarded is all there.
under_load()
{
	local rc=0 i off

	fill dut && cbw-check save /dev/mapper/dut "$CBW_TMP/ref" || return
	cp "$CBW_TMP/ref" "$CBW_TMP/copy" || return
	snap shot dut "$store" 8 1 discard_releases || return
	load_start load dut -- --uring 2:15 --sync 2 --mix 4:1:1 --bs 512:64K || return
	bg R cbw-check overlay "$CBW_TMP/copy" $S --chunk 4096
	RANDOM=$((SEED % 32768))
	for ((i = 0; i < 24; i++)); do
		off=$((RANDOM % 504))		# of the first 2 MiB, in chunks
		trim $((off * 4096)) $(((RANDOM % 8 + 1) * 4096)) || rc=1
	done
	bg_wait R 60 || rc=1
	load_stop load || rc=1
	cbw-check verify "$CBW_TMP/copy" --gen "$BASE_GEN" || rc=1
	cp "$CBW_TMP/ref" "$CBW_TMP/copy" || rc=1
	cbw-check overlay "$CBW_TMP/copy" $S --chunk 4096 --extents-out "$CBW_TMP/ext" || rc=1
	cbw-check verify "$CBW_TMP/copy" --gen "$BASE_GEN" || rc=1
	# the second half was not touched
	grep -q " 2097152 \|^[0-9]* 2[0-9]*$" "$CBW_TMP/ext" &&
		cbw-check at $S 2M 4096 >"$CBW_TMP/half" || { echo "the other half cannot be read"; rc=1; }
	expect "readable bytes" "$(awk '{ n += $2 } END { print n }' "$CBW_TMP/ext")" \
		$(((chunks - $(snap_get shot released)) * 4096)) || rc=1
	(($(snap_get shot released) > 24)) || { echo "little was released"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "under load" under_load

# An fstrim of the mounted snapshot: with the feature what is free is released, and the
# files are there; without it nothing happens.
fs_trim()
{
	local rc=0 sum

	mkdir -p "$CBW_TMP/mnt"
	mkfs.ext4 -q -b 4096 -E nodiscard /dev/mapper/fdut && mount /dev/mapper/fdut "$CBW_TMP/mnt" || return
	dd if=/dev/urandom of="$CBW_TMP/mnt/file" bs=1M count=3 status=none || rc=1
	umount "$CBW_TMP/mnt" || return
	sum=$(dd if=/dev/mapper/fdut bs=1M iflag=direct status=none | md5sum)
	snap shot fdut "$store" 8 && mount -o ro $S "$CBW_TMP/mnt" || return
	! fstrim "$CBW_TMP/mnt" || { wrong "fstrim was accepted"; rc=1; }
	umount "$CBW_TMP/mnt" || return
	counts 0 0 || rc=1
	expect "the snapshot" "$(dd if=$S bs=1M iflag=direct status=none | md5sum)" "$sum" || rc=1
	dm_remove shot || return
	snap shot fdut "$store" 8 1 discard_releases && mount -o ro $S "$CBW_TMP/mnt" || return
	sum=$(md5sum <"$CBW_TMP/mnt/file")
	fstrim "$CBW_TMP/mnt" || rc=1
	umount "$CBW_TMP/mnt" || return
	(($(snap_get shot released) > 1000)) || { wrong "$(dmsetup status shot)"; rc=1; }
	mount -o ro $S "$CBW_TMP/mnt" || return
	expect "the file" "$(md5sum <"$CBW_TMP/mnt/file")" "$sum" || rc=1
	umount "$CBW_TMP/mnt" || return
	dm_remove shot || rc=1
	return $rc
}
nullb forigin 16 512
modprobe -q ext4
t "make a device for a file system" cbw fdut "$forigin"
keep
t "fstrim of the mounted snapshot" fs_trim
finish
