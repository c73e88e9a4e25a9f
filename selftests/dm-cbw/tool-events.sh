#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# cbw monitor, and cbw backup --freeze.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
# shellcheck source=selftests/dm-cbw/tool.bash
. "$here/tool.bash"

setup()
{
	nullb origin 32 512 && nullb store 32 512 || return
	tracked dut "$origin" && target_dir 100 || return
	mkdir "$CBW_TMP/m" "$CBW_TMP/i"
}
t "set up" setup
keep

# lines N FILE: so many of them
lines()
{
	(($(wc -l <"$2") >= $1))
}

monitor()
{
	local rc=0 cut no

	bg M "$CBW" monitor
	bg J "$CBW" monitor --json
	nap 1
	dm_create tiny "0 40 linear $store 0" && snap shot dut /dev/mapper/tiny 8 || return
	no=$(dmsetup info -c --noheadings -o major,minor --separator : shot) cut=$(snap_get shot cut)
	cbw-load one /dev/mapper/dut --offset 16M --len 64K --gen 3 || rc=1
	until_true 5 lines 2 "$CBW_TMP/J.out" && until_true 5 lines 2 "$CBW_TMP/M.out" || rc=1
	grep -q "Z shot ($no): snapshot: four fifths of its store are taken$" "$CBW_TMP/M.out" || rc=1
	grep -q "Z shot ($no): snapshot failed, store-full$" "$CBW_TMP/M.out" || rc=1
	python3 - "$CBW_TMP/J.out" "$no" "$cut" <<-'P' || rc=1
		import json, sys
		got = [json.loads(line) for line in open(sys.argv[1])]
		# one write does both: what led to the end is told before it
		assert [e["event"] for e in got] == ["snapshot-low-space", "snapshot-failed"], got
		assert {(e["device"], e["cut"], e["name"], e["lost"]) for e in got} == {(sys.argv[2], sys.argv[3], "shot", 0)}, got
		assert got[1]["reason"] == "store-full" and got[0]["reason"] is None, got
	P
	kill -TERM "${BG[M]}" "${BG[J]}"
	bg_wait M 5 && bg_wait J 5 || rc=1
	((rc == 0)) || cat "$CBW_TMP/M.out" "$CBW_TMP/J.out"
	dm_remove shot && dm_remove tiny || rc=1
	return $rc
}
t "monitor" monitor

# What nobody has synced is in the backup, which needs no recovery.
frozen()
{
	local rc=0

	mkfs.ext4 -q /dev/mapper/dut && mount -t ext4 /dev/mapper/dut "$CBW_TMP/m" || return
	head -c 1M /dev/urandom >"$CBW_TMP/m/data"
	tool 0 backup dut --to "$TO/b" --store "$store" --freeze || rc=1
	touch "$CBW_TMP/m/after" || rc=1
	tool 0 restore "$TO/b" --to "$CBW_TMP/img" || rc=1
	e2fsck -fn "$CBW_TMP/img" >"$CBW_TMP/fsck" 2>&1 || { cat "$CBW_TMP/fsck"; rc=1; }
	mount -t ext4 -o loop,ro,noload "$CBW_TMP/img" "$CBW_TMP/i" || rc=1
	cmp "$CBW_TMP/m/data" "$CBW_TMP/i/data" || rc=1
	umount "$CBW_TMP/i"
	return $rc
}
t "backup --freeze" frozen

# Frozen by somebody else: no backup, nothing left, and the next one goes.
busy()
{
	local rc=0

	fsfreeze -f "$CBW_TMP/m" || return
	if "$CBW" backup dut --to "$TO/b" --store "$store" --freeze >"$TOOL_OUT" 2>&1; then
		# later kernels freeze it once more
		echo "# frozen twice"
	else
		says "a file system on one of the devices is frozen already" || rc=1
	fi
	fsfreeze -u "$CBW_TMP/m"
	no_snapshots || rc=1
	tool 0 backup dut --to "$TO/b" --store "$store" --freeze || rc=1
	tool 0 verify "$TO/b" || rc=1
	umount "$CBW_TMP/m"
	return $rc
}
t "frozen by somebody else" busy
umount "$TO"
finish
