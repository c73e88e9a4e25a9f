#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# A store that hangs under a backup: the guest's writes are held no longer than
# the snapshot's bound (30 s), then go on; the tool ends with status 1 and the
# reason although the kernel cannot let go of the store; when the store
# answers again everything is as before and the next increment complete.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
seed "${1-}"

hangs()
{
	local bitmap base

	nullb origin 16 512 && nullb store 16 512 || return
	tracked dut "$origin" && target_dir 150 || return
	to=$TO/b
	fill dut && tool 0 backup dut --to "$to" --store "$store" || return
	bitmap=$(chain_bitmap "$to/dut")
	base=$(bitmap_get dut "$bitmap" base)
	fill dut && dm_create hang "0 $(sectors "$store") linear $store 0" || return
	bg tool "$CBW" backup dut --to "$to" --store /dev/mapper/hang --force --rate 256K
	until_true 10 eval "dmsetup status --target cbw-snapshot | grep -q active" || return
	dm_suspend --nolockfs hang || return
	# more than the buffer holds, so that it waits for the store
	bg W cbw-load fill /dev/mapper/dut --gen $((GEN += 1))
	until_true 70 bg_ended tool || { wrong "the tool hangs"; return; }
	wait "${BG[tool]}"
	expect "status" $? 1 || { cat "$CBW_TMP/tool.out"; return 1; }
	unset "BG[tool]"
	cat "$CBW_TMP/tool.out"
	grep -q "the snapshot failed: timeout" "$CBW_TMP/tool.out" || return
	bg_wait W 10 || { wrong "the guest hangs"; return; }
	until_true 5 eval "[[ \$(bitmap_get dut $bitmap flags) == e ]]" || return
	expect "base" "$(bitmap_get dut "$bitmap" base)" "$base" || return
	dm_resume hang || return
	until_true 10 eval "! dmsetup ls | grep -q cbw-snap" || return
	dm_remove hang && tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to"
}

t "a store that hangs" hangs
finish
