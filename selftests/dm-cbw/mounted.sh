#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# What a chain is good for: each of its points in time is mounted, by stock tools alone
# (qemu-nbd, the kernel's nbd and ext4), and has the files that were there at the cut, and
# nothing that came later. The chain stays in CBW_RESULTS: tools/check starts a VM with its
# last image for a disk.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
. "$here/files.bash"
ROUNDS=4
mnt=$CBW_TMP/mnt
dev=/dev/nbd0

setup()
{
	nullb origin 64 512 && nullb store 64 512 && tracked dut "$origin" && target_dir 300 &&
		mkfs.ext4 -q /dev/mapper/dut && mkdir "$mnt" "$CBW_TMP/sums" "$CBW_TMP/see" &&
		mount /dev/mapper/dut "$mnt" && modprobe nbd nbds_max=1
}

# change N: new files, some that are written to, cut, removed, renamed
change()
{
	local n=$1 i

	mkdir -p "$mnt/$n/sub" && ln -s "../$n" "$mnt/$n/link" || return
	for ((i = 0; i < 12; i++)); do
		head -c $((RANDOM * 8 + i)) /dev/urandom >"$mnt/$n/sub/$i" || return
	done
	((n > 1)) || return 0
	dd if=/dev/urandom of="$mnt/$((n - 1))/sub/1" bs=1000 count=30 seek=5 conv=notrunc 2>/dev/null &&
		truncate -s 5000 "$mnt/$((n - 1))/sub/2" && rm "$mnt/$((n - 1))/sub/3" &&
		mv "$mnt/$((n - 1))/sub/4" "$mnt/$n/moved"
}

any_snapshot()
{
	[[ $(dmsetup status --target cbw-snapshot) == *" active "* ]]
}

# backup N OPTION...: with writes to the same files while it copies
backup()
{
	local n=$1 rc

	shift
	change $n && sync -f "$mnt" && list_files "$mnt" >"$CBW_TMP/sums/$n" || return
	bg tool "$CBW" backup dut --to "$TO" --store "$store" "$@"
	until_true 20 any_snapshot || { cat "$CBW_TMP/tool.out"; wrong "no snapshot was seen"; return; }
	dd if=/dev/urandom of="$mnt/$n/sub/5" bs=4096 count=20 conv=notrunc 2>/dev/null
	rm "$mnt/$n/sub/6" && echo later >"$mnt/later" && sync -f "$mnt"
	bg_wait tool 60
	rc=$?
	((rc == 0)) || cat "$CBW_TMP/tool.out"
	rm -f "$mnt/later"
	return $rc
}

backups()
{
	local n freeze

	# frozen, an image is as after an umount; else the journal is replayed
	backup 1 --full --rate 16M --freeze || return
	for ((n = 2; n <= ROUNDS; n++)); do
		freeze=()
		((n % 2 == 0)) || freeze=(--freeze)
		backup $n --incremental --rate 1M "${freeze[@]}" || return
	done
	expect "images" "$(cd "$TO/dut" && echo *.qcow2)" \
		"000001-full.qcow2 000002-inc.qcow2 000003-inc.qcow2 000004-inc.qcow2"
}

has_size()
{
	[[ $(<"/sys/block/${dev##*/}/size") -gt 0 ]]
}

# see N: the image of that point in time; what a mount writes goes to a temporary image
see()
{
	local image rc

	image=$(echo "$TO/dut/00000$1"-*.qcow2)
	qemu-nbd -c $dev -f qcow2 --snapshot "$image" || return
	until_true 10 has_size && fsck_mount $dev "$CBW_TMP/see" &&
		same_files "$CBW_TMP/see" "$CBW_TMP/sums/$1"
	rc=$?
	umount "$CBW_TMP/see" 2>/dev/null
	qemu-nbd -d $dev >/dev/null
	until_true 10 no_size || rc=1
	return $rc
}

no_size()
{
	! has_size
}

seen()
{
	local n

	for ((n = 1; n <= ROUNDS; n++)); do
		see $n || wrong "point in time $n" || return
	done
}

# Two of them become one: all that stays can be mounted as before.
merged()
{
	tool 0 chain merge "$TO/dut" 2..3 --punch && tool 0 chain merge "$TO/dut" 1..3 || return
	see 3 && see 4
}

leave()
{
	umount "$mnt"
	[[ -n ${CBW_RESULTS-} ]] || return 0
	mkdir -p "$CBW_RESULTS/chain" && cp --sparse=always "$TO"/dut/* "$CBW_RESULTS/chain" &&
		cp "$CBW_TMP/sums/$ROUNDS" "$CBW_RESULTS/files"
}

t "set up" setup
t "a full backup and three increments, under load" backups
t "each of them is mounted by stock tools, and has its files" seen
t "the chain is left for a VM" leave
t "and after merges" merged
umount "$TO"
finish
