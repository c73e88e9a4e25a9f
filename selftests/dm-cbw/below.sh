#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# What lies on the volume itself is no place for its store, backup or container: through file
# systems that make their device numbers up (btrfs, overlayfs), loop devices and device-mapper.
# Neither is what may lie there, as far as can be told from here.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"
M=$CBW_TMP/mnt

setup()
{
	loopdev origin 160 512 && loopdev other 160 512 && nullb store 16 512 &&
		tracked dut "$origin" && mkdir -p "$M" "$CBW_TMP/low" "$CBW_TMP/over"
}

# refused DIR: as a store, as a backup's place, and a new file in it as a target
refused()
{
	: >"$1/file" && truncate -s 16M "$1/file" || return
	tool 1 backup dut --to "$CBW_TMP/b" --store "$1/file" && says "lies on volume dut itself" &&
		tool 1 backup dut --to "$1" --store "$store" && says "lies on volume dut itself" &&
		tool 1 backup dut --to "$1/x.raw" --store "$store" &&
		says "lies on volume dut itself" &&
		tool 1 backup dut --to "$CBW_TMP/b" --store-dir "$1" --store auto &&
		says "lies on volume dut itself" || return
	[[ ! -e $1/x.raw ]] || wrong "it was made"
}

on_ext4()
{
	mkfs.ext4 -q /dev/mapper/dut && mount /dev/mapper/dut "$M" && refused "$M"
}

on_overlay()
{
	local rc

	mkdir "$M/up dir" "$M/work" &&
		mount -t overlay -o "lowerdir=$CBW_TMP/low,upperdir=$M/up dir,workdir=$M/work" \
			overlay "$CBW_TMP/over" || return
	refused "$CBW_TMP/over"
	rc=$?
	umount "$CBW_TMP/over"
	return $rc
}

on_loop()
{
	local dev rc

	truncate -s 40M "$M/image" && dev=$(losetup --show -f "$M/image") || return
	mkfs.ext4 -q "$dev" && mount "$dev" "$CBW_TMP/over" && refused "$CBW_TMP/over" &&
		rm "$M/image" && refused "$CBW_TMP/over"
	rc=$?
	umount "$CBW_TMP/over"
	losetup -d "$dev"
	return $rc
}

# An overlay whose upper directory is in another mount namespace, as a container has it.
elsewhere_mounted()
{
	local rc=0 what

	mount -t overlay -o "lowerdir=$CBW_TMP/low,upperdir=$M/up dir,workdir=$M/work" \
		overlay "$CBW_TMP/over" && truncate -s 16M "$CBW_TMP/over/file" || return
	for what in "--to $CBW_TMP/b --store $CBW_TMP/over/file" \
		    "--to $CBW_TMP/over/x.raw --store $store"; do
		unshare -m bash -c "umount -l '$M' && exec '$CBW' backup dut $what" \
			>"$TOOL_OUT" 2>&1
		expect "status of $what" $? 1 && says "may lie on volume dut itself" || rc=1
	done
	umount "$CBW_TMP/over"
	return $rc
}

# The root is an overlay whose upper directory was left behind when it became that.
not_there()
{
	local rc

	truncate -s 16M /cbw-below && tool 0 backup dut --to "$CBW_TMP/b" --store /cbw-below
	rc=$?
	rm -rf /cbw-below "$CBW_TMP/b"
	return $rc
}

# Of two devices the volume is the one that it was not mounted by; and a subvolume.
on_btrfs()
{
	umount "$M"
	modprobe btrfs || return
	[[ -e /dev/btrfs-control ]] || mknod /dev/btrfs-control c 10 234 || return
	mkfs.btrfs -q -f -m single -d single "$other" /dev/mapper/dut && btrfs device scan >/dev/null &&
		mount "$other" "$M" && refused "$M" || return
	btrfs subvolume create "$M/sub" >/dev/null && refused "$M/sub" && umount "$M"
}

# What does not lie there is taken.
elsewhere()
{
	mkfs.btrfs -q -f -m single -d single "$other" && mount "$other" "$M" &&
		mkfs.ext4 -q /dev/mapper/dut || return
	tool 0 backup dut --to "$M" --store "$store" && umount "$M"
}

t "set up" setup
keep
t "a file system on it" on_ext4
t "an overlay that writes to it" on_overlay
t "a loop device of a file on it, deleted, too" on_loop
t "an overlay that writes where nobody here sees it" elsewhere_mounted
t "an overlay that cannot write to it" not_there
t "btrfs, one of two devices" on_btrfs
t "elsewhere" elsewhere
finish
