#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 160
#
# cbw backup to what is no chain: an image, a raw file, a device, an NBD server, a stream. In
# full, and as increments on top of what the bitmap's base is; what fails leaves the bitmap.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/single.bash
. "$here/single.bash"
# nbd_server FILE, raw
nbd_server()
{
	rm -f "$CBW_TMP/nbd.sock"
	bg nbd qemu-nbd -k "$CBW_TMP/nbd.sock" -f raw -e 8 -t --discard unmap --detect-zeroes off "$1"
	until_true 10 test -S "$CBW_TMP/nbd.sock" || wrong "qemu-nbd does not come up"
	URI="nbd+unix:///?socket=$CBW_TMP/nbd.sock"
}

nbd_end()
{
	kill -TERM "${BG[nbd]}" && ends nbd 0
}

# A point in time while the volume is written: between two marks.
under_load()
{
	local before after

	load_start load dut -- --uring 1:16 --sync 1 --mix 8:1:1 --bs 512:65536 --max-iops 150 ||
		return
	nap 0.3
	before=$(cbw-check mark "$CBW_TMP/load.log")
	tool 0 backup dut --to "$TO/load.raw" --store "$store" || return
	after=$(cbw-check mark "$CBW_TMP/load.log")
	load_stop load && no_snapshots || return
	cbw-check order "$CBW_TMP/load.log" "$TO/load.raw" --before "$before" --after "$after" \
		--gen "$BASE_GEN"
}

fulls()
{
	blkdiscard -z -o $((8 << 20)) -l $((2 << 20)) /dev/mapper/dut || return
	tool 0 backup dut --to "$TO/one.qcow2" --store "$store" && says "full backup" &&
		image_same "$TO/one.qcow2" || return
	tool 0 backup dut --to "$TO/packed.qcow2" --compress zstd --store "$store" &&
		image_same "$TO/packed.qcow2" || return
	tool 0 backup dut --to "$TO/by-name" --format raw --store "$store" && same "$TO/by-name" ||
		return
	[[ $(stat -c %b "$TO/by-name") -le $((15 << 11)) ]] || wrong "zeros take room" || return
	# a device that has something else, a file system, too: as the manual says
	cbw-load fill "$target" --gen 99 --index 7 && mkfs.ext4 -q "$target" &&
		tool 0 backup dut --to "$target" --store "$store" && same "$target" || return
	tool 0 backup dut --to "$TO/json.raw" --store "$store" --json &&
		says '"type":"full"' && no_snapshots
}

to_nbd()
{
	cbw-load fill "$target" --gen 98 --index 7 && nbd_server "$target" || return
	tool 0 backup dut --to "$URI" --store "$store" && nbd_end && same "$target" || return
	tool 1 backup dut --to "nbd+unix:///?socket=$CBW_TMP/nothing" --store "$store" &&
		says "the backup was given up" && no_snapshots
}

to_stdout()
{
	"$CBW" backup dut --to - --store "$store" 2>"$CBW_TMP/err" |
		"$CBW" restore - --to "$TO/stream.raw" || return
	[[ ${PIPESTATUS[*]} == "0 0" ]] && cat "$CBW_TMP/err" && same "$TO/stream.raw" || return
	# as long as that of a copy: it has one end
	expect "length" "$("$CBW" backup dut --to - --store "$store" 2>/dev/null | wc -c)" \
		"$("$CBW" copy /dev/mapper/dut - 2>/dev/null | wc -c)" || return
	# a reader that ends early
	"$CBW" backup dut --to - --store "$store" 2>"$CBW_TMP/err" | head -c 100000 >/dev/null
	[[ ${PIPESTATUS[0]} == 1 ]] || wrong "nobody read it, and it ended with ${PIPESTATUS[0]}" ||
		return
	no_snapshots
}

# Each target has to get what changed since the bitmap's base, and nothing else is written.
increments()
{
	local cut

	tool 0 bitmap add dut b && tool 4 backup dut --to "$TO/r.raw" --bitmap b --incremental \
		--store "$store" && says "no base" || return
	tool 3 backup dut --to "$TO/r.raw" --bitmap b --auto --store "$store" &&
		same "$TO/r.raw" || return
	cut=$(base)
	[[ $cut != "$NONE" ]] || wrong "it was not committed" || return
	change && tool 0 backup dut --to "$TO/r.raw" --bitmap b --incremental --store "$store" \
		--json && says "\"base\":\"$cut\"" && same "$TO/r.raw" || return
	says "\"cut\":\"$(base)\"" || return
	change && tool 0 backup dut --to "$TO/r.raw" --bitmap b --auto --store "$store" &&
		says "incremental backup" && same "$TO/r.raw" || return
	# discarded: zeros in the target
	blkdiscard -o $((4 << 20)) -l $((1 << 20)) /dev/mapper/dut && change &&
		tool 0 backup dut --to "$TO/r.raw" --bitmap b --auto --store "$store" &&
		same "$TO/r.raw"
}

