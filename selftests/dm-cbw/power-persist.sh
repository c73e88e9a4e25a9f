#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
#
# Power cuts under load, of the volume and its container alike: what was not flushed is lost
# or torn. At each cut whatever differs from the backup that the state says is the base has to
# be dirty in what is recovered: then the increment, put onto that backup, is the volume.
#
# power-persist.sh [SEED [CUTS [ROUNDS]]]: more than one: with mutations that have to be noticed
# shellcheck disable=SC2317,SC2154,SC2086,SC2119
. "${0%/*}/lib.sh"
. "$here/box.bash"
. "$here/power.bash"

begin debug
power_begin 96
seed "${1-}"
CUTS=${2:-12}
ROUNDS=${3:-1}
LOG=$CBW_TMP/log

setup()
{
	# slow enough that much is in flight when the power goes
	nullb origin 16 512 completion_nsec=300000 && nullb box 4 512 completion_nsec=700000 &&
		power_dev po "$origin" 1 && power_dev pc "$box" 2 || return
	echo 40 >/sys/module/dm_cbw/parameters/checkpoint_ms
}

# As null_blk does it. What was in flight together has one order, which the references have.
MODEL=(--discard zeros --order 1)

# references: what the backups are, as the volume was at each cut. Nothing was in flight then.
references()
{
	local cut seq

	while read -r cut; do
		seq=$(power_seq "$LOG" "cut $cut")
		power_replay "$LOG" "$seq" 1 --choice all "${MODEL[@]}" >/dev/null &&
			cp --sparse=always "$(power_image 1)" "$CBW_TMP/ref-$cut" || return
	done <"$CBW_TMP/cuts"
}

flusher()
{
	while nap 0.03; do
		sync /dev/mapper/dev
	done
}

# burst SECONDS: random writes, in a part of the volume that moves
burst()
{
	BURST=$((BURST + 1))
	load_start load dev -- --uring 2:12 --mix 12:1:1 --bs 512:32768 --align 512 --max-iops 700 \
		--range $((BURST % 5 * 2097152)):8388608 || return
	nap "$1"
	load_stop load
}

# scenario [hurry]: backups come and go: cut, copy, commit or abort, and what happens to a base.
# In a hurry nobody flushes, and a commit comes at once.
scenario()
{
	local cut i hurry=${1-}

	BURST=0
	rm -f "$CBW_TMP"/ref-*
	blkdiscard -zf /dev/mapper/po 2>/dev/null && blkdiscard -zf /dev/mapper/pc 2>/dev/null || return
	: >"$CBW_TMP/cuts"
	power_start fresh && truncate -s 16M "$CBW_TMP/ref-00000000000000000000000000000000" ||
		return
	boxed dev /dev/mapper/po /dev/mapper/pc --region 262144 &&
		msg dev bitmap_add a granularity 4096 && msg dev bitmap_add b granularity 32768 || return
	power_mark ready
	[[ $hurry ]] || bg flusher flusher
	for i in 1 2 3; do
		burst 0.4 || return
		# "a" has backups, "b" is differential to the beginning
		cut=$(msg dev bitmap_rotate a) && power_mark "cut $cut" || return
		echo "$cut" >>"$CBW_TMP/cuts"
		[[ $hurry ]] || burst 0.3 || return
		if ((i == 2)); then
			msg dev bitmap_abort a
		else
			msg dev bitmap_commit a
		fi || return
	done
	msg dev bitmap_copy c a && burst 0.2 && msg dev bitmap_merge c b && burst 0.2 &&
		msg dev bitmap_disable c && burst 0.2 && msg dev bitmap_remove c && burst 0.2 &&
		cbw-box info /dev/mapper/dev || return
	if [[ ! $hurry ]]; then
		kill "${BG[flusher]}"
		unset "BG[flusher]"
	fi
	cbw-box detach /dev/mapper/dev && dm_remove dev || return
	power_mark stopped
	power_stop "$LOG" && references
}

