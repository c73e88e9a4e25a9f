# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A tracked volume, dut, and what is backed up to what is no chain. Source it after lib.sh.
# shellcheck disable=SC2034,SC2154,SC2086,SC2119
. "$here/tool.bash"

NONE=00000000000000000000000000000000

setup()
{
	nullb origin 16 512 && nullb store 16 512 && nullb target 16 512 || return
	tracked dut "$origin" && target_dir 200 || return
	fill dut
}

# Some writes, at odd places.
change()
{
	local at

	for at in 512 $((1 << 20)) $((5 * 65536 + 512)) $(((16 << 20) - 4096)); do
		cbw-load one /dev/mapper/dut --offset $at --len 4096 --gen $((GEN += 1)) >/dev/null ||
			return
	done
}

base()
{
	bitmap_get dut b base
}

# ends LABEL STATUS
ends()
{
	local rc

	bg_wait "$1" 20
	rc=$?
	((rc == $2)) || wrong "$1 ended with $rc, expected $2"
}

same()
{
	cbw-check compare "$1" /dev/mapper/dut
}

# image_same FILE: as stock QEMU reads it
image_same()
{
	qemu-img check -q "$1" && qemu-img convert -O raw "$1" "$CBW_TMP/raw" && same "$CBW_TMP/raw"
}