increments_elsewhere()
{
	nbd_server "$target" && tool 0 backup dut --to "$URI" --bitmap b --store "$store" && change &&
		tool 0 backup dut --to "$URI" --bitmap b --incremental --store "$store" &&
		says "incremental backup" && nbd_end && same "$target" || return
	change && tool 0 backup dut --to "$target" --bitmap b --incremental --store "$store" &&
		same "$target" || return
	tool 0 backup dut --to "$TO/0.qcow2" --bitmap b --store "$store" && change &&
		tool 0 backup dut --to "$TO/1.qcow2" --backing 0.qcow2 --bitmap b --incremental \
			--store "$store" && change &&
		tool 0 backup dut --to "$TO/2.qcow2" --backing 1.qcow2 --bitmap b --incremental \
			--store "$store" && image_same "$TO/2.qcow2" || return
	(($(stat -c %b "$TO/2.qcow2") < 2048)) || wrong "the increment is as large as all" || return
	# only what is dirty is written: what else the target has stays
	cp "$TO/r.raw" "$TO/mark.raw" && tool 0 backup dut --to "$TO/mark.raw" --bitmap b --full \
		--force --store "$store" || return
	printf 'X' | dd of="$TO/mark.raw" bs=1 seek=$((3 << 20)) conv=notrunc status=none
	change && tool 0 backup dut --to "$TO/mark.raw" --bitmap b --incremental --store "$store" ||
		return
	[[ $(dd if="$TO/mark.raw" bs=1 skip=$((3 << 20)) count=1 status=none) == X ]] ||
		wrong "it wrote where nothing is dirty"
}

# What fails: the bitmap has all that it had, the file that was made goes.
failures()
{
	local cut dirty

	tool 0 backup dut --to "$TO/f.raw" --bitmap b --store "$store" && change || return
	cut=$(base)
	dirty=$(bitmap_get dut b dirty)
	loopdev small 1 512 && mkfs.ext4 -q -O ^has_journal "$small" && mkdir "$CBW_TMP/small" &&
		mount "$small" "$CBW_TMP/small" || return
	tool 1 backup dut --to "$CBW_TMP/small/f.raw" --bitmap b --store "$store" &&
		says "the bitmap is as it was" || return
	[[ ! -e $CBW_TMP/small/f.raw ]] || wrong "half a file is left" || return
	umount "$CBW_TMP/small"
	expect base "$(base)" "$cut" && expect dirty "$(bitmap_get dut b dirty)" "$dirty" || return
	# stopped, and killed
	bg b "$CBW" backup dut --to "$TO/s.raw" --bitmap b --store "$store" --rate 2M
	until_true 10 test -s "$TO/s.raw.part" && nap 1 && kill -INT "${BG[b]}" && ends b 1 || return
	[[ ! -e $TO/s.raw && ! -e $TO/s.raw.part ]] || wrong "half a file is left" || return
	expect base "$(base)" "$cut" && expect dirty "$(bitmap_get dut b dirty)" "$dirty" || return
	bg b "$CBW" backup dut --to "$TO/s.raw" --bitmap b --store "$store" --rate 2M
	until_true 10 test -s "$TO/s.raw.part" && nap 1 && kill -KILL "${BG[b]}" && ends b 137 || return
	until_true 10 merged && expect base "$(base)" "$cut" &&
		expect dirty "$(bitmap_get dut b dirty)" "$dirty" || return
	# a full one that did not end is nothing that an increment could go on top of
	tool 4 backup dut --to "$TO/s.raw" --bitmap b --incremental --store "$store" &&
		says "there is no" || return
	cp "$TO/f.raw" "$CBW_TMP/keep.raw" || return
	bg b "$CBW" backup dut --to "$TO/f.raw" --bitmap b --force --store "$store" --rate 2M
	until_true 10 test -s "$TO/f.raw.part" && nap 1 && kill -KILL "${BG[b]}" && ends b 137 &&
		until_true 10 merged && cmp "$TO/f.raw" "$CBW_TMP/keep.raw" || return
	tool 0 backup dut --to "$TO/f.raw" --bitmap b --incremental --store "$store" &&
		same "$TO/f.raw" && no_snapshots || return
	tool 0 backup dut --to "$TO/s.raw" --store "$store" && same "$TO/s.raw" &&
		[[ ! -e $TO/s.raw.part ]]
}

merged()
{
	[[ $(bitmap_get dut b flags) != *b* ]]
}

t "set up" setup
keep
t "a raw file, under load" under_load
t "in full: images, files, a device" fulls
t "in full: an NBD server" to_nbd
t "in full: standard output" to_stdout
t "increments: a raw file" increments
t "increments: NBD, a device, images" increments_elsewhere
t "what fails leaves the bitmap" failures
drop_stale
umount "$TO"
finish
