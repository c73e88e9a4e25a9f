#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 30
# long
#
# The short form of differential.sh, resume.sh and store-auto.sh: each kind of backup once,
# with a store that cbw makes, and one that is killed and resumed.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
M=/dev/mapper

setup()
{
	nullb origin 6 512 && tracked dut "$origin" && target_dir 100 || return
	to=$TO/b files=$CBW_TMP/files
	mkdir "$files" && fill dut
}

# Also: it does not wait for anything when it is done.
backup()
{
	local start

	start=$(now_ms)
	tool 0 backup dut --to "$to" --store-dir "$files" "$@" &&
		expect "stores" "$(ls -A "$files")" "" || return
	(($(now_ms) - start < 8000 * ${CBW_BUDGET_SCALE:-1})) || wrong "it took $(($(now_ms) - start)) ms"
}

changed()
{
	cbw-load one $M/dut --offset $1M --len 64K --gen $((GEN += 1))
}

# The differential has both changes; the increment behind it what it has not, nor loses.
kinds()
{
	backup && says "full backup 1" && changed 1 && backup && says "incremental backup 2" || return
	backup --full && changed 2 && backup --differential && says "differential backup 4, 64.0 KiB" || return
	changed 3 && backup && says "incremental backup 5, 128 KiB" || return
	changed 4 && backup --differential --json && grep -q '"parent":3,.*"copied":196608' "$TOOL_OUT" ||
		wrong "a differential without all of it" || return
	tool 0 verify "$to" --against $M/dut
}

copied()
{
	[[ $(sed -n 's/^done //p' "$to/dut/resume" 2>/dev/null) == [1-9]* ]]
}

resumed()
{
	fill dut && cp $M/dut "$CBW_TMP/ref" || return
	bg tool "$CBW" backup dut --to "$to" --store-dir "$files" --incremental --resumable --rate 1M
	until_true 10 copied || { cat "$CBW_TMP/tool.out"; return 1; }
	kill -KILL "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
	cbw-load one $M/dut --offset 4M --len 2M --gen $((GEN += 1)) || return
	tool 0 backup --resume "$to" && says "going on at" && no_snapshots || return
	expect "stores" "$(ls -A "$files")" "" || return
	tool 0 restore "$to" --to "$CBW_TMP/img" && cmp "$CBW_TMP/img" "$CBW_TMP/ref" || return
	backup --incremental && tool 0 verify "$to" --against $M/dut
}

t "set up" setup
keep
t "full, incremental, differential" kinds
t "killed and resumed" resumed
t "nothing is left" no_snapshots
drop_stale
umount "$TO"
finish
