#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# cbw attach and detach: live, under a mounted file system and under load, over
# and over; tables of several targets; a backup of an attached volume.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/attach.bash"
seed "${1-}"

content()
{
	fill vol && tool 0 attach /dev/mapper/vol && is_attached &&
		cbw-check verify /dev/mapper/vol --gen "$BASE_GEN" &&
		tool 0 status && says "attached" &&
		tool 0 detach vol && is_detached &&
		cbw-check verify /dev/mapper/vol --gen "$BASE_GEN"
}

# The load checks no write fails; order looks for writes that were lost or came late.
under_load()
{
	local i

	fill vol || return
	load_start load vol -- --uring 1:16 --sync 1 --mix 8:1:1 --bs 512:65536 \
		--max-iops 500 || return
	for i in 1 2 3; do
		tool 0 attach vol && is_attached || return
		nap 0.05
		tool 0 detach vol && is_detached || return
	done
	tool 0 attach vol && load_stop load || return
	cbw-check order "$CBW_TMP/load.log" /dev/mapper/vol --gen "$BASE_GEN" &&
		tool 0 detach vol && is_detached
}

mounted()
{
	local sum

	mkfs.ext4 -q /dev/mapper/vol && mkdir -p "$CBW_TMP/mnt" &&
		mount /dev/mapper/vol "$CBW_TMP/mnt" || return
	head -c 3000000 /dev/urandom >"$CBW_TMP/mnt/file"
	sum=$(cksum <"$CBW_TMP/mnt/file")
	tool 0 attach vol && is_attached || return
	target_dir 100 || return
	head -c 1000000 /dev/urandom >"$CBW_TMP/mnt/file2" && sync || return
	tool 0 backup vol --to "$TO/b" --store "$store" &&
		tool 1 backup vol --to "$CBW_TMP/mnt/b" --store "$store" &&
		says "the backup lies on volume vol itself" || return
	[[ ! -e $CBW_TMP/mnt/b ]] || return
	truncate -s 4M "$CBW_TMP/mnt/store" || return
	tool 1 backup vol --to "$TO/b" --store "$CBW_TMP/mnt/store" &&
		says "the store lies on volume vol itself" || return
	tool 1 restore "$TO/b" --to /dev/mapper/vol && says "it is in use" || return
	tool 0 detach vol && says "ends with the detach" && is_detached || return
	[[ $(cksum <"$CBW_TMP/mnt/file") == "$sum" ]] || return
	umount "$CBW_TMP/mnt" && e2fsck -fn /dev/mapper/vol || return
	tool 0 restore "$TO/b" --to "$CBW_TMP/img" && e2fsck -fp "$CBW_TMP/img"
	(($? <= 1)) && umount "$TO"
}

# With a snapshot on it; and by force.
snapshot_on_it()
{
	local snap

	tool 0 attach vol || return
	tool 1 snapshot create vol --store "$store" --bitmap nosuch &&
		says "it has no bitmap 'nosuch'" && no_snapshots || return
	tool 0 snapshot create vol --store "$store" || return
	snap=$(sed 's/ .*//' "$TOOL_OUT")
	DM_DEVS+=("$snap")
	tool 1 detach vol && says "snapshot '$snap' lives on it" && is_attached || return
	tool 0 detach vol --force && is_detached || return
	snap_failed "$snap" source-gone || return
	tool 0 snapshot remove "$snap" && dm_forget "$snap"
}

t "set up a volume of three segments" setup
keep
t "content stays, attached and detached" content
t "three times under load" under_load
t "under a mounted file system, with a backup" mounted
t "not with a snapshot on it, but by force" snapshot_on_it
finish
