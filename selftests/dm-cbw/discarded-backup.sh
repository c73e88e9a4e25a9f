#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 40
# long
#
# What was discarded is in an increment as zeros, and is not read for it: the origin cannot
# be read there. What was discarded in part only is data. Nothing that was discarded keeps
# being protected while the rest is copied.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"

setup()
{
	nullb origin 10 512 && nullb store 10 512 || return
	tracked dut "$origin" && target_dir 80 || return
	to=$TO/b
	fill dut && tool 0 backup dut --to "$to" --store "$store"
}

# op OPERATION OFFSET LENGTH
op()
{
	cbw-load one /dev/mapper/dut --offset "$2" --len "$3" --op "$1" --gen 90
}

# unreadable SECTOR LENGTH: and back with readable
unreadable()
{
	echo "+$1-$(($1 + $2 - 1))" >"/sys/kernel/config/nullb/${NULLBS[0]}/badblocks"
}

readable()
{
	echo "-$1-$(($1 + $2 - 1))" >"/sys/kernel/config/nullb/${NULLBS[0]}/badblocks"
}

# kinds IMAGE: "offset+length zero|data" in KiB of what it has itself
kinds()
{
	qemu-img map --output=json "$1" | python3 -c '
import json, sys
for e in json.load(sys.stdin):
    if e["depth"] == 0:
        print("%d+%d" % (e["start"] >> 10, e["length"] >> 10), "zero" if e["zero"] else "data", end=" ")'
}

not_read()
{
	# whole granules; one with a hole in the discard; one that was written to again
	op write 1M 64K && op discard 2M 1M && op discard $(((5 << 20) + 4096)) 60K &&
		op discard 7M 128K && op write $(((7 << 20) + 65536)) 4K || return
	unreadable 4096 2048 && unreadable 14336 128 || return
	tool 0 backup dut --to "$to" --store "$store" --incremental || return
	readable 4096 2048 && readable 14336 128 || return
	expect "increment" "$(kinds "$to/dut/000002-inc.qcow2")" \
		"1024+64 data 2048+1024 zero 5120+64 data 7168+64 zero 7232+64 data " || return
	qemu-img check -q "$to/dut/000002-inc.qcow2" || return
	tool 0 verify "$to" --against /dev/mapper/dut || return
	# nothing of it is left for the next one
	tool 0 backup dut --to "$to" --store "$store" --incremental --json &&
		grep -q '"copied":0,"zero":0' "$TOOL_OUT" || wrong "it is there once more"
}

# Granules are smaller than chunks: a chunk that is not discarded whole is data.
part_of_a_chunk()
{
	fill dut && tool 0 bitmap add dut fine --granularity 512 || return
	tool 0 backup dut --to "$TO/f" --store "$store" --bitmap fine || return
	op discard $(((6 << 20) + 512)) 8K || return
	unreadable 12296 8 || return
	tool 0 backup dut --to "$TO/f" --store "$store" --bitmap fine --incremental --json || return
	readable 12296 8
	grep -q '"copied":8192,"zero":4096' "$TOOL_OUT" || wrong "not two chunks of data, one of zeros" || return
	tool 0 verify "$TO/f" --against /dev/mapper/dut
}

snapshot()
{
	local name _

	read -r name _ < <(dmsetup table --target cbw-snapshot)
	[[ $name == cbw-snap-* ]] && snap=${name%:}
}

released()
{
	snapshot && (($(snap_get $snap released) >= 1024))
}

# Released at once, while the data is copied slowly.
not_protected()
{
	local snap

	op discard 4M 4M && op write 1M 1M || return
	bg tool "$CBW" backup dut --to "$to" --store "$store" --incremental --rate 512K
	until_true 2 released || { wrong "what was discarded is not released: $(dmsetup status $snap)"; return; }
	bg_ended tool && { wrong "too fast"; return; }
	kill -TERM "${BG[tool]}"
	bg_wait tool 10 && return 1
	no_snapshots && tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to" --against /dev/mapper/dut
}

t "set up, a full backup" setup
keep
t "what was discarded is zeros, and not read" not_read
t "a chunk that was discarded in part" part_of_a_chunk
t "what was discarded is released at once" not_protected
t "nothing is left" no_snapshots
umount "$TO"
finish
