# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Delay hooks of a debug build, and cases of hazards that are made with them. lib.sh
# sources it.

HOOKS=/sys/kernel/debug/dm-cbw/hooks
UNCURED=/sys/module/dm_cbw/parameters/uncured

# hook COMMAND...: arm POINT [sector S] [count N] [timeout_ms N], release, reset. It has to
# outlast our patience, unless it keeps a CPU: the kernel complains of those after 20 s.
hook()
{
	local args=$* ms=10000

	if [[ $1 == arm && $2 != @(map-epoch|map-discard|gate-shut|intent-seen) ]]; then
		[[ $args =~ timeout_ms\ ([0-9]+) ]] && ms=${BASH_REMATCH[1]}
		args="${args/ timeout_ms $ms} timeout_ms $((ms * ${CBW_BUDGET_SCALE:-1}))"
	fi
	echo "$args" >"$HOOKS"
}

# hook_get POINT armed|stopped|passed|expired
hook_get()
{
	local point rest

	while read -r point rest; do
		[[ $point == "$1" && " $rest" =~ \ $2=([0-9]+) ]] &&
			echo "${BASH_REMATCH[1]}"
	done <"$HOOKS"
}

hook_stopped()
{
	(($(hook_get "$1" stopped) >= ${2:-1}))
}

# hook_wait POINT [N]: until so many are stopped there
hook_wait()
{
	until_true 8 hook_stopped "$1" "${2:-1}" ||
		wrong "nothing came to the hook $1: $(grep "^$1 " "$HOOKS")"
}

# Everything goes on, cures are back.
hooks_off()
{
	[[ -e $HOOKS ]] || return 0
	echo reset >"$HOOKS"
	echo 0 >"$UNCURED"
}

# A hazard's case is a function that forces the interleaving. It says `broken WHY`
# when the promise was broken; any other failure means that the case itself did
# not come to its point.
BROKEN=77

broken()
{
	echo "broken: $*"
	return $BROKEN
}

# unnoticed N COMMAND...: without the cure it has to say `broken`
unnoticed()
{
	local n=$1 rc

	shift
	echo "$n" >"$UNCURED" || return
	"$@"
	rc=$?
	hooks_off
	((rc != 0)) || { wrong "uncured=$n was not noticed"; return; }
	((rc == BROKEN)) || { wrong "uncured=$n: did not come to the point"; return; }
}

# hazard N NAME COMMAND...: with the cure, and without
hazard()
{
	local n=$1 name=$2

	shift 2
	t "hazard $n, $name" "$@"
	hooks_off
	t "hazard $n, $name: noticed without the cure" unnoticed "$n" "$@"
	# whatever the case left when it stopped half-way
	tidy >/dev/null 2>&1
}
