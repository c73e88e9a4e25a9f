#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# cbw backup --differential: all that has changed since the newest full image, whatever
# increments come between; each point in time is what the volume was then. What cannot be
# one is a full backup with a reason and status 3. A differential that is killed takes nothing away.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
M=/dev/mapper

setup()
{
	nullb origin 16 512 && nullb store 16 512 || return
	tracked dut "$origin" && target_dir 200 || return
	to=$TO/b
	fill dut
}

# point STATUS KIND WRITE-AT-MIB...: writes, a backup, and a copy of what it has to have
point()
{
	local status=$1 kind=$2 at

	shift 2
	for at; do
		cbw-load one $M/dut --offset ${at}M --len 64K --gen $((GEN += 1)) || return
	done
	tool $status backup dut --to "$to" --store "$store" "--$kind" || return
	points=$((points + 1))
	cp $M/dut "$CBW_TMP/point$points" 2>/dev/null || dd if=$M/dut of="$CBW_TMP/point$points" bs=1M status=none
}

# entry ID: type and parent
entry()
{
	python3 -c '
import json, sys
e = [e for e in json.load(open(sys.argv[1]))["entries"] if e["id"] == int(sys.argv[2])][0]
print(e["type"], e["parent"], e["copied"] >> 10)' "$to/dut/manifest.json" "$1"
}

restores()
{
	local n

	for ((n = 1; n <= points; n++)); do
		rm -f "$CBW_TMP/img"
		tool 0 restore "$to" --to "$CBW_TMP/img" --until $n || return
		cmp "$CBW_TMP/img" "$CBW_TMP/point$n" || wrong "point in time $n" || return
	done
	tool 0 verify "$to"
}

between()
{
	point 0 full && point 0 differential 1 && point 0 incremental 2 3 && point 0 differential 4 &&
		point 0 incremental 5 && point 0 incremental 6 && point 0 differential || return
	expect 2 "$(entry 2)" "differential 1 64" || return
	expect 3 "$(entry 3)" "incremental 1 192" || return
	expect 4 "$(entry 4)" "differential 1 256" || return
	# on top of the newest increment: neither loses nor repeats what the differential had
	expect 5 "$(entry 5)" "incremental 3 128" || return
	expect 6 "$(entry 6)" "incremental 5 64" || return
	expect 7 "$(entry 7)" "differential 1 384" || return
	tool 0 chain list "$to" && says "differential" && restores || return
	qemu-img check -q "$to/dut/000007-diff.qcow2" &&
		qemu-img convert -O raw "$to/dut/000007-diff.qcow2" "$CBW_TMP/img" &&
		cmp "$CBW_TMP/img" "$CBW_TMP/point7"
}

# A new full one: differentials go on from there.
new_full()
{
	point 0 full 7 && point 0 differential 8 && point 0 incremental 9 && point 0 differential 10 || return
	expect 9 "$(entry 9)" "differential 8 64" && expect 10 "$(entry 10)" "incremental 8 128" &&
		expect 11 "$(entry 11)" "differential 8 192" && restores
}

# Killed, what it had is in the next one.
killed()
{
	local second

	second=$(chain_bitmap "$to/dut")-d
	cbw-load one $M/dut --offset 11M --len 2M --gen $((GEN += 1)) || return
	bg tool "$CBW" backup dut --to "$to" --store "$store" --differential --rate 1M
	nap 1
	kill -KILL "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
	point 0 differential || return
	expect 12 "$(entry 12)" "differential 8 $((3 * 64 + 2048))" || return
	expect "its base" "$(bitmap_get dut $second base)" "$(sed -n '/"id": *8,/,/"cut"/s/.*"cut": *"\(.*\)".*/\1/p' "$to/dut/manifest.json")"
}

fallback()
{
	local second

	second=$(chain_bitmap "$to/dut")-d
	tool 0 bitmap remove dut $second || return
	point 3 differential 13 && says "a differential is impossible: the volume has no bitmap '$second'" || return
	point 0 differential 14 && point 0 incremental || return
	expect 14 "$(entry 14)" "differential 13 64" || return
	# a gap that nobody sees any more
	tool 0 bitmap disable dut $second || return
	cbw-load one $M/dut --offset 15M --len 64K --gen $((GEN += 1)) || return
	tool 0 bitmap enable dut $second || return
	point 3 differential && says "no base" || return
	point 0 incremental 2 && point 0 differential 3 || return
	expect 18 "$(entry 18)" "differential 16 128" && restores
}

points=0
t "set up" setup
keep
t "between increments" between
t "on top of a new full one" new_full
t "killed" killed
t "what cannot be one: full, and 3" fallback
t "nothing is left" no_snapshots
umount "$TO"
finish
