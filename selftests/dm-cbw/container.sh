#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 300
#
# Containers: bitmaps survive detach and attach exactly; the container is at any time an image
# that stock QEMU accepts; what QEMU has changed is noticed; on block devices; stacked devices;
# growth; a crash is recovered.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
. "$here/container.bash"
none=00000000000000000000000000000000

setup()
{
	nullb origin 64 512 && nullb other 64 512 || return
	C=$CBW_TMP/c.qcow2
	volume && fill vol
}

# What the last run of `cbw map' said, as dirty_live has it.
mapped()
{
	awk '$3 == "dirty" { printf "%d+%d ", $1, $2 }' "$TOOL_OUT"
}

write_some()
{
	local i

	for ((i = 0; i < 6; i++)); do
		cbw-load one /dev/mapper/vol --offset $(((RANDOM * 32768 + RANDOM) % 16000 * 4096)) \
			--len 8192 --gen $((GEN += 1)) || return
	done
}

# Two cycles, each with more writes: what is dirty, bases, flags, as before and as QEMU has it.
cycles()
{
	local i dirty fine base

	tool 0 attach vol --container "$C" && qemu_ok "$C" && tool 0 bitmap add vol b1 &&
		tool 0 bitmap add vol fine --granularity 4096 &&
		tool 0 bitmap add vol off --disabled && based b1 && based fine || return
	tool 0 bitmap add vol gone --transient || return
	for ((i = 0; i < 2; i++)); do
		write_some && qemu_ok "$C" || return
		[[ $i == 0 ]] || expect "flags, attached" "$(flags_of b1 "$C")" in-use,auto || return
		dirty=$(dirty_live b1) base=$(base_of b1) fine=$(dirty_live fine)
		[[ -n $dirty && $base != "$none" ]] || return
		tool 0 map vol --bitmap b1 && expect "b1 live" "$(mapped)" "$dirty" || return
		tool 0 check "$C" && tool 0 info "$C" && says "attached to vol" &&
			tool 0 detach vol || return
		((i > 0)) || says "bitmap 'gone' ends" || return
		[[ $(losetup -j "$C") == "" ]] || wrong "the loop device is left" || return
		qemu_ok "$C" && tool 0 check "$C" && says "no errors" || return
		expect "flags, detached" "$(flags_of b1 "$C")" auto || return
		expect "b1 to QEMU" "$(dirty_qemu b1 "$C")" "$dirty" || return
		tool 0 map "$C" --bitmap b1 && expect "b1 to us" "$(mapped)" "$dirty" || return
		expect "fine to QEMU" "$(dirty_qemu fine "$C")" "$fine" || return
		tool 0 info "$C" --json && says '"state":"clean"' && says "$base" || return
		tool 0 attach vol --container "$C" || return
		expect "b1" "$(dirty_live b1)" "$dirty" && expect "fine" "$(dirty_live fine)" "$fine" &&
			expect "base" "$(base_of b1)" "$base" &&
			expect "flags of b1" "$(bitmap_get vol b1 flags)" ep &&
			expect "flags of off" "$(bitmap_get vol off flags)" p &&
			expect "gone" "$(bitmap_get vol gone flags)" none || return
	done
	tool 0 detach vol
}

