# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A device of 64 MiB with its container, as persist-edges and persist-ends begin with it. Source it
# after box.bash.
# shellcheck disable=SC2034,SC2154,SC2086,SC2120

D=/dev/mapper/dev

setup()
{
	nullb origin 64 512 && nullb box 8 512
}

one()
{
	cbw-load one $D --offset "$1" --len 4096 >/dev/null
}

# With bitmap a, which has a base; 3 MiB is dirty, and no intent is left.
fresh()
{
	if dmsetup info dev >/dev/null 2>&1; then
		dm_remove dev || return
	fi
	blkdiscard -zf "$box" 2>/dev/null && boxed dev "$origin" "$box" --region 1048576 &&
		msg dev bitmap_add a granularity 4096 && CUT=$(msg dev bitmap_rotate a) &&
		msg dev bitmap_commit a && one 3145728 && box_sync dev &&
		expect base "$(box_base $box a)" "$CUT"
}

# attach_only [CONTAINER]: all but the resume
attach_only()
{
	DM_DEVS+=(dev)
	dmsetup create --noudevsync dev --notable &&
		dm_reload dev "0 131072 cbw $origin 2 container ${1-$box}" && dmsetup mknodes dev
}
