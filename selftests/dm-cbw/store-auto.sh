#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 110
# long
#
# cbw backup --store auto: a logical volume in the group of the volume, or a sparse file; it
# grows while the volume is overwritten and the backup reads slowly, up to a limit; nothing
# is left of it, also of a run that was killed.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
M=/dev/mapper
VOL=cbwvg-vol

lvs_left()
{
	lvm lvs --noheadings -o lv_name cbwvg 2>/dev/null | tr -d ' \n'
}

setup()
{
	local out

	loopdev pv 128 512 && target_dir 200 || return
	out=$(lvm vgcreate -q cbwvg "$pv" 2>&1 && lvm lvcreate -q -y -Zn -Wn -n vol -L 32M cbwvg 2>&1) ||
		wrong "no volume group: $out" || return
	tool 0 attach $M/$VOL || return
	to=$TO/b files=$CBW_TMP/files
	mkdir "$files"
}

# overwritten grows|limited OPTION...: a backup of generation 1, while all of the volume is
# overwritten with generation 2: four fifths of the store, and the rest when it has grown.
overwritten()
{
	local how=$1 dir=$2 rc=0 snap cap

	shift 2
	cbw-load fill $M/$VOL --gen 1 || return
	bg tool "$CBW" backup $VOL --to "$dir" --full --rate 4M --store-size 16M "$@"
	until_true 10 any_snapshot || { cat "$CBW_TMP/tool.out"; return 1; }
	cap=$(snap_get $snap capacity)
	cbw-load one $M/$VOL --offset 18M --len 13500K --gen 2 || return
	[[ $how == limited ]] || until_true 10 larger || wrong "it does not grow" || return
	cbw-load one $M/$VOL --offset 8M --len 10M --gen 2 || return
	bg_wait tool 40 || rc=1
	cat "$CBW_TMP/tool.out" 2>/dev/null
	return $rc
}

larger()
{
	(($(snap_get $snap capacity) > cap))
}

any_snapshot()
{
	local state _

	IFS=: read -r snap state < <(dmsetup status --target cbw-snapshot)
	[[ $state == *" active "* ]]
}

# The image has the first generation: nothing of what came after the cut.
as_it_was()
{
	rm -f "$CBW_TMP/img"
	tool 0 restore "$1/$VOL" --to "$CBW_TMP/img" &&
		cbw-check verify "$CBW_TMP/img" --gen 1
}

in_group()
{
	overwritten grows "$to" --store auto >"$CBW_TMP/said" || { cat "$CBW_TMP/said"; return 1; }
	cat "$CBW_TMP/said"
	grep -q "the store has grown to" "$CBW_TMP/said" || wrong "it has not grown" || return
	as_it_was "$to" && no_snapshots && expect "logical volumes" "$(lvs_left)" vol
}

in_file()
{
	overwritten grows "$TO/f" --store-dir "$files" --json >"$CBW_TMP/said" ||
		{ cat "$CBW_TMP/said"; return 1; }
	grep -q '"event":"store-grown".*"store":"'"$files" "$CBW_TMP/said" ||
		{ cat "$CBW_TMP/said"; wrong "it has not grown"; return; }
	as_it_was "$TO/f" && no_snapshots && expect "files" "$(ls -A "$files")" ""
}

# No room in the group: a file in the usual place.
group_full()
{
	local snap

	lvm lvcreate -q -y -Zn -Wn -n rest -l 100%FREE cbwvg || return
	bg tool "$CBW" backup $VOL --to "$TO/g" --rate 4M
	until_true 10 any_snapshot || { cat "$CBW_TMP/tool.out"; return 1; }
	expect "files" "$(find /var/tmp -maxdepth 1 -name 'cbw-store-*' | wc -l)" 1 || return
	bg_wait tool 40 || return
	expect "files" "$(find /var/tmp -maxdepth 1 -name 'cbw-store-*' | wc -l)" 0 &&
		lvm lvremove -q -y cbwvg/rest
}

