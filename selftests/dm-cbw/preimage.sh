#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# A snapshot is the pre-image, whatever is written, zeroed or discarded: chunks
# of 4 and 64 KiB, logical blocks of 512 and 4096 bytes, sizes that are no
# multiple of the chunk, 32 writes in flight. Read twice, the first time under
# load. And a cut under load is consistent: nothing that was acknowledged
# before it is missing, nor anything acknowledged before what is there was
# issued, and nothing is there that was issued after it.
#
#	preimage.sh [SEED [SECONDS]]	seconds per load, default 0.5
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
secs=${2:-0.5}

# against LABEL CHUNK LOAD...: snapshot of the quiet device, then load
against()
{
	local label=$1 chunk=$2 rc=0

	shift 2
	cbw-check save /dev/mapper/dut "$CBW_TMP/ref" || return
	snap shot dut "$store" "$chunk" || return
	load_start "$label" dut -- "$@" || return
	nap "$secs"
	cbw-check compare "$CBW_TMP/ref" /dev/mapper/shot ||
		{ rc=1; echo "under load"; }
	load_stop "$label" || rc=1
	cbw-check compare "$CBW_TMP/ref" /dev/mapper/shot ||
		{ rc=1; echo "after the load"; }
	snap_is shot reason - && snap_is shot held 0 ||
		{ rc=1; dmsetup status shot; }
	# else nothing was tested
	(($(snap_get shot copied) > 0)) || { rc=1; echo "nothing was copied"; }
	dm_remove shot || rc=1
	return $rc
}

cut_under_load()
{
	local chunk=$1 before after rc=0

	shift
	fill dut || return
	load_start order dut -- "$@" || return
	nap "$secs"
	before=$(cbw-check mark "$CBW_TMP/order.log")
	snap shot dut "$store" "$chunk" || return
	after=$(cbw-check mark "$CBW_TMP/order.log")
	cbw-check save /dev/mapper/shot "$CBW_TMP/img" || rc=1
	cbw-check compare "$CBW_TMP/img" /dev/mapper/shot ||
		{ rc=1; echo "second reading"; }
	load_stop order || rc=1
	cbw-check compare "$CBW_TMP/img" /dev/mapper/shot ||
		{ rc=1; echo "reading after the load"; }
	cbw-check order "$CBW_TMP/order.log" "$CBW_TMP/img" \
		--before "$before" --after "$after" --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	return $rc
}

for bs in 512 4096; do
	nullb origin 12 $bs
	nullb store 14 $bs
	# no multiple of either chunk
	len=$(($(sectors "$origin") - (bs == 512 ? 13 : 40)))
	t "$bs-byte blocks: make the device" cbw dut "$origin" $len
	fill dut
	for chunk in 8 128; do
		k="$bs-byte blocks, chunk $((chunk / 2)) KiB"
		t "$k, random writes" \
			against rand $chunk --uring 2:16 --bs 4096:4096
		t "$k, sequential writes" \
			against seq $chunk --uring 2:16 --bs 64K:64K --seq
		t "$k, unaligned multi-chunk writes and discards" \
			against multi $chunk --uring 2:15 --sync 2 --mix 1:0:1 --bs $bs:200K
		t "$k, a cut under load" \
			cut_under_load $chunk --uring 2:15 --sync 2 --mix 2:1:1 --bs $bs:100K
	done
	dm_remove dut
	# a device that has write-zeroes of its own
	loopdev origin 12 $bs
	t "$bs-byte blocks, write-zeroes: make the device" cbw dut "$origin" $len
	fill dut
	for chunk in 8 128; do
		k="$bs-byte blocks, chunk $((chunk / 2)) KiB"
		t "$k, write-zeroes, discards and writes" \
			against zero $chunk --sync 32 --mix 2:2:1 --bs $bs:200K
	done
	dm_remove dut
done
finish
