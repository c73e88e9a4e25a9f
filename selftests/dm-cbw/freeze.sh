#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# A transaction that freezes the file systems on top: what they have accepted is in the
# cut, and they are thawed whatever happens.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
M=/dev/mapper
modprobe -a ext4 xfs
nullb origin1 64 4096
nullb store1 64 4096
nullb origin2 400 4096
nullb store2 400 4096
t "make device 1" cbw dut1 "$origin1"
t "make device 2" cbw dut2 "$origin2"
mkfs.ext4 -q $M/dut1 && mkfs.xfs -q $M/dut2 || { ktap_fail "mkfs"; finish; }
mkdir -p "$CBW_TMP/m1" "$CBW_TMP/m2" "$CBW_TMP/s"
mount -t ext4 $M/dut1 "$CBW_TMP/m1" && mount -t xfs $M/dut2 "$CBW_TMP/m2" || { ktap_fail "mount"; finish; }
keep

# freeze thaws: a file can be made within 10 s
writable()
{
	bg F$1 timeout -s KILL 60 touch "$CBW_TMP/m$1/probe$RANDOM"
	bg_wait F$1 10
}

frozen()
{
	bg Z$1 touch "$CBW_TMP/m$1/frozen"
	not_yet 300 bg_ended Z$1
}

armed()
{
	snap shot1 dut1 "$store1" 8 1 armed && snap shot2 dut2 "$store2" 8 1 armed
}

none()
{
	dm_remove shot1 && dm_remove shot2
}

both="start:$M/shot1 start:$M/shot2"

# A file that nobody has synced is whole in both, and neither needs its journal.
whole()
{
	local rc=0 i

	armed || return
	for i in 1 2; do
		head -c 1M /dev/urandom >"$CBW_TMP/m$i/data" || return
	done
	session_open
	session transaction freeze $both || rc=1
	writable 1 && writable 2 || { echo "still frozen"; rc=1; }
	cp "$CBW_TMP/m1/data" "$CBW_TMP/data1" && cp "$CBW_TMP/m2/data" "$CBW_TMP/data2"
	rm "$CBW_TMP/m1/data" "$CBW_TMP/m2/data"
	sync
	# no recovery, which a device that cannot be written to would not allow
	e2fsck -fn $M/shot1 >"$CBW_TMP/fsck" 2>&1 || { cat "$CBW_TMP/fsck"; rc=1; }
	mount -t ext4 -o ro $M/shot1 "$CBW_TMP/s" || return
	cmp "$CBW_TMP/s/data" "$CBW_TMP/data1" || rc=1
	umount "$CBW_TMP/s"
	dumpe2fs -h $M/shot1 2>/dev/null | grep -q needs_recovery && { echo "ext4 needs recovery"; rc=1; }
	mount -t xfs -o ro,nouuid,norecovery $M/shot2 "$CBW_TMP/s" || return
	cmp "$CBW_TMP/s/data" "$CBW_TMP/data2" || rc=1
	umount "$CBW_TMP/s"
	session_close
	none || rc=1
	return $rc
}
t "two file systems, one cut" whole

# Without freezing what nobody has synced is missing: the case above can tell.
without()
{
	local rc=0

	armed || return
	sync
	head -c 1M /dev/urandom >"$CBW_TMP/m1/other" || return
	session_open
	session transaction $both || rc=1
	mount -t ext4 -o ro,noload $M/shot1 "$CBW_TMP/s" || return
	cmp -s "$CBW_TMP/s/other" "$CBW_TMP/m1/other" && { echo "it is there"; rc=1; }
	umount "$CBW_TMP/s"
	session_close
	none || rc=1
	return $rc
}
t "without freezing it is missing" without

# An action that fails: nothing has changed, and all is thawed.
fails()
{
	local rc=0

	armed || return
	cbw-ioctl transaction freeze $both remove:$M/dut1:nobody | grep -q 'error ENOENT failed=2' || { echo "no ENOENT"; rc=1; }
	writable 1 && writable 2 || { echo "still frozen"; rc=1; }
	snap_is shot1 state armed && snap_is shot2 state armed || rc=1
	none || rc=1
	return $rc
}
t "an action fails" fails

