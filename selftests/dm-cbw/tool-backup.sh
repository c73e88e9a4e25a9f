#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# cbw backup, restore, verify: full and increments under load, every point in time
# is a consistent cut of the load and comes back as it was; damage is noticed.
#
#	tool-backup.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"
seed "${1-}"

setup()
{
	nullb origin 16 512 && nullb store 16 512 && nullb target 16 512 || return
	tracked dut "$origin" && target_dir 200 || return
	to=$TO/b
	fill dut
}

# One point in time, under load: a cut between two marks.
backup_once()
{
	local kind=$1

	mark_before[n]=$(cbw-check mark "$CBW_TMP/load.log")
	tool 0 backup dut --to "$to" --store "$store" "--$kind" || return
	mark_after[n]=$(cbw-check mark "$CBW_TMP/load.log")
	no_snapshots
}

chain()
{
	local n

	load_start load dut -- --uring 1:16 --sync 1 --mix 8:1:1 --bs 512:65536 \
		--max-iops 150 || return
	for n in 1 2 3; do
		if ((n == 1)); then
			backup_once full || return
			says "full backup 1" || return
		else
			backup_once incremental || return
			says "incremental backup $n" || return
		fi
		nap 0.3
	done
	load_stop load || return
	n=4
	tool 0 backup dut --to "$to" --store "$store" || return
	says "incremental backup 4"
}

points_in_time()
{
	local n

	for n in 1 2 3; do
		rm -f "$CBW_TMP/img"
		tool 0 restore "$to" --to "$CBW_TMP/img" --until $n || return
		cbw-check order "$CBW_TMP/load.log" "$CBW_TMP/img" \
			--before "${mark_before[n]}" --after "${mark_after[n]}" \
			--gen "$BASE_GEN" || return
	done
	# the newest one, to a device that holds something else
	cbw-load fill "$target" --gen 99 --index 7 &&
		tool 0 restore "$to/dut" --to "$target" &&
		cbw-check compare "$target" /dev/mapper/dut
}

stock_tools()
{
	local f

	for f in "$to"/dut/*.qcow2; do
		qemu-img check -q "$f" || return
	done
	qemu-img convert -O raw "$f" "$CBW_TMP/img.qemu" &&
		cbw-check compare "$CBW_TMP/img.qemu" /dev/mapper/dut
}

verified()
{
	tool 0 verify "$to" && tool 0 verify "$to" --against /dev/mapper/dut &&
		tool 0 chain list "$to" && tool 0 info "$to" || return
	tool 1 verify "$to" --until 2 --against /dev/mapper/dut &&
		says "it differs from the image"
}

# A changed byte of data, a manifest that names another chain's image.
damage()
{
	local f=$to/dut/000002-inc.qcow2 at

	at=$(qemu-img map --output=json "$f" | python3 -c '
import json, sys
print([e["offset"] for e in json.load(sys.stdin) if e["depth"] == 0 and e["data"]][0])')
	cp "$f" "$CBW_TMP/keep" || return
	printf '\125\252' | dd of="$f" bs=1 seek=$((at + 77)) conv=notrunc status=none
	tool 4 verify "$to" && says "content has changed" || return
	cp "$to/dut/000001-full.qcow2" "$f"
	tool 4 verify "$to" && says "another point in time" || return
	tool 4 restore "$to" --to "$CBW_TMP/img2" && says "another point in time" || return
	[[ ! -e $CBW_TMP/img2 ]] || return
	cp "$CBW_TMP/keep" "$f" && tool 0 verify "$to"
}

declare -a mark_before mark_after
t "set up" setup
keep
t "a full backup and increments, under load" chain
t "every point in time comes back, consistent" points_in_time
t "qemu-img reads and accepts the images" stock_tools
t "verify and the lists" verified
t "verify notices damage and mixed up images" damage
t "nothing is left" no_snapshots
umount "$TO"
finish
