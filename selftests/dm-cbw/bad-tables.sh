#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# Tables that are wrong: refused with the right errno and a line in the log that
# says what is wrong; nothing changes, neither by a new device nor by a reload.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
nullb origin 4 512
nullb store 4 512
nullb big 4 4096
nullb free 4 512
S=$(sectors "$origin")
t "make the device" cbw dut "$origin"
cbw-load fill /dev/mapper/dut
t "a device that is not cbw" dm_create plain "0 2048 linear $free 0"
t "a store of one sector less than a chunk" dm_create dwarf "0 7 linear $free 2048"
t "a store for the snapshots" dm_create pool "0 2048 linear $free 4096"
msg dut bitmap_add b
msg dut bitmap_add frozen
msg dut bitmap_rotate frozen >/dev/null
t "a good snapshot" snap good dut "$store" 8
D=/dev/mapper/dut P=/dev/mapper/pool

# Adds to $log what the kernel's log has had since the last call. A read whose time is
# over in the middle of a line leaves that in the variable.
exec {LOG}</dev/kmsg
more_log()
{
	local line=

	while IFS= read -r -t 0.03 -u "$LOG" line || [[ -n $line ]]; do
		log+=$line$'\n'
		line=
	done
}

logged()
{
	more_log
	[[ $log == *"$1"* ]]
}

says_why()
{
	local errno=$1 table=$2 rc=0

	more_log
	log=
	refused "$errno" cbw-dm try bad "$table" || rc=1
	# dm core says itself what is wrong with starts and lengths
	until_true 2 logged "device-mapper: " || { wrong "nothing in the log"; rc=1; }
	echo "# $log"
	return $rc
}

# bad WHAT ERRNO TABLE
bad()
{
	t "$1" unchanged says_why "$2" "$3"
}

echo "# cbw"
bad "no origin" EINVAL "0 $S cbw"
bad "an origin that is not there" 'ENODEV|ENOENT|EINVAL' "0 $S cbw /dev/nothing"
bad "an origin that is no block device" 'ENOTBLK|ENODEV|EINVAL' "0 $S cbw /dev/null"
bad "longer than the origin" EINVAL "0 $((S + 8)) cbw $origin"
bad "the number of features is no number" EINVAL "0 1024 cbw $big many"
bad "fewer features than said" EINVAL "0 1024 cbw $big 2 x"
bad "more features than said" EINVAL "0 1024 cbw $big 0 x"
bad "an unknown feature" EINVAL "0 1024 cbw $big 1 fancy"
bad "a negative number of features" EINVAL "0 1024 cbw $big -1"
bad "container without a device" "EINVAL|EOPNOTSUPP" "0 1024 cbw $big 1 container"
bad "not the only target" EINVAL "0 8 linear $big 0
8 1024 cbw $big"
bad "two of them" EINVAL "0 1024 cbw $big
1024 1024 cbw $big"

echo "# cbw-snapshot"
bad "no arguments" EINVAL "0 $S cbw-snapshot"
bad "no store" EINVAL "0 $S cbw-snapshot $D"
bad "no chunk" EINVAL "0 $S cbw-snapshot $D $P"
bad "a source that is not there" 'ENODEV|ENOENT|EINVAL' "0 $S cbw-snapshot /dev/nothing $P 8"
bad "a source that is not cbw" 'EINVAL|ENODEV' "0 2048 cbw-snapshot /dev/mapper/plain $P 8"
bad "a store that is not there" 'ENODEV|ENOENT|EINVAL' "0 $S cbw-snapshot $D /dev/nothing 8"
bad "shorter than the source" EINVAL "0 $((S - 8)) cbw-snapshot $D $P 8"
bad "longer than the source" EINVAL "0 $((S + 8)) cbw-snapshot $D $P 8"
for chunk in 0 1 4 7 12 4096 -8 8x x 99999999999999999999 4294967304; do
	bad "chunk $chunk" EINVAL "0 $S cbw-snapshot $D $P $chunk"
