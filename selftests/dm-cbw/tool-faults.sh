#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# What can go wrong with the target of a backup: full, read-only, gone, in use by another run, a chain
# whose parent is missing or altered. Each is a clear error, nothing is lost, and the next
# backup is right.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"

setup()
{
	nullb origin 16 512 && nullb store 16 512 && tracked dut "$origin" && target_dir 200 || return
	to=$TO/b
	fill dut && tool 0 backup dut --to "$to" --store "$store" || return
	bitmap=$(chain_bitmap "$to/dut")
	# a target that can be taken away
	nullb away 48 512 && dm_create away "0 $(sectors "$away") linear $away 0" &&
		mkfs.ext4 -q -O ^has_journal /dev/mapper/away && mkdir "$CBW_TMP/away"
}

idle()
{
	[[ $(bitmap_get dut "$1" flags) == e ]]
}

# dirtied: something for an increment; and how it was before
dirtied()
{
	cbw-load one /dev/mapper/dut --offset $((RANDOM % 120 * 131072)) --len 131072 --gen $((GEN += 1)) ||
		return
	base=$(bitmap_get dut "$bitmap" base) dirty=$(bitmap_get dut "$bitmap" dirty)
	cp "$to/dut/manifest.json" "$CBW_TMP/manifest"
}

# Nothing of what failed is left, in chain or bitmap.
as_before()
{
	until_true 5 idle "$bitmap" || wrong "the bitmap is still frozen" || return
	expect base "$(bitmap_get dut "$bitmap" base)" "$base" || return
	(($(bitmap_get dut "$bitmap" dirty) >= dirty)) ||
		wrong "dirty bytes: $(bitmap_get dut "$bitmap" dirty), before $dirty" || return
	cmp "$to/dut/manifest.json" "$CBW_TMP/manifest" && no_snapshots
}

# And the next backup is an increment that has everything.
right()
{
	tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to" --against /dev/mapper/dut && tool 0 verify "$to"
}

target_full()
{
	local free

	fill dut && dirtied || return
	free=$(df --output=avail -k "$TO" | tail -n 1)
	fallocate -l "$((free - 6144))K" "$TO/ballast" || return
	tool 1 backup dut --to "$to" --store "$store" --incremental
	local rc=$?
	rm -f "$TO/ballast"
	((!rc)) && says "No space left" && as_before && right
}

target_read_only()
{
	dirtied && mount -o remount,ro "$TO" || return
	tool 1 backup dut --to "$to" --store "$store" --incremental
	local rc=$?
	mount -o remount,rw "$TO" || return
	((!rc)) && says "Read-only file system" && as_before && right
}

# The device under the target fails in the middle of a backup, and comes back.
target_vanishes()
{
	local chain=$CBW_TMP/away/b b

	mount /dev/mapper/away "$CBW_TMP/away" && fill dut &&
		tool 0 backup dut --to "$chain" --store "$store" && fill dut || return
	b=$(chain_bitmap "$chain/dut")
	cp "$chain/dut/manifest.json" "$CBW_TMP/manifest"
	bg tool "$CBW" backup dut --to "$chain" --store "$store" --incremental --rate 8M
	nap 0.6
	dm_reload away "0 $(sectors "$away") error" && dm_suspend --noflush --nolockfs away && dm_resume away ||
		return
	wait "${BG[tool]}"
	expect status $? 1 || { cat "$CBW_TMP/tool.out"; return 1; }
	unset "BG[tool]"
	grep -q "Input/output error\|Read-only file system" "$CBW_TMP/tool.out" || { cat "$CBW_TMP/tool.out"; return 1; }
	until_true 5 idle "$b" && no_snapshots || return
	umount "$CBW_TMP/away"
	dm_reload away "0 $(sectors "$away") linear $away 0" && dm_suspend --noflush --nolockfs away &&
		dm_resume away || return
	e2fsck -fy /dev/mapper/away >/dev/null 2>&1
	mount /dev/mapper/away "$CBW_TMP/away" && cmp "$chain/dut/manifest.json" "$CBW_TMP/manifest" &&
		tool 0 backup dut --to "$chain" --store "$store" --incremental &&
		tool 0 verify "$chain" --against /dev/mapper/dut && tool 0 verify "$chain" || return
	umount "$CBW_TMP/away"
}

# Into one chain: the second is refused. Of one volume, into two: both are right.
two_at_once()
{
	local rc

	tool 0 backup dut --to "$TO/d" --store "$store" && nullb store2 16 512 && fill dut || return
	bg tool "$CBW" backup dut --to "$to" --store "$store" --incremental --rate 8M
	nap 0.6
	tool 1 backup dut --to "$to" --store "$store2" --incremental && says "another backup" || return
	cbw-load one /dev/mapper/dut --offset 262144 --len 131072 --gen $((GEN += 1)) || return
	tool 0 backup dut --to "$TO/d" --store "$store2" --incremental || return
	bg_wait tool 30
	rc=$?
	((!rc)) && right && tool 0 verify "$TO/d" || return
	tool 0 backup dut --to "$TO/d" --store "$store2" --incremental &&
		tool 0 verify "$TO/d" --against /dev/mapper/dut
}

# The newest image's parent is gone, or another file, or of another chain.
parent()
{
	local img=$to/dut/000001-full.qcow2 rc=0

	dirtied || return
	mv "$img" "$CBW_TMP/img" || return
	tool 4 backup dut --to "$to" --store "$store" --incremental && says "000001-full.qcow2" || rc=1
	tool 4 verify "$to" || rc=1
	cp --sparse=always "$TO/d/dut/000001-full.qcow2" "$img"
	tool 4 backup dut --to "$to" --store "$store" --incremental && says "another chain" || rc=1
	tool 4 restore "$to" --to "$CBW_TMP/out" || rc=1
	mv "$CBW_TMP/img" "$img" || return
	# changed in the middle: only its content tells
	cp --sparse=always "$img" "$CBW_TMP/img" && dd if=/dev/urandom of="$img" bs=4096 seek=600 count=1 conv=notrunc status=none ||
		return
	tool 4 verify "$to" || rc=1
	mv "$CBW_TMP/img" "$img" && ((!rc)) && as_before && right
}

t "set up, a first chain" setup
keep
t "the target is full" target_full
t "the target is read-only" target_read_only
t "the target's device fails" target_vanishes
t "two backups at once" two_at_once
t "a parent that is missing, another's, altered" parent
t "nothing is left" no_snapshots
umount "$CBW_TMP/away" 2>/dev/null
umount "$TO"
finish
