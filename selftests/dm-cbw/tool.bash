# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the cases of the tool share. Source it after lib.sh.
# shellcheck disable=SC2034,SC2154

CBW=${CBW_TOOL:-${CBW_BUILD:-$CBW_TOP/build}/userspace/cbw}
TOOL_OUT=$CBW_TMP/tool.out
# to be preloaded: the tool dies where it is told to (tool-die.c)
die=${CBW_BUILD:-$CBW_TOP/build}/selftests/dm-cbw/tool-die.so

# tool STATUS COMMAND...: the tool has to end with that status
tool()
{
	local want=$1 rc

	shift
	# no timeout(1), no cat(1): starting a program is what costs here
	"$CBW" "$@" >"$TOOL_OUT" 2>&1
	rc=$?
	printf '%s\n' "$(<"$TOOL_OUT")"
	((rc == want)) || wrong "'cbw $*' ended with $rc, expected $want"
}

# says TEXT: the last run of the tool said it
says()
{
	[[ $(<"$TOOL_OUT") == *"$1"* ]] || wrong "it did not say '$1'"
}

# chain_bitmap DIR/VOLUME: the name of the bitmap of a chain
chain_bitmap()
{
	sed -n 's/.*"bitmap": *"\([^"]*\)".*/\1/p' "$1/manifest.json"
}

no_snapshots()
{
	local left

	left=$(dmsetup table --target cbw-snapshot)
	[[ -z $left || $left == "No devices found" ]] ||
		wrong "snapshots are left: $left"
}

# target_dir MIB: $TO, a directory on a file system that has O_DIRECT
target_dir()
{
	loopdev disk "$1" 512 && mkfs.ext4 -q -O ^has_journal "$disk" &&
		mkdir "$CBW_TMP/to" && mount "$disk" "$CBW_TMP/to" || return
	TO=$CBW_TMP/to
}

# tracked NAME ORIGIN: with the tool, removed at the end
tracked()
{
	tool 0 create "$1" "$2" || return
	DM_DEVS+=("$1")
}

# What a backup that was killed has left, as the next one would remove it.
drop_stale()
{
	local name _

	while read -r name _; do
		[[ $name != cbw-snap-* ]] ||
			dmsetup remove --noudevsync --retry "${name%:}"
	done < <(dmsetup table --target cbw-snapshot)
}
