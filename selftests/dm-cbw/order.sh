#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# A cut over two devices keeps the order of writes that depend on each other: writers
# alternate between the devices, each write after the one before was acknowledged. What
# the snapshots of the cut hold shows which side of it each write was on, and so does what
# the frozen halves of the bitmaps hold. See cbw-order.c.
#
#	order.sh [CUTS]		default 100, with snapshots and without
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
cuts=${1:-100}
for i in 1 2; do
	nullb origin 8 512
	nullb store$i 8 512
	t "make device $i" cbw dut$i "$origin"
	msg dut$i bitmap_add b granularity 512
done

# order OPTION...: the cuts have to be worth something: some between dependent writes
order()
{
	local out rc

	out=$(cbw-order dut1 dut2 b --cuts "$cuts" "$@")
	rc=$?
	echo "$out"
	((rc == 0)) || return
	[[ $out =~ steps=([0-9]+)\ between=([0-9]+) ]] && ((BASH_REMATCH[1] > cuts && BASH_REMATCH[2] > 0)) ||
		wrong "too little was written"
}
t "$cuts cuts, the bitmaps rotated" order
t "$cuts cuts, the bitmaps rotated and snapshots started" \
	order --stores "$store1" "$store2" --snapshots ordersnap1 ordersnap2
t "many writers" order --writers 12
finish
