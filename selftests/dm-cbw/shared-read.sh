#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# What a write makes several snapshots copy is read once, and each of them has it, whatever
# becomes of it in the others.
#
#	shared-read.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin debug
seed "${1-}"
modprobe dm-delay
nullb origin 4 512
for i in 1 2 3; do
	nullb store$i 4 512
done
stores=("$store1" "$store2" "$store3")
# the last chunk is a short one
len=$(($(sectors "$origin") - 3))
t "make the device" cbw dut "$origin" $len
# Sectors 1024 to 1031 cannot be read.
t "make an origin with a hole" dm_create hole "0 1024 linear $origin 0
1024 8 error
1032 $((len - 1032)) linear $origin 1032"
t "make it take writes" dm_create holes "0 $len delay /dev/mapper/hole 0 0 $origin 0 0"
keep

# snaps CHUNK...: one, two or three, called s1 and so on
snaps()
{
	local n=0 c

	for c; do
		snap s$((n + 1)) dut "${stores[n]}" $c || return
		n=$((n + 1))
	done
}

none()
{
	local s rc=0

	for s in s1 s2 s3; do
		[[ ! -e /dev/mapper/$s ]] || dm_remove $s || rc=1
	done
	return $rc
}

one()
{
	cbw-load one /dev/mapper/dut --offset "$1" --len "$2" --gen "${3:-90}"
}

release()
{
	cbw-ioctl release /dev/mapper/$1 "$(snap_get $1 cut)" "$2+$3" || wrong "release $*"
}

# reads N COMMAND...: of the origin, by this command
reads()
{
	local want=$1 before

	shift
	before=$(io_stat "$origin" reads)
	"$@" || return
	expect "reads of the origin by '$*'" $(($(io_stat "$origin" reads) - before)) $want
}

# base SNAPSHOT OFFSET: has what was there at the cut
base()
{
	at /dev/mapper/$1 $2 "*gen=$BASE_GEN *" || wrong "$1 at $2"
}

one_read()
{
	local rc=0 s

	fill dut && snaps 8 8 8 || return
	reads 1 one 64K 4K || rc=1
	reads 1 one 128K 64K || rc=1
	# a range that begins and ends within chunks
	reads 1 one 327168 8192 || rc=1
	# up to the short chunk
	reads 1 one $(((len - 16) * 512)) 8192 || rc=1
	# preserved: nothing is read
	reads 0 one 128K 4K 91 || rc=1
	for s in s1 s2 s3; do
		snap_is $s copied 23 && snap_is $s held 0 || { cbw-dm status $s; rc=1; }
		base $s 64K && base $s 188K && base $s 319K && base $s $(((len - 1) * 512)) || rc=1
	done
	none || rc=1
	return $rc
}
t "three snapshots, one read" one_read

# What only one of them needs, and runs of different lengths, are read for each.
different_needs()
{
	local rc=0 s

	fill dut && snaps 8 || return
	one 64K 4K || rc=1
	snap s2 dut "$store2" 8 && snap s3 dut "$store3" 128 || return
	# s1 has it; s3 copies 64 KiB around it
	reads 2 one 64K 4K 91 || rc=1
	# s1 and s2 share, s3 has read it ahead of need
	reads 1 one 88K 4K 91 || rc=1
	reads 2 one 256K 4K 91 || rc=1
	# all of a chunk of s3
	reads 1 one 512K 64K 91 || rc=1
	base s1 64K && base s1 88K && base s1 256K && base s1 572K || rc=1
	at /dev/mapper/s2 64K "*gen=90 *" && at /dev/mapper/s3 64K "*gen=90 *" || rc=1
	for s in s2 s3; do
		base $s 88K && base $s 256K && base $s 572K || rc=1
	done
	none || rc=1
	return $rc
}
t "different needs" different_needs

# When the read has ended, and before anybody knows, the reader of one of them releases
# chunks: the others do not notice.
released()
{
	local rc=0 s other

	for s in s1 s2 s3; do
		fill dut && snaps 8 8 8 || return
		# the read has ended, nobody has been told
		hook arm copy-read count 3 timeout_ms 20000
		bg W one 64K 16K
		hook_wait copy-read 3 || return
		release $s 65536 8192 || rc=1
		bg_alive W || { echo "it went with $s alone"; rc=1; }
		hook release copy-read
		bg_wait W 3 || rc=1
		at /dev/mapper/$s 64K ENODATA && base $s 72K || rc=1
		for other in s1 s2 s3; do
			[[ $other == "$s" ]] || { base $other 64K && base $other 76K; } || rc=1
		done
		none || rc=1
	done
	return $rc
}
t "released by one of them" released

# With one of them, which is the first that it waits for.
held()
{
	snap_is s1 held 1 || snap_is s2 held 1 || snap_is s3 held 1
}

# The release comes before the read ends: where the data was to go there is none to be had.
released_before()
{
	local rc=0 s other

	dm_create slow "0 $len delay $origin 0 300 $origin 0 0" || return
	for s in s1 s2 s3; do
		fill dut && dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw /dev/mapper/slow" &&
			dm_resume dut && snaps 8 8 8 || return
		bg W one 64K 16K
		until_true 5 held || { wrong "nothing is held"; return; }
		release $s 65536 16384 || rc=1
		bg_wait W 3 || rc=1
		on_again || rc=1
		at /dev/mapper/$s 64K ENODATA && at /dev/mapper/$s 76K ENODATA || rc=1
		until_true 3 snap_is $s used 0 || { cbw-dm status $s; rc=1; }
		for other in s1 s2 s3; do
			[[ $other == "$s" ]] || { base $other 64K && base $other 76K; } || rc=1
		done
		none || rc=1
	done
	dm_remove slow || rc=1
	return $rc
}

on_again()
{
	dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut
}
t "released by one of them before the read ends" released_before

poisoned()
{
	cbw-ioctl snapinfo /dev/mapper/$1 | tr ' ' '\n' | sed -n 's/^poisoned=//p'
}

# A read that fails is no longer shared: each looks for itself what it has lost.
failed_read()
{
	local rc=0 s

	fill dut && dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw /dev/mapper/holes" &&
		dm_resume dut && snaps 8 8 8 || return
	one 504K 24K || rc=1
	on_again || rc=1
	for s in s1 s2 s3; do
		snap_is $s copied 5 || { cbw-dm status $s; rc=1; }
		expect "chunks that $s has lost" "$(poisoned $s)" 1 || rc=1
		base $s 504K && base $s 508K && base $s 524K && at /dev/mapper/$s 512K EIO || rc=1
	done
	none || rc=1
	return $rc
}
t "a read that fails" failed_read

# Everything at once: three snapshots of different ages under load.
under_load()
{
	local rc=0 s

	fill dut || return
	load_start load dut -- --uring 1:16 --bs 512:64K || return
	for s in 1 2 3; do
		snap s$s dut "${stores[s - 1]}" 8 && cbw-check save /dev/mapper/s$s "$CBW_TMP/ref$s" || rc=1
		nap 0.2
	done
	load_stop load || rc=1
	for s in 1 2 3; do
		cbw-check compare "$CBW_TMP/ref$s" /dev/mapper/s$s || { echo "s$s"; rc=1; }
		snap_is s$s state '@(active|drained)' || { cbw-dm status s$s; rc=1; }
	done
	rm -f "$CBW_TMP"/ref?
	none || rc=1
	return $rc
}
t "under load" under_load
finish
