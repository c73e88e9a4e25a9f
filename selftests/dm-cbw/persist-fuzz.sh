#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
#
# Layouts of containers that are wrong in some places, at random: each is refused, or taken and
# written to nowhere but where it says.
#
# persist-fuzz.sh [SEED [SECONDS]]
# shellcheck disable=SC2317,SC2154,SC2086,SC2119
. "${0%/*}/lib.sh"

begin
seed "${1-}"
SECS=${2:-60}

setup()
{
	nullb origin 64 512 && nullb box 4 512 || return
	# what lies behind the container's end is somebody else's
	dm_create boxdev "0 4096 linear $box 0" && cbw-load fill "$box" --gen 77
}

layouts()
{
	DM_DEVS+=(dev)
	cbw-box fuzz dev "$origin" /dev/mapper/boxdev "$SECS" "$SEED" || return
	dmsetup remove --noudevsync dev && dm_forget dev || return
	# the second half of the disk below is as it was
	at "$box" 2097152 "*gen=77 *" && at "$box" 4190208 "*gen=77 *"
}

t "set up" setup
keep
t "layouts at random, seed $SEED" layouts
finish
