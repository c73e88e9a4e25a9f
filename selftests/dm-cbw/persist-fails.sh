#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# A container that fails or hangs: the guest never sees an error, nor a wait beyond the timeout;
# bitmaps stay exact in memory; what is on the container is not trusted afterwards.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119
. "${0%/*}/lib.sh"
. "$here/box.bash"

begin

setup()
{
	nullb origin 64 512 && nullb box 8 512 && dm_create boxdev "0 16384 linear $box 0"
}

one()
{
	cbw-load one /dev/mapper/dev --offset "$1" --len 4096
}

# fresh [OPTIONS...]: with bitmap a, and events
fresh()
{
	blkdiscard -zf "$box" 2>/dev/null && boxed dev "$origin" /dev/mapper/boxdev --region 1048576 "$@" &&
		msg dev bitmap_add a granularity 4096 && session_open
}

box_table()
{
	dm_reload boxdev "0 16384 $1" && dm_suspend --noflush --nolockfs boxdev && dm_resume boxdev
}

failed_says()
{
	cbw-box info /dev/mapper/dev | grep -q " failed"
}

# has_failed: and everybody is told; memory is as before
has_failed()
{
	until_true 5 failed_says || wrong "$(cbw-box info /dev/mapper/dev)" || return
	bitmap_is dev a flags e || wrong "$(dmsetup status dev)" || return
	[[ $(session events 1 3000) == *event=7\ * ]] || wrong "no event" || return
	one 20971520 && one 41943040 && msg dev bitmap_add late && msg dev bitmap_rotate a >/dev/null &&
		msg dev bitmap_commit a && one 31457280 && expect dirty "$(bitmap_get dev a dirty)" 4096
}

# taken_down: it goes, and nobody trusts what is there
taken_down()
{
	session_close
	dm_remove dev || return
	box_table "linear $box 0" && ! boxed dev "$origin" /dev/mapper/boxdev || return
	cbw-box state "$box" | grep -q untracked || wrong "$(cbw-box state $box)" || return
	dm_remove dev
}

error_on_intent()
{
	fresh && one 0 && box_table error && one 5242880 && has_failed && session_close &&
		dm_remove dev || return
	box_table "linear $box 0"
	# it could not be told: who removes the device can do nothing more
	cbw-box state "$box"
}

# Intents cannot be written, but the state can: it says so.
error_partly()
{
	fresh && one 0 || return
	dm_reload boxdev "0 128 linear $box 0
128 16256 error" && dm_suspend --noflush --nolockfs boxdev && dm_resume boxdev || return
	one 5242880 && has_failed && taken_down
}

error_on_checkpoint()
{
	fresh && one 0 && box_table error || return
	! box_sync dev || return
	has_failed && session_close && box_table "linear $box 0" && dm_remove dev || return
	# it was better when the device went
	cbw-box state "$box" | grep -q untracked || wrong "$(cbw-box state $box)"
}

# held_ms COMMAND...: how long it took
held_ms()
{
	local start

	start=$(now_ms)
	"$@" || return
	MS=$(($(now_ms) - start))
	echo "took $MS ms"
}

hangs()
{
	fresh --timeout 1500 && one 0 && dm_suspend --nolockfs boxdev || return
	held_ms one 5242880 || return
	dm_resume boxdev
	((MS >= 900 && MS <= 1500 * ${CBW_BUDGET_SCALE:-1} + 500)) || wrong "held for $MS ms" || return
	has_failed && session_close && dm_remove dev
}

# With the policy to hold, an error that goes away is none.
holds()
{
	fresh --timeout 6000 --hold && one 0 && box_table error || return
	bg one one 5242880
	nap 0.5
	bg_alive one || wrong "it did not wait" || return
	box_table "linear $box 0" && bg_wait one 6 || return
	! failed_says && bitmap_is dev a flags ep && session_close &&
		cbw-box detach /dev/mapper/dev && dm_remove dev &&
		expect dirty "$(box_dirty $box a)" "0 4096 5242880 4096"
}

# A suspend waits no longer than that, either, nor does a removal.
suspended()
{
	fresh --timeout 1500 && one 0 && dm_suspend --nolockfs boxdev || return
	bg one one 5242880
	nap 0.2
	held_ms dm_suspend --nolockfs dev || return
	dm_resume boxdev && dm_resume dev && bg_wait one 5 || return
	((MS <= 1500 * ${CBW_BUDGET_SCALE:-1} + 500)) || wrong "suspend took $MS ms" || return
	session_close
	dm_remove dev
}

# Announced, and then it cannot be written: not clean.
stop_fails()
{
	fresh && one 0 && cbw-box detach /dev/mapper/dev && one 5242880 && box_table error &&
		session_close && dm_remove dev && box_table "linear $box 0" || return
	! cbw-box state "$box" | grep -q clean || wrong "clean"
}

t "set up" setup
keep
t "an error on an intent" error_on_intent
t "an error on the intents alone: the state says so" error_partly
t "an error on a checkpoint" error_on_checkpoint
t "a container that hangs" hangs
t "the policy to hold" holds
t "a suspend while it hangs" suspended
t "a stop that cannot be written" stop_fails
finish
