#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 200
# long
#
# cbw backup to what is no chain: what is refused, with its reason, and two runs at once.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/single.bash
. "$here/single.bash"

# A bitmap with a base, and what it went to.
begun()
{
	tool 0 bitmap add dut b && tool 0 backup dut --to "$TO/0.qcow2" --bitmap b \
		--store "$store" && change && tool 0 backup dut --to "$TO/f.raw" --bitmap b \
		--store "$store" && same "$TO/f.raw"
}

# The second run to a file or device is told, and does the first one no harm.
at_once()
{
	local to

	truncate -s 16M "$CBW_TMP/store2" || return
	for to in "$TO/two.raw" "$target"; do
		bg b "$CBW" backup dut --to "$to" --store "$store" --rate 4M
		until_true 10 eval "dmsetup status --target cbw-snapshot | grep -q active" &&
			nap 1 || return
		tool 1 backup dut --to "$to" --store "$CBW_TMP/store2" && says "in use" || return
		ends b 0 && same "$to" || return
	done
	[[ ! -e $TO/two.raw.part ]] && rm "$TO/two.raw" && no_snapshots
}

refused()
{
	tool 1 backup dut --to "$TO/f.raw" --store "$store" && says "--force" || return
	tool 2 backup dut --to "$TO/f.raw" --incremental --store "$store" && says "--bitmap" || return
	tool 2 backup dut --to - --bitmap b --store "$store" && says "commit when it is safe" || return
	tool 2 backup dut --to "$TO/x.qcow2" --bitmap b --incremental --store "$store" &&
		says "--backing" || return
	tool 2 backup dut --to "$TO/f.raw" --resumable --store "$store" || return
	tool 2 backup dut dut --to "$TO/f.raw" --store "$store" && says "one volume" || return
	tool 2 backup dut --to "$TO/f.raw" --compress zstd --store "$store" || return
	tool 2 backup dut --to "$TO/c" --backing x --store "$store" || return
	tool 0 backup dut --to "$TO/i" --format qcow2 --bitmap b --store "$store" &&
		tool 4 backup dut --to "$TO/i" --bitmap b --incremental --store "$store" &&
		says "is a qcow2 image" || return
	tool 0 bitmap disable dut b && tool 1 backup dut --to "$TO/f.raw" --bitmap b --auto \
		--store "$store" && says "--force" && tool 0 bitmap enable dut b || return
	tool 4 backup dut --to "$TO/f.raw" --bitmap b --incremental --store "$store" &&
		says "no base" && tool 0 backup dut --to "$TO/f.raw" --bitmap b --force \
		--store "$store" || return
	tool 2 backup dut --to - --format qcow2 --store "$store" || return
	truncate -s 8M "$TO/short.raw" && tool 4 backup dut --to "$TO/short.raw" --bitmap b \
		--incremental --store "$store" && says "not what the last one went to" || return
	tool 4 backup dut --to "$TO/nothing.raw" --bitmap b --incremental --store "$store" &&
		says "there is no" || return
	tool 1 backup dut --to /dev/mapper/dut --store "$store" && says "volume dut itself" || return
	tool 1 backup dut --to "$store" --store "$store" && says "it is the store" || return
	tool 1 backup dut --to "$origin" --store "$store" && says "in use" || return
	tool 1 backup dut --to "$TO/y.qcow2" --bitmap b --incremental --backing no.qcow2 \
		--store "$store" && says "no.qcow2" || return
	[[ ! -e $TO/y.qcow2 ]] || return
	# an image on itself would be the end of what it has
	cp "$TO/0.qcow2" "$CBW_TMP/0" && tool 1 backup dut --to "$TO/0.qcow2" --bitmap b --incremental \
		--backing 0.qcow2 --force --store "$store" && cmp "$TO/0.qcow2" "$CBW_TMP/0" &&
		no_snapshots
}

# A target is locked before the cut: else another run could cut later, write there and commit, and
# have an older state written over that.
before_the_cut()
{
	local i rc

	cp "$TO/f.raw" "$TO/held.raw" || return
	bg holder flock -F "$TO/held.raw" sleep 30
	until_true 10 eval "! flock -n '$TO/held.raw' true" || return
	bg b "$CBW" backup dut --to "$TO/held.raw" --force --store "$store"
	until_true 10 eval "dmsetup status --target cbw-snapshot | grep -q ." || return
	for ((i = 0; i < 100; i++)); do
		[[ $(dmsetup status --target cbw-snapshot) != *" active "* ]] ||
			wrong "it has made its cut, and not its target" || return
		kill -0 "${BG[b]}" 2>/dev/null || break
		nap 0.01
	done
	ends b 1 && grep -q "in use" "$CBW_TMP/b.out" || return
	kill "${BG[holder]}" && { bg_wait holder 10; rc=$?; ((rc == 143)); } && no_snapshots
}

t "set up" setup
keep
t "full backups" begun
t "two at once" at_once
t "the target before the cut" before_the_cut
t "what is refused" refused
drop_stale
umount "$TO"
finish
