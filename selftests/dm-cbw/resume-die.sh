#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# An increment that can be resumed, killed before each of its steps (tool-die.c), then the
# volume is overwritten, and --resume: an image that the manifest has is that of the cut, what
# was frozen is committed or merged back, and nothing is left. The same for --resume.
#
#	resume-die.sh [FIRST [STRIDE]]	default: a random start, every 8th step;
#					with CBW_LONG=1 every third step
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/chain.bash"
M=/dev/mapper
stride=${2:-8}
[[ ${CBW_LONG-} != 1 ]] || stride=3
first=${1:-$((1 + RANDOM % stride))}

setup()
{
	nullb origin 3 512 && nullb store 4 512 && chain_begin "$origin" 500
}

begun()
{
	fill dut && cp $M/dut "$CBW_TMP/ref"
}

resumable()
{
	"$@" backup dut --to "$to" --store "$store" --incremental --resumable --rate 1500K
}

images()
{
	grep -c '"cut"' "$to/dut/manifest.json"
}

# What is there after the second run, whatever it could do.
is_right()
{
	is_idle && no_snapshots || return
	if (($(images) > before)); then
		rm -f "$CBW_TMP/img"
		tool 0 restore "$to" --to "$CBW_TMP/img" && cmp "$CBW_TMP/img" "$CBW_TMP/ref" || return
		made=$((made + 1))
	fi
	increment || return
	expect "leftovers" "$(find "$to/dut" -name resume -o -name '*.part' -o -name '*.tmp' | wc -l)" 0 || return
	expect "files" "$(find "$to/dut" -name '*.qcow2' | wc -l)" "$(images)"
}

steps_of_one()
{
	local before made=0

	before=$(images)
	begun && LD_PRELOAD=$die CBW_DIE_LOG=$CBW_TMP/steps resumable tool 0 || return
	steps=$(wc -l <"$CBW_TMP/steps")
	((steps > 50)) || wrong "only $steps steps: $(<"$CBW_TMP/steps")" || return
	is_right && expect "images" $made 1
}

# killed_at STEP: and the second run at once, or (with $2) killed too, at that step
killed_at()
{
	local before rc

	before=$(images)
	begun && LD_PRELOAD=$die CBW_DIE_AT=$1 resumable tool 137 2>/dev/null || return
	cbw-load one $M/dut --offset 0 --len 3M --gen $((GEN += 1)) || return
	if [[ -n ${2-} ]]; then
		LD_PRELOAD=$die CBW_DIE_AT=$2 "$CBW" backup --resume "$to" 2>/dev/null
	fi
	"$CBW" backup --resume "$to"
	rc=$?
	((rc < 2)) || wrong "--resume ended with $rc" || return
	# nothing that was begun, or it is done, or given up
	"$CBW" backup --resume "$to" && wrong "a second --resume has something to do" && return 1
	drop_stale
	is_right
}

each_step()
{
	local i made=0

	((steps > 50)) || return
	for ((i = first; i <= steps; i += stride)); do
		killed_at $i || { wrong "killed before step $(sed -n ${i}p "$CBW_TMP/steps")"; return; }
	done
	echo "# $steps steps: $made images" >&3
}

# Killed in the middle of the copy, and again before steps of the second run.
twice()
{
	local i made=0 mid

	# the record of what is durable: behind the first one that is followed by a release
	mid=$(grep -n 'ioctl cb85' "$CBW_TMP/steps" | head -n 1 | cut -d: -f1)
	for ((i = first; i <= 70; i += 2 * stride)); do
		killed_at $((mid + 1)) $i || { wrong "killed again before step $i"; return; }
	done
	((made > 0)) || wrong "nothing was resumed"
}

exec 3>&1
t "set up, a full backup" setup
keep
t "the steps of an increment" steps_of_one
t "killed before steps $first, $((first + stride)), ... of $steps" each_step
t "killed while it copies, and again" twice
drop_stale
umount "$TO"
finish
