#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 300
#
# Random operations on bitmaps and a model of them agree: see cbw-model.c. A mutation of the
# module that it can notice takes it up to fifteen seconds on a busy machine; twelve times
# that leaves little to luck.
#
#	model.sh [SEED [SECONDS]]	default 180 seconds
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
seed "${1-}"
secs=${2:-180}
nullb origin1 4 512
loopdev origin2 4 512
nullb origin3 2 512
# no multiple of any granularity but the smallest
len=$(($(sectors "$origin1") - 13))
for i in 1 2; do
	o=origin$i
	t "what can be held below device $i" dm_create low$i "0 $len linear ${!o} 0"
	t "make device $i" cbw dut$i /dev/mapper/low$i
done
t "make a smaller one" cbw small "$origin3"

# The first discard of a device waits for a worker; where writes are pinned they have been
# mapped when the model looks.
discarded_before()
{
	local d

	for d in dut1 dut2 small; do
		msg $d bitmap_add first && cbw-load one /dev/mapper/$d --op discard --offset 0 --len 512 &&
			bitmap_is $d first dirty 65536 && msg $d bitmap_remove first || return
	done
}
t "the first discards" discarded_before

model()
{
	cbw-model dut1=low1 dut2=low2 small --seed "$SEED" --seconds "$secs" >"$CBW_TMP/model.out"
	local rc=$?

	cat "$CBW_TMP/model.out"
	! grep -q ' discarded=0 ' "$CBW_TMP/model.out" || wrong "nothing was ever discarded" || rc=1
	return $rc
}
t "$secs seconds of operations" model

# All but how often the writers came round, and what their last discards were.
repeated()
{
	local first

	first=$(some_operations) && expect "the second run" "$(some_operations)" "$first"
}

some_operations()
{
	cbw-model dut1=low1 dut2=low2 small --seed "$SEED" --ops 300 >"$CBW_TMP/some.out" ||
		{ cat "$CBW_TMP/some.out"; return 1; }
	sed 's/ \(writes\|discarded\)=[0-9]*//g' "$CBW_TMP/some.out"
}
t "a seed repeats the operations" repeated
ktap_diag "$(tail -n 1 "$CBW_TMP/model.out")"
finish
