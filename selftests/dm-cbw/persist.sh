#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# What the kernel keeps in a container: bits, intents, the state; over a clean stop, and as
# what is there at any time would be recovered.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119
. "${0%/*}/lib.sh"
. "$here/box.bash"

begin
NONE=00000000000000000000000000000000

setup()
{
	nullb origin 64 512 && nullb box 8 512 && nullb store 32 512
}

one()
{
	cbw-load one /dev/mapper/dev --offset "$1" --len "${2:-4096}" "${@:3}"
}

# No layout: the device must not become live.
layout_first()
{
	DM_DEVS+=(dev)
	dmsetup create --noudevsync dev --notable &&
		dm_reload dev "0 131072 cbw $origin 2 container $box" || return
	! dm_resume dev || return
	dmsetup mknodes dev && cbw-box attach /dev/mapper/dev "$box" && dm_resume dev || return
	[[ $(dmsetup table dev) == "0 131072 cbw "*" 2 container "* ]] || return
	dm_remove dev
}

recorded()
{
	blkdiscard -zf "$box" && boxed dev "$origin" "$box" --region 1048576 || return
	msg dev bitmap_add a granularity 65536 && msg dev bitmap_add b granularity 4096 &&
		msg dev bitmap_add t transient && msg dev bitmap_add d disabled || return
	bitmap_is dev a flags ep && bitmap_is dev t flags e && bitmap_is dev d flags p ||
		wrong "$(dmsetup status dev)" || return
	# nothing but an intent is there by now
	one 3145728 && expect regions "$(box_get dev regions)" 1 &&
		expect a "$(box_dirty $box a)" "3145728 1048576" &&
		expect b "$(box_dirty $box b)" "3145728 1048576" || return
	# the second one needs none
	one 3149824 && expect writes "$(box_get dev intent_writes)" 1 || return
	box_sync dev && expect regions "$(box_get dev regions)" 0 &&
		expect a "$(box_dirty $box a)" "3145728 65536" &&
		expect b "$(box_dirty $box b)" "3145728 8192"
}

# Over regions and granules, whole words, a discard.
ranges()
{
	one 1044480 8192 && expect regions "$(box_get dev regions)" 2 || return
	one 8388608 4194304 && one 20971520 1048576 --op discard || return
	box_sync dev || return
	expect a "$(box_dirty $box a)" "983040 131072 3145728 65536 8388608 4194304 20971520 1048576" &&
		expect b "$(box_dirty $box b)" \
			"1044480 8192 3145728 8192 8388608 4194304 20971520 1048576"
}

again()
{
	boxed dev "$origin" "$box"
}

clean_stop()
{
	one 30000128 512 && cbw-box detach /dev/mapper/dev && one 40000512 512 || return
	dm_remove dev || return
	cbw-box state "$box" | grep -q clean || wrong "$(cbw-box state $box)" || return
	again || return
	expect b "$(box_dirty $box b)" \
		"1044480 8192 3145728 8192 8388608 4194304 20971520 1048576 29999104 4096 39997440 4096" ||
		return
	! cbw-box state "$box" | grep -q clean || wrong "in use and clean" || return
	expect t "$(bitmap_get dev t flags)" none
}

# It was announced, and then goes on after all.
cancelled()
{
	cbw-box detach /dev/mapper/dev && dm_suspend dev || return
	cbw-box state "$box" | grep -q clean || wrong "not clean" || return
	dm_resume dev || return
	! cbw-box state "$box" | grep -q clean || wrong "in use and clean" || return
	dm_suspend dev && dm_resume dev || return
	! cbw-box state "$box" | grep -q clean || wrong "in use and clean" || return
	one 45000192 512 && box_sync dev && [[ $(box_dirty $box b) == *" 44998656 4096" ]]
}

unannounced()
{
	dm_remove dev || return
	cbw-box state "$box" | grep -q untracked || wrong "$(cbw-box state $box)" || return
	! boxed dev "$origin" "$box" || wrong "trusted" || return
	dm_remove dev
}

