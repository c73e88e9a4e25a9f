#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# The second plane of bitmaps: what was discarded, is dirty, and its content does not
# matter. It never hides data.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
M=/dev/mapper
nullb origin 16 512
nullb origin2 16 512
nullb store 16 512
# the last granule is a short one
small=8195
t "make the device" cbw dut "$origin" $small
t "make another one" cbw dut2 "$origin2" $small
keep

# op OPERATION OFFSET LENGTH [DEV]
op()
{
	cbw-load one $M/${4-dut} --offset "$2" --len "$3" --op $1 --gen 90
}

# extents BITMAP [DEV [CUT]]: OFFSET+LENGTH in KiB, or with an s behind in sectors; with a -
# in front where it is discarded
extents()
{
	local off len flags out='' kib

	while read -r off len flags; do
		[[ $off == [0-9]* ]] || continue
		kib=$((off >> 10))+$((len >> 10))
		((off % 1024 + len % 1024 == 0)) || kib=$((off / 512))+$((len / 512))s
		((flags & 1)) || kib="?$kib"
		((flags & 2)) && kib=-$kib
		out+="$kib "
	done < <(cbw-ioctl extents $M/${2-dut} $1 ${3-})
	echo "${out% }"
}

busy()
{
	[[ $(bitmap_get dut $1 flags) == *b* ]]
}

idle()
{
	! busy $1
}

# b has granules of 64 KiB, f of 4 KiB
fresh()
{
	local b

	for b in b f g off; do
		bitmap_is dut $b dirty none || msg dut bitmap_remove $b || return
	done
	msg dut bitmap_add b granularity 65536 && msg dut bitmap_add f granularity 4096
}

# The first there is on this device.
first()
{
	local rc=0

	fresh && op discard 512K 64K || return
	expect "b" "$(extents b)" "-512+64" || rc=1
	expect "f" "$(extents f)" "-512+64" || rc=1
	expect "dirty" "$(bitmap_get dut b dirty)" 65536 || rc=1
	return $rc
}
t "the first discard of a device" first

whole()
{
	local rc=0

	fresh && op discard 66K 190K || return
	expect "b" "$(extents b)" "64+64 -128+128" || rc=1
	expect "f" "$(extents f)" "64+4 -68+188" || rc=1
	# halves do not make a whole
	fresh && op discard 0 32K && op discard 32K 32K || return
	expect "b, halves" "$(extents b)" "0+64" || rc=1
	expect "f, halves" "$(extents f)" "-0+64" || rc=1
	# the short granule at the end
	fresh && op discard 4M 1536 || return
	expect "b, end" "$(extents b)" "-8192+3s" || rc=1
	fresh && op discard 4M 1K || return
	expect "b, not the end" "$(extents b)" "8192+3s" || rc=1
	return $rc
}
t "only granules that it covers whole" whole

written()
{
	local rc=0 how

	for how in write zero; do
		fresh && op discard 0 256K && op $how 68K 4K || return
		expect "b, $how" "$(extents b)" "-0+64 64+64 -128+128" || rc=1
		expect "f, $how" "$(extents f)" "-0+68 68+4 -72+184" || rc=1
		op $how 0 256K && expect "b, $how of all" "$(extents b)" "0+256" || rc=1
		# and again
		op discard 0 256K && expect "b, again" "$(extents b)" "-0+256" || rc=1
	done
	return $rc
}
t "a write, a write of zeroes" written

# W is in flight: sent down, and not ended when a discard comes.
in_flight()
{
	local rc=0

	fresh && op discard 0 256K || return
	hook arm end-io sector 0 timeout_ms 20000
	bg W op write 0 4K
	hook_wait end-io || return
	expect "b, W is in flight" "$(extents b)" "0+64 -64+192" || rc=1
	op discard 0 64K || return
	hook release end-io
	bg_wait W 10 || return
	expect "b" "$(extents b)" "0+64 -64+192" || rc=1
	expect "f" "$(extents f)" "0+4 -4+252" || rc=1
	return $rc
}
t "a write in flight when the discard comes" in_flight