# One is frozen by somebody else: refused, and left as it was.
frozen_before()
{
	local rc=0

	armed && fsfreeze -f "$CBW_TMP/m2" || return
	cbw-ioctl transaction freeze $both >"$CBW_TMP/out"
	if [[ $(<"$CBW_TMP/out") == ok* ]]; then
		# later kernels freeze it once more, and thaw that
		echo "# frozen twice"
	else
		grep -q 'error EBUSY failed=2' "$CBW_TMP/out" || { cat "$CBW_TMP/out"; rc=1; }
		snap_is shot1 state armed || { echo "it has started"; rc=1; }
	fi
	writable 1 || rc=1
	frozen 2 || { echo "it was thawed"; rc=1; }
	fsfreeze -u "$CBW_TMP/m2"
	bg_wait Z2 10 || rc=1
	none || rc=1
	return $rc
}
t "frozen by somebody else" frozen_before

# One is thawed by somebody else before the cut: what is frozen after that is frozen.
thawed_meanwhile()
{
	local rc=0 i

	msg dut2 bitmap_add b || return
	for i in 1 2; do
		hook arm txn-end timeout_ms 20000
		bg T cbw-ioctl transaction freeze:60000 rotate:$M/dut2:b
		hook_wait txn-end || return
		frozen 2 || { echo "not frozen, round $i"; rc=1; }
		((i == 2)) || fsfreeze -u "$CBW_TMP/m2" || rc=1
		hook release txn-end
		bg_wait T 10 && bg_wait Z2 10 || rc=1
		# its session has ended
		until_true 5 unfrozen || rc=1
	done
	msg dut2 bitmap_remove b || rc=1
	return $rc
}

unfrozen()
{
	[[ $(bitmap_get dut2 b flags) != *b* ]]
}
t "thawed by somebody else" thawed_meanwhile

# The writeback hangs: the caller is told in time, and all is thawed when it goes on.
hangs()
{
	local rc=0 start_ms ms scale=${CBW_BUDGET_SCALE:-1}

	armed || return
	head -c 1M /dev/urandom >"$CBW_TMP/m2/data" || return
	dm_suspend --nolockfs dut2 || return
	start_ms=$(now_ms)
	cbw-ioctl transaction freeze:1000 $both | grep -q 'error ETIMEDOUT failed=2' || { echo "not ETIMEDOUT"; rc=1; }
	ms=$(($(now_ms) - start_ms))
	((ms >= 1000 && ms < 1000 + 2000 * scale)) || { echo "after $ms ms"; rc=1; }
	snap_is shot1 state armed || { echo "it has started"; rc=1; }
	# the other one does not wait for it
	writable 1 || { echo "the first is still frozen"; rc=1; }
	dm_resume dut2 || rc=1
	writable 2 || { echo "still frozen"; rc=1; }
	# and it works
	cbw-ioctl transaction freeze $both || rc=1
	writable 1 && writable 2 || rc=1
	none || rc=1
	return $rc
}
t "the writeback hangs" hangs

# The caller is killed while it waits for that.
killed()
{
	local rc=0

	armed || return
	head -c 1M /dev/urandom >"$CBW_TMP/m2/data" || return
	dm_suspend --nolockfs dut2 || return
	bg T cbw-ioctl transaction freeze:60000 $both
	not_yet 500 bg_ended T || { echo "it did not wait"; rc=1; }
	frozen 1 || { echo "the first is not frozen"; rc=1; }
	kill -KILL "${BG[T]}"
	until_true 5 bg_ended T || { echo "it cannot be killed"; rc=1; }
	bg_wait T 5 >/dev/null
	dm_resume dut2 || rc=1
	bg_wait Z1 10 || { echo "still frozen"; rc=1; }
	writable 2 || rc=1
	snap_is shot1 state armed || { echo "it has started"; rc=1; }
	none || rc=1
	return $rc
}
t "the caller is killed" killed

