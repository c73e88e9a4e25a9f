# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A volume of three segments that is attached and detached. Source it after lib.sh.
# shellcheck disable=SC2154
. "$here/tool.bash"

# 16 MiB in three pieces, as a logical volume of three segments has them
setup()
{
	nullb origin 20 512 && nullb store 16 512 && nullb other 16 512 || return
	dm_create vol "0 8192 linear $origin 2048
8192 16384 striped 2 128 $origin 12288 $other 0
24576 8192 linear $other 16384"
	own=$(dmsetup table vol)
}

is_attached()
{
	[[ $(dmsetup table vol) == "0 32768 cbw "* ]] ||
		wrong "the table of vol is $(dmsetup table vol)" || return
	[[ $(dmsetup table vol-cbw-origin) == "$own" ]] ||
		wrong "the hidden one has $(dmsetup table vol-cbw-origin)"
}

is_detached()
{
	[[ $(dmsetup table vol) == "$own" ]] ||
		wrong "the table of vol is $(dmsetup table vol)" || return
	! dmsetup info vol-cbw-origin >/dev/null 2>&1 ||
		wrong "the hidden device is left" || return
	[[ $(dmsetup info -c --noheadings -o suspended vol) == Active ]] ||
		wrong "vol is $(dmsetup info -c --noheadings -o suspended vol)"
}
