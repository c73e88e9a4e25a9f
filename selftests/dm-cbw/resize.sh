#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# A table of another size: what is new is dirty in every bitmap, what is behind the new end
# is forgotten, and whoever is at work goes on.
#
#	resize.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
seed "${1-}"
M=/dev/mapper
nullb origin 16 512
nullb origin2 16 512
nullb store 16 512
full=$(sectors "$origin")
small=8192		# 4 MiB
t "make the device" cbw dut "$origin" $small
t "make another one" cbw dut2 "$origin2" $small
keep

one()
{
	cbw-load one $M/dut --offset "$1" --len "$2" --gen "${3:-90}"
}

# size SECTORS [OPTION...]: of dut, as options of its suspend
size()
{
	dm_reload dut "0 $1 cbw $origin" && dm_suspend --nolockfs "${@:2}" dut && dm_resume dut
}

extents()
{
	local off len _ out=

	while read -r off len _; do
		[[ $off == [0-9]* ]] && out+="$((off >> 10))+$((len >> 10)) "
	done < <(cbw-ioctl extents $M/${2-dut} $1 ${3-})
	echo "${out% }"
}

fresh()
{
	local b

	for b in b c off; do
		bitmap_is dut $b dirty none || msg dut bitmap_remove $b || return
	done
	size $small && fill dut && msg dut bitmap_add b granularity 65536 &&
		msg dut bitmap_add c granularity 2097152 && msg dut bitmap_add off granularity 4096 disabled
}

base()
{
	bitmap_get dut b base
}

grows()
{
	local rc=0 cut

	fresh || return
	cut=$(msg dut bitmap_rotate b) && msg dut bitmap_commit b && one 128K 4K || return
	size 20000 || return
	expect "b" "$(extents b)" "128+64 4096+5904" || rc=1
	expect "c" "$(extents c)" "0+2048 4096+5904" || rc=1
	expect "off" "$(extents off)" "4096+5904" || rc=1
	expect "dirty" "$(bitmap_get dut b dirty)" $(((64 + 5904) * 1024)) || rc=1
	# what it says is still all that was written since
	expect "base" "$(base)" "$cut" || rc=1
	# it records there
	msg dut bitmap_clear b && one 9984K 4K || rc=1
	expect "b, new" "$(extents b)" "9984+16" || rc=1
	return $rc
}
t "grows" grows

# Within the last granule, which was a short one: nobody knows what is in its new part.
short_granule()
{
	local rc=0

	fresh && size 8200 && msg dut bitmap_clear b && msg dut bitmap_clear c || return
	size 8210 || return
	expect "b" "$(extents b)" "4096+9" || rc=1
	expect "c" "$(extents c)" "4096+9" || rc=1
	return $rc
}
t "within a granule" short_granule

shrinks()
{
	local rc=0 cut

	fresh && size $full && msg dut bitmap_clear b && msg dut bitmap_clear c || return
	cut=$(msg dut bitmap_rotate b) && msg dut bitmap_commit b || return
	one 64K 4K && one 12M 64K && one 15M 4K || return
	size $small || return
	expect "b" "$(extents b)" "64+64" || rc=1
	expect "c" "$(extents c)" "0+2048" || rc=1
	expect "base" "$(base)" "$cut" || rc=1
	# back: what was forgotten is new
	size $full || return
	expect "b, back" "$(extents b)" "64+64 4096+12288" || rc=1
	return $rc
}
t "shrinks" shrinks

# A frozen half is of its cut; committed, and merged back after growth and after shrinking.
frozen()
{
	local rc=0 cut

	fresh && one 1M 4K && cut=$(msg dut bitmap_rotate b) && one 2M 4K || return
	size $full || return
	expect "frozen" "$(extents b dut $cut)" "1024+64" || rc=1
	expect "recording" "$(extents b)" "2048+64 4096+12288" || rc=1
	expect "dirty" "$(bitmap_get dut b dirty)" $(((128 + 12288) * 1024)) || rc=1
	msg dut bitmap_abort b || rc=1
	expect "after the abort" "$(extents b)" "1024+64 2048+64 4096+12288" || rc=1
	cut=$(msg dut bitmap_rotate b) && one 3M 4K && size $small || return
	expect "frozen, shrunk" "$(extents b dut $cut)" "1024+64 2048+64 4096+12288" || rc=1
	expect "dirty, shrunk" "$(bitmap_get dut b dirty)" $((192 * 1024)) || rc=1
	msg dut bitmap_abort b || rc=1
	expect "after the abort, shrunk" "$(extents b)" "1024+64 2048+64 3072+64" || rc=1
	expect "dirty after the abort" "$(bitmap_get dut b dirty)" $((192 * 1024)) || rc=1
	return $rc
}
t "of a frozen bitmap" frozen

