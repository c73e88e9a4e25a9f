#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# Status and table lines are as interface.md says, and a table line that dmsetup
# prints makes the same device again.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
nullb origin 4 512
nullb store 4 512
S=$(sectors "$origin")
num='(0|[1-9][0-9]*)'
id='([0-9a-f]{32}|-)'
flags='(e?b?p?i?|-)'

# matches REGEX LINE
matches()
{
	[[ $2 =~ ^$1$ ]] || wrong "'$2' is not of the form $1"
}

dev_of()
{
	local n

	n=$(stat -L -c '%Hr:%Lr' "$1")
	echo "$n"
}

cbw_re="0 $S cbw $(dev_of "$origin") $num( [^ ]+ $num $num $flags $id)* $num"
snap_re="0 $S cbw-snapshot (armed|active|drained|failed) (-|store-full|store-io|origin-io|timeout|map-limit|source-gone|source-resized) $id $num $num $num $num $num $num $num $num( .*)?"

t "make the device" cbw dut "$origin"
t "status of a new device" matches "0 $S cbw $(dev_of "$origin") 0 0" "$(dmsetup status dut)"
bitmaps()
{
	msg dut bitmap_add one || return
	msg dut bitmap_add two granularity 512 disabled || return
	# the message takes \xHH, and so does dmsetup's own parser its own escapes
	msg dut bitmap_add three transient || return
	cbw-load one /dev/mapper/dut --offset 0 --len 512 || return
	matches "$cbw_re" "$(dmsetup status dut)" || return
	expect "number of bitmaps" "$(dmsetup status dut | cut -d' ' -f5)" 3 || return
	expect "default granularity" "$(bitmap_get dut one granularity)" 65536 || return
	expect "dirty bytes" "$(bitmap_get dut one dirty)" 65536 || return
	[[ $(bitmap_get dut one flags) == e* ]] || { wrong "not enabled"; return; }
	expect "disabled: dirty bytes" "$(bitmap_get dut two dirty)" 0 || return
	[[ $(bitmap_get dut two flags) != *e* ]] || { wrong "enabled"; return; }
}
t "status with bitmaps" bitmaps
t "the table line" expect "the table" "$(dmsetup table dut)" "0 $S cbw $(dev_of "$origin")"
again()
{
	local table

	table=$(dmsetup table dut) && dm_reload dut "$table" && dm_suspend dut && dm_resume dut || return
	expect "the table" "$(dmsetup table dut)" "$table" || return
	expect "number of bitmaps after it" "$(dmsetup status dut | cut -d' ' -f5)" 3
}
t "it makes the same device again" again

snapshot()
{
	snap shot dut "$store" - || return
	matches "$snap_re" "$(dmsetup status shot)" || return
	expect "default chunk" "$(snap_get shot chunk)" 8 || return
	expect "state" "$(snap_get shot state)" active || return
	expect "capacity" "$(snap_get shot capacity)" $((S / 8)) || return
	expect "needed" "$(snap_get shot needed)" $((S / 8)) || return
	cbw-load one /dev/mapper/dut --offset 4096 --len 8192 || return
	expect "needed after a write" "$(snap_get shot needed)" $((S / 8 - 2)) || return
	expect "copied" "$(snap_get shot copied)" 2 || return
	expect "held" "$(snap_get shot held)" 0 || return
	(($(snap_get shot maxhold) > 0)) || { wrong "max hold is 0"; return; }
	matches "$cbw_re" "$(dmsetup status dut)" || return
	expect "number of snapshots" "$(dmsetup status dut | sed 's/.* //')" 1
}
t "status of a snapshot" snapshot

# The canonical line, with the features NUMBER FEATURE..., makes it again.
tables()
{
	local table features="$*"

	[[ ! -e /dev/mapper/shot ]] || dm_remove shot || return
	snap shot dut "$store" 16 $features || return
	table=$(dmsetup table shot)
	matches "0 $S cbw-snapshot $(dev_of /dev/mapper/dut) $(dev_of "$store") 16( .*)?" "$table" || return
	dm_remove shot || return
	dm_create shot "$table" || return
	expect "the table" "$(dmsetup table shot)" "$table"
}
t "table of a snapshot" tables
t "table of one with a bitmap" tables 2 bitmap one
t "table of one with on_cbw_error and a timeout" \
	tables 4 on_cbw_error break_guest_write cbw_timeout_ms 1234
t "table of one with a buffer" tables 2 buffer_kib 2048
t "table of one with read_once" tables 1 read_once
t "table of one with discard_releases" tables 1 discard_releases
t "table of an armed one" tables 1 armed
armed()
{
	expect "state" "$(snap_get shot state)" armed || return
	expect "cut" "$(snap_get shot cut)" - || return
	at /dev/mapper/shot 0 EIO || return
	# nothing to protect yet
	cbw-load one /dev/mapper/dut --offset 0 --len 4096 || return
	expect "copied" "$(snap_get shot copied)" 0
}
t "an armed one does nothing" armed
writes()
{
	dm_remove shot && snap shot dut "$store" 8 || return
	refused 'EPERM|EROFS|EIO|EACCES|EBADF' cbw-load one /dev/mapper/shot --offset 0 --len 4096 ||
		return
	snap_is shot state active
}
t "a snapshot cannot be written" writes
t "nothing left behind in the status" eval 'dm_remove shot && matches "$cbw_re" "$(dmsetup status dut)" && [[ $(dmsetup status dut) == *" 0" ]]'
finish