done
bad "a store smaller than a chunk" 'EINVAL|ENOSPC' "0 $S cbw-snapshot $D /dev/mapper/dwarf 8"
bad "the source as its store" 'EINVAL|EBUSY' "0 $S cbw-snapshot $D $D 8"
bad "the source's origin as the store" 'EINVAL|EBUSY' "0 $S cbw-snapshot $D $origin 8"
bad "another snapshot's store" 'EINVAL|EBUSY' "0 $S cbw-snapshot $D $store 8"
bad "larger blocks than the source's" EINVAL "0 $S cbw-snapshot $D $big 8"
bad "the number of features is no number" EINVAL "0 $S cbw-snapshot $D $P 8 x"
bad "fewer features than said" EINVAL "0 $S cbw-snapshot $D $P 8 2 bitmap"
bad "more features than said" EINVAL "0 $S cbw-snapshot $D $P 8 0 armed"
bad "an unknown feature" EINVAL "0 $S cbw-snapshot $D $P 8 1 fancy"
bad "bitmap without a name" EINVAL "0 $S cbw-snapshot $D $P 8 1 bitmap"
bad "a bitmap that is not there" ENOENT "0 $S cbw-snapshot $D $P 8 2 bitmap none"
bad "a bitmap that is frozen" EBUSY "0 $S cbw-snapshot $D $P 8 2 bitmap frozen"
bad "an unknown on_cbw_error" EINVAL "0 $S cbw-snapshot $D $P 8 2 on_cbw_error panic"
bad "on_cbw_error of nothing" EINVAL "0 $S cbw-snapshot $D $P 8 1 on_cbw_error"
bad "cbw_timeout_ms of nothing" EINVAL "0 $S cbw-snapshot $D $P 8 1 cbw_timeout_ms"
bad "cbw_timeout_ms no number" EINVAL "0 $S cbw-snapshot $D $P 8 2 cbw_timeout_ms soon"
bad "cbw_timeout_ms negative" EINVAL "0 $S cbw-snapshot $D $P 8 2 cbw_timeout_ms -1"
bad "buffer_kib no number" EINVAL "0 $S cbw-snapshot $D $P 8 2 buffer_kib much"
bad "buffer_kib out of any range" 'EINVAL|ENOMEM' "0 $S cbw-snapshot $D $P 8 2 buffer_kib 99999999999"
bad "read_once with a value" EINVAL "0 $S cbw-snapshot $D $P 8 2 read_once yes"
bad "discard_releases with a value" EINVAL "0 $S cbw-snapshot $D $P 8 2 discard_releases 1"
bad "read_once, but no feature said" EINVAL "0 $S cbw-snapshot $D $P 8 0 read_once"
bad "discard_releases, and one more said" EINVAL "0 $S cbw-snapshot $D $P 8 2 discard_releases"
bad "read_once in the place of a value" EINVAL "0 $S cbw-snapshot $D $P 8 2 buffer_kib read_once"
bad "not the only target" EINVAL "0 8 linear $big 0
8 $((S - 8)) cbw-snapshot $D $P 8"

echo "# reloads of live devices"
bad_reload()
{
	local rc=0

	refused 'EINVAL|EBUSY' cbw-dm load "$1" "$2" || rc=1
	# it still does what it did
	cbw-load one /dev/mapper/dut --offset 1M --len 4096 --gen 7 || rc=1
	at /dev/mapper/good 1M "*gen=1 *" || rc=1
	return $rc
}
t "cbw with an unknown feature" bad_reload dut "0 $S cbw $origin 1 fancy"
t "cbw longer than its origin" bad_reload dut "0 $((S + 8)) cbw $origin"
t "cbw without an origin" bad_reload dut "0 $S cbw"
t "cbw-snapshot with another chunk" bad_reload good "0 $S cbw-snapshot $D $store 16"
t "cbw-snapshot of another length" bad_reload good "0 $((S - 8)) cbw-snapshot $D $store 8"
t "cbw-snapshot with read_once" bad_reload good "0 $S cbw-snapshot $D $store 8 1 read_once"
t "cbw-snapshot with discard_releases" bad_reload good "0 $S cbw-snapshot $D $store 8 1 discard_releases"
t "cbw-snapshot with a smaller store" bad_reload good "0 $S cbw-snapshot $D $P 8"
finish
