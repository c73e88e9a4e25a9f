#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 100
#
# The control device: transactions over two devices, who may commit and abort,
# sessions that end, die and let go, releases.
#
#	session.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
M=/dev/mapper
for i in 1 2; do
	nullb origin 4 512
	nullb store$i 4 512
	t "make device $i" cbw dut$i "$origin"
	msg dut$i bitmap_add b granularity 4096
done
keep

one()
{
	cbw-load one "$M/$1" --offset "$2" --len "$3" --gen "${4:-90}"
}

# says PATTERN COMMAND...: a call in a session of its own
says()
{
	local want=$1 got

	shift
	got=$(cbw-ioctl "$@" | tail -n 1)
	# shellcheck disable=SC2053
	[[ $got == $want ]] || wrong "$*: '$got', expected '$want'"
}

idle()
{
	[[ $(bitmap_get "$1" b flags) != *b* ]]
}

clean()
{
	until_true 5 idle dut1 && until_true 5 idle dut2 &&
		msg dut1 bitmap_clear b && msg dut2 bitmap_clear b
}

info()
{
	says ok info && cbw-ioctl info | grep -q '^version=1 '
}
t "which version" info

# One cut over two devices, under a load on both: consistent as a whole.
group()
{
	local rc=0 i before after cut=

	cbw-load fill $M/dut1 --index 0 --gen 80 && cbw-load fill $M/dut2 --index 1 --gen 80 || return
	clean || return
	snap shot1 dut1 "$store1" 8 1 armed && snap shot2 dut2 "$store2" 8 3 armed bitmap b || return
	load_start load dut1 dut2 -- --uring 2:16 --bs 512:40K || return
	nap 0.3
	session_open
	before=$(cbw-check mark "$CBW_TMP/load.log")
	cut=$(session transaction start:$M/shot1 start:$M/shot2 rotate:$M/dut1:b)
	after=$(cbw-check mark "$CBW_TMP/load.log")
	cut=${cut#ok }
	[[ $cut =~ ^[0-9a-f]{32}$ ]] || { wrong "the cut id is '$cut'"; rc=1; }
	nap 0.2
	load_stop load || rc=1
	cbw-check order "$CBW_TMP/load.log" $M/shot1 - --before "$before" --after "$after" --gen 80 || rc=1
	# shot2 has only what was dirty: over the base
	truncate -s 4M "$CBW_TMP/img2"
	cbw-load fill "$CBW_TMP/img2" --index 1 --gen 80 || rc=1
	cbw-check overlay "$CBW_TMP/img2" $M/shot2 --chunk 4096 || rc=1
	cbw-check order "$CBW_TMP/load.log" $M/shot1 "$CBW_TMP/img2" \
		--before "$before" --after "$after" --gen 80 || rc=1
	for i in 1 2; do
		expect "cut id of shot$i" "$(snap_get shot$i cut)" "$cut" || rc=1
		session commit $M/dut$i "$cut" || rc=1
		session commit $M/dut$i "$cut" || { echo "the second commit of dut$i"; rc=1; }
		expect "base of dut$i" "$(bitmap_get dut$i b base)" "$cut" || rc=1
	done
	session_close
	dm_remove shot1 && dm_remove shot2 || rc=1
	return $rc
}
t "one cut over two devices" group

owners()
{
	local rc=0 cut

	clean && one dut1 0 4096 || return
	session_open
	cut=$(session transaction rotate:$M/dut1:b) || return
	cut=${cut#ok }
	one dut1 64K 4096
	says 'error EBUSY' commit $M/dut1 "$cut" || rc=1
	says 'error EBUSY*' transaction rotate:$M/dut1:b || rc=1
	refused EBUSY msg dut1 bitmap_commit b || rc=1
	says 'error ESTALE' detach "$cut" || rc=1
	# never: merged back
	session commit $M/dut1 "$cut" never || rc=1
	expect "dirty after never" "$(bitmap_get dut1 b dirty)" 8192 || rc=1
	cut=$(session transaction rotate:$M/dut1:b)
	cut=${cut#ok }
	# whoever may abort
	says ok abort $M/dut1 "$cut" || rc=1
	expect "dirty after abort" "$(bitmap_get dut1 b dirty)" 8192 || rc=1
	session commit $M/dut1 "$cut" && { echo "committed an aborted cut"; rc=1; }
	session_close
	return $rc
}
t "who may commit and abort" owners

# The end of a session is an abort, however it ends.
ends()
{
	local rc=0

	clean && one dut1 0 4096 && one dut2 0 8192 || return
	session_open
	session transaction rotate:$M/dut1:b rotate:$M/dut2:b add:$M/dut2:new || return
	one dut1 64K 4096
	"$@"
	until_true 5 idle dut1 && until_true 5 idle dut2 || { echo "still busy"; rc=1; }
	expect "dirty of dut1" "$(bitmap_get dut1 b dirty)" 8192 || rc=1
	expect "dirty of dut2" "$(bitmap_get dut2 b dirty)" 8192 || rc=1
	# what was added is not taken back
	msg dut2 bitmap_remove new || rc=1
	return $rc
}
t "the session is closed" ends session_close
t "the session is killed" ends session_kill

detach()
{
	local rc=0 cut

	clean && one dut1 0 4096 || return
	session_open
	cut=$(session transaction rotate:$M/dut1:b)
	cut=${cut#ok }
	session detach "$cut" || rc=1
	session_close
	nap 0.3
	[[ $(bitmap_get dut1 b flags) == *b* ]] || { echo "not frozen any more"; rc=1; }
	says ok commit $M/dut1 "$cut" || rc=1
	says ok commit $M/dut1 "$cut" || { echo "the second commit"; rc=1; }
	expect "dirty" "$(bitmap_get dut1 b dirty)" 0 || rc=1
	expect "base" "$(bitmap_get dut1 b base)" "$cut" || rc=1
	return $rc
}
t "a cut that is handed over" detach

# A snapshot that a session started protects no longer than it lives.
snapshot_ends()
{
	local rc=0 cut

	clean && cbw-load fill $M/dut1 --gen 83 && clean || return
	snap shot dut1 "$store1" 8 1 armed || return
	session_open
	cut=$(session transaction start:$M/shot rotate:$M/dut1:b)
	cut=${cut#ok }
	one dut1 0 4096
	snap_is shot state active && snap_is shot copied 1 || { dmsetup status shot; rc=1; }
	# no abort of a cut that is not there changes that
	session abort $M/dut1 00000000000000000000000000000001 && rc=1
	"$@"
	until_true 5 snap_is shot state drained || { dmsetup status shot; rc=1; }
	one dut1 64K 4096
	snap_is shot copied 1 || { echo "it protects still: $(dmsetup status shot)"; rc=1; }
	until_true 5 idle dut1 || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "a snapshot ends with its session" snapshot_ends session_close
t "a snapshot ends with a killed session" snapshot_ends session_kill

# Both halves by extents, with little room, in steps.
extents()
{
	local rc=0 cut e

	clean && one dut1 0 4096 && one dut1 16K 12K && one dut1 4092K 4096 || return
	session_open
	cut=$(session transaction rotate:$M/dut1:b)
	cut=${cut#ok }
	one dut1 1M 4096
	for e in 4096 2 1; do
		expect "the frozen half, room $e" "$(session extents $M/dut1 b "$cut" 0 $e | tr '\n' ';')" \
			"0 4096 1;16384 12288 1;4190208 4096 1;ok;" || rc=1
	done
	expect "from inside of an extent" "$(session extents $M/dut1 b "$cut" 20480 | head -n 1)" \
		"20480 8192 1" || rc=1
	expect "the recording half" "$(session extents $M/dut1 b | tr '\n' ';')" "1048576 4096 1;ok;" || rc=1
	session list $M/dut1 | grep -q "^name=b granularity=4096 dirty=24576 flags=.* cut=$cut$" ||
		{ session list $M/dut1; rc=1; }
	session_close
	return $rc
}
t "extents of both halves, and the list" extents

# A release frees the store, is final, and is never mistaken for an error.
release()
{
	local rc=0 cut

	cbw-load fill $M/dut1 --gen 81 && snap shot dut1 "$store1" 8 || return
	cut=$(snap_get shot cut)
	one dut1 0 64K 91
	until_true 5 snap_is shot used 16 || rc=1
	says ok release $M/shot "$cut" 0+32768 1048576+4096 || rc=1
	until_true 5 snap_is shot used 8 || { dmsetup status shot; rc=1; }
	snap_is shot released 9 || { dmsetup status shot; rc=1; }
	at $M/shot 0 ENODATA || rc=1
	at $M/shot 1M ENODATA || rc=1
	at $M/shot 32K '*gen=81 *' || rc=1
	at $M/shot 2M '*gen=81 *' || rc=1
	# twice is no error and counts once
	says ok release $M/shot "$cut" 0+32768 || rc=1
	snap_is shot released 9 || { dmsetup status shot; rc=1; }
	# no need to preserve it any more
	one dut1 1M 4096 91
	snap_is shot copied 16 || { dmsetup status shot; rc=1; }
	at $M/shot 1M ENODATA || rc=1
	says ok release $M/shot "$cut" 0+4194304 || rc=1
	until_true 5 snap_is shot state drained || { dmsetup status shot; rc=1; }
	snap_is shot used 0 && snap_is shot needed 0 || { dmsetup status shot; rc=1; }
	dm_remove shot || rc=1
	return $rc
}
t "release" release

# A store of 256 chunks is enough for 1024 when the reader releases as it goes,
# just before the guest's writes or behind them.
release_under_load()
{
	local rc=0 off cut scale=${CBW_BUDGET_SCALE:-1}

	cbw-load fill $M/dut1 --gen 82 && dm_create tiny "0 2048 linear $store1 0" &&
		snap shot dut1 $M/tiny 8 || return
	cut=$(snap_get shot cut)
	# as fast as the machine reads: what it writes has to fit while it does
	load_start load dut1 -- --uring 1:8 --bs 4096:4096 \
		--max-iops $((15 / (scale < 8 ? scale : 8))) || return
	truncate -s 4M "$CBW_TMP/img"
	session_open
	for ((off = 0; off < 4194304; off += 262144)); do
		one dut1 $off 256K 92 >/dev/null || rc=1
		echo "$off 262144" >"$CBW_TMP/piece"
		cbw-check overlay "$CBW_TMP/img" $M/shot --extents-in "$CBW_TMP/piece" >/dev/null || rc=1
		session release $M/shot "$cut" $off+262144 >/dev/null || rc=1
	done
	session_close
	load_stop load || rc=1
	cbw-check verify "$CBW_TMP/img" --gen 82 || rc=1
	until_true 5 snap_is shot state drained || { dmsetup status shot; rc=1; }
	snap_is shot used 0 || { dmsetup status shot; rc=1; }
	(($(snap_get shot copied) > 256)) || { dmsetup status shot; rc=1; }
	dm_remove shot && dm_remove tiny || rc=1
	return $rc
}
t "released under load" release_under_load

# One cut, many sessions: all that is left when they are gone is the bitmap.
many_sessions()
{
	local i rc=0

	clean && one dut1 0 4096 || return
	for i in 1 2 3 4 5 6; do
		bg s$i cbw-ioctl transaction rotate:$M/dut1:b
	done
	for i in 1 2 3 4 5 6; do
		until_true 10 bg_ended s$i || { echo "session $i hangs"; rc=1; }
		unset "BG[s$i]"
		grep -q '^ok\|^error EBUSY' "$CBW_TMP/s$i.out" || { cat "$CBW_TMP/s$i.out"; rc=1; }
	done
	until_true 5 idle dut1 || rc=1
	expect "dirty" "$(bitmap_get dut1 b dirty)" 4096 || rc=1
	return $rc
}
t "sessions race for a bitmap" many_sessions
finish