limit()
{
	overwritten limited "$TO/l" --store-dir "$files" --store-max 18M >"$CBW_TMP/said" &&
		wrong "it was not limited" && return 1
	grep -q "store-full.*raise --store-max" "$CBW_TMP/said" || { cat "$CBW_TMP/said"; return 1; }
	no_snapshots && expect "files" "$(ls -A "$files")" ""
}

# killed OPTION...: a run that is killed while it copies
killed()
{
	local snap

	bg tool "$CBW" backup $VOL --to "$TO/k" --rate 2M "$@"
	until_true 10 any_snapshot || { cat "$CBW_TMP/tool.out"; return 1; }
	kill -KILL "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
}

# What a killed run has left goes; what only has such a name is somebody else's.
leftovers()
{
	local snap

	lvm lvcreate -q -y -Zn -Wn -n cbw_store_mine -L 8M cbwvg || return
	truncate -s 8M "$files/cbw-store-mine01"
	leftovers_go && [[ -e $files/cbw-store-mine01 ]] || wrong "a file of somebody else is gone" || return
	# as the store of a snapshot, too
	tool 0 snapshot create $VOL --store /dev/mapper/cbwvg-cbw_store_mine && any_snapshot &&
		tool 0 snapshot remove $snap || return
	[[ $(lvs_left) == *cbw_store_mine* ]] || wrong "a logical volume of somebody else is gone" || return
	lvm lvremove -q -y cbwvg/cbw_store_mine && rm "$files/cbw-store-mine01"
}

leftovers_go()
{
	killed --store auto || return
	[[ $(lvs_left) == *cbw_store_[0-9a-f]* ]] || wrong "no logical volume: $(lvs_left)" || return
	tool 0 backup $VOL --to "$TO/k" || return
	expect "logical volumes" "$(lvs_left)" cbw_store_minevol || return
	killed --full --store-dir "$files" || return
	expect "files" "$(find "$files" -name 'cbw-store-*' | wc -l)" 2 || return
	tool 0 backup $VOL --to "$TO/k" --store-dir "$files" && says "is removed" || return
	expect "files" "$(ls -A "$files")" cbw-store-mine01 && no_snapshots
}

refuses()
{
	mkfs.ext4 -q $M/$VOL && mkdir -p "$CBW_TMP/on" && mount $M/$VOL "$CBW_TMP/on" || return
	unchanged tool 1 backup $VOL --to "$TO/r" --store-dir "$CBW_TMP/on" &&
		says "lies on volume $VOL itself" || return
	umount "$CBW_TMP/on"
	unchanged tool 1 backup $VOL --to "$TO/r" --store-dir "$CBW_TMP/nosuch" && says "No such file" || return
	mkdir "$CBW_TMP/small" && mount -t tmpfs -o size=8M none "$CBW_TMP/small" || return
	unchanged tool 1 backup $VOL --to "$TO/r" --store-dir "$CBW_TMP/small" --store-size 32M &&
		says "32.0 MiB are wanted for the store" &&
		expect "files" "$(ls -A "$CBW_TMP/small")" ""
}

# For a snapshot that stays: it goes when the snapshot does.
kept()
{
	local snap

	cbw-load fill $M/$VOL --gen 1 && tool 0 snapshot create $VOL --store auto || return
	[[ $(lvs_left) == *cbw_store_* ]] || wrong "no logical volume: $(lvs_left)" || return
	any_snapshot && cbw-load fill $M/$VOL --gen 2 && ! snap_is $snap state failed &&
		cbw-check verify $M/$snap --gen 1 && tool 0 snapshot remove $snap &&
		expect "logical volumes" "$(lvs_left)" vol && no_snapshots
}

take_down()
{
	tool 0 detach $VOL && lvm vgremove -q -y cbwvg && no_snapshots
}

t "set up: a volume in a volume group" setup
t "in the volume group, grows" in_group
t "in a file, grows" in_file
t "no room in the group: a file" group_full
t "a limit" limit
t "what a killed run left is removed" leftovers
t "for a snapshot that stays" kept
t "what is refused" refuses
t "nothing is left" take_down
umount "$TO"
finish
