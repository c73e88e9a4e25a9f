#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
#
# The interleavings that bitmaps in a container have to survive, each of them forced; what is on
# the container at that moment is what a power cut would leave. Each without its cure, too.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119
. "${0%/*}/lib.sh"
. "$here/box.bash"

begin debug
NONE=00000000000000000000000000000000

setup()
{
	nullb origin 64 512 && nullb box 8 512 || return
	# checkpoints are asked for
	echo 600000 >/sys/module/dm_cbw/parameters/checkpoint_ms
}

# A device with bitmap a, of 4 KiB, which has a base, and nothing dirty but what is named.
fresh()
{
	local at

	if dmsetup info dev >/dev/null 2>&1; then
		dm_remove dev || return
	fi
	blkdiscard -zf "$box" 2>/dev/null && boxed dev "$origin" "$box" --region 1048576 &&
		msg dev bitmap_add a granularity 4096 && CUT=$(msg dev bitmap_rotate a) &&
		msg dev bitmap_commit a || return
	for at in "$@"; do
		one "$at" || return
	done
	box_sync dev && expect base "$(box_base $box a)" "$CUT" &&
		expect regions "$(box_get dev regions)" 0
}

one()
{
	cbw-load one /dev/mapper/dev --offset "$1" --len 4096 >/dev/null
}

# on_disk AT [NAME]: would a recovery say that it is dirty?
on_disk()
{
	local off len

	while read -r off len; do
		(($1 >= off && $1 < off + len)) && return
	done < <(cbw-box dirty "$box" "${2:-a}")
	return 1
}

bg_done()
{
	! bg_alive "$1"
}

# The first write waits for its intent; the second one finds nothing set, and waits, too.
second_write()
{
	fresh || return
	hook arm intent-write || return
	bg one one 5242880 && hook_wait intent-write && bg two one 5242880 || return
	if ! not_yet 400 bg_done two; then
		hook release intent-write
		bg_wait one 10
		bg_wait two 10
		on_disk 5242880 || true
		broken "a second write went without an intent"
		return
	fi
	hook release intent-write && bg_wait one 10 && bg_wait two 10 && on_disk 5242880 || return
	# and from then on none waits
	hook arm intent-write && one 5246976 && hook release intent-write
}

# Data lands only where an intent is.
intent_first()
{
	fresh && hook arm intent-write || return
	bg one one 5242880
	not_yet 400 bg_done one
	if bg_done one && ! on_disk 5242880; then
		hook release intent-write
		bg_wait one 10
		broken "data without an intent"
		return
	fi
	hook_wait intent-write && hook release intent-write && bg_wait one 10 && on_disk 5242880
}

# Intents of one block are written one after the other, none takes another's bit away.
one_in_flight()
{
	fresh && hook arm intent-write || return
	bg one one 5242880 && hook_wait intent-write && bg two one 15728640 && bg three one 25165824 &&
		not_yet 200 bg_done two || return
	hook release intent-write && bg_wait one 10 && bg_wait two 10 && bg_wait three 10 || return
	on_disk 5242880 && on_disk 15728640 && on_disk 25165824
}

# It has seen the intent, and sets its bit while a checkpoint retires it.
retired()
{
	fresh && one 5242880 && hook arm intent-seen timeout_ms 5000 || return
	bg one one 5246976 && hook_wait intent-seen || return
	bg sync box_sync dev
	not_yet 400 bg_done sync
	hook release intent-seen
	bg_wait one 10 && bg_wait sync 10 || return
	on_disk 5246976 || broken "the intent was retired, and the bit is not there"
}

# A write in flight at the cut: what it marks at its end must be there before the base is.
marked_again()
{
	local cut rc=0

	# it is dirty already, so it needs no intent
	fresh 5242880 && hook arm map-marked sector $((5242880 / 512)) || return
	bg one one 5242880 && hook_wait map-marked && cut=$(msg dev bitmap_rotate a) || return
	bg commit msg dev bitmap_commit a
	not_yet 400 bg_done commit
	if [[ $(box_base $box a) == "$cut" ]] && ! on_disk 5242880; then
		rc=1
	fi
	hook release map-marked
	bg_wait one 10 && bg_wait commit 10 || return
	((!rc)) || { broken "the state has the new base, and misses what is in flight"; return; }
	expect base "$(box_base $box a)" "$cut" && box_sync dev && on_disk 5242880
}

# While the base is the old one on disk, so is what it needs.
cleared()
{
	local base

	fresh 5242880 && hook arm cp-begin || return
	bg clear msg dev bitmap_clear a
	# the page that has it is written once more, in another region
	hook_wait cp-begin && one 15728640 && hook arm cp-pages && hook release cp-begin &&
		hook_wait cp-pages && base=$(box_base $box a) || return
	if [[ $base != "$NONE" ]] && ! on_disk 5242880; then
		hook release cp-pages
		bg_wait clear 10
		broken "what was cleared is gone before the base is"
		return
	fi
	hook release cp-pages && bg_wait clear 10 && expect base "$(box_base $box a)" $NONE &&
		box_sync dev && expect dirty "$(box_dirty $box a)" "15728640 4096"
}

