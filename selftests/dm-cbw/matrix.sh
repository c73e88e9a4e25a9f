#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 150
# long
#
# Backups as agents make them, every kind with every commit mode and every outcome, and then
# an increment on top of what was kept, which has to be the volume as it was at its cut.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
M=/dev/mapper
nullb origin 1 512
nullb store 1 512
size=$((1 << 20))
t "make the device" cbw dut "$origin"
keep
before=$CBW_TMP/before image=$CBW_TMP/image

one()
{
	cbw-load one $M/dut --offset "$1" --len "$2" --gen "${3:-90}"
}

# extents [CUT]: lines of "offset+length"
extents()
{
	cbw-ioctl extents $M/dut b ${1-} | sed -n 's/^\([0-9]*\) \([0-9]*\) .*/\1+\2/p'
}

# copied RANGE...: from the snapshot into the image, and released
copied()
{
	local r off len

	for r; do
		off=${r%+*} len=${r#*+}
		dd if=$M/shot of="$image" bs=4k skip=$((off >> 12)) seek=$((off >> 12)) count=$((len >> 12)) \
			iflag=direct conv=notrunc status=none || return
	done
	cbw-ioctl release $M/shot "$cut" "$@" >/dev/null
}

# The state after a first backup, whose image is $before; then some writes.
started()
{
	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity 4096 || return
	old=$(msg dut bitmap_rotate b) && msg dut bitmap_commit b || return
	dd if=$M/dut of="$before" bs=64k iflag=direct status=none || return
	one 64K 16K && one 128K 4K
}

# What an incremental backup copies onto a copy of the one before, and a full one into an
# image of its own: $all. It is committed through $whose: the snapshot that was given the
# bitmap, or the source. The rest of that has never been written, and shows it.
cut_incremental()
{
	snap shot dut "$store" 8 2 bitmap b || return
	cut=$(snap_get shot cut)
	whose=$M/shot
	cp "$before" "$image" && mapfile -t all < <(extents $cut) &&
		expect "what is to be copied" "${all[*]}" "65536+16384 131072+4096"
}

cut_full()
{
	snap shot dut "$store" 8 1 armed || return
	cut=$(session transaction start:$M/shot rotate:$M/dut:b) || return
	cut=${cut#ok }
	all=("0+$size") whose=$M/dut
	head -c $size /dev/zero | tr '\0' '\356' >"$image"
}

# The increment that comes next.
recovered()
{
	local rc=0

	one 512K 4K 92 && snap shot dut "$store" 8 2 bitmap b || return
	cut=$(snap_get shot cut)
	mapfile -t all < <(extents $cut)
	copied "${all[@]}" || return
	# nobody has written since
	dd if=$M/dut of="$CBW_TMP/whole" bs=64k iflag=direct status=none || return
	cmp "$CBW_TMP/whole" "$image" || { echo "the image differs; copied were ${all[*]}"; rc=1; }
	cbw-ioctl commit $M/shot "$cut" >/dev/null && dm_remove shot || rc=1
	expect "dirty at the end" "$(extents | xargs)" "" || rc=1
	expect "base at the end" "$(bitmap_get dut b base)" "$cut" || rc=1
	return $rc
}

# backup SYNC MODE OUTCOME DIRTY: and what is dirty after it, in KiB
backup()
{
	local sync=$1 mode=$2 outcome=$3 rc=0 part ask=$2 kept=1 base

	session_open
	started && cut_$sync || return
	part=("${all[@]}")
	[[ $outcome != failure ]] || part=(0+73728)
	[[ $outcome != failure || $sync == full ]] || part=(65536+8192)
	copied "${part[@]}" && one 68K 4K 91 && one 256K 4K || return
	base=$cut
	if [[ $outcome != success && $mode == on-success ]]; then
		ask=abort
	elif [[ $outcome == failure && $sync$mode == fullalways ]]; then
		# there is no other image that could have it
		cbw-ioctl mark $M/dut b 73728+$((size - 73728)) >/dev/null || return
	fi
	[[ $mode == always || $outcome == success ]] || kept=0
	if [[ $ask == abort ]]; then
		cbw-ioctl abort $whose "$cut" >/dev/null || rc=1
	else
		session commit $whose "$cut" $ask || rc=1
	fi
	[[ $ask != @(abort|never) ]] || base=$old
	dm_remove shot && session_close || rc=1
	expect "dirty" "$(extents | while IFS=+ read -r off len; do echo $((off >> 10))+$((len >> 10)); done | xargs)" "$4" ||
		rc=1
	expect "base" "$(bitmap_get dut b base)" "$base" || rc=1
	((kept)) || cp "$before" "$image"
	recovered || rc=1
	return $rc
}

for sync in incremental full; do
	for outcome in success failure cancel; do
		for mode in on-success never always; do
			again="64+16 128+4 256+4"
			case $outcome-$mode in
			success-never | failure-never | cancel-never | failure-on-success | cancel-on-success)
				dirty=$again ;;
			failure-always)
				dirty="68+12 128+4 256+4"
				[[ $sync != full ]] || dirty="68+956" ;;
			*)	dirty="68+4 256+4" ;;
			esac
			t "$sync, $outcome, $mode" backup $sync $mode $outcome "$dirty"
		done
	done
done
finish