# W is in flight when the device gets its first discard, so there is nothing that it could
# have cleared when it went down, and it ends under another epoch.
in_flight_first()
{
	local rc=0

	dm_remove dut2 && cbw dut2 "$origin2" $small && msg dut2 bitmap_add b || return
	hook arm end-io sector 0 timeout_ms 20000
	bg W op write 0 4K dut2
	hook_wait end-io || return
	op discard 0 128K dut2 || return
	expect "b, W is in flight" "$(extents b dut2)" "-0+128" || rc=1
	hook release end-io
	bg_wait W 10 || return
	expect "b" "$(extents b dut2)" "0+64 -64+64" || rc=1
	return $rc
}
t "a write in flight when the first discard comes" in_flight_first

# The same, with a cut between, and a discard on either side of it.
in_flight_cut()
{
	local rc=0 cut

	fresh || return
	hook arm end-io sector 0 timeout_ms 20000
	bg W op write 0 4K
	hook_wait end-io && op discard 0 128K || return
	cut=$(msg dut bitmap_rotate b) && op discard 0 128K || return
	hook release end-io
	bg_wait W 10 || return
	expect "frozen" "$(extents b dut $cut)" "0+64 -64+64" || rc=1
	expect "active" "$(extents b)" "0+64 -64+64" || rc=1
	msg dut bitmap_commit b || rc=1
	return $rc
}
t "a write in flight at a cut" in_flight_cut

# A discard that is in flight at a cut is dirty and nothing else, on both sides.
discard_at_cut()
{
	local rc=0 cut

	fresh && op discard 64K 64K || return
	hook arm end-io sector 0 timeout_ms 20000
	bg T op discard 0 64K
	hook_wait end-io || return
	cut=$(msg dut bitmap_rotate b) || return
	hook release end-io
	bg_wait T 10 || return
	expect "frozen" "$(extents b dut $cut)" "0+64 -64+64" || rc=1
	expect "active" "$(extents b)" "0+64" || rc=1
	msg dut bitmap_abort b || rc=1
	expect "aborted" "$(extents b)" "0+64 -64+64" || rc=1
	return $rc
}
t "a discard in flight at a cut" discard_at_cut

fails()
{
	local rc=0 bad=/sys/kernel/config/nullb/${NULLBS[0]}/badblocks

	fresh && op discard 0 64K || return
	echo "+8-15" >"$bad" || return
	refused EIO op discard 0 128K || rc=1
	echo "-8-15" >"$bad"
	expect "b" "$(extents b)" "0+128" || rc=1
	op discard 0 64K && expect "b, again" "$(extents b)" "-0+64 64+64" || rc=1
	return $rc
}
t "a discard that fails" fails

aborted()
{
	local rc=0 cut

	fresh && op discard 0 256K && op write 128K 4K || return
	cut=$(msg dut bitmap_rotate b) || return
	op write 64K 4K && op discard 128K 64K || return
	expect "frozen" "$(extents b dut $cut)" "-0+128 128+64 -192+64" || rc=1
	expect "active" "$(extents b)" "64+64 -128+64" || rc=1
	msg dut bitmap_abort b || return
	# what is dirty in one of them is dirty
	expect "aborted" "$(extents b)" "-0+64 64+128 -192+64" || rc=1
	return $rc
}
t "an abort" aborted

merged()
{
	local rc=0 no

	fresh && op discard 0 256K && op write 68K 4K && op discard 320K 32K || return
	msg dut bitmap_add g granularity 131072 && msg dut bitmap_merge g b f || return
	expect "coarser" "$(extents g)" "0+128 -128+128 256+128" || rc=1
	msg dut bitmap_remove g && msg dut bitmap_add g granularity 512 && msg dut bitmap_merge g f || return
	expect "finer" "$(extents g)" "-0+68 68+4 -72+184 -320+32" || rc=1
	op write 0 512 && expect "which records" "$(extents g)" "0+1s -1+135s 68+4 -72+184 -320+32" || rc=1
	# one that does not record cannot know what becomes of it
	msg dut bitmap_add off granularity 4096 disabled && msg dut bitmap_merge off f || return
	expect "disabled" "$(extents off)" "0+256 320+32" || rc=1
	# another device has other data
	no=$(stat -L -c '%Hr:%Lr' $M/dut)
	bitmap_is dut2 g dirty none || msg dut2 bitmap_remove g || return
	msg dut2 bitmap_copy g $no/f || return
	expect "another device" "$(extents g dut2)" "0+256 320+32" || rc=1
	msg dut bitmap_remove g && msg dut bitmap_copy g f || return
	expect "copy" "$(extents g)" "0+4 -4+64 68+4 -72+184 -320+32" || rc=1
	return $rc
}
t "merge and copy" merged

