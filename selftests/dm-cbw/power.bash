# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For cases of power cuts: devices whose writes and flushes are logged, and images of what
# they may hold after a cut at any event (powerlog.ko, cbw-power.c).
#
#	power_begin [MIB]		after begin; the log's size, 64
#	power_dev NAME DEV ID		/dev/mapper/NAME is DEV, logged
#	power_start [fresh]		nothing may be in flight; keeps the images of all of them
#					as they are, or knows that they are zeros
#	...
#	power_mark TEXT			what was promised up to here
#	power_stop LOGFILE
#	for seq in $(power_points LOGFILE N SEED); do
#		power_replay LOGFILE $seq SEED [OPTIONS OF cbw-power replay...]
#		the images are $(power_image ID); power_loop VAR ID is a device of it
#	done
#
# What was done to an image does not matter for the next replay; a device on it has to be
# closed by then.

POWER_MARK=/sys/kernel/debug/powerlog/mark
declare -A POWER_DEVS=()	# id -> name
POWER_IMAGES=()			# ID=BASE:OUT of each

power_begin()
{
	local out

	if [[ -z ${CBW_POWERLOG-} ]]; then
		ktap_fail "there is no powerlog.ko (MODULE=powerlog tools/kernel/module)"
		finish
	fi
	if ! out=$(insmod "$CBW_POWERLOG" "mib=${1:-64}" 2>&1); then
		ktap_diag "$out"
		ktap_fail "insmod $CBW_POWERLOG"
		finish
	fi
}

power_dev()
{
	dm_create "$1" "0 $(sectors "$2") powerlog $2 $3" || return
	POWER_DEVS[$3]=$1
	POWER_IMAGES+=("$3=$(power_base "$3"):$(power_image "$3")")
}

# To any of them.
power_msg()
{
	local names=("${POWER_DEVS[@]}")

	msg "${names[0]}" "$@"
}

power_base()
{
	echo "$CBW_TMP/power-$1.base"
}

power_image()
{
	echo "$CBW_TMP/power-$1.out"
}

power_start()
{
	local id

	for id in "${!POWER_DEVS[@]}"; do
		if [[ ${1-} == fresh ]]; then
			rm -f "$(power_base "$id")"
			truncate -s "$(($(sectors "/dev/mapper/${POWER_DEVS[$id]}") * 512))" "$(power_base "$id")" || return
		else
			cbw-power save "/dev/mapper/${POWER_DEVS[$id]}" "$(power_base "$id")" || return
		fi
	done
	power_msg start
}

# power_stop LOGFILE: false if the log was full
power_stop()
{
	power_msg stop || { wrong "the log was full"; return; }
	cat /sys/kernel/debug/powerlog/log >"$1"
}

# Without a fork.
power_mark()
{
	echo "$*" >"$POWER_MARK"
}

# power_marks LOGFILE SEQ: the texts of those before the cut
power_marks()
{
	cbw-power info "$1" --at "$2" | sed -n 's/^mark [0-9]* //p'
}

# power_seq LOGFILE TEXT: of the last mark that says so
power_seq()
{
	cbw-power info "$1" | sed -n "s/^mark \([0-9]*\) $2\$/\1/p" | tail -n 1
}

# power_points LOGFILE N SEED [--from SEQ] [--to SEQ]
power_points()
{
	cbw-power points "$@"
}

power_replay()
{
	cbw-power replay "$1" --at "$2" --seed "$3" "${@:4}" "${POWER_IMAGES[@]}"
}

# power_loop VAR ID: made after the first replay, for all of them
power_loop()
{
	local -n power_ref=$1

	power_ref=$(losetup --show -f "$(power_image "$2")") || return
	LOOPS+=("$power_ref")
}