# A snapshot is of its cut: it does not mind growth, not even that of its last short chunk.
snapshot_grows()
{
	local rc=0

	fresh && size 8195 && fill dut && snap shot dut "$store" 8 && cbw-check save $M/shot "$CBW_TMP/ref" || return
	one 64K 64K || rc=1
	size $full || return
	# the chunk at its end and what follows, in one write
	one $((8192 * 512)) 64K 91 && one 12M 4K 91 || rc=1
	cbw-check compare "$CBW_TMP/ref" $M/shot || rc=1
	snap_is shot state active && snap_is shot copied 17 || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "a snapshot, the source grows" snapshot_grows

snapshot_shrinks()
{
	local rc=0

	fresh && size $full && snap shot dut "$store" 8 2 bitmap b || return
	size $small || return
	snap_failed shot source-resized || rc=1
	one 64K 4K || rc=1
	dm_remove shot || rc=1
	until_true 5 idle || { echo "busy"; rc=1; }
	# a new one can be made
	snap shot dut "$store" 8 && at $M/shot 64K "*gen=90 *" && dm_remove shot || rc=1
	return $rc
}

idle()
{
	[[ $(bitmap_get dut b flags) != *b* ]]
}
t "a snapshot, the source shrinks" snapshot_shrinks

armed()
{
	local rc=0

	fresh && snap shot dut "$store" 8 1 armed && size $full || return
	cbw-ioctl transaction start:$M/shot | grep -q 'error EINVAL' || { echo "it starts"; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "an armed snapshot" armed

# A table that is loaded and thrown away, and bitmaps that come and go in between.
thrown_away()
{
	local rc=0

	fresh && dm_reload dut "0 $full cbw $origin" && dmsetup clear --noudevsync dut || return
	one 64K 4K && expect "b" "$(extents b)" "64+64" || rc=1
	dm_reload dut "0 $full cbw $origin" || return
	msg dut bitmap_remove c && msg dut bitmap_add d granularity 512 && msg dut bitmap_rotate b || return
	dm_suspend dut && dm_resume dut || return
	expect "b" "$(extents b)" "4096+12288" || rc=1
	expect "d" "$(extents d)" "4096+12288" || rc=1
	msg dut bitmap_abort b || rc=1
	expect "b, aborted" "$(extents b)" "64+64 4096+12288" || rc=1
	msg dut bitmap_remove d || rc=1
	return $rc
}
t "loaded, and what happens until it is resumed" thrown_away

# Without memory the load is refused, and nothing changes.
no_memory()
{
	local rc=0 limit=/sys/module/dm_cbw/parameters/bitmap_limit_mib

	fresh || return
	# 1 MiB of bits are 4 GiB in granules of 512: a large origin that is but a table
	dm_create big "0 $((1 << 25)) zero" || return
	msg dut bitmap_add d granularity 512 || return
	echo 1 >$limit
	refused ENOMEM unchanged dm_reload dut "0 $((1 << 25)) cbw $M/big" || rc=1
	echo 0 >$limit
	one 64K 4K && expect "b" "$(extents b)" "64+64" || rc=1
	msg dut bitmap_remove d && dm_remove big || rc=1
	return $rc
}
t "no memory" no_memory

# A resume that fails for want of memory: nothing is lost, and the next one works.
failed_resume()
{
	local rc=0 limit=/sys/module/dm_cbw/parameters/bitmap_limit_mib

	dm_create big "0 $((1 << 25)) zero" && cbw dut3 $M/big $small || return
	# 32 GiB are 8 MiB in granules of 512; they are not there at the load
	dm_reload dut3 "0 $((1 << 25)) cbw $M/big" && msg dut3 bitmap_add b granularity 512 &&
		snap shot dut3 "$store" 8 || return
	cbw-ioctl mark $M/dut3 b 65536+512 || rc=1
	dm_suspend dut3 || return
	echo 1 >$limit
	dm_resume dut3 && { echo "it was resumed"; rc=1; }
	expect "b" "$(extents b dut3)" "64+0" || rc=1
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	echo 0 >$limit
	dm_resume dut3 || return
	expect "b, resumed" "$(extents b dut3)" "64+0 4096+16773120" || rc=1
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	# beyond the old end
	cbw-load one $M/dut3 --offset 12288M --len 4K --gen 5 || rc=1
	dm_remove shot && dm_remove dut3 || rc=1
	# the same, and nobody has bitmaps then
	cbw dut3 $M/big $small && msg dut3 bitmap_add b granularity 512 || return
	dm_reload dut3 "0 $((1 << 25)) cbw $M/big" && dm_suspend dut3 && msg dut3 bitmap_remove b || return
	dm_resume dut3 && cbw-load one $M/dut3 --offset 12288M --len 4K --gen 5 || rc=1
	dm_remove dut3 && dm_remove big || rc=1
	return $rc
}
t "a resume that fails" failed_resume

# An abort that is under way when the table is resumed: it goes on, into the new memory.
meets_abort()
{
	local rc=0 cut

	fresh && one 1M 4K && cut=$(msg dut bitmap_rotate b) || return
	hook arm abort-work timeout_ms 20000
	# not a message, for which a suspend waits
	bg A cbw-ioctl abort $M/dut $cut
	hook_wait abort-work || return
	dm_reload dut "0 $full cbw $origin" && dm_suspend dut || return
	bg R dmsetup resume --noudevsync dut
	bg_wait R 5 || { echo "the resume waits for the abort"; rc=1; }
	hook release abort-work
	bg_wait A 5 || rc=1
	expect "b" "$(extents b)" "1024+64 4096+12288" || rc=1
	return $rc
}
t "an abort meets it" meets_abort

# A merge from another device that still waits for a write there.
meets_merge()
{
	local rc=0

	bitmap_is dut2 m dirty none || msg dut2 bitmap_remove m || return
	fresh && msg dut2 bitmap_add m granularity 4096 || return
	hook arm end-io sector 0 timeout_ms 20000
	bg W cbw-load one $M/dut2 --offset 0 --len 4096 --gen 95
	hook_wait end-io || return
	bg G cbw-ioctl transaction merge:$M/dut:b:m:$M/dut2
	until_true 5 busy || { echo "the merge is not under way"; rc=1; }
	dm_reload dut "0 $full cbw $origin" && dm_suspend dut || return
	bg R dmsetup resume --noudevsync dut
	bg_wait R 5 || { echo "the resume waits for the merge"; rc=1; }
	busy || { echo "the merge seems to have ended"; rc=1; }
	# twice: what is merged into the first memory comes into the third
	size $small && size $full || rc=1
	hook release end-io
	bg_wait W 5 && bg_wait G 5 && until_true 5 idle || rc=1
	expect "b" "$(extents b)" "0+64 4096+12288" || rc=1
	# of the same size no more
	cbw-ioctl transaction merge:$M/dut:b:m:$M/dut2 | grep -q 'error EINVAL' || { echo "merged"; rc=1; }
	msg dut2 bitmap_remove m || rc=1
	return $rc
}

busy()
{
	[[ $(bitmap_get dut b flags) == *b* ]]
}
t "a merge meets it" meets_merge

# Under load, up and down: nothing that was written is missing.
under_load()
{
	local rc=0 i

	fresh && cbw-check save $M/dut "$CBW_TMP/before" && msg dut bitmap_clear b || return
	load_start load dut -- --uring 1:16 --bs 512:64K || return
	for i in 1 2 3; do
		size $full && size $((small + 8 * i)) --noflush || rc=1
	done
	size $small || rc=1
	load_stop load || rc=1
	cbw-ioctl extents $M/dut b | sed '$d' >"$CBW_TMP/extents"
	cbw-check save $M/dut "$CBW_TMP/after" || rc=1
	cbw-check diff "$CBW_TMP/before" "$CBW_TMP/after" "$CBW_TMP/extents" || rc=1
	cmp -s "$CBW_TMP/before" "$CBW_TMP/after" && { echo "nothing was written"; rc=1; }
	rm -f "$CBW_TMP/before" "$CBW_TMP/after"
	return $rc
}
t "under load" under_load
finish