# The source goes on while the merge waits for W, and has a discard from after the cut. In
# what is frozen at the cut there was data.
merged_and_frozen()
{
	local rc=0 cut how

	for how in copy:$M/dut:g:b "add:$M/dut:g merge:$M/dut:g:b"; do
		bitmap_is dut g dirty none || msg dut bitmap_remove g || return
		fresh && op write 0 64K && op discard 64K 64K || return
		hook arm end-io sector 2048 timeout_ms 20000
		bg W op write 1M 4K
		hook_wait end-io || return
		session_open
		session_ask transaction $how rotate:$M/dut:g
		until_true 5 busy g && op discard 0 64K || rc=1
		hook release end-io
		bg_wait W 10 && cut=$(session_reply) || { wrong "$how: $cut"; return; }
		expect "$how, frozen" "$(extents g dut ${cut#ok })" "0+128 1024+64" || rc=1
		expect "$how, source" "$(extents b)" "-0+128 1024+64" || rc=1
		session_close
		until_true 5 idle g || rc=1
	done
	return $rc
}
t "merged and frozen at one cut" merged_and_frozen

# What is not recorded may be data.
disabled()
{
	local rc=0

	fresh && op discard 0 128K && msg dut bitmap_disable b || return
	op write 0 4K && op discard 256K 64K || return
	expect "disabled" "$(extents b)" "0+128" || rc=1
	msg dut bitmap_enable b && op discard 512K 64K || return
	expect "enabled" "$(extents b)" "0+128 512+64" || rc=1
	# a new half knows again
	msg dut bitmap_clear b && op discard 0 64K && expect "cleared" "$(extents b)" "-0+64" || rc=1
	return $rc
}
t "disable and enable" disabled

# One that is given up leaves what was known; and without a gap all is known.
not_disabled()
{
	local rc=0

	fresh && op discard 0 128K || return
	refused ENOENT cbw-ioctl transaction disable:$M/dut:b clear:$M/dut:nosuch || rc=1
	expect "given up" "$(extents b)" "-0+128" || rc=1
	cbw-ioctl transaction rotate:$M/dut:b >/dev/null || rc=1
	until_true 5 idle b && expect "aborted" "$(extents b)" "-0+128" || rc=1
	return $rc
}
t "a transaction that is given up" not_disabled

# What an agent says is dirty is data.
told()
{
	local rc=0

	fresh && op discard 0 256K || return
	cbw-ioctl mark $M/dut b 70000+1 >/dev/null || rc=1
	expect "marked" "$(extents b)" "-0+64 64+64 -128+128" || rc=1
	cbw-ioctl read $M/dut b - "$CBW_TMP/bits" >/dev/null &&
		cbw-ioctl load $M/dut b 65536 "$CBW_TMP/bits" >/dev/null || rc=1
	expect "loaded" "$(extents b)" "0+256" || rc=1
	return $rc
}
t "MARK_DIRTY and BITMAP_LOAD" told

resized()
{
	local rc=0

	fresh && op discard 0 128K && op discard 4M 1536 || return
	dm_reload dut "0 10240 cbw $origin" && dm_suspend --nolockfs dut && dm_resume dut || return
	expect "grown" "$(extents b)" "-0+128 4096+1024" || rc=1
	op discard 4M 64K && expect "which records" "$(extents b)" "-0+128 -4096+64 4160+960" || rc=1
	dm_reload dut "0 $small cbw $origin" && dm_suspend --nolockfs dut && dm_resume dut || return
	expect "shrunk" "$(extents b)" "-0+128 -8192+3s" || rc=1
	return $rc
}
t "another size" resized