# judged NAME: of what the images hold. 4: there is no such bitmap, which is not wrong
judged()
{
	local base

	base=$(box_base "$(power_image 2)" "$1")
	# one without a base is but as old as itself
	if [[ $1 == c && $base == 000000* ]]; then
		return 4
	fi
	[[ -n $base ]] || return 4
	[[ -e $CBW_TMP/ref-$base ]] || { wrong "$1 has the base $base, which never was"; return; }
	cbw-box judge "$(power_image 2)" "$1" "$(power_image 1)" "$CBW_TMP/ref-$base"
}

# cut SEQ [OPTIONS...]: false if anything was missed; counts
cut_at_event()
{
	local name rc

	power_replay "$LOG" "$1" $((SEED + $1)) "${MODEL[@]}" "${@:2}" >/dev/null || return
	for name in a b c; do
		judged $name >"$CBW_TMP/judged"
		rc=$?
		((rc != 4)) || { [[ $name == c ]] || ABSENT=$((ABSENT + 1)); continue; }
		JUDGED=$((JUDGED + 1))
		((rc == 0)) || { MISSED=$((MISSED + 1)); echo "cut at $1, bitmap $name:"; cat "$CBW_TMP/judged"; }
	done
}

cuts()
{
	local seq from to

	JUDGED=0 MISSED=0 ABSENT=0
	from=$(power_seq "$LOG" ready) to=$(power_seq "$LOG" stopped)
	for seq in $(power_points "$LOG" "$1" "$SEED" --from "$from" --to "$to"); do
		cut_at_event "$seq" "${@:2}" || return
	done
	echo "$1 cuts from $from to $to: $JUDGED bitmaps judged, $MISSED with something missing, $ABSENT absent"
}

nothing_missed()
{
	cuts "$CUTS" && ((JUDGED >= 2 * CUTS && !MISSED && !ABSENT))
}

# At the end it is exact, whatever the cut.
exact()
{
	local seq

	seq=$(power_seq "$LOG" stopped)
	power_replay "$LOG" "$seq" "$SEED" "${MODEL[@]}" >/dev/null && cbw-box state "$(power_image 2)" | grep clean ||
		return
	[[ $(cbw-box state "$(power_image 2)" | grep -c "coarse 0\$") == 2 ]] || return
	judged a && judged b
}

# A new kernel takes what is there, and goes on.
goes_on()
{
	local seq o c

	for seq in $(power_points "$LOG" 2 "$SEED" --from "$(power_seq "$LOG" ready)"); do
		power_replay "$LOG" "$seq" "$SEED" "${MODEL[@]}" >/dev/null || return
		o=$(losetup --show -f --direct-io=off "$(power_image 1)") &&
			c=$(losetup --show -f "$(power_image 2)") || return
		boxed again "$o" "$c" && load_start load again -- --sync 2 --max-iops 200 &&
			nap 0.3 && load_stop load && cbw-box detach /dev/mapper/again &&
			dm_remove again && sync "$o" "$c" && judged a && judged b || return
		losetup -d "$o" && losetup -d "$c" || return
	done
}

# noticed NUMBER [hurry]: the same without a cure is noticed: it is the cure that does it. The
# windows are small, a few events of thousands, so there are as many cuts as it takes, up to 200.
noticed()
{
	local i

	echo "$1" >"$UNCURED"
	scenario "${@:2}" >/dev/null || return
	hooks_off
	for ((i = 0; i < 25; i++)); do
		SEED=$((SEED + 1))
		cuts 8 >"$CBW_TMP/noticed" && tail -n 3 "$CBW_TMP/noticed" || return
		((!MISSED)) || return 0
	done
	return 1
}

t "set up" setup
keep
t "a load with cuts, commits and aborts is logged" scenario
t "$CUTS power cuts: nothing is missed" nothing_missed
t "after the stop it is exact" exact
t "recovered twice, and goes on" goes_on
for ((round = 1; round < ROUNDS; round++)); do
	SEED=$((SEED + 1))
	t "another load, seed $SEED" scenario
	t "$CUTS power cuts: nothing is missed" nothing_missed
	t "after the stop it is exact" exact
done
if ((ROUNDS > 1)); then
	t "noticed without intents" noticed 11
	t "noticed if intents are written after the data" noticed 12
	t "noticed if a base is written before what it stands for is durable" noticed 21 hurry
fi
finish
