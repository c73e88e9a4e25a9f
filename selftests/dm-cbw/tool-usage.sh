#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# What the tool refuses on real devices: with which status and which text, and
# that nothing has changed by it. (Command lines that are wrong without looking
# at a device: selftests/unit/cbw/test_usage.c.) Then what it accepts: bitmaps,
# status, snapshots over two devices, a store in a file.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"

setup()
{
	nullb origin 8 512 && nullb second 8 512 && nullb store 8 512 &&
		nullb store2 8 512 && nullb tiny 1 512 || return
	tracked dut "$origin" && tracked dut2 "$second" || return
	dm_create plain "0 2048 linear $tiny 0" || return
	target_dir 60 || return
	tool 0 bitmap add dut b && tool 0 bitmap add dut "odd \\name" --granularity 4K --disabled || return
	fill dut && fill dut2
	truncate -s 2K "$TO/short" && truncate -s 4M "$TO/file" || return
	mkswap -q "$TO/file" 2>/dev/null && mkswap -q "$store2" || return
	truncate -s 4M "$TO/blank" && mkdir -p "$TO/orphans/dut" &&
		: >"$TO/orphans/dut/000001-full.qcow2" || return
	printf hello >"$TO/text" && mkdir "$TO/junk" "$TO/junk/dut"
}

# STATUS|TEXT|COMMAND LINE, words separated by blanks
refusals()
{
	local status text line n=0 before

	before=$(state_of_all)
	while IFS='|' read -r status text line; do
		[[ -n $line ]] || continue
		n=$((n + 1))
		# shellcheck disable=SC2086
		tool "$status" $line && says "$text" || return
	done <<END
1|there is a mapped device 'dut' already|create dut $store
1|cannot be the name of a mapped device|create a/b $store
1|cannot be the name of a mapped device|create .. $store
1|not a block device|create new $TO/file
1|No such file or directory|create new /dev/nosuch
1|there is no mapped device 'nosuch'|remove nosuch
1|not a device that 'cbw create' made|remove plain
1|not a device-mapper device|remove $store
1|it was not attached but made for cbw|detach dut
1|it has no cbw target|detach plain
1|it has the cbw target already|attach dut
1|it has no cbw target|status plain
1|there is no mapped device|status nosuch
1|it has no cbw target; attach it first|bitmap add plain b
1|there is one of that name already|bitmap add dut b
1|there is no bitmap of that name|bitmap remove dut nosuch
1|there is no bitmap of that name|bitmap clear dut nosuch
1|there is no bitmap of that name|bitmap enable dut nosuch
1|there is no bitmap of that name|bitmap disable dut nosuch
1|dut has no bitmap 'nosuch'|bitmap list dut nosuch
1|there is no such bitmap, or no such source|bitmap merge dut b nosuch
1|there is no bitmap of that name|bitmap rename dut nosuch c
1|there is one of that name already|bitmap copy dut b b
1|it has no cbw target|bitmap copy dut c b --from plain
1|it has no cbw target|snapshot create plain --store $store
1|not a cbw snapshot|snapshot remove dut
1|it has no bitmap 'nosuch'|snapshot create dut --store $store --bitmap nosuch
2|dut is named twice|snapshot create dut dut --store $store --store $tiny
2|is named twice|snapshot create dut dut2 --store $store --store $store
1|the store lies on volume dut itself|snapshot create dut --store /dev/mapper/dut
1|the store lies on volume dut2 itself|snapshot create dut dut2 --store $store --store /dev/mapper/dut2
1|the store is in use|snapshot create dut --store $origin
1|the store is in use|snapshot create dut --store $tiny
1|the store is in use|snapshot create dut --store $disk
1|it holds data (swap)|snapshot create dut --store $store2
1|it holds data (swap)|backup dut --to $TO/new --store $TO/file
1|the store is in use by another run|snapshot create dut dut2 --store $TO/blank --store $TO/./blank
4|there are images (000001-full.qcow2) but no manifest|backup dut --to $TO/orphans --store $store
1|at least one chunk is needed|backup dut --to $TO/new --store $TO/short
1|a store is a block device or a regular file|backup dut --to $TO/new --store /dev/null
1|No such file or directory|backup dut --to $TO/new --store /dev/nosuch
1|it has no cbw target|backup plain --to $TO/new --store $store
1|not a block device|backup /dev/null --to $TO/new --store $store
2|dut is named twice|backup dut /dev/mapper/dut --to $TO/new --store $store --store $TO/file
1|text is there; --force if it is to be overwritten|backup dut --to $TO/text --store $store
1|Not a directory|backup dut --to $TO/text/new --store $store
1|No such file or directory|backup dut --to $TO/a/b --store $store
1|it has no bitmap 'nosuch'|backup dut --to $TO --store $store --bitmap nosuch
4|no increment is possible: the chain is empty|backup dut2 --to $TO --store $store --incremental
1|there is no backup here|restore $TO/junk --to $TO/img
1|there is no backup here|verify $TO/junk
1|there is no backup here|chain list $TO/junk
1|No such file or directory|info $TO/nosuch
END
	echo "$n refusals"
	[[ $(state_of_all) == "$before" ]] || wrong "something has changed" || return
	[[ ! -e $TO/new && ! -e $TO/img ]] || wrong "something was made"
}

