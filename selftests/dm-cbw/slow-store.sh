#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 45
# long
#
# A store that is twenty times slower than the origin: who writes one after the other
# does not notice. Where more is written than the store takes, nobody is left behind.
#
#	slow-store.sh [ROUNDS]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
rounds=${1:-5}
nullb origin 16 512 completion_nsec=500000
nullb fast 16 512 completion_nsec=500000
nullb slow 16 512 completion_nsec=10000000
t "make the device" cbw dut "$origin"
keep

# first_writes STORE: the median of their times, in microseconds; in $us
first_writes()
{
	snap shot dut $1 8 || return
	cbw-probe write /dev/mapper/dut --order each --ops 250 >"$CBW_TMP/probe.out" || { cat "$CBW_TMP/probe.out"; return 1; }
	us=$(said probe p50)
	snap_is shot copied 250 || { cbw-dm status shot; return 1; }
	dm_remove shot
}

# Neighbouring rounds see the same machine: the median of their ratios. To within a quarter;
# it is measured to two digits where time is that of instructions (make bench).
qd1()
{
	local i ratios=() f s

	for ((i = 0; i < rounds; i++)); do
		first_writes $fast || return
		f=$us
		first_writes $slow || return
		s=$us
		ratios+=($((s * 1000 / f)))
		figure "fast store $f us, slow store $s us"
	done
	mapfile -t ratios < <(printf '%s\n' "${ratios[@]}" | sort -n)
	figure "median of the ratios: ${ratios[rounds / 2]} per mille"
	((ratios[rounds / 2] <= 1250)) || wrong "first writes take ${ratios[*]} per mille"
}
t "one write after the other" qd1

# The buffer is always full, so writes are held for room in it. Those that have waited
# longest are next: none waits for much longer than all that are before it.
fair()
{
	local rc=0 max mean late hold

	snap shot dut $slow 8 4 buffer_kib 512 on_cbw_error $1 || return
	cbw-probe write /dev/mapper/dut --order each --qd 256 --ops 4096 >"$CBW_TMP/probe.out" || rc=1
	max=$(said probe max) mean=$(said probe mean) late=$(said probe late) hold=$(snap_get shot maxhold)
	figure "$T_NAME: $(<"$CBW_TMP/probe.out") hold=$hold"
	expect "writes done" "$(said probe writes)" 4096 || rc=1
	snap_is shot state drained && snap_is shot used 4096 || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	((max <= mean * 4 + late)) || { wrong "the longest write took $max us, all of them $mean us"; rc=1; }
	return $rc
}
t "256 at once, the buffer is full" fair break_snapshot
t "the same, break_guest_write" fair break_guest_write
finish
