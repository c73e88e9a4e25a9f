# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the cases of containers share. Source it after lib.sh.
# shellcheck disable=SC2154

# boxed NAME ORIGIN CONTAINER [OPTIONS...]: a device whose bitmaps survive
boxed()
{
	DM_DEVS+=("$1")
	dmsetup create --noudevsync "$1" --notable &&
		dm_reload "$1" "0 $(sectors "$2") cbw $2 2 container $3" || return
	# the node is needed for its number
	dmsetup mknodes "$1" && cbw-box attach "/dev/mapper/$1" "$3" "${@:4}" && dm_resume "$1"
}

# box_sync NAME: a checkpoint, and all intents retired
box_sync()
{
	cbw-box info "/dev/mapper/$1" --checkpoint >/dev/null
}

# box_get NAME FIELD
box_get()
{
	local info

	info=$(cbw-box info "/dev/mapper/$1") || return
	[[ $info =~ (^| )$2\ ([0-9]+) ]] && echo "${BASH_REMATCH[2]}"
}

# box_base CONTAINER NAME: the base that the state on disk says
box_base()
{
	cbw-box state "$1" | sed -n "s/^bitmap $2 .* base \([0-9a-f]*\) .*/\1/p"
}

# box_dirty CONTAINER NAME: what a recovery says, a line
box_dirty()
{
	cbw-box dirty "$1" "$2" | tr '\n' ' ' | sed 's/ $//'
}
