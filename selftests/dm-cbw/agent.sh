#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 80
# long
#
# The agent of the documentation (Documentation/examples/agent.c), built against an
# installed libcbw: full, incremental, after failures, after its death.
#
#	agent.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
M=/dev/mapper
nullb origin 16 512
nullb store 16 512
# neither a multiple of a granule nor of a chunk
len=$(($(sectors "$origin") - 37))
t "make the device" cbw dut "$origin" $len
export LD_LIBRARY_PATH=${CBW_BUILD:-$CBW_TOP/build}/selftests/dm-cbw/root/usr/local/lib
# a file system of its own, so that it can be full
mkdir "$CBW_TMP/to" && mount -t tmpfs -o size=48M tmpfs "$CBW_TMP/to" || { ktap_fail "mount"; finish; }
IMG=$CBW_TMP/to/image

short()
{
	local n

	n=$(wc -l <"$CBW_TOP/Documentation/examples/agent.c")
	((n < 100)) || wrong "it has $n lines"
}
t "it is short" short

run()
{
	agent dut "$store" "$IMG"
}

some()
{
	local i

	for i in {1..6}; do
		cbw-load one $M/dut --offset $((RANDOM % 4000 * 4096)) --len 8K --gen $((++GEN)) || return
	done
}

# The image is the volume, and a new cut is the base, of which the image knows.
same()
{
	local rc=0 id

	cmp "$IMG" $M/dut || rc=1
	id=$(od -An -v -tx1 "$IMG.cut" | tr -d ' \n')
	expect "base" "$(bitmap_get dut agent base)" "$id" || rc=1
	[[ $id != "${1-}" ]] || { echo "the same cut again"; rc=1; }
	expect "dirty" "$(bitmap_get dut agent dirty)" 0 || rc=1
	! dmsetup ls --target cbw-snapshot | grep -v '^No devices' || { echo "is left"; rc=1; }
	return $rc
}

full()
{
	fill dut && run && same
}
t "full" full

# The image gets a byte that the volume does not have: it stays if it is not copied.
marked()
{
	printf x | dd of="$IMG" bs=1 seek=1048576 conv=notrunc status=none
}

still_marked()
{
	[[ $(dd if="$IMG" bs=1 skip=1048576 count=1 status=none) == x ]] || { wrong "it was copied again"; return; }
	dd if=$M/dut of="$IMG" bs=4096 skip=256 seek=256 count=1 conv=notrunc status=none
}

incremental()
{
	local before

	before=$(bitmap_get dut agent base)
	some && run && same "$before" || return
	before=$(bitmap_get dut agent base)
	cbw-load one $M/dut --offset 2M --len 4K --gen $((++GEN)) && marked && run && still_marked &&
		same "$before"
}
t "incremental" incremental
t "nothing has changed" eval 'run && same'

# The target takes no more than 4 MiB: what it has need not be copied again.
target_fails()
{
	local rc=0 before dirty

	before=$(bitmap_get dut agent base)
	fill dut || return
	(trap '' XFSZ; ulimit -f 4096; run) && { echo "it did not fail"; rc=1; }
	dirty=$(bitmap_get dut agent dirty)
	expect "dirty" "$dirty" $((len * 512 - 4194304)) || rc=1
	[[ $(bitmap_get dut agent base) != "$before" ]] || { echo "the base is the same"; rc=1; }
	marked && run && still_marked && same "$before" || rc=1
	return $rc
}
t "the target fails" target_fails

# The store is full at once under a load: the snapshot fails, the volume goes on.
store_fails()
{
	local rc=0

	fill dut && dm_create tiny "0 64 linear $store 0" || return
	load_start load dut -- --uring 2:8 --bs 4096:4096 || return
	agent dut $M/tiny "$IMG" && { echo "it did not fail"; rc=1; }
	load_stop load || rc=1
	[[ $(bitmap_get dut agent flags) == e ]] || { echo "flags"; rc=1; }
	dm_remove tiny || rc=1
	run && same || rc=1
	return $rc
}
t "the store is full" store_fails

idle()
{
	[[ $(bitmap_get dut agent flags) == e ]]
}

frozen()
{
	[[ $(bitmap_get dut agent flags) == eb ]]
}

# Wherever it is killed: nothing stays frozen, and the next one makes it good.
killed()
{
	local rc=0 after dead=0

	for after in '' 0.01 0.1 0.2 0.4; do
		fill dut || return
		bg A agent dut "$store" "$IMG"
		# once before the cut, or about there; else later
		[[ -z $after ]] || until_true 10 frozen || { echo "it made no cut"; rc=1; }
		nap ${after:-0.05}
		kill -KILL "${BG[A]}" 2>/dev/null
		until_true 10 bg_ended A || { echo "it cannot be killed"; rc=1; }
		bg_wait A 5 >/dev/null || dead=$((dead + 1))
		until_true 5 idle || { echo "after $after s: flags $(bitmap_get dut agent flags)"; rc=1; }
		some && run && same || { echo "after $after s"; rc=1; }
	done
	((dead >= 2)) || { echo "it was killed $dead times only"; rc=1; }
	return $rc
}
t "it is killed" killed

# Another image, and then the first one again: no increment is right.
two_images()
{
	some && agent dut "$store" "$IMG.2" && cmp "$IMG.2" $M/dut && rm "$IMG.2" && some && run && same
}
t "two images in turn" two_images

# Nobody knows what was written while there was no table.
no_table()
{
	dm_remove dut && cbw-load one "$origin" --offset 3M --len 64K --gen $((++GEN)) &&
		cbw dut "$origin" $len && run && same
}
t "a time without a table" no_table

refused_usage()
{
	local rc=0

	agent dut "$IMG" "$IMG"
	expect "status, a file as a store" $? 2 || rc=1
	agent dut "$store" 2>"$CBW_TMP/err"
	expect "status, too few" $? 2 || rc=1
	agent "$origin" "$store" "$IMG" 2>"$CBW_TMP/err" && { echo "on what is not tracked"; rc=1; }
	[[ -s $CBW_TMP/err ]] || { echo "it says nothing"; rc=1; }
	return $rc
}
t "what is refused" refused_usage

umount "$CBW_TMP/to"
finish