# Each thing that QEMU can do to a bitmap drops its base and no other.
foreign()
{
	local dirty base

	tool 0 attach vol --container "$C" && tool 0 bitmap add vol b2 && based b1 &&
		based b2 && based fine && write_some || return
	dirty=$(dirty_live b1) base=$(base_of fine)
	tool 0 detach vol || return
	qemu-img bitmap --add -g 131072 "$C" theirs &&
		qemu-img bitmap --merge b1 "$C" theirs && qemu-img bitmap --clear "$C" b1 &&
		qemu-img bitmap --remove "$C" b2 && qemu-img bitmap --disable "$C" theirs || return
	tool 0 check "$C" && says "'b1' was changed by another program" || return
	tool 0 attach vol --container "$C" && says "bitmap 'theirs' is new" &&
		says "'b1' was changed by another program; it has no base" &&
		says "bitmap 'b2' was removed" || return
	expect "base of b1" "$(base_of b1)" "$none" && expect "b1" "$(dirty_live b1)" "" &&
		expect "base of fine" "$(base_of fine)" "$base" &&
		expect "b2" "$(bitmap_get vol b2 flags)" none &&
		expect "theirs" "$(bitmap_get vol theirs flags)" p &&
		expect "granularity" "$(bitmap_get vol theirs granularity)" 131072 || return
	[[ $(bitmap_get vol theirs dirty) -gt 0 ]] || wrong "theirs is empty" || return
	qemu_ok "$C" && tool 0 bitmap remove vol theirs && tool 0 detach vol && qemu_ok "$C" &&
		tool 0 check "$C" || return
	# as an image that was written to it is none any more
	cp "$C" "$C.data" && qemu-io -c "write 0 64k" "$C.data" >/dev/null || return
	tool 1 attach vol --container "$C.data" && says "written to it as to a disk image"
}