# While the transaction waits for an abort nothing is frozen, and then it is made.
waits()
{
	local rc=0

	msg dut1 bitmap_add b && msg dut1 bitmap_rotate b || return
	hook arm abort-work timeout_ms 30000
	bg A msg dut1 bitmap_abort b
	hook_wait abort-work || return
	bg T cbw-ioctl transaction freeze:60000 rotate:$M/dut1:b
	not_yet 1000 bg_ended T || { echo "it did not wait"; rc=1; }
	writable 1 || { echo "frozen"; rc=1; }
	hook release abort-work
	bg_wait A 10 && bg_wait T 20 || { cat "$CBW_TMP/T.out"; rc=1; }
	writable 1 || { echo "still frozen"; rc=1; }
	until_true 5 idle && msg dut1 bitmap_remove b || rc=1
	return $rc
}

idle()
{
	[[ $(bitmap_get dut1 b flags) != *b* ]]
}
t "the transaction waits" waits

# Frozen, but the cut comes too late: thawed by then, and nothing is done.
too_late()
{
	local rc=0 ms=$((1500 * ${CBW_BUDGET_SCALE:-1}))

	msg dut1 bitmap_add b || return
	hook arm txn-end timeout_ms 20000
	bg T cbw-ioctl transaction freeze:$ms rotate:$M/dut1:b
	hook_wait txn-end || return
	# it waits until then
	writable 1 || { echo "frozen for ever"; rc=1; }
	hook release txn-end
	bg_wait T 10 >/dev/null && { echo "the cut was made"; rc=1; }
	grep -q 'error ETIMEDOUT failed=1' "$CBW_TMP/T.out" || { cat "$CBW_TMP/T.out"; rc=1; }
	expect "flags" "$(bitmap_get dut1 b flags)" e || rc=1
	msg dut1 bitmap_remove b || rc=1
	return $rc
}
t "the cut comes too late" too_late

# A file system in a file of another one: it has to come first.
stacked()
{
	local rc=0 loop

	truncate -s 32M "$CBW_TMP/m2/image" && loop=$(losetup --show -f "$CBW_TMP/m2/image") || return
	LOOPS+=("$loop")
	cbw inner "$loop" && mkfs.ext4 -q $M/inner && mkdir -p "$CBW_TMP/m3" &&
		mount -t ext4 $M/inner "$CBW_TMP/m3" || return
	msg inner bitmap_add b && msg dut2 bitmap_add b || return
	head -c 1M /dev/urandom >"$CBW_TMP/m3/data"
	cbw-ioctl transaction freeze rotate:$M/inner:b rotate:$M/dut2:b || rc=1
	writable 2 && writable 3 || { echo "still frozen"; rc=1; }
	until_true 5 settled || { echo "busy for ever"; rc=1; }
	# the other way round it hangs until the time is over
	head -c 1M /dev/urandom >"$CBW_TMP/m3/data"
	cbw-ioctl transaction freeze:1500 rotate:$M/dut2:b rotate:$M/inner:b | grep -q 'error ETIMEDOUT' || { echo "not ETIMEDOUT"; rc=1; }
	writable 2 && writable 3 || { echo "still frozen"; rc=1; }
	umount "$CBW_TMP/m3"
	dm_remove inner && msg dut2 bitmap_remove b || rc=1
	losetup -d "$loop" && unset 'LOOPS[-1]' || rc=1
	return $rc
}

# Their session has ended.
settled()
{
	[[ $(bitmap_get inner b flags) != *b* && $(bitmap_get dut2 b flags) != *b* ]]
}
t "one in a file of another" stacked

# Nothing is mounted on it, or no device is named that could be.
nothing_to_freeze()
{
	local rc=0

	nullb other 8 4096 && cbw bare "$other" || return
	cbw-ioctl transaction freeze add:$M/bare:b rotate:$M/bare:b || rc=1
	cbw-ioctl transaction freeze remove:$other:b | grep -q 'error ENODEV failed=0' || { echo "no ENODEV"; rc=1; }
	dm_remove bare || rc=1
	return $rc
}
t "nothing to freeze" nothing_to_freeze

unmount()
{
	umount "$CBW_TMP/m1" "$CBW_TMP/m2"
}
t "unmount" unmount
finish
