# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the scripts under tools/ share. Source it with $0's directory known:
#	. "$(dirname "$0")/../lib.sh"
CBW_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 1
CBW_BUILD=${CBW_BUILD:-$CBW_TOP/build}
CBW_CACHE=${CBW_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dm-cbw}
export CBW_TOP CBW_BUILD CBW_CACHE

say()
{
	echo "$*" >&2
}

die()
{
	echo "${0#"$CBW_TOP"/}: $*" >&2
	exit 1
}

# lock FILE: held until the script ends; says so when it has to wait.
lock()
{
	mkdir -p "${1%/*}" || die "cannot make ${1%/*}"
	exec {CBW_LOCK_FD}>"$1" || die "cannot open the lock $1"
	if ! flock -n "$CBW_LOCK_FD"; then
		say "waiting for another run that holds $1"
		flock "$CBW_LOCK_FD" || die "cannot lock $1"
	fi
}

unlock()
{
	exec {CBW_LOCK_FD}>&-
}
