# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# How the story is told, and what all its parts need.
#
# The story goes to $CBW_RESULTS/story.txt, which tools/demo shows as it grows;
# the output of what is run goes to stdout, for whoever has to look into a failure.
# shellcheck source=selftests/lib/ktap.sh
. "$CBW_TOP/selftests/lib/ktap.sh"
exec 3>>"$CBW_RESULTS/story.txt"
log=$CBW_TMP/log
T0=${EPOCHREALTIME/./}

now_ms()
{
	local us=${EPOCHREALTIME/./}

	echo $((us / 1000))
}

# tell TEXT: a line of the story, with the time since it began
tell()
{
	local t=$(((${EPOCHREALTIME/./} - T0) / 1000000))

	printf '%4d s  %s\n' "$t" "$*" >&3
	echo "# $t s: $*"
}

chapter()
{
	printf '\n%s\n' "$*" >&3
	echo "# ---- $*"
}

# Lines that belong to the line above.
quote()
{
	sed 's/^/          /' >&3
}

mib()
{
	echo "$((($1 + 524288) / 1048576)) MiB"
}

# seconds MS: with one digit after the point
seconds()
{
	echo "$(($1 / 1000)).$(($1 % 1000 / 100)) s"
}

# run COMMAND...: $took (ms); its output is in $log
run()
{
	local start rc

	start=$(now_ms)
	"$@" >"$log" 2>&1
	rc=$?
	took=$(($(now_ms) - start))
	echo "# '$*' ended with $rc after $took ms"
	sed 's/^/#   /' "$log"
	return $rc
}

# What cannot go on.
give_up()
{
	tell "FAILED: $*"
	tail -n 20 "$log" | quote
	ktap_fail "$*"
	exit 1
}

# need TEXT COMMAND...: a step without which the rest makes no sense
need()
{
	local text=$1

	shift
	run "$@" || give_up "$text"
}

# check TEXT COMMAND...: one of the things the demo is to show
check()
{
	local text=$1

	shift
	if run "$@"; then
		printf '        [ok] %s\n' "$text" >&3
		ktap_pass "$text"
		return 0
	fi
	printf '        [FAILED] %s\n' "$text" >&3
	tail -n 20 "$log" | quote
	ktap_fail "$text"
	return 1
}

# until_true SECONDS COMMAND...
until_true()
{
	local end=$((SECONDS + $1))

	shift
	while ! "$@" 2>/dev/null; do
		((SECONDS < end)) || return 1
		sleep 0.1
	done
}
