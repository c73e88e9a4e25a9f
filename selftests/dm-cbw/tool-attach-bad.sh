#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# cbw attach and detach: what is refused, and that it changes nothing; killed
# before their steps (tool-die.c): what they leave is taken up by the next.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/attach.bash"

refusals()
{
	local before

	before=$(state_of_all)
	tool 1 attach "$other" && says "not a device-mapper device" || return
	tool 1 attach /dev/null && says "not a block device" || return
	tool 1 attach nosuch && says "there is no mapped device 'nosuch'" || return
	tool 1 attach 7:99 && says "there is no such device" || return
	tool 1 detach vol && says "it has no cbw target" || return
	[[ $(state_of_all) == "$before" ]] || wrong "something has changed" || return
	tool 0 attach vol || return
	before=$(dmsetup table)
	tool 1 attach vol && says "already" || return
	tool 1 attach vol-cbw-origin && says "hidden origin" || return
	tool 1 remove vol && says "cbw detach" || return
	dm_suspend vol || return
	tool 1 detach vol && says "suspended" || return
	[[ $(dmsetup table) == "$before" ]] || wrong "something has changed" || return
	dm_resume vol && tool 0 detach vol && is_detached
}

# A target that keeps state of its own, a name of a hidden device that is taken.
other_refusals()
{
	modprobe dm-mirror || return
	dm_create mirr "0 8192 mirror core 2 1024 nosync 2 $store 0 $store 8192" || return
	tool 1 attach mirr && says "its target 'mirror' keeps state" || return
	dm_remove mirr || return
	dm_create vol-cbw-origin "0 8 zero" || return
	tool 1 attach vol && says "there is a mapped device 'vol-cbw-origin' already" || return
	dm_remove vol-cbw-origin || return
	# left by an attach that was killed
	dmsetup create --noudevsync -u CBW-0123456789abcdef-origin vol-cbw-origin --table "0 8 zero" || return
	tool 0 attach vol && is_attached && tool 0 detach vol && is_detached || return
	# somebody else is at work
	dm_reload vol "0 32768 linear $store 0" || return
	tool 1 attach vol && says "a table is loaded" || return
	dmsetup clear vol
}

# Killed before each of its steps: what it leaves is taken up by the next.
killed()
{
	local verb i n

	for verb in attach detach; do
		LD_PRELOAD=$die CBW_DIE_LOG=$CBW_TMP/steps tool 0 $verb vol || return
		n=$(wc -l <"$CBW_TMP/steps")
		rm "$CBW_TMP/steps"
		# from the other state
		[[ $verb == attach ]] && { tool 0 detach vol || return; }
		[[ $verb == detach ]] && { tool 0 attach vol || return; }
		for ((i = n - RANDOM % 3; i > 1; i -= 3)); do
			LD_PRELOAD=$die CBW_DIE_AT=$i tool 137 $verb vol 2>/dev/null || return
			[[ $(dmsetup info -c --noheadings -o suspended vol) == Active ]] ||
				wrong "killed at step $i of $verb: suspended" || return
			if [[ $(dmsetup table vol) == *" cbw "* ]]; then
				[[ $verb == detach ]] || tool 0 detach vol || return
			else
				[[ $verb == attach ]] || tool 0 attach vol || return
			fi
		done
		tool 0 $verb vol || return
	done
	is_detached
}

t "set up a volume of three segments" setup
keep
t "what is refused changes nothing" refusals
t "targets with state, names that are taken" other_refusals
t "killed before each third step" killed
finish