# A commit brings its base; a cut alone changes nothing on disk.
cuts()
{
	local cut

	blkdiscard -zf "$box" && blkdiscard -zf "$origin" &&
		boxed dev "$origin" "$box" --region 1048576 &&
		msg dev bitmap_add a granularity 4096 && one 0 && one 1048576 &&
		cut=$(msg dev bitmap_rotate a) && one 2097152 || return
	expect base "$(box_base $box a)" $NONE &&
		expect a "$(box_dirty $box a)" "0 3145728" && box_sync dev &&
		expect a "$(box_dirty $box a)" "0 4096 1048576 4096 2097152 4096" || return
	msg dev bitmap_commit a && expect base "$(box_base $box a)" "$cut" &&
		box_sync dev && expect a "$(box_dirty $box a)" "2097152 4096" || return
	# an abort: all of it again
	msg dev bitmap_rotate a && one 3145728 && msg dev bitmap_abort a && box_sync dev &&
		expect a "$(box_dirty $box a)" "2097152 4096 3145728 4096" &&
		expect base "$(box_base $box a)" "$cut" || return
	# what happens to a base
	msg dev bitmap_copy c a && expect base "$(box_base $box c)" "$cut" && box_sync dev &&
		expect c "$(box_dirty $box c)" "2097152 4096 3145728 4096" &&
		msg dev bitmap_rename c e && expect base "$(box_base $box e)" "$cut" &&
		expect c "$(box_base $box c)" "" &&
		msg dev bitmap_disable e && expect base "$(box_base $box e)" $NONE &&
		msg dev bitmap_clear a && expect base "$(box_base $box a)" $NONE && box_sync dev &&
		expect a "$(box_dirty $box a)" "" || return
	msg dev bitmap_add f granularity 65536 && msg dev bitmap_merge f e && box_sync dev &&
		expect f "$(box_dirty $box f)" "2097152 65536 3145728 65536" &&
		msg dev bitmap_remove f && expect f "$(box_base $box f)" ""
}

# Another size: the bits behind the old end are dirty, on disk before the first write.
resized()
{
	dm_reload dev "0 65536 cbw $origin 2 container $box" && dm_suspend dev && dm_resume dev ||
		return
	cbw-box state "$box" | grep -q "size 33554432 " || return
	dm_reload dev "0 131072 cbw $origin 2 container $box" && dm_suspend dev &&
		dm_resume dev || return
	expect a "$(box_dirty $box a)" "33554432 33554432" &&
		! dm_reload dev "0 131072 cbw $origin" &&
		cbw-box detach /dev/mapper/dev && dm_remove dev && again &&
		expect a "$(box_dirty $box a)" "33554432 33554432" &&
		cbw-box detach /dev/mapper/dev && dm_remove dev
}

# Thousands of writes at random: what is recovered is never too little.
load()
{
	blkdiscard -zf "$box" && boxed dev "$origin" "$box" --region 262144 || return
	fill dev && cbw-box detach /dev/mapper/dev && dm_remove dev &&
		blockdev --flushbufs "$origin" && cp "$origin" "$CBW_TMP/ref" &&
		blkdiscard -zf "$box" && boxed dev "$origin" "$box" --region 262144 || return
	echo 50 >/sys/module/dm_cbw/parameters/checkpoint_ms
	msg dev bitmap_add a granularity 4096 && msg dev bitmap_add b granularity 65536 &&
		load_start load dev -- --uring 2:16 --mix 8:1:0 --bs 512:65536 --max-iops 400 || return
	nap 2
	load_stop load && cbw-box judge "$box" a "$origin" "$CBW_TMP/ref" &&
		cbw-box judge "$box" b "$origin" "$CBW_TMP/ref" && box_sync dev &&
		expect regions "$(box_get dev regions)" 0 || return
	cbw-box judge "$box" a "$origin" "$CBW_TMP/ref" &&
		cbw-box detach /dev/mapper/dev && dm_remove dev &&
		cbw-box judge "$box" b "$origin" "$CBW_TMP/ref"
}

t "set up" setup
keep
t "not live before the layout was delivered" layout_first
t "an intent, then the bits" recorded
keep
t "ranges over regions" ranges
t "a clean stop" clean_stop
t "a stop that does not happen" cancelled
t "removed without notice: not trusted" unannounced
t "cuts, bases, copies, removal" cuts
keep
t "resized" resized
t "under load, with a checkpoint every 50 ms" load
finish