# Over chunks that a snapshot needs it is not passed down, and nothing has changed.
needed()
{
	local rc=0

	fresh && fill dut && fresh && snap shot dut "$store" 8 || return
	op write 64K 4K && op discard 0 256K || return
	expect "f" "$(extents f)" "-64+4" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "needed chunks" needed

# No memory for it: dirty and nothing else.
no_memory()
{
	local b rc=0 limit=/sys/module/dm_cbw/parameters/bitmap_limit_mib large

	nullb large 4096 512 && cbw large "$large" && fresh && msg large bitmap_add b granularity 512 || return
	# the bitmap takes 1 MiB, and so would its plane; there would not be enough to rotate it
	echo 3 >$limit
	op discard 0 128K large || rc=1
	expect "b" "$(extents b large)" "0+128" || rc=1
	# that is for what has to be had
	msg large bitmap_rotate b && expect "rotated" "$(extents b large)" "" && msg large bitmap_abort b || rc=1
	# nor does a plane that there is count against the limit
	echo 7 >$limit
	msg large bitmap_clear b && op discard 0 128K large && expect "b, 7 MiB" "$(extents b large)" "-0+128" || rc=1
	for b in 1 2 3 4 5; do
		msg large bitmap_add $b granularity 512 || rc=1
	done
	refused ENOMEM msg large bitmap_add 6 granularity 512 || rc=1
	for b in 1 2 3 4 5; do
		msg large bitmap_remove $b || rc=1
	done
	echo 3 >$limit
	msg large bitmap_clear b && op discard 0 128K large || rc=1
	echo 0 >$limit
	op write 0 4K large && op discard 0 128K large || rc=1
	expect "b, again" "$(extents b large)" "0+128" || rc=1
	# what is new has it
	msg large bitmap_clear b && op discard 0 128K large || rc=1
	expect "b, cleared" "$(extents b large)" "-0+128" || rc=1
	dm_remove large || rc=1
	return $rc
}
t "no memory for it" no_memory

# The first discard waits, and meanwhile the device is $1.
meanwhile()
{
	dm_remove dut2 && cbw dut2 "$origin2" $small && msg dut2 bitmap_add b || return
	hook arm discard-work timeout_ms 20000
	bg T op discard 0 64K dut2
	bg U op write 128K 4K dut2
	hook_wait discard-work && bg_wait U 5 || return
	bg_ended T && { wrong "it did not wait"; return; }
	"$@" || return
	hook release discard-work
	bg_wait T 10
}

# in the background: it waits for the discard
suspended()
{
	dm_reload dut2 "0 $1 cbw $origin2" || return
	bg S dm_suspend --nolockfs ${2-} dut2
	not_yet 500 bg_ended S || wrong "a suspend that does not wait for what is in flight"
}

resumed()
{
	bg_wait S 10 && dm_resume dut2
}

first_meets()
{
	local rc=0

	meanwhile suspended $small && resumed && expect "reloaded" "$(extents b dut2)" "-0+64 128+64" || rc=1
	meanwhile suspended $small --noflush && resumed && expect "noflush" "$(extents b dut2)" "-0+64 128+64" || rc=1
	meanwhile suspended 10240 && resumed && expect "resized" "$(extents b dut2)" "-0+64 128+64 4096+1024" || rc=1
	meanwhile msg dut2 bitmap_rotate b && expect "rotated" "$(extents b dut2)" "-0+64" || rc=1
	msg dut2 bitmap_abort b && expect "aborted" "$(extents b dut2)" "-0+64 128+64" || rc=1
	meanwhile msg dut2 bitmap_remove b && msg dut2 bitmap_add b && op discard 0 64K dut2 &&
		expect "added" "$(extents b dut2)" "-0+64" || rc=1
	return $rc
}
t "the first discard, and what happens while it waits" first_meets

# The device is forced away.
first_and_gone()
{
	meanwhile forced_away || return
	bg_wait R 10 && dm_forget dut2 && cbw dut2 "$origin2" $small
}

forced_away()
{
	bg R timeout 20 dmsetup remove --noudevsync --force dut2
	nap 0.5
}
t "the first discard, and the device is removed" first_and_gone

finish
