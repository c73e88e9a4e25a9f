#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 150
# long
#
# Persistent bitmaps at the ends of their life on a container: what is written around an attach and
# a stop, what meets a resize, and what a container that fails says. Each without its cure, too.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC2120
. "${0%/*}/lib.sh"
. "$here/box.bash"
. "$here/box-fresh.bash"

begin debug
NONE=00000000000000000000000000000000

written()
{
	[[ $(cbw-box state "$box") =~ \ clean\ .*\ written\ ([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
}

# What was written after user space has looked, and before it could have its table, shows in the
# count of a container that is given up: not in it.
given_up()
{
	local w

	fresh && cbw-box detach $D && dm_remove dev && attach_only &&
		cbw-box attach $D "$box" --written 4711 && dm_remove dev && w=$(written) || return
	((w == 4711)) || broken "the count is $w, and was 4711"
}

# The count is another one when it is resumed: what was written is in no bitmap.
slip()
{
	local cut base

	fresh && msg dev bitmap_add b && msg dev bitmap_add off disabled && cbw-box detach $D &&
		dm_remove dev && attach_only && cbw-box attach $D "$box" --written 8 &&
		session_open && cut=$(session transaction rotate:$D:b) && dm_resume dev &&
		session commit $D "${cut#ok }" || return
	session_close
	base=$(box_base $box a)
	[[ $base == "$NONE" ]] || { broken "it has base $base"; return; }
	[[ $(cbw-box info $D) == *" slipped"* ]] || wrong "it says nothing" || return
	expect a "$(box_dirty $box a)" "0 67108864" && expect off "$(box_dirty $box off)" "" || return
	# a cut from before that is a base nevertheless, of a bitmap that has all
	box_sync dev && expect "base of b" "$(box_base $box b)" "${cut#ok }" &&
		expect b "$(box_dirty $box b)" "0 67108864" || return
	# once
	dm_suspend dev && dm_resume dev && cut=$(msg dev bitmap_rotate a) && msg dev bitmap_commit a &&
		dm_suspend dev && dm_resume dev && expect base "$(box_base $box a)" "$cut" &&
		box_sync dev && expect a "$(box_dirty $box a)" ""
}

# A transaction that waits until a base is gone on disk, and fails when it is tried again before
# it comes to that bitmap: the base comes back.
given_up_later()
{
	fresh && msg dev bitmap_add y && hook arm cp-begin || return
	bg txn cbw-ioctl transaction clear:$D:y disable:$D:a
	hook_wait cp-begin || return
	bg rename cbw-ioctl transaction rename:$D:y:z
	until_true 5 bitmap_is dev y flags none && hook release cp-begin && bg_wait rename 10 || return
	! bg_wait txn 10 && grep -q ENOENT "$CBW_TMP/txn.out" && bitmap_is dev a flags ep &&
		box_sync dev || return
	[[ $(box_base $box a) == "$CUT" ]] || broken "the base is gone on the container"
}

resized()
{
	dm_reload dev "0 65536 cbw $origin 2 container $box" && dm_suspend dev && dm_resume dev
}

# The device gets another size while an abort is merging back: what records then has it all before
# the frozen half is gone.
abort_resized()
{
	local cut

	fresh && cut=$(msg dev bitmap_rotate a) && hook arm abort-merge || return
	bg abort cbw-ioctl abort $D "$cut"
	hook_wait abort-merge && hook arm merge-rest && resized && hook release abort-merge &&
		bg_wait abort 10 && one 4194304 && box_sync dev &&
		expect base "$(box_base $box a)" "$CUT" || return
	[[ " $(box_dirty $box a) " == *" 3145728 4096 "* ]] ||
		{ broken "what was merged back is gone from the container"; return; }
	hook release merge-rest
}

# The same for a merge: it is done when what records then has it.
merge_resized()
{
	fresh && msg dev bitmap_add t transient granularity 4096 && msg dev bitmap_disable a &&
		one 5242880 && msg dev bitmap_enable a && hook arm merge || return
	bg merge cbw-ioctl transaction merge:$D:a:t
	hook_wait merge && hook arm merge-rest && resized && hook release merge &&
		hook_wait merge-rest || return
	if ! not_yet 400 bg_ended merge; then
		[[ " $(box_dirty $box a) " == *" 5242880 4096 "* ]] ||
			broken "it is said to be done, and the container does not have it"
		return
	fi
	hook release merge-rest
	bg_wait merge 10 && box_sync dev && [[ " $(box_dirty $box a) " == *" 5242880 4096 "* ]]
}

# It grows while a checkpoint is being written: with the new size goes what is new, all dirty.
checkpoint_resized()
{
	local state

	fresh && resized && box_sync dev && hook arm cp-taken || return
	bg add cbw-ioctl transaction "add:$D:x"
	hook_wait cp-taken && hook arm cp-state || return
	dm_reload dev "0 131072 cbw $origin 2 container $box" && dm_suspend dev || return
	bg resume dm_resume dev
	until_true 5 grown && hook release cp-taken && hook_wait cp-state || return
	state=$(cbw-box state "$box")
	if [[ $state == *" size 67108864 "* && $(box_dirty $box a) != *"33554432 33554432" ]]; then
		hook release cp-state
		bg_wait resume 10
		broken "it has the new size, and is not dirty there"
		return
	fi
	hook release cp-state
	bg_wait resume 10 && bg_wait add 10 && [[ $(box_dirty $box a) == *"33554432 33554432" ]]
}

grown()
{
	[[ $(cbw-ioctl list $D) == *"size=67108864"* ]]
}

# When a stop is over somebody else writes: that is not part of the count, whatever still comes
# to the container.
after_stop()
{
	local w late

	fresh && cbw-box detach $D && dm_suspend dev && w=$(written) && ((w >= 8)) || return
	# the next table, a linear one, runs when the checkpoint of a late change is written
	hook arm cp-begin && dm_reload dev "0 131072 linear $origin 0" || return
	bg mark cbw-ioctl transaction "add:$D:late"
	hook_wait cp-begin || return
	bg resume dm_resume dev
	until_true 5 runs_linear && one 4194304 && one 8388608 && hook release cp-begin &&
		bg_wait resume 10 || return
	bg_wait mark 10
	late=$(written) || return
	dm_remove dev || return
	((late == w)) || broken "the count of the stop was $w and is $late"
}

runs_linear()
{
	[[ $(dmsetup table dev 2>/dev/null) == *linear* && $(dmsetup info -c --noheadings -o suspended dev) == Active ]]
}

unknown()
{
	[[ $(cbw-ioctl list $D) == *ENODEV* ]]
}

# Who changes something when the stop is over is told that it is there, and then it is.
mark_at_end()
{
	fresh && cbw-box detach $D && dm_suspend dev && hook arm cp-begin || return
	bg mark cbw-ioctl mark $D a 20971520+4096
	hook_wait cp-begin || return
	bg remove dmsetup remove --noudevsync dev
	until_true 5 unknown || return
	nap 0.3
	hook release cp-begin
	bg_wait remove 10 && dm_forget dev || return
	bg_wait mark 10 || { broken "it was not written any more"; return; }
	expect dirty "$(box_dirty $box a)" "3145728 4096 20971520 4096" &&
		expect base "$(box_base $box a)" "$CUT" && written
}

# A merge that is still running when the device loses its table is not said to be done.
merge_at_end()
{
	fresh && msg dev bitmap_add t transient granularity 4096 && msg dev bitmap_disable a &&
		one 5242880 && msg dev bitmap_enable a && CUT=$(msg dev bitmap_rotate a) &&
		msg dev bitmap_commit a && hook arm merge || return
	bg merge cbw-ioctl transaction merge:$D:a:t
	hook_wait merge && cbw-box detach $D && dm_remove dev && hook release merge &&
		expect base "$(box_base $box a)" "$CUT" || return
	if bg_wait merge 10; then
		[[ " $(box_dirty $box a) " == *" 5242880 4096 "* ]] ||
			broken "it is said to be done, and the container does not have it"
		return
	fi
	grep -q "error EIO" "$CBW_TMP/merge.out"
}

# over [OPTIONS...]: with an empty bitmap a, its container below a table of its own
over()
{
	if dmsetup info dev >/dev/null 2>&1; then
		dm_remove dev || return
	fi
	dmsetup info boxdev >/dev/null 2>&1 || dm_create boxdev "0 16384 linear $box 0" || return
	box_table "linear $box 0" && blkdiscard -zf "$box" 2>/dev/null &&
		boxed dev "$origin" /dev/mapper/boxdev --region 1048576 "$@" &&
		msg dev bitmap_add a granularity 4096 && box_sync dev
}

box_table()
{
	dm_reload boxdev "0 16384 $1" && swap_box
}

# All but the states gives errors.
box_half()
{
	dm_reload boxdev "0 128 linear $box 0
128 16256 error" && swap_box
}

swap_box()
{
	dm_suspend --noflush --nolockfs boxdev && dm_resume boxdev
}

untracked()
{
	[[ $(cbw-box state "$box") == *" untracked "* ]]
}

# It is said that the container has failed, and checkpoints go on meanwhile.
told_and_checkpoints()
{
	local i

	over && box_half && hook arm fail-told || return
	bg one one 5242880
	hook_wait fail-told && untracked || return
	for i in 1 2; do
		msg dev bitmap_rotate a >/dev/null || return
		bg c$i msg dev bitmap_commit a
		not_yet 300 bg_ended c$i
	done
	untracked || broken "what was said is gone in both slots" || { hook release fail-told; return $BROKEN; }
	hook release fail-told && bg_wait one 10 && bg_wait c1 10 && bg_wait c2 10
}

# While it is said that it has failed, what waits for an intent does not try and try again.
no_rush()
{
	local n

	over && box_half && hook arm fail-told || return
	# a checkpoint fails, not a write of intents
	bg add cbw-ioctl transaction "add:$D:x"
	hook_wait fail-told && hook arm intent-write count 100000 timeout_ms 1 || return
	n=$(hook_get intent-write passed)
	bg two one 20971520
	not_yet 500 bg_ended two || wrong "it did not wait" || return
	n=$(($(hook_get intent-write passed) - n))
	hook release fail-told
	bg_wait add 10 && bg_wait two 10 || return
	echo "$n tries"
	((n <= 2)) || broken "it tried $n times"
}

# A stop that does not happen, and then it fails: whoever takes the device away tells it.
fails_after_stop()
{
	over && cbw-box detach $D && dm_suspend dev && [[ $(cbw-box state "$box") == *" clean "* ]] &&
		box_table error && dm_resume dev && one 5242880 && box_table "linear $box 0" &&
		dm_remove dev || return
	untracked || broken "$(cbw-box state "$box")"
}

# It fails before its device is live, and works again when that is resumed.
fails_before()
{
	over && dm_remove dev && attach_only /dev/mapper/boxdev && blkdiscard -zf "$box" 2>/dev/null &&
		cbw-box attach $D /dev/mapper/boxdev && box_table error || return
	cbw-ioctl transaction "add:$D:x"
	[[ $(cbw-box info $D) == *" failed"* ]] || wrong "it has not failed" || return
	box_table "linear $box 0" && dm_resume dev && one 5242880 || return
	untracked || broken "$(cbw-box state "$box")"
}

t "set up" setup
keep
t "the count of one that is given up" given_up
t "the count of one that is given up: taken anew is noticed" unnoticed 23 given_up
hazard 24 "written to before it has its table" slip
hazard 34 "given up after a demotion" given_up_later
t "the count of a stop" after_stop
t "the count of a stop: taken anew is noticed" unnoticed 23 after_stop
hazard 27 "an abort meets a resize" abort_resized
hazard 28 "a merge meets a resize" merge_resized
hazard 29 "a checkpoint meets a resize" checkpoint_resized
hazard 25 "a merge at the end" merge_at_end
hazard 26 "a change at the end" mark_at_end
hazard 30 "checkpoints when it fails" told_and_checkpoints
hazard 33 "no tries in vain" no_rush
hazard 31 "it fails after a stop" fails_after_stop
hazard 32 "it fails before the first resume" fails_before
finish
