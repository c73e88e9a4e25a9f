#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# What sessions are told: poll() and read() of the control device, and the counts.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
M=/dev/mapper
nullb origin 4 512
nullb store 4 512
t "make the device" cbw dut "$origin"
msg dut bitmap_add b
keep

one()
{
	cbw-load one $M/dut --offset "$1" --len "$2" --gen "${3:-90}"
}

devno()
{
	dmsetup info -c --noheadings -o major,minor --separator : $1
}

# event TYPE REASON DEVICE CUT [LOST]
event()
{
	local got

	got=$(session events 1 $((5000 * ${CBW_BUDGET_SCALE:-1})) | head -n 1)
	expect "event" "$got" "event=$1 dev=$3 reason=$2 lost=${5:-0} cut=$4"
}

none()
{
	[[ $(session events) == "error ETIMEDOUT" ]] || wrong "there is another event"
}

snapshot()
{
	local rc=0 cut no

	session_open
	none || rc=1
	dm_create tiny "0 40 linear $store 0" && snap shot dut $M/tiny 8 || return
	no=$(devno shot) cut=$(snap_get shot cut)
	none || rc=1
	one 0 16K || rc=1
	event 2 0 $no $cut || rc=1
	none || rc=1
	one 64K 16K || rc=1
	event 1 1 $no $cut || rc=1
	# what is over is not drained
	dm_remove shot || rc=1
	none || rc=1
	snap shot dut $M/tiny 8 || return
	no=$(devno shot) cut=$(snap_get shot cut)
	cbw-ioctl release $M/shot $cut 0+4194304 || rc=1
	event 3 0 $no $cut || rc=1
	dm_remove shot && dm_remove tiny || rc=1
	none || rc=1
	session_close
	return $rc
}
t "of a snapshot" snapshot

# Everybody gets all of them, from the open on.
everybody()
{
	local rc=0 no cut i

	session_open
	snap shot dut "$store" 8 || return
	no=$(devno shot) cut=$(snap_get shot cut)
	for i in 1 2 3; do
		bg S$i cbw-ioctl events 1 $((20000 * ${CBW_BUDGET_SCALE:-1}))
	done
	nap 0.5
	cbw-ioctl release $M/shot $cut 0+4194304 || rc=1
	for i in 1 2 3; do
		bg_wait S$i 5 || rc=1
		expect "S$i" "$(head -n 1 "$CBW_TMP/S$i.out")" "event=3 dev=$no reason=0 lost=0 cut=$cut" || rc=1
	done
	event 3 0 $no $cut || rc=1
	# who comes later does not
	cbw-ioctl events | grep -q ETIMEDOUT || { echo "a new session gets an old one"; rc=1; }
	session_close
	dm_remove shot || rc=1
	return $rc
}
t "everybody gets all" everybody

# The newest 64 are kept, and it is said how many were lost.
lost()
{
	local rc=0 i len no

	session_open
	len=$(sectors "$origin") no=$(devno dut)
	# a size changes 70 times
	for i in {1..35}; do
		dm_reload dut "0 $((len - 8)) cbw $origin" && dm_resume dut &&
			dm_reload dut "0 $len cbw $origin" && dm_resume dut || return
	done
	event 4 0 $no - 6 || rc=1
	session events 63 | grep -c "^event=4 dev=$no reason=0 lost=0 cut=-" | grep -qx 63 || { echo "not the 63 others"; rc=1; }
	none || rc=1
	session_close
	return $rc
}
t "those that nobody reads" lost

gone()
{
	local rc=0 no

	nullb other 4 512 && cbw gone "$other" && no=$(devno gone) || return
	session_open
	dm_remove gone || rc=1
	event 5 0 $no - || rc=1
	session_close
	return $rc
}
t "the device is gone" gone

# read() itself: too small, and without waiting.
reads()
{
	local rc=0

	dd if=/dev/cbw-control of=/dev/null bs=8 count=1 2>&1 | grep -q 'Invalid argument' ||
		{ echo "a read of 8 bytes"; rc=1; }
	dd if=/dev/cbw-control of=/dev/null bs=4096 count=1 iflag=nonblock 2>&1 |
		grep -q 'Resource temporarily unavailable' || { echo "a read without waiting"; rc=1; }
	# one that waits can be killed
	bg R dd if=/dev/cbw-control of=/dev/null bs=4096 count=1
	not_yet 300 bg_ended R || { echo "it did not wait"; rc=1; }
	kill "${BG[R]}"
	bg_wait R 5
	return $rc
}
t "read()" reads

# ---- counts -------------------------------------------------------------------------------

# stat NAME
stat()
{
	cbw-ioctl stats $M/dut | tr ' ' '\n' | sed -n "s/^$1=//p"
}

hist_sum()
{
	local sum=0 n

	for n in $(stat hist | tr , ' '); do
		sum=$((sum + n))
	done
	echo $sum
}

counts()
{
	local rc=0 held us

	snap shot dut "$store" 8 || return
	held=$(stat held) us=$(stat held_us)
	one 0 4K && one 64K 16K && one 0 4K 91 || rc=1
	expect "held" "$(stat held)" $((held + 2)) || rc=1
	(($(stat held_us) > us)) || { echo "they were held for no time"; rc=1; }
	# one that is held for a while
	hook arm copy-read timeout_ms 20000
	bg W one 128K 4K
	hook_wait copy-read || return
	nap 0.2
	hook release copy-read
	bg_wait W 5 || rc=1
	expect "held" "$(stat held)" $((held + 3)) || rc=1
	(($(stat max_held_us) >= 200000)) || { echo "longest: $(stat max_held_us)"; rc=1; }
	expect "histogram" "$(hist_sum)" "$(stat held)" || rc=1
	expect "failed" "$(stat failed)" 0 || rc=1
	blkdiscard -o 1M -l 64K $M/dut || rc=1
	expect "deferred" "$(stat discards_deferred)" 65536 || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "counts of held writes" counts

# A write in flight at a cut is marked again.
again()
{
	local rc=0 before

	before=$(stat marked_again)
	hook arm end-io sector 0 timeout_ms 20000
	bg W one 0 4K
	hook_wait end-io || return
	msg dut bitmap_rotate b || rc=1
	hook release end-io
	bg_wait W 5 || rc=1
	expect "marked again" "$(stat marked_again)" $((before + 1)) || rc=1
	msg dut bitmap_commit b || rc=1
	return $rc
}
t "writes that were in flight at a cut" again
finish
