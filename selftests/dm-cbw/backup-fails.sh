#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# A backup that fails: a store that is too small, or fails, an unreadable sector of the
# origin, the source forced away: status 1 and the reason, the chain is as it was, the bitmap
# as if the backup had not begun, and the next increment has everything.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/kill.bash"

overwrite()
{
	cbw-load fill /dev/mapper/dut --gen $((GEN += 1))
}

# fails REASON COMMAND BACKUP-OPTION...: a slow backup, whose snapshot fails for that reason
# once the command was run
fails()
{
	local why=$1 how=$2

	shift 2
	bg tool "$CBW" backup dut --to "$to" --rate 1M "$@"
	until_true 10 any_active || return
	$how || return
	wait "${BG[tool]}"
	expect "status" $? 1 || { cat "$CBW_TMP/tool.out"; return 1; }
	unset "BG[tool]"
	grep -q "the snapshot failed: $why" "$CBW_TMP/tool.out" ||
		{ cat "$CBW_TMP/tool.out"; return 1; }
}

store_too_small()
{
	local base dirty

	fill dut && before && fails store-full overwrite --store "$small" || return
	cmp "$to/dut/manifest.json" "$CBW_TMP/manifest" && as_before && no_snapshots &&
		complete
}

unreadable_origin()
{
	local base dirty

	fill dut && before || return
	dm_reload below "0 8192 linear $origin 0
8192 8 error
8200 8184 linear $origin 8200" && dm_suspend below && dm_resume below || return
	tool 1 backup dut --to "$to" --store "$store" &&
		says "cannot be read at offset" || return
	as_before && no_snapshots || return
	dm_reload below "0 16384 linear $origin 0" && dm_suspend below && dm_resume below &&
		complete
}

store_fails()
{
	local base dirty

	fill dut && before || return
	dm_create broken "0 8 linear $store 0
8 8184 error" || return
	fails store-io overwrite --store /dev/mapper/broken --force || return
	as_before && no_snapshots && dm_remove broken && complete
}

# Its table taken away: last, since bitmaps and all go with it.
source_gone()
{
	fill dut && fails source-gone "dmsetup wipe_table --noudevsync dut" --store "$store" || return
	no_snapshots && tool 0 verify "$to"
}

t "set up, a full backup" setup
keep
t "a store that is too small" store_too_small
t "an origin with an unreadable sector" unreadable_origin
t "a store that fails on write" store_fails
t "the source forced away" source_gone
t "nothing is left" no_snapshots
drop_stale
umount "$TO"
finish
