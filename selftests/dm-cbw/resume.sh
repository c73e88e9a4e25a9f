#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# cbw backup --resumable: killed, its snapshot and what is frozen stay, what was released is
# in the unfinished image, and --resume makes of it the point in time of the cut, without
# reading that again. What cannot be resumed is taken down, and the next backup has everything.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
M=/dev/mapper
MIB=16

setup()
{
	nullb origin $MIB 512 && nullb origin2 4 512 && nullb store $MIB 512 && nullb store2 4 512 || return
	tracked dut "$origin" && tracked dut2 "$origin2" && target_dir 450 || return
	to=$TO/b
	fill dut
}

record()
{
	sed -n "s/^$1 //p" "$to/dut/resume"
}

copied()
{
	[[ -e $to/dut/resume ]] && (($(record "done") >= $1 << 20))
}

# killed SIGNAL MIB OPTION...: when so much is written down; $CBW_TMP/ref is what it is of
killed()
{
	local signal=$1 mib=$2

	shift 2
	cp $M/dut "$CBW_TMP/ref" || return
	bg tool "$CBW" backup dut --to "$to" --rate 3M --resumable "$@"
	until_true 20 copied $mib || { cat "$CBW_TMP/tool.out"; return 1; }
	# what it still needs is overwritten before and behind its end
	cbw-load one $M/dut --offset 12M --len 3M --gen $((GEN += 1)) || return
	kill -$signal "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
	[[ -e $to/dut/resume ]] || { cat "$CBW_TMP/tool.out"; wrong "it was too fast"; return; }
	bitmap=$(record bitmap) snap=$(record snapshot)
}

# What is released is durable in the image: as far as it is written down, and no further.
front_is_durable()
{
	local end released img

	end=$(record "done") released=$(snap_get $snap released)
	((released * 4096 <= end)) || wrong "$released chunks released, $end bytes durable" || return
	((released > 0)) || wrong "nothing was released" || return
	img=("$to"/dut/*.part)
	qemu-img check -q "${img[0]}" && qemu-img convert -f qcow2 -O raw "${img[0]}" "$CBW_TMP/part" &&
		cmp -n $end "$CBW_TMP/part" "$CBW_TMP/ref"
}

still_there()
{
	[[ $(bitmap_get dut $bitmap flags) == *b* ]] || wrong "the bitmap is not frozen" || return
	snap_is $snap state active
}

nothing_left()
{
	no_snapshots || return
	[[ ! -e $to/dut/resume ]] || wrong "the record is there" || return
	expect "leftovers" "$(find "$to" -name '*.part' -o -name '*.tmp' | wc -l)" 0
	[[ $(bitmap_get dut $bitmap flags) == e ]] || wrong "the bitmap is frozen"
}

# The newest point in time is the reference, and the next increment has the rest.
is_right()
{
	rm -f "$CBW_TMP/img"
	tool 0 restore "$to/dut" --to "$CBW_TMP/img" && cmp "$CBW_TMP/img" "$CBW_TMP/ref" || return
	expect "base" "$(bitmap_get dut $bitmap base)" \
		"$(grep '"cut"' "$to/dut/manifest.json" | tail -n 1 | cut -d'"' -f4)" || return
	tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to/dut" --against $M/dut && tool 0 verify "$to/dut"
}

full()
{
	killed KILL 5 --store "$store" && still_there && front_is_durable || return
	cbw-load one $M/dut --offset 8M --len 1M --gen $((GEN += 1)) || return
	tool 0 backup --resume "$to/dut" && says "going on at" && nothing_left && is_right
}

# With something discarded in it; stopped in order, twice.
increment()
{
	fill dut && cbw-load one $M/dut --offset 2M --len 1M --op discard --gen 1 &&
		killed TERM 2 --store "$store" || return
	grep -q "'cbw backup --resume $to/dut' goes on" "$CBW_TMP/tool.out" ||
		{ cat "$CBW_TMP/tool.out"; return 1; }
	still_there || return
	bg tool "$CBW" backup --resume "$to" --rate 3M
	until_true 20 copied 9 || { cat "$CBW_TMP/tool.out"; return 1; }
	kill -KILL "${BG[tool]}"
	wait "${BG[tool]}" 2>/dev/null
	unset "BG[tool]"
	still_there && tool 0 backup --resume "$to" --json && nothing_left || return
	grep -q '"copied":15728640,"zero":1048576' "$TOOL_OUT" || wrong "other sums" || return
	is_right
}

own_store()
{
	mkdir "$CBW_TMP/files"
	fill dut && killed KILL 5 --store-dir "$CBW_TMP/files" --store-size 8M || return
	# nobody takes it for a leftover
	tool 0 backup dut2 --to "$TO/other" --store-dir "$CBW_TMP/files" || return
	tool 0 backup --resume "$to" && nothing_left &&
		expect "files" "$(ls -A "$CBW_TMP/files")" "" && is_right
}

# The next plain run gives it up, and has everything.
given_up()
{
	fill dut && killed KILL 5 --store "$store" || return
	cp $M/dut "$CBW_TMP/ref" || return
	tool 0 backup dut --to "$to" --store "$store" --incremental && says "is given up" &&
		nothing_left && is_right
}

dead_snapshot()
{
	fill dut && killed KILL 5 --store "$store" && dmsetup remove --noudevsync $snap || return
	tool 1 backup --resume "$to" && says "its snapshot is gone" && nothing_left || return
	tool 1 backup --resume "$to" && says "no interrupted backup" || return
	cp $M/dut "$CBW_TMP/ref" || return
	tool 0 backup dut --to "$to" --store "$store" --incremental && is_right
}

# Two volumes: both, or none.
group()
{
	fill dut && fill dut2 && cp $M/dut2 "$CBW_TMP/ref2" || return
	killed KILL 5 dut2 --store "$store" --store "$store2" || return
	cbw-load one $M/dut2 --offset 1M --len 2M --gen 99 || return
	tool 0 backup --resume "$to" && nothing_left || return
	expect "points of one cut" "$(cat "$to"/dut*/manifest.json | grep -c "$(bitmap_get dut $bitmap base)")" 2 || return
	tool 0 restore "$to/dut2" --to "$CBW_TMP/img2" && cmp "$CBW_TMP/img2" "$CBW_TMP/ref2" && is_right
}

t "set up" setup
keep
t "a full backup, killed" full
t "an increment, stopped and killed" increment
t "a store of its own" own_store
t "given up by the next run" given_up
t "a snapshot that is dead" dead_snapshot
t "two volumes" group
t "nothing is left" no_snapshots
drop_stale
umount "$TO"
finish
