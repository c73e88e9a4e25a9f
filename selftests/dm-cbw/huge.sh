#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# A device of 64 TiB, 1000 dirty granules of 64 KiB all over it: what is done with its
# bitmaps takes as long as one pass over their words (128 MiB), and what is dirty.
#
#	huge.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086,SC2046
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
seed "${1-}"
M=/dev/mapper
len=$((1 << 37))
# what is written is gone, what is read is zero
t "an origin of 64 TiB" dm_create big "0 $len zero"
t "make the device" cbw dut $M/big $len
keep
session_open

# took COMMAND...: its milliseconds in $ms
took()
{
	local start

	start=$(now_ms)
	"$@" || return
	ms=$(($(now_ms) - start))
}

# scattered N: so many ranges of a sector, in different granules
scattered()
{
	awk -v n=$1 -v seed=$SEED 'BEGIN {
		srand(seed)
		step = 2 ^ 30 / n
		for (i = 0; i < n; i++)
			printf "%.0f+512\n", int((i + rand() * 0.9) * step) * 65536
	}'
}

quiet()
{
	"$@" >/dev/null
}

# The time of a pass: that of counting what is dirty.
pass()
{
	local i best=

	session transaction add:$M/dut:b || return
	for i in 1 2 3; do
		took quiet session list $M/dut || return
		[[ -n $best ]] && ((ms >= best)) || best=$ms
	done
	pass=$best
	figure "one pass: $pass ms"
	session transaction remove:$M/dut:b
}
pass=0
t "a pass over the words" pass

# passes WHAT PASSES: it may take as long as so many, and 300 ms
passes()
{
	local most=$((pass * $2 + 300))

	figure "$1: $ms ms, at most $most"
	((ms <= most)) || wrong "$1 took $ms ms, a pass takes $pass"
}

verbs()
{
	local rc=0 cut n

	# clearing the memory is a pass, too, and has to get it first
	took quiet session transaction add:$M/dut:b || return
	passes "add" 8 || rc=1
	took quiet session mark $M/dut b $(scattered 1000) || return
	passes "mark 1000" 1 || rc=1
	took quiet session transaction add:$M/dut:c:2097152 || return
	passes "add, 2 MiB" 1 || rc=1
	took quiet session transaction merge:$M/dut:c:b || return
	passes "merge to 2 MiB" 3 || rc=1
	session transaction add:$M/dut:d >/dev/null || return
	took quiet session transaction merge:$M/dut:d:b || return
	passes "merge to 64 KiB" 3 || rc=1
	cut=$(session transaction remove:$M/dut:d) || return
	took session_cut transaction rotate:$M/dut:b || return
	passes "rotate" 8 || rc=1
	took extents $cut 0 || return
	passes "extents of the frozen half" 3 || rc=1
	expect "extents" "$nr" 1000 || rc=1
	took quiet session abort $M/dut $cut || return
	passes "abort" 3 || rc=1
	took extents - 0 || return
	passes "extents after the abort" 3 || rc=1
	expect "extents" "$nr" 1000 || rc=1
	# half of what is dirty lies behind the middle
	took extents - $((1 << 45)) || return
	passes "extents from the middle on" 3 || rc=1
	expect "extents from the middle on" "$nr" 500 || rc=1
	return $rc
}

session_cut()
{
	cut=$(session "$@") && cut=${cut#ok }
}

# extents CUT [FROM]: their number in $nr
extents()
{
	cbw-ioctl extents $M/dut b $1 ${2-} 65536 >"$CBW_TMP/extents" || return
	mapfile -t lines <"$CBW_TMP/extents"
	# the last line says ok
	nr=$((${#lines[@]} - 1))
}
t "add, mark, merge, rotate, extents, abort" verbs

# Four times as many: that much more, and no pass more.
many()
{
	local few

	took extents - 0 || return
	few=$ms
	for i in 1 2 3; do
		SEED=$((SEED + i)) quiet session mark $M/dut b $(scattered 3000) || return
	done
	took extents - 0 || return
	figure "extents, $nr: $ms ms; 1000: $few ms"
	((ms <= few + pass + nr / 4 + 300)) || wrong "$nr took $ms ms, 1000 took $few"
}
t "four times as many extents" many
session_close
finish
