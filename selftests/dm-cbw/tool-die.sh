#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# An incremental backup killed before each of its steps (ioctls of
# device-mapper and dm-cbw, fsync, rename, ...; tool-die.c): chain and bitmap are
# as before, or, after the manifest is renamed, both are as after, or the
# commit is lost; and the next increment is complete.
#
#	tool-die.sh [FIRST [STRIDE]]	default: a random start, every 6th step;
#					with CBW_LONG=1 every step
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/chain.bash"
stride=${2:-6}
[[ ${CBW_LONG-} != 1 ]] || stride=1
first=${1:-$((1 + RANDOM % stride))}

setup()
{
	nullb origin 2 512 && nullb store 4 512 && chain_begin "$origin" 100
}

dirty()
{
	n=$((n + 1))
	cbw-load one /dev/mapper/dut --offset $((n * 65536 % (2 << 20))) --len 4096 \
		--gen $((100 + n))
}

steps_of_one()
{
	dirty || return
	LD_PRELOAD=$die CBW_DIE_LOG=$CBW_TMP/steps tool 0 backup dut --to "$to" \
		--store "$store" --incremental || return
	steps=$(wc -l <"$CBW_TMP/steps")
	((steps > 30)) || wrong "only $steps steps: $(<"$CBW_TMP/steps")"
}

killed_at()
{
	local step=$1 base dirty manifest after

	dirty || return
	manifest=$(<"$to/dut/manifest.json")
	base=$(bitmap_get dut "$bitmap" base)
	dirty=$(bitmap_get dut "$bitmap" dirty)
	LD_PRELOAD=$die CBW_DIE_AT=$step tool 137 backup dut --to "$to" \
		--store "$store" --incremental 2>/dev/null || return
	is_idle || return
	after=$(bitmap_get dut "$bitmap" base)
	if [[ $(<"$to/dut/manifest.json") == "$manifest" ]]; then
		expect "base" "$after" "$base" || return
		(($(bitmap_get dut "$bitmap" dirty) >= dirty)) ||
			wrong "dirty $dirty, now $(bitmap_get dut "$bitmap" dirty)" || return
		old=$((old + 1))
	elif [[ $after == "$base" ]]; then
		(($(bitmap_get dut "$bitmap" dirty) >= dirty)) ||
			wrong "dirty $dirty, now $(bitmap_get dut "$bitmap" dirty)" || return
		lost=$((lost + 1))
	else
		[[ $(<"$to/dut/manifest.json") == *"$after"* ]] ||
			wrong "a base that no image has: $after" || return
		new=$((new + 1))
	fi
	dirty && increment && no_snapshots
}

each_step()
{
	local i old=0 lost=0 new=0

	((steps > 30)) || return
	for ((i = first; i <= steps; i += stride)); do
		killed_at $i || { wrong "killed before step $(sed -n ${i}p "$CBW_TMP/steps")"; return; }
	done
	echo "# $steps steps: $old times as before, $lost commits lost, $new as after" >&3
}

# Between the manifest's rename and the commit: the commit is lost, whatever the stride.
lost_commit()
{
	local at old=0 lost=0 new=0

	at=$(sed -n 's/^\([0-9]*\) ioctl cb82/\1/p' "$CBW_TMP/steps")
	killed_at "$at" && expect "lost commits" $lost 1 || return
	killed_at $((at + 1)) && expect "as after" $new 1
}

n=0
exec 3>&1
t "set up, a full backup" setup
keep
t "the steps of an increment" steps_of_one
t "killed before steps $first, $((first + stride)), ... of $steps" each_step
t "killed just before the commit, and just behind" lost_commit
drop_stale
umount "$TO"
finish
