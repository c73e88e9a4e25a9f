# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A chain of a volume, dut, in $to/dut, and its bitmap, $bitmap. Source it after lib.sh.
# shellcheck disable=SC2154
. "$here/tool.bash"

# chain_begin ORIGIN MIB: dut on it, and a full backup; there is room for so much
chain_begin()
{
	tracked dut "$1" && target_dir "$2" || return
	to=$TO/b
	fill dut && tool 0 backup dut --to "$to" --store "$store" || return
	bitmap=$(chain_bitmap "$to/dut")
}

# The bitmap is not frozen any more; an abort runs in the background.
idle()
{
	[[ $(bitmap_get dut "$bitmap" flags) == e ]]
}

is_idle()
{
	until_true 5 idle || wrong "the bitmap is still frozen"
}

# The next increment has everything, whatever was before.
increment()
{
	tool 0 backup dut --to "$to" --store "$store" --incremental &&
		tool 0 verify "$to" --against /dev/mapper/dut
}
