#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# An overlay may write to the volume itself without that being seen from here: what cannot be told is
# not taken for a no; and who knows that it does not says so.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"
M=$CBW_TMP/mnt

setup()
{
	loopdev origin 64 512 && loopdev other 64 512 && tracked dut "$origin" &&
		mkdir -p "$M" "$CBW_TMP/low" "$CBW_TMP/over" "$CBW_TMP/inner" &&
		mkfs.ext4 -q /dev/mapper/dut && mount /dev/mapper/dut "$M"
}

# The upper directory is in a file on the volume, through a loop device.
in_a_file()
{
	local dev rc

	truncate -s 40M "$M/image" && dev=$(losetup --show -f "$M/image") || return
	mkfs.ext4 -q "$dev" && mount "$dev" "$CBW_TMP/inner" && mkdir "$CBW_TMP/inner/up" "$CBW_TMP/inner/work" &&
		mount -t overlay -o "lowerdir=$CBW_TMP/low,upperdir=$CBW_TMP/inner/up,workdir=$CBW_TMP/inner/work" \
			overlay "$CBW_TMP/over" && truncate -s 16M "$CBW_TMP/over/file" &&
		hidden "$CBW_TMP/inner" 1 && says "may lie on volume dut itself"
	rc=$?
	umount "$CBW_TMP/over"
	umount "$CBW_TMP/inner"
	losetup -d "$dev"
	rm "$M/image"
	return $rc
}

# hidden DIR STATUS [OPTION...]: a backup with a store in the overlay from where nobody sees DIR
hidden()
{
	local dir=$1 status=$2

	shift 2
	unshare -m bash -c "umount -l '$dir' && exec '$CBW' backup dut --to '$CBW_TMP/b' --store '$CBW_TMP/over/file' $*" \
		>"$TOOL_OUT" 2>&1
	expect "status" $? "$status"
}

# On another disk that looks like the volume from there: who knows it says so. Not of what is seen.
known()
{
	local rc in=$CBW_TMP/inner

	mkfs.ext4 -q "$other" && mount "$other" "$in" && mkdir "$in/up" "$in/work" &&
		mount -t overlay -o "lowerdir=$CBW_TMP/low,upperdir=$in/up,workdir=$in/work" overlay \
			"$CBW_TMP/over" && truncate -s 16M "$CBW_TMP/over/file" "$M/file" || return
	hidden "$in" 1 && says "may lie on volume dut itself" && says "--elsewhere" &&
		hidden "$in" 0 --elsewhere &&
		tool 1 backup dut --to "$CBW_TMP/b" --store "$M/file" --elsewhere &&
		says "lies on volume dut itself" || return
	# seen, it needs no word of anybody
	tool 0 backup dut --to "$CBW_TMP/b" --store "$CBW_TMP/over/file"
	rc=$?
	umount "$CBW_TMP/over" "$in"
	rm -rf "$CBW_TMP/b"
	return $rc
}

t "set up" setup
keep
t "an overlay that writes to a file on it, where nobody here sees it" in_a_file
t "an overlay that may write to it, and who knows that it does not" known
t "take it down" umount "$M"
finish