bitmaps()
{
	tool 0 bitmap list dut && says 'odd\x20\x5cname' && says disabled || return
	tool 0 bitmap enable dut 'odd \name' && tool 0 bitmap disable dut b || return
	cbw-load one /dev/mapper/dut --offset 8192 --len 512 --gen 9 || return
	tool 0 bitmap list dut 'odd \name' --json && says '"dirty_bytes":4096' || return
	tool 0 bitmap clear dut 'odd \name' && tool 0 bitmap list dut 'odd \name' --json &&
		says '"dirty_bytes":0' || return
	tool 0 status --json && python3 -c '
import json, sys
d = {x["name"]: x for x in json.load(open(sys.argv[1]))["devices"]}
assert set(d) == {"dut", "dut2"}, d
assert [b["name"] for b in d["dut"]["bitmaps"]] == ["b", "odd\\x20\\x5cname"], d
assert not d["dut"]["attached"]' "$TOOL_OUT" || return
	tool 0 bitmap remove dut 'odd \name' && tool 0 bitmap enable dut b
}

# Two devices, one instant; a store in a file; names with a meaning to shells and tables.
snapshots()
{
	local name=$'we ird\\' snaps=() s

	truncate -s 0 "$TO/file" && truncate -s 4M "$TO/file" || return
	tool 0 bitmap add dut "$name" && tool 0 bitmap add dut2 "$name" || return
	tool 0 snapshot create dut dut2 --store "$store" --store "$TO/file" || return
	mapfile -t snaps < <(sed 's/ .*//' "$TOOL_OUT")
	DM_DEVS+=("${snaps[@]}")
	tool 0 status && says "snapshot ${snaps[0]}  active" && says "snapshot ${snaps[1]}  active" || return
	tool 1 remove dut && says "lives on it" || return
	cbw-load one /dev/mapper/dut2 --offset 0 --len 4096 --gen 77 || return
	cbw-check compare "/dev/mapper/${snaps[0]}" /dev/mapper/dut || return
	at "/dev/mapper/${snaps[1]}" 0 "*gen=$BASE_GEN *" || return
	for s in "${snaps[@]}"; do
		tool 0 snapshot remove "$s" && dm_forget "$s" || return
	done
	! losetup | grep -q "$TO/file" || wrong "the loop device is left" || return
	# limited to a bitmap: committed, and not
	for s in "" --commit; do
		cbw-load one /dev/mapper/dut --offset 65536 --len 4096 --gen 78 || return
		tool 0 snapshot create dut --store "$store" --bitmap "$name" --json || return
		snaps[0]=$(sed 's/.*"snapshot":"\([^"]*\)".*/\1/' "$TOOL_OUT")
		DM_DEVS+=("${snaps[0]}")
		tool 1 bitmap remove dut "$name" && says "it is frozen" || return
		tool 1 snapshot create dut --store "$TO/file" --bitmap "$name" && says frozen || return
		tool 0 snapshot remove "${snaps[0]}" $s && dm_forget "${snaps[0]}" || return
		tool 0 bitmap list dut "$name" --json || return
		if [[ -n $s ]]; then
			says '"dirty_bytes":0' && ! grep -q '"base":null' "$TOOL_OUT" || return
		else
			says '"dirty_bytes":65536' && says '"base":null' || return
		fi
	done
	tool 0 bitmap remove dut "$name" && tool 0 bitmap remove dut2 "$name"
}

# A group of volumes, stores in files, lines of JSON.
group()
{
	tool 0 backup dut dut2 --to "$TO/g" --store "$TO/file" --store "$store2" --force --json || return
	python3 -c '
import json, sys
e = [json.loads(l) for l in open(sys.argv[1])]
done = [x for x in e if x["event"] == "done"]
assert [x["volume"] for x in done] == ["dut", "dut2"] and done[0]["cut"] == done[1]["cut"], e
' "$TOOL_OUT" || return
	tool 1 restore "$TO/g" --to "$TO/img" && says "holds 2 volumes" || return
	tool 1 restore "$TO/g/dut" --to "$tiny" && says "in use" || return
	tool 1 restore "$TO/g/dut" --to /dev/mapper/plain && says "the device has 1048576 bytes" || return
	tool 1 restore "$TO/g/dut" --to "$TO/text" && says "File exists" || return
	tool 1 restore "$TO/g/dut" --to "$TO/img" --until 9 && says "no point in time '9'" || return
	tool 0 verify "$TO/g" && tool 0 verify "$TO/g/dut2" --against /dev/mapper/dut2 && no_snapshots
}

t "set up" setup
keep
t "refused, with which status and text, and nothing changed" refusals
t "bitmaps and their lists" bitmaps
t "snapshots over two devices" snapshots
t "a backup of two volumes" group
umount "$TO"
finish
