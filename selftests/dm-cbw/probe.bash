# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For cases that measure: what cbw-probe said, stores and origins that hang.

# said LABEL KEY: of what cbw-probe said there
said()
{
	local f

	for f in $(<"$CBW_TMP/$1.out"); do
		[[ $f != "$2="* ]] || echo "${f#*=}"
	done
}

# io_stat DEVICE reads|writes|written|discards|discarded: so far, the latter in sectors
io_stat()
{
	local f

	read -r -a f <"/sys/dev/block/$(stat -L -c '%Hr:%Lr' "$1")/stat" || return
	case $2 in
	reads)		echo "${f[0]}" ;;
	writes)		echo "${f[4]}" ;;
	written)	echo "${f[6]}" ;;
	discards)	echo "${f[11]}" ;;
	discarded)	echo "${f[13]}" ;;
	esac
}

# A test that measures says so with this status when the machine was not at its
# disposal: another try, and a last one.
NOISY=75

measured()
{
	local try rc

	for try in 1 2 3; do
		"$@"
		rc=$?
		((rc == NOISY)) || return $rc
		echo "try $try: the machine was too busy"
	done
	return 1
}

# figure TEXT: kept with the results, also when all is well
figure()
{
	echo "$*" | tee -a "${CBW_RESULTS:-$CBW_TMP}/figures" 2>/dev/null
}

# held_for LABEL SNAPSHOT|none MS: the longest of these writes was held for so long, up
# to a tenth more
held_for()
{
	local max late

	max=$(said "$1" max) late=$(said "$1" late)
	figure "longest write $max us, bound $3 ms, threads late by $late us"
	((max >= $3 * 1000 * 95 / 100)) || { wrong "held for $max us only"; return; }
	((max <= $3 * 1100)) && return
	((late < $3 * 20)) || return $NOISY
	wrong "held for $max us, bound $3 ms"
}

bg_ended_in()
{
	until_true $((ms / 1000 + 10)) bg_ended "$1" || { wrong "$1 is held for ever"; return; }
	unset "BG[$1]"
}

# hang_store NAME DEVICE: to be suspended
hang_store()
{
	dm_create "$1" "0 $(sectors "$2") linear $2 0"
}

# unhang_store NAME: with its snapshot
unhang_store()
{
	dm_resume "$1" && dm_remove shot && dm_remove "$1"
}

# ---- an origin whose reads hang; dut's is $origin, of $len sectors ----------------

# on_stuck_origin FEATURES...: fills dut, puts the origin `stuck` under it, and a
# snapshot on top
on_stuck_origin()
{
	fill dut && dm_suspend dut && dm_reload dut "0 $len cbw /dev/mapper/stuck" && dm_resume dut &&
		snap shot dut "$store" 8 "$@"
}

# Lets go what waits there.
unstick()
{
	dm_suspend --nolockfs stuck && dm_resume stuck
	nap 0.2
}

# From here on its reads take no time, either.
read_now()
{
	dm_reload stuck "0 $len delay $origin 0 0 $origin 0 0" && dm_suspend --nolockfs stuck && dm_resume stuck
}

off_stuck_origin()
{
	dm_suspend --nolockfs dut && dm_reload dut "0 $len cbw $origin" && dm_resume dut || return
	dm_reload stuck "0 $len delay $origin 0 1000000000 $origin 0 0" &&
		dm_suspend --nolockfs stuck && dm_resume stuck
}
