#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# cbw backup killed at many points, by SIGKILL and by SIGTERM: the chain is as
# it was, the bitmap as if the backup had not begun, and the next increment has
# everything. A store that is too small, or fails, an unreadable sector of the
# origin, the source forced away: status 1 and the reason.
#
#	tool-kill.sh [SEED [KILLS]]
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
seed "${1-}"
kills=${2:-4}

setup()
{
	nullb origin 8 512 && nullb store 16 512 && nullb small 1 512 || return
	dm_create below "0 $(sectors "$origin") linear $origin 0" &&
		tracked dut /dev/mapper/below && target_dir 150 || return
	to=$TO/b
	fill dut && tool 0 backup dut --to "$to" --store "$store" || return
	bitmap=$(chain_bitmap "$to/dut")
}

# The bitmap is not frozen any more; the abort runs in the background.
idle()
{
	[[ $(bitmap_get dut "$bitmap" flags) == e ]]
}

as_before()
{
	until_true 5 idle || wrong "the bitmap is still frozen" || return
	expect "base" "$(bitmap_get dut "$bitmap" base)" "$base" || return
	(($(bitmap_get dut "$bitmap" dirty) >= dirty)) ||
		wrong "dirty bytes: $(bitmap_get dut "$bitmap" dirty), before $dirty"
}

# killed SIGNAL MILLISECONDS: a slow increment, killed after so long
killed()
{
	local rc

	cp "$to/dut/manifest.json" "$CBW_TMP/manifest" || return
	base=$(bitmap_get dut "$bitmap" base)
	dirty=$(bitmap_get dut "$bitmap" dirty)
	bg tool "$CBW" backup dut --to "$to" --store "$store" --incremental --rate 4M
	nap "$(($2 / 1000)).$(printf %03d $(($2 % 1000)))"
	kill "-$1" "${BG[tool]}" 2>/dev/null
	wait "${BG[tool]}" 2>/dev/null
	rc=$?
	unset "BG[tool]"
	# it may have been faster, or just before the end
	if ! cmp -s "$to/dut/manifest.json" "$CBW_TMP/manifest"; then
		echo "too late after $2 ms: status $rc"
		late=$((late + 1))
		return 0
	fi
	as_before || return
	# 143: before it could catch signals
	[[ $1 == KILL ]] || ((rc == 143)) || {
		expect "status after SIG$1" $rc 1 && no_snapshots || return
		grep -q "stopped by signal" "$CBW_TMP/tool.out" || return
	}
}

# What is not killed has to be complete, whatever was before.
complete()
{
	tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to" --against /dev/mapper/dut && no_snapshots || return
	expect "leftovers" "$(find "$to/dut" -name '*.tmp' | wc -l)" 0 || return
	expect "images" "$(find "$to/dut" -name '*.qcow2' | wc -l)" \
		"$(grep -c '"file"' "$to/dut/manifest.json")"
}

kill_at_many_points()
{
	local i late=0 base dirty

	for ((i = 0; i < kills; i++)); do
		cbw-load run /dev/mapper/dut --log "$CBW_TMP/w.log" --uring 1:4 \
			--bs 4096:65536 --ops 60 --seed $((SEED + i)) --gen $((GEN += 1)) || return
		rm -f "$CBW_TMP/w.log"
		if ((i % 3 == 2)); then
			killed TERM $((50 + 200 * (i % 6))) || return
		else
			killed KILL $((50 + 1500 * i / kills)) || return
		fi
		((i % 2 == 0)) || complete || return
	done
	echo "$late of $kills were too late"
	((late < kills / 2)) || wrong "$late of $kills were too late" || return
	complete
}

# The first backup of a chain, killed: nothing is there, the next one is a full one.
first_killed()
{
	bg tool "$CBW" backup dut --to "$TO/c" --store "$store" --rate 1M
	until_true 10 any_active || return
	kill -KILL "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
	tool 1 restore "$TO/c" --to "$CBW_TMP/img" && says "no backup has been completed" || return
	tool 0 backup dut --to "$TO/c" --store "$store" && says "full backup 1" || return
	cbw-load one /dev/mapper/dut --offset 65536 --len 4096 --gen 90 || return
	tool 0 backup dut --to "$TO/c" --store "$store" --incremental &&
		tool 0 verify "$TO/c" --against /dev/mapper/dut || return
	expect "bitmaps" "$("$CBW" bitmap list dut | wc -l)" 2
}

# The cut is made.
any_active()
{
	[[ $(dmsetup status --target cbw-snapshot) == *" active "* ]]
}

store_too_small()
{
	local base dirty

	fill dut || return
	base=$(bitmap_get dut "$bitmap" base)
	dirty=$(bitmap_get dut "$bitmap" dirty)
	cp "$to/dut/manifest.json" "$CBW_TMP/manifest" || return
	bg tool "$CBW" backup dut --to "$to" --store "$small" --rate 1M
	until_true 10 any_active || return
	cbw-load fill /dev/mapper/dut --gen $((GEN += 1)) || return
	wait "${BG[tool]}"
	expect "status" $? 1 || { cat "$CBW_TMP/tool.out"; return 1; }
	unset "BG[tool]"
	grep -q "the snapshot failed: store-full" "$CBW_TMP/tool.out" ||
		{ cat "$CBW_TMP/tool.out"; return 1; }
	cmp "$to/dut/manifest.json" "$CBW_TMP/manifest" && as_before && no_snapshots &&
		complete
}

unreadable_origin()
{
	local base dirty

	fill dut || return
	base=$(bitmap_get dut "$bitmap" base)
	dirty=$(bitmap_get dut "$bitmap" dirty)
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

	fill dut || return
	base=$(bitmap_get dut "$bitmap" base)
	dirty=$(bitmap_get dut "$bitmap" dirty)
	dm_create broken "0 8 linear $store 0
8 8184 error" || return
	bg tool "$CBW" backup dut --to "$to" --store /dev/mapper/broken --force --rate 1M
	until_true 10 any_active || return
	cbw-load fill /dev/mapper/dut --gen $((GEN += 1)) || return
	wait "${BG[tool]}"
	expect "status" $? 1 || { cat "$CBW_TMP/tool.out"; return 1; }
	unset "BG[tool]"
	grep -q "the snapshot failed: store-io" "$CBW_TMP/tool.out" ||
		{ cat "$CBW_TMP/tool.out"; return 1; }
	as_before && no_snapshots && dm_remove broken && complete
}

# Its table taken away: last, since bitmaps and all go with it.
source_gone()
{
	fill dut || return
	bg tool "$CBW" backup dut --to "$to" --store "$store" --rate 1M
	until_true 10 any_active || return
	dmsetup wipe_table --noudevsync dut || return
	wait "${BG[tool]}"
	expect "status" $? 1 || { cat "$CBW_TMP/tool.out"; return 1; }
	unset "BG[tool]"
	grep -q "the snapshot failed: source-gone" "$CBW_TMP/tool.out" ||
		{ cat "$CBW_TMP/tool.out"; return 1; }
	no_snapshots && tool 0 verify "$to"
}

t "set up, a full backup" setup
keep
t "killed at $kills points" kill_at_many_points
t "the first backup killed" first_killed
t "a store that is too small" store_too_small
t "an origin with an unreadable sector" unreadable_origin
t "a store that fails on write" store_fails
t "the source forced away" source_gone
t "nothing is left" no_snapshots
drop_stale
umount "$TO"
finish
