#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 150
# long
#
# cbw attach and detach with a container, killed before steps that change anything: writes and
# fsyncs of the container, calls to device-mapper, dm-cbw and the loop driver. The container is
# an image without errors, the next attach has the same bits and bases.
#
#	container-die.sh [STRIDE]	each so manyth step, from a random one on (9)
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
. "$here/container.bash"
stride=${1:-9}
export CBW_DIE_WRITES=1

setup()
{
	nullb origin 64 512 || return
	C=$CBW_TMP/c.qcow2
	volume && tool 0 attach vol --container "$C" && tool 0 bitmap add vol b1 &&
		tool 0 bitmap add vol b2 --granularity 4096 && based b1 && based b2 &&
		cbw-load one /dev/mapper/vol --offset 1048576 --len 200704 --gen 2 || return
	dirty=$(dirty_live b1) fine=$(dirty_live b2) base=$(base_of b1)
	tool 0 detach vol
}

as_it_was()
{
	expect "b1" "$(dirty_live b1)" "$dirty" && expect "b2" "$(dirty_live b2)" "$fine" &&
		expect "base" "$(base_of b1)" "$base"
}

is_attached()
{
	[[ $(dmsetup table vol) == *" cbw "* ]]
}

steps()
{
	rm -f "$CBW_TMP/steps"
	LD_PRELOAD=$die CBW_DIE_LOG=$CBW_TMP/steps tool 0 "$@" || return
	n=$(wc -l <"$CBW_TMP/steps")
	rm "$CBW_TMP/steps"
}

killed_attach()
{
	local i n

	steps attach vol --container "$C" && tool 0 detach vol || return
	for ((i = n - RANDOM % stride; i > 0; i -= stride)); do
		LD_PRELOAD=$die CBW_DIE_AT=$i tool 137 attach vol --container "$C" 2>/dev/null || return
		qemu_ok "$C" || wrong "killed at step $i of $n" || return
		is_attached || tool 0 attach vol --container "$C" ||
			wrong "killed at step $i of $n" || return
		as_it_was || wrong "killed at step $i of $n" || return
		tool 0 detach vol || return
	done
}

killed_detach()
{
	local i n

	tool 0 attach vol --container "$C" && steps detach vol || return
	for ((i = n - RANDOM % stride; i > 0; i -= stride)); do
		tool 0 attach vol --container "$C" || return
		LD_PRELOAD=$die CBW_DIE_AT=$i tool 137 detach vol 2>/dev/null || return
		qemu_ok "$C" || wrong "killed at step $i of $n" || return
		if is_attached; then
			as_it_was && tool 0 detach vol || wrong "killed at step $i of $n" || return
		else
			# half of them by check, the others by attach
			((i % 2)) || tool 0 check -r "$C" || wrong "killed at step $i of $n" || return
			tool 0 attach vol --container "$C" && as_it_was && tool 0 detach vol ||
				wrong "killed at step $i of $n" || return
		fi
		tool 0 check "$C" && qemu_ok "$C" || return
	done
}

# The first one, which makes the container.
killed_first()
{
	local i n=0

	again && rm -f "$C" && steps attach vol --container "$C" && tool 0 detach vol || return
	for ((i = n - RANDOM % stride; i > 0; i -= stride)); do
		rm -f "$C"
		LD_PRELOAD=$die CBW_DIE_AT=$i tool 137 attach vol --container "$C" 2>/dev/null || return
		is_attached || tool 0 attach vol --container "$C" ||
			wrong "killed at step $i of $n" || return
		qemu_ok "$C" && tool 0 detach vol || return
	done
}

t "set up" setup
keep
t "an attach that is killed" killed_attach
t "a detach that is killed" killed_detach
t "the attach that makes the container, killed" killed_first
finish