# Without statistics nobody knows whether it was written to. (For a mapped device the switch may be
# there and do nothing.)
uncounted()
{
	local q=/sys/block/${other##*/}/queue/iostats

	# where there is no udev
	mkdir -p /dev/block && ln -sf "$other" "/dev/block/$(<"/sys/block/${other##*/}/dev")" || return
	tool 0 create top "$other" --container "$C.s" && DM_DEVS+=(top) && tool 0 bitmap add top b1 &&
		echo 0 >"$q" && tool 0 remove top && says "statistics are switched off" &&
		tool 4 create top "$other" --container "$C.s" && says "statistics are switched off" &&
		echo 1 >"$q" && tool 4 create top "$other" --container "$C.s" &&
		says "statistics were switched off" &&
		tool 0 create top "$other" --container "$C.s" --force-full && tool 0 remove top &&
		tool 0 create top "$other" --container "$C.s" && tool 0 remove top && dm_forget top
}

# Detached while somebody has it open, and then another instance of it.
in_use()
{
	exec 9</dev/mapper/vol
	tool 0 attach vol --container "$C" && tool 0 detach vol && says "it is in use"
	local rc=$?
	exec 9<&-
	((rc == 0)) && tool 0 attach vol --container "$C" --region 1M && tool 0 detach vol || return
	exec 9</dev/mapper/vol
	tool 0 attach vol --container "$C" && tool 0 detach vol
	rc=$?
	exec 9<&-
	((rc == 0)) && again && refused_same "was in use when it was detached" &&
		tool 0 attach vol --container "$C" --force-full && tool 0 detach vol
}

# The power fails before the volume has its table: nothing was recorded, so all has to be as it was.
never_live()
{
	mkfs.ext4 -q /dev/mapper/vol && rm -f "$C" && again && tool 0 attach vol --container "$C" &&
		tool 0 bitmap add vol b1 && based b1 && tool 0 detach vol || return
	LD_PRELOAD=$die CBW_DIE_AT='2 ioctl fd06' tool 137 attach vol --container "$C" &&
		cp "$C" "$C.cut" && dm_remove vol && dm_remove vol-cbw-origin && volume &&
		another_boot || return
	cp "$C.cut" "$C" && tool 0 attach vol --container "$C" && says "recovered, coarse: 0 MiB" &&
		tool 0 detach vol && again && mkdir -p "$CBW_TMP/mnt" &&
		mount /dev/mapper/vol "$CBW_TMP/mnt" && umount "$CBW_TMP/mnt" && again || return
	refused_same_copy && same_boot && tool 0 attach vol --container "$C" --force-full &&
		tool 0 detach vol
}

refused_same_copy()
{
	cp "$C.cut" "$C" && refused_same "mounted or written since"
}

# What is refused changes neither container nor volume.
refused_same()
{
	local want=$1 sum

	sum=$(cksum <"$C")
	unchanged tool 4 attach vol --container "$C" && says "$want" &&
		says "--force-full starts anew" || return
	# what is in it is not told either
	tool 4 map "$C" --bitmap m1 && says "$want" && says "not to be trusted" || return
	[[ $(cksum <"$C") == "$sum" ]] || wrong "the container was changed"
}

mistrust()
{
	# written to while detached
	tool 0 attach vol --container "$C" && tool 0 bitmap add vol m1 && based m1 &&
		tool 0 detach vol && cp "$C" "$C.ok" || return
	refused_same_written || return
	# another volume, another size
	# where the volume is not, nobody can tell
	dm_remove vol && tool 0 map "$C.ok" --bitmap m1 && says "is not here" || return
	volume TEST-another && refused_same "it is another volume" || return
	dm_remove vol && volume TEST-volume 65536 && refused_same "resized from 67108864 to 33554432" || return
	# written before us, in this boot
	again && dd if=/dev/zero of=/dev/mapper/vol bs=4096 count=1 seek=100 oflag=direct 2>/dev/null &&
		refused_same "was written to before it was attached" || return
	# a file system, mounted since
	tool 0 attach vol --container "$C" --force-full && says "starting anew" &&
		mkfs.ext4 -q /dev/mapper/vol && tool 0 detach vol || return
	again && tool 0 attach vol --container "$C" && tool 0 detach vol || return
	again && mkdir -p "$CBW_TMP/mnt" && mount /dev/mapper/vol "$CBW_TMP/mnt" &&
		umount "$CBW_TMP/mnt" && again && refused_same "mounted or written since" || return
	tool 0 attach vol --container "$C" --force-full && tool 0 detach vol
}

refused_same_written()
{
	dd if=/dev/zero of=/dev/mapper/vol bs=4096 count=1 oflag=direct 2>/dev/null &&
		refused_same "was written to while detached"
}

# write_at STEP STATUS: an attach with a write to the volume before that step of it
write_at()
{
	LD_PRELOAD=$die CBW_DIE_AT=$1 \
		CBW_DIE_RUN='dd if=/dev/zero of=/dev/mapper/vol bs=4096 count=1 seek=77 oflag=direct 2>/dev/null' \
		tool "$2" attach vol --container "$C"
}

# A write that comes before the volume has its table is in no bitmap, and neither becomes part
# of what the next attach compares with.
write_too_early()
{
	rm -f "$C" && again && tool 0 attach vol --container "$C" && tool 0 bitmap add vol b1 &&
		based b1 && tool 0 detach vol || return
	# it is seen, and the attach is given up
	write_at '1 ioctl cb8d' 4 && says "written to while it got its container" && tool 0 check "$C" &&
		tool 4 attach vol --container "$C" && says "the volume was written to" || return
	# killed with the table loaded, and used for a while
	tool 0 attach vol --container "$C" --force-full && based b1 && tool 0 detach vol || return
	LD_PRELOAD=$die CBW_DIE_AT='2 ioctl fd06' tool 137 attach vol --container "$C" &&
		[[ $(dmsetup info -c --noheadings -o tables_loaded vol) == Both ]] || return
	dd if=/dev/zero of=/dev/mapper/vol bs=4096 count=1 seek=77 oflag=direct 2>/dev/null
	tool 4 attach vol --container "$C" && says "the volume was written to" &&
		tool 0 attach vol --container "$C" --force-full && based b1 && tool 0 detach vol || return
	# after all has been looked at
	write_at '2 ioctl fd06' 3 && says "in the moment in which it was attached" &&
		expect base "$(base_of b1)" "$none" && expect b1 "$(dirty_live b1)" "0+67108864 " &&
		based b1 && tool 0 detach vol && tool 0 attach vol --container "$C" &&
		expect b1 "$(dirty_live b1)" "" && tool 0 detach vol
}

# A container that is a copy of one that was attached, in another boot: what the intents say.
crash()
{
	local base

	tool 0 attach vol --container "$C" --region 1M && tool 0 bitmap add vol c1 --granularity 4096 &&
		based c1 && cbw-load one /dev/mapper/vol --offset 3145728 --len 8192 --gen 3 || return
	base=$(base_of c1)
	cp "$C" "$C.crash" && tool 0 detach vol || return
	# the same boot: not to be trusted
	again || return
	tool 4 attach vol --container "$C.crash" && says "without 'cbw detach'" &&
		tool 4 check "$C.crash" || return
	another_boot || return
	tool 0 check "$C.crash" && says "needs recovery" &&
		tool 0 attach vol --container "$C.crash" && says "recovered, coarse: 1 MiB marked" || return
	expect "dirty" "$(dirty_live c1)" "3145728+1048576 " && expect "base" "$(base_of c1)" "$base" &&
		qemu_ok "$C.crash" && tool 0 detach vol && tool 0 check "$C.crash" || return
	# removed without a word: writes may go by
	tool 0 attach vol --container "$C.crash" && dm_remove vol && dm_remove vol-cbw-origin &&
		volume && another_boot && tool 4 attach vol --container "$C.crash" &&
		says "writes may have gone by" && tool 4 check "$C.crash" &&
		tool 0 check --remove-inconsistent "$C.crash" && qemu_ok "$C.crash" &&
		tool 0 attach vol --container "$C.crash" && tool 0 detach vol || return
	same_boot
}

noted()
{
	compgen -G "/var/lib/cbw/failed/*" >/dev/null
}

# It fails, and cannot even be told so: that is noted elsewhere.
fails()
{
	nullb fbox 16 512 && again && dm_create fboxdev "0 32768 linear $fbox 0" || return
	echo "$CBW" >/sys/module/dm_cbw/parameters/failed_helper
	tool 0 attach vol --container /dev/mapper/fboxdev && tool 0 bitmap add vol f1 &&
		cbw-load one /dev/mapper/vol --offset 1048576 --len 4096 --gen 3 || return
	dm_reload fboxdev "0 32768 error" && dm_suspend --noflush --nolockfs fboxdev &&
		dm_resume fboxdev || return
	cbw-load one /dev/mapper/vol --offset 41943040 --len 4096 --gen 4 || return
	until_true 10 noted || wrong "nothing was noted" || return
	tool 4 detach vol && says "could not be saved" && dm_remove vol || return
	dm_reload fboxdev "0 32768 linear $fbox 0" && dm_suspend --noflush --nolockfs fboxdev &&
		dm_resume fboxdev && volume && another_boot || return
	tool 4 map /dev/mapper/fboxdev --bitmap f1 && says "failed while the volume was attached" &&
		tool 0 info /dev/mapper/fboxdev && says inconsistent &&
		says "failed while the volume was attached" && tool 4 check /dev/mapper/fboxdev &&
		says "failed while the volume was attached" || return
	tool 4 attach vol --container /dev/mapper/fboxdev && says "failed while the volume was attached" &&
		tool 0 attach vol --container /dev/mapper/fboxdev --force-full || return
	! noted || wrong "the note is left" || return
	tool 0 detach vol && tool 0 attach vol --container /dev/mapper/fboxdev &&
		tool 0 detach vol && dm_remove fboxdev && same_boot
}

# As large as the device; with the volume's own file system in the way.
block_device()
{
	local dirty

	nullb box 16 512 && again || return
	tool 1 attach vol --container /dev/mapper/vol && says "lies on volume vol itself" || return
	mkfs.ext4 -q "$box" && tool 1 attach vol --container "$box" && says "it holds data (ext4)" &&
		tool 0 attach vol --container "$box" --force && tool 0 bitmap add vol b1 && based b1 &&
		write_some || return
	dirty=$(dirty_live b1)
	tool 1 attach vol --container "$box" && qemu_ok "$box" && tool 0 info "$box" && says attached &&
		tool 0 check "$box" && tool 0 detach vol && qemu_ok "$box" && tool 0 check "$box" || return
	expect "to QEMU" "$(dirty_qemu b1 "$box" host_device)" "$dirty" || return
	tool 0 attach vol --container "$box" && expect "dirty" "$(dirty_live b1)" "$dirty" &&
		tool 0 detach vol
}

# What QEMU leaves may look like what we leave: bitmaps that it has moved, and been killed with;
# or one of a container that had crashed that lacks what stands for its room.
moved()
{
	rm -f "$C" && again && tool 0 attach vol --container "$C" && tool 0 bitmap add vol b1 &&
		based b1 && tool 0 bitmap add vol b2 && based b2 && write_some && cp "$C" "$C.crash" &&
		tool 0 detach vol || return
	# to write, and once more, in which it is killed
	qemu-io -c "read 0 512" "$C" && tool 0 check "$C" || return
	! qemu-io -c "sigraise 9" "$C" && expect flags "$(flags_of b1 "$C")" in-use,auto || return
	tool 4 check "$C" && says "another program has changed it" &&
		refused_same "another program has changed it" || return
	qemu-img bitmap --remove "$C.crash" .cbw-space-0 && again && another_boot &&
		tool 4 attach vol --container "$C.crash" && says "another program has changed it" &&
		tool 0 attach vol --container "$C.crash" --force-full && qemu_ok "$C.crash" || return
	tool 0 detach vol && same_boot && tool 0 attach vol --container "$C" --force-full &&
		qemu_ok "$C" && tool 0 detach vol && tool 0 check "$C"
}

# On the volume itself a container cannot lie.
on_itself()
{
	mkdir -p "$CBW_TMP/mnt" && mkfs.ext4 -qF /dev/mapper/vol && mount /dev/mapper/vol "$CBW_TMP/mnt" || return
	tool 1 attach vol --container "$CBW_TMP/mnt/c" && says "lies on volume vol itself"
	umount "$CBW_TMP/mnt" && [[ ! -e $CBW_TMP/mnt/c ]]
}

# More bitmaps than there is room for: the container grows, under a volume that is attached.
growth()
{
	local i

	rm -f "$C" && again && tool 0 attach vol --container "$C" || return
	for ((i = 0; i < 20; i++)); do
		tool 0 bitmap add vol "g$i" --granularity 512 || return
	done
	write_some && qemu_ok "$C" && tool 0 check "$C" || return
	dirty=$(dirty_live g19)
	tool 0 detach vol && qemu_ok "$C" && expect "to QEMU" "$(dirty_qemu g19 "$C")" "$dirty" &&
		tool 0 attach vol --container "$C" && expect "dirty" "$(dirty_live g19)" "$dirty" &&
		tool 0 detach vol
}

stacked()
{
	local dirty

	rm -f "$C" && again || return
	tool 0 create top /dev/mapper/vol --container "$C" && DM_DEVS+=(top) &&
		tool 0 bitmap add top b1 &&
		cbw-load one /dev/mapper/top --offset 1048576 --len 65536 --gen 7 || return
	dirty=$(dirty_live b1 top)
	tool 0 remove top && qemu_ok "$C" && tool 0 check "$C" && says "no errors" &&
		tool 0 create top /dev/mapper/vol --container "$C" &&
		expect "dirty" "$(dirty_live b1 top)" "$dirty" && tool 0 remove top || return
	cbw-load one /dev/mapper/vol --offset 8388608 --len 4096 --gen 8 &&
		tool 4 create top /dev/mapper/vol --container "$C" && says "written to while detached" &&
		tool 0 create top /dev/mapper/vol --container "$C" --force-full &&
		expect "dirty" "$(dirty_live b1 top)" "" && tool 0 remove top && dm_forget top
}

t "set up" setup
keep
t "exact over attach and detach, twice" cycles
t "what QEMU has changed" foreign
t "not another volume, not one that was written to" mistrust
t "no statistics" uncounted
t "in use when it is detached" in_use
t "a power cut before it has its table" never_live
t "a write before it has its table" write_too_early
t "recovered after a crash, or not trusted" crash
t "it fails, and cannot be told" fails
t "a block device" block_device
t "not on the volume itself" on_itself
t "more room" growth
t "what QEMU has moved" moved
t "a stacked device" stacked
finish