# The same for a commit.
committed()
{
	local base cut

	fresh 5242880 && cut=$(msg dev bitmap_rotate a) && hook arm cp-pages || return
	# the page that has it is written once more, in another region
	one 15728640 || return
	bg commit msg dev bitmap_commit a
	hook_wait cp-pages && base=$(box_base $box a) || return
	if [[ $base == "$CUT" ]] && ! on_disk 5242880; then
		hook release cp-pages
		bg_wait commit 10
		broken "what was committed is gone before the base is there"
		return
	fi
	hook release cp-pages && bg_wait commit 10 && expect base "$(box_base $box a)" "$cut" &&
		box_sync dev && expect dirty "$(box_dirty $box a)" "15728640 4096"
}

# What a merge has set is found set by a write, which goes.
merged()
{
	fresh && msg dev bitmap_add t transient granularity 4096 && msg dev bitmap_disable a &&
		one 5242880 && msg dev bitmap_enable a && CUT=$(msg dev bitmap_rotate a) &&
		msg dev bitmap_commit a && box_sync dev && hook arm cp-begin || return
	expect dirty "$(bitmap_get dev a dirty)" 0 || return
	bg merge msg dev bitmap_merge a t
	until_true 5 bitmap_is dev a dirty 4096 && one 5242880 || return
	if ! on_disk 5242880; then
		hook release cp-begin
		bg_wait merge 10
		broken "a write went where only a merge had marked"
		return
	fi
	hook release cp-begin
	bg_wait merge 10 && box_sync dev && expect dirty "$(box_dirty $box a)" "5242880 4096"
}

# As long as the state has the base, all is recorded.
disabled()
{
	fresh && hook arm cp-pages || return
	bg disable msg dev bitmap_disable a
	hook_wait cp-pages && one 5242880 || return
	if [[ $(box_base $box a) == "$CUT" ]] && ! on_disk 5242880; then
		hook release cp-pages
		bg_wait disable 10
		broken "a write went by while the state still had the base"
		return
	fi
	hook release cp-pages
	bg_wait disable 10 && expect base "$(box_base $box a)" $NONE
}

at_pages_or_done()
{
	hook_stopped cp-pages || bg_done "$1"
}

acknowledged()
{
	fresh && hook arm cp-pages || return
	bg add msg dev bitmap_add x
	until_true 10 at_pages_or_done add && not_yet 400 bg_done add
	if bg_done add && [[ -z $(box_base $box x) ]]; then
		hook release cp-pages
		bg_wait add 10
		broken "it is said to be done, and the container does not have it"
		return
	fi
	hook_wait cp-pages && hook release cp-pages && bg_wait add 10 &&
		expect base "$(box_base $box x)" $NONE
}

# A write over two regions, of which one has its intent, asks for the other one; a checkpoint
# changes the generation before that is served, and then it has neither.
two_regions()
{
	fresh 4194304 && one 5242880 && expect regions "$(box_get dev regions)" 1 &&
		hook arm intent-work || return
	bg two cbw-load one /dev/mapper/dev --offset 6289408 --len 4096
	hook_wait intent-work && box_sync dev && hook release intent-work || return
	if ! until_true 5 bg_done two; then
		# what somebody else asks for brings it on
		one 5242880 && one 6291456 && bg_wait two 10
		broken "it waits for ever"
		return
	fi
	bg_wait two 10 && on_disk 6289408 && on_disk 6291456
}

# Suspended without flush, what waits for an intent goes back to dm.
noflush()
{
	fresh && hook arm intent-write || return
	bg one one 5242880 && hook_wait intent-write || return
	bg suspend dm_suspend --noflush --nolockfs dev
	bg_wait suspend 5 || return
	hook release intent-write
	not_yet 200 bg_done one && dm_resume dev && bg_wait one 10 && on_disk 5242880
}

t "set up" setup
keep
hazard 11 "a write and its intent" intent_first
t "intents written after the data: noticed" unnoticed 12 intent_first
hazard 16 "a second write to the same granule" second_write
t "one write of intents at a time" one_in_flight
hazard 13 "an intent is retired while it is in use" retired
hazard 18 "marked again across a cut and a checkpoint" marked_again
hazard 15 "cleared, and not yet on disk" cleared
hazard 15 "committed, and not yet on disk" committed
hazard 17 "a write where a merge has marked" merged
hazard 19 "a write that will not be recorded" disabled
hazard 20 "acknowledged before it is on disk" acknowledged
hazard 22 "a write over two regions and a checkpoint" two_regions
t "a suspend without flush" noflush
finish
