#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# A release takes back what was begun for the chunk: the writes held for it go at
# once, what its copy comes to later has no effect, what has not been written to
# the store is never written, and every slot comes back, once.
#
#	cancel.sh
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin debug
modprobe -a dm-delay dm-flakey
nullb origin 4 512
nullb store 4 512
len=$(sectors "$origin")
t "make the device" cbw dut "$origin"
t "make an origin whose reads hang" \
	dm_create stuck "0 $len delay $origin 0 1000000000 $origin 0 0"
# Sectors 1024 to 1031 cannot be read, which takes a while to be known.
t "make an origin with a hole" dm_create holes "0 1024 linear $origin 0
1024 8 error
1032 $((len - 1032)) linear $origin 1032"
t "make it slow to read" dm_create slow "0 $len delay /dev/mapper/holes 0 400 $origin 0 0"
keep

one()
{
	cbw-load one /dev/mapper/dut --offset "$1" --len "$2" --gen "${3:-90}"
}

# release OFFSET LENGTH: bytes, K or M
release()
{
	local r=${1/K/*1024}+${2/K/*1024}

	r=${r//M/*1048576}
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" "$((${r%+*}))+$((${r#*+}))" ||
		wrong "release $1 $2"
}

info()
{
	cbw-ioctl snapinfo /dev/mapper/shot | tr ' ' '\n' | sed -n "s/^$1=//p"
}

# on ORIGIN: dut's from now on, dut filled
on()
{
	fill dut && dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw $1" && dm_resume dut
}

# Sixteen writes, to every second chunk, are held for reads that hang. The release of some
# of their chunks lets those go, and only those.
held_writes_go()
{
	local rc=0 sectors

	on_stuck_origin 2 cbw_timeout_ms 0 || return
	sectors=$(io_stat "$store" written)
	bg W cbw-probe write /dev/mapper/dut --order seq --stride 8K --qd 16 --ops 16
	until_true 5 snap_is shot held 16 || { wrong "nothing is held"; return; }
	release 0 64K || rc=1
	until_true 2 snap_is shot held 8 || { echo "8 of 16 should be held"; cbw-dm status shot; rc=1; }
	nap 0.2
	snap_is shot held 8 || { echo "more have gone than were released"; rc=1; }
	# all over the rest, and beyond it
	release 64K 96K || rc=1
	bg_wait W 2 || { echo "the writes did not go"; rc=1; }
	expect "writes done" "$(said W writes)" 16 || rc=1
	# until they end the reads have their places; then nothing is taken or copied
	snap_is shot copied 0 && snap_is shot needed 984 || { cbw-dm status shot; rc=1; }
	unstick || rc=1
	nap 0.3
	nothing_taken 40 || rc=1
	expect "sectors written to the store" $(($(io_stat "$store" written) - sectors)) 0 || rc=1
	at /dev/mapper/shot 0 ENODATA && at /dev/mapper/shot 156K ENODATA || rc=1
	dm_remove shot && off_stuck_origin || rc=1
	return $rc
}

# nothing_taken RELEASED: nor needed again, of the 1024 chunks
nothing_taken()
{
	snap_is shot used 0 && snap_is shot copied 0 && snap_is shot released $1 &&
		snap_is shot needed $((1024 - $1)) && snap_is shot state active ||
		wrong "$(cbw-dm status shot)"
}
t "writes held for reads that hang" held_writes_go

# One write over four chunks: it goes when the last of them is released.
over_four_chunks()
{
	local rc=0

	on_stuck_origin 2 cbw_timeout_ms 0 || return
	bg W one 64K 16K
	until_true 5 snap_is shot held 1 || { wrong "nothing is held"; return; }
	release 64K 8K || rc=1
	nap 0.3
	bg_alive W || { echo "it went with two of its chunks needed"; rc=1; }
	release 72K 8K || rc=1
	bg_wait W 2 || { echo "it did not go"; rc=1; }
	unstick || rc=1
	nap 0.2
	nothing_taken 4 || rc=1
	dm_remove shot && off_stuck_origin || rc=1
	return $rc
}
t "a write over four chunks" over_four_chunks

# The read of a run fails, late, when one chunk of it has been released, which is
# the unreadable one: then nothing is lost. The others are read one by one.
late_failure()
{
	local rc=0 reads

	on /dev/mapper/slow && snap shot dut "$store" 8 || return
	bg W one 504K 24K		# chunks 126 to 131, 128 has the hole
	until_true 5 snap_is shot held 1 || { wrong "nothing is held"; return; }
	release 512K 4K || rc=1
	bg_wait W 15 || rc=1
	expect "chunks that are lost" "$(info poisoned)" 0 || rc=1
	snap_is shot used 5 && snap_is shot copied 5 && snap_is shot released 1 || { cbw-dm status shot; rc=1; }
	at /dev/mapper/shot 512K ENODATA || rc=1
	# not needed again: nothing is read for this one
	reads=$(io_stat /dev/mapper/slow reads)
	one 512K 4K 91 || rc=1
	expect "reads of the origin" "$(($(io_stat /dev/mapper/slow reads) - reads))" 0 || rc=1
	snap_is shot copied 5 || { cbw-dm status shot; rc=1; }
	on_again || rc=1
	at /dev/mapper/shot 504K "*gen=$BASE_GEN *" && at /dev/mapper/shot 524K "*gen=$BASE_GEN *" || rc=1
	dm_remove shot || rc=1
	return $rc
}

# the origin that has no trouble, without a fill
on_again()
{
	dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut
}
t "a read that fails when its bad chunk was released" late_failure

# The other way round: a chunk next to the bad one was released. The bad one is lost, the
# released one has no data, the others are as they were.
late_failure_beside()
{
	local rc=0

	on /dev/mapper/slow && snap shot dut "$store" 8 || return
	bg W one 504K 24K
	until_true 5 snap_is shot held 1 || { wrong "nothing is held"; return; }
	release 516K 4K || rc=1
	bg_wait W 15 || rc=1
	expect "chunks that are lost" "$(info poisoned)" 1 || rc=1
	snap_is shot used 4 && snap_is shot copied 4 && snap_is shot state active ||
		{ cbw-dm status shot; rc=1; }
	on_again || rc=1
	at /dev/mapper/shot 512K EIO && at /dev/mapper/shot 516K ENODATA &&
		at /dev/mapper/shot 508K "*gen=$BASE_GEN *" && at /dev/mapper/shot 520K "*gen=$BASE_GEN *" || rc=1
	# whoever does not want it does not miss it: released, it is not lost any more
	release 512K 4K || rc=1
	at /dev/mapper/shot 512K ENODATA || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "a read that fails beside a released chunk" late_failure_beside

# The store's worker is stopped in the write of one batch; another one fills up, and
# what is released of it is never written.
never_written()
{
	local rc=0 sectors

	on "$origin" && snap shot dut "$store" 8 || return
	sectors=$(io_stat "$store" written)
	hook arm store-write timeout_ms 20000
	one 0 256K || return
	hook_wait store-write || return
	one 1M 256K && release 1M 128K && release $((1024 + 192))K 64K || return
	hook release store-write
	until_true 3 stored $((sectors + 512 + 128)) || rc=1
	nap 0.3
	expect "sectors written to the store" $(($(io_stat "$store" written) - sectors)) $((512 + 128)) || rc=1
	expect "chunks in the store" "$(snap_get shot used)" 80 || rc=1
	at /dev/mapper/shot 1M ENODATA && at /dev/mapper/shot $((1024 + 128))K "*gen=$BASE_GEN *" || rc=1
	release 0 4M || rc=1
	until_true 3 snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}

stored()
{
	(($(io_stat "$store" written) >= $1))
}
t "released before it was written: never written" never_written

# A write starves behind others that fill the buffer, and the store hangs: when its own chunk is
# released it does not wait for what it no longer needs. Another one goes on starving.
starved()
{
	local rc=0

	on "$origin" && dm_create hang "0 $len linear $store 0" &&
		snap shot dut /dev/mapper/hang 8 4 buffer_kib 512 cbw_timeout_ms 0 || return
	dm_suspend --nolockfs hang || return
	# two batches: these have their places
	one 0 256K && one 256K 256K || return
	bg V one 1M 4K
	until_true 5 snap_is shot held 1 || { wrong "nothing starves"; return; }
	bg W one 2M 4K
	until_true 5 snap_is shot held 2 || { wrong "only one starves"; return; }
	# V is the first in the queue, and stays there
	release 2M 4K || rc=1
	bg_wait W 2 || { echo "it starves for a chunk that was released"; rc=1; }
	nap 0.2
	bg_alive V && snap_is shot held 1 || { echo "the other one went too"; cbw-dm status shot; rc=1; }
	dm_resume hang || return
	bg_wait V 5 || rc=1
	at /dev/mapper/shot 1M "*gen=$BASE_GEN *" && at /dev/mapper/shot 2M ENODATA || rc=1
	dm_remove shot && dm_remove hang || rc=1
	return $rc
}
t "a starved write" starved

# ---- break_guest_write ---------------------------------------------------------------

# The write waits for a store that hangs; the release lets it go. Later the store
# takes what it had been given: the slots come back then.
guest_release()
{
	local rc=0

	on "$origin" && dm_create hang "0 $len linear $store 0" &&
		snap shot dut /dev/mapper/hang 8 4 on_cbw_error break_guest_write cbw_timeout_ms 0 || return
	dm_suspend --nolockfs hang || return
	bg W one 0 64K
	until_true 5 snap_is shot held 1 || { wrong "nothing is held"; return; }
	nap 0.2
	release 0 32K || rc=1
	nap 0.2
	bg_alive W || { echo "it went with half of its chunks needed"; rc=1; }
	release 32K 32K || rc=1
	bg_wait W 2 || { echo "it did not go"; rc=1; }
	snap_is shot used 0 && snap_is shot needed $((1024 - 16)) || { cbw-dm status shot; rc=1; }
	dm_resume hang || return
	nap 0.3
	snap_is shot used 0 && snap_is shot released 16 || { cbw-dm status shot; rc=1; }
	# all of the store is there for others, and it holds what it says
	one 64K 3M || rc=1
	cbw-check read /dev/mapper/shot 64K 3M >/dev/null || rc=1
	at /dev/mapper/shot 1M "*gen=$BASE_GEN *" || rc=1
	release 64K $((4096 - 64))K && until_true 3 snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	dm_remove shot && dm_remove hang || rc=1
	return $rc
}
t "break_guest_write: released while the store hangs" guest_release

# A copy of three chunks; the middle one is released while it is read, so the store gets the
# others in two writes. The first of them has landed when the third chunk is released, the
# second has not begun: the copy has ended with its first chunk preserved.
guest_half_stored()
{
	local rc=0 sectors

	on "$origin" && snap shot dut "$store" 8 4 on_cbw_error break_guest_write cbw_timeout_ms 0 || return
	sectors=$(io_stat "$store" written)
	hook arm copy-read timeout_ms 20000
	bg W one 0 12K
	hook_wait copy-read || return
	release 4K 4K || rc=1
	hook arm store-next timeout_ms 20000
	hook release copy-read
	hook_wait store-next && until_true 3 stored $((sectors + 8)) || return
	# the end of that write is behind us
	nap 0.2
	bg_alive W || { echo "it went with a chunk needed"; rc=1; }
	release 8K 4K || rc=1
	bg_wait W 3 || { echo "it did not go"; rc=1; }
	snap_is shot needed $((1024 - 3)) && snap_is shot used 1 && snap_is shot copied 2 ||
		{ cbw-dm status shot; rc=1; }
	hook release store-next
	nap 0.2
	expect "sectors written to the store" $(($(io_stat "$store" written) - sectors)) 8 || rc=1
	at /dev/mapper/shot 0 "*gen=$BASE_GEN *" && at /dev/mapper/shot 8K ENODATA || rc=1
	# preserved once is preserved for good
	one 0 4K 91 && snap_is shot copied 2 || { cbw-dm status shot; rc=1; }
	at /dev/mapper/shot 0 "*gen=$BASE_GEN *" || rc=1
	release 0 4M && until_true 3 snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "break_guest_write: released when half of it is stored" guest_half_stored

# The store fails: the slots are given back at once, and once, whether the chunk is
# released before the failure, after it, or not at all.
guest_failure()
{
	local rc=0 i

	on "$origin" && dm_create bad "0 $len flakey $store 0 0 1000 1 error_writes" &&
		snap shot dut /dev/mapper/bad 8 2 on_cbw_error break_guest_write || return
	for i in 1 2 3; do
		refused EIO one 0 64K || rc=1
		until_true 3 snap_is shot used 0 || { echo "after failure $i"; cbw-dm status shot; rc=1; }
	done
	release 0 32K || rc=1
	snap_is shot used 0 || { echo "released after the failure"; cbw-dm status shot; rc=1; }
	hook arm store-write timeout_ms 20000
	bg W one 1M 64K
	hook_wait store-write || return
	release 1M 32K || rc=1
	hook release store-write
	until_true 5 bg_ended W || { echo "held for ever"; rc=1; }
	unset 'BG[W]'
	grep -q '^EIO' "$CBW_TMP/W.out" || { echo "half of it is needed: $(<"$CBW_TMP/W.out")"; rc=1; }
	until_true 3 snap_is shot used 0 || { echo "released before the failure"; cbw-dm status shot; rc=1; }
	snap_is shot state active && snap_is shot released 16 && snap_is shot needed $((1024 - 16)) &&
		snap_is shot copied 8 || { cbw-dm status shot; rc=1; }
	# the store is well again: every slot can be used
	dm_suspend --nolockfs bad && dm_reload bad "0 $len linear $store 0" && dm_resume bad || rc=1
	one 0 4M || rc=1
	snap_is shot used $((1024 - 16)) || { cbw-dm status shot; rc=1; }
	at /dev/mapper/shot 3M "*gen=$BASE_GEN *" && at /dev/mapper/shot 0 ENODATA || rc=1
	dm_remove shot && dm_remove bad || rc=1
	return $rc
}
t "break_guest_write: the store fails, slots come back once" guest_failure

# Nothing is needed any more: an event, once, whoever had the last chunk.
events()
{
	dmsetup info -c --noheadings -o events shot
}

more_events()
{
	(($(events) > $1))
}

# drains FEATURES -- COMMAND...: which settles the last chunk
drains()
{
	local rc=0 n features=()

	while [[ $1 != -- ]]; do
		features+=("$1")
		shift
	done
	shift
	on "$origin" && snap shot dut "$store" 8 "${features[@]}" && release 4K $((4096 - 4))K || return
	nap 0.2
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	n=$(events)
	"$@" || rc=1
	until_true 3 snap_is shot state drained || { cbw-dm status shot; rc=1; }
	until_true 3 more_events $n || { echo "no event"; rc=1; }
	nap 0.2
	expect "events" "$(($(events) - n))" 1 || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "drained by a write" drains -- one 0 4K
t "drained by a release" drains -- release 0 4K
t "drained by a write, break_guest_write" drains 2 on_cbw_error break_guest_write -- one 0 4K
t "drained by a release, break_guest_write" drains 2 on_cbw_error break_guest_write -- release 0 4K

# By the release of a chunk that is being read: the end of its read changes nothing.
released_in_flight()
{
	local rc=0

	hook arm copy-read timeout_ms 20000
	bg W one 0 4K
	hook_wait copy-read || return
	release 0 4K || rc=1
	bg_wait W 3 || rc=1
	hook release copy-read
	nap 0.2
	snap_is shot used 0 || { cbw-dm status shot; rc=1; }
	return $rc
}
t "drained by the release of a chunk in flight" drains -- released_in_flight
finish
