#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# KTAP for shell cases. Source it:
#
#	. "$CBW_TOP/selftests/lib/ktap.sh"
#	ktap_header
#	ktap_plan 2
#	ktap_pass "name"
#	ktap_skip "name" "why"
#	ktap_done			# exits: 0 passed, 1 failed, 4 all skipped
#
# ktap_test NAME COMMAND... runs the command and reports it: 0 pass, 4 skip
# (the reason is the command's last line of output), anything else fail.

KTAP_PASSED=0
KTAP_FAILED=0
KTAP_SKIPPED=0
KTAP_PLANNED=-1

ktap_header()
{
	echo "KTAP version 1"
}

ktap_plan()
{
	KTAP_PLANNED=$1
	echo "1..$1"
}

ktap_nr()
{
	echo $((KTAP_PASSED + KTAP_FAILED + KTAP_SKIPPED))
}

ktap_pass()
{
	KTAP_PASSED=$((KTAP_PASSED + 1))
	echo "ok $(ktap_nr) $*"
}

ktap_fail()
{
	KTAP_FAILED=$((KTAP_FAILED + 1))
	echo "not ok $(ktap_nr) $*"
}

# ktap_skip NAME REASON
ktap_skip()
{
	local name=$1

	shift
	KTAP_SKIPPED=$((KTAP_SKIPPED + 1))
	echo "ok $(ktap_nr) $name # SKIP $*"
}

ktap_diag()
{
	local line

	while IFS= read -r line; do
		echo "# $line"
	done <<<"$*"
}

ktap_test()
{
	local name=$1 out rc

	shift
	out=$("$@" 2>&1)
	rc=$?
	case $rc in
	0)	ktap_pass "$name" ;;
	4)	ktap_skip "$name" "${out##*$'\n'}" ;;
	*)	[[ -z $out ]] || ktap_diag "$out"
		ktap_diag "'$*' returned $rc"
		ktap_fail "$name" ;;
	esac
}

# Closes the report; a plan that was not kept is a failure. Exits.
ktap_done()
{
	local ran

	ran=$(ktap_nr)
	if ((KTAP_PLANNED >= 0 && ran != KTAP_PLANNED)); then
		ktap_diag "planned $KTAP_PLANNED tests but ran $ran"
		KTAP_FAILED=$((KTAP_FAILED + 1))
	elif ((KTAP_PLANNED < 0)); then
		echo "1..$ran"
	fi
	echo "# Totals: pass:$KTAP_PASSED fail:$KTAP_FAILED xfail:0 xpass:0 skip:$KTAP_SKIPPED error:0"
	((KTAP_FAILED == 0)) || exit 1
	((KTAP_PASSED > 0 || KTAP_SKIPPED == 0)) || exit 4
	exit 0
}
