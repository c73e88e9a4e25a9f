#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# Bits that go out and come in: read, load, mark.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086,SC2017
. "${0%/*}/lib.sh"

begin
M=/dev/mapper
nullb origin 64 512
nullb origin2 64 512
# neither a multiple of a granule nor of 64 of them
len=$(($(sectors "$origin") - 37))
t "make the device" cbw dut "$origin" $len
t "make another one" cbw dut2 "$origin2" $len
keep
size=$((len * 512))

one()
{
	cbw-load one $M/dut --offset "$1" --len "$2" --gen 90
}

extents()
{
	cbw-ioctl extents $M/$1 $2 ${3-} | sed '$d'
}

fresh()
{
	bitmap_is $1 b dirty none || msg $1 bitmap_remove b || return
	msg $1 bitmap_add b granularity $2
}

# bits FILE: numbers of the bits that are set, in one line
bits()
{
	od -An -v -tu1 -w1 "$1" | awk '{ for (i = 0; i < 8; i++) if (int($1 / 2 ^ i) % 2) printf "%s%d", n++ ? " " : "", (NR - 1) * 8 + i }'
}

# The bits are where they belong, to the last short granule, for each granularity.
layout()
{
	local g rc=0 last

	for g in 512 65536 1073741824; do
		fresh dut $g && one 0 512 && one 1052672 8192 && one $((size - 512)) 512 || return
		cbw-ioctl read $M/dut b - "$CBW_TMP/bits" >"$CBW_TMP/read" || { cat "$CBW_TMP/read"; return 1; }
		grep -q "^granularity=$g size=$size$" "$CBW_TMP/read" || { cat "$CBW_TMP/read"; rc=1; }
		last=$(((size - 1) / g))
		expect "bytes at $g" "$(stat -c %s "$CBW_TMP/bits")" $((last / 64 * 8 + 8)) || rc=1
		expect "bits at $g" "$(bits "$CBW_TMP/bits")" \
			"$( { echo 0; seq $((1052672 / g)) $(((1052672 + 8191) / g)); echo $last; } | sort -nu | xargs)" || rc=1
	done
	return $rc
}
t "where the bits are" layout

# Read, and load into a bitmap of another device: the same extents, and the base.
round_trip()
{
	local g rc=0 cut i ranges=()

	for g in 512 4096 65536 4194304; do
		fresh dut $g && fresh dut2 $g || return
		cut=$(msg dut bitmap_rotate b) && msg dut bitmap_commit b || return
		for i in {1..40}; do
			ranges+=("$((RANDOM * 1024))+512")
		done
		cbw-ioctl mark $M/dut b "${ranges[@]}" $((size - 512))+512 || return
		cbw-ioctl read $M/dut b - "$CBW_TMP/bits" >/dev/null &&
			cbw-ioctl load $M/dut2 b $g "$CBW_TMP/bits" "$cut" || rc=1
		[[ $(extents dut b) == "$(extents dut2 b)" ]] ||
			{ echo "$g: $(extents dut b) became $(extents dut2 b)"; rc=1; }
		expect "base" "$(bitmap_get dut2 b base)" "$cut" || rc=1
		expect "dirty" "$(bitmap_get dut2 b dirty)" "$(bitmap_get dut b dirty)" || rc=1
	done
	return $rc
}
t "out and in again" round_trip

# What is loaded is added, and nothing is taken away.
added()
{
	fresh dut 65536 && one 0 512 || return
	printf '\x04\0\0\0\0\0\0\0' >"$CBW_TMP/bits"
	cbw-ioctl load $M/dut b 65536 "$CBW_TMP/bits" || return
	expect "extents" "$(extents dut b | xargs)" "0 65536 1 131072 65536 1" &&
		expect "base" "$(bitmap_get dut b base)" 00000000000000000000000000000000
}
t "added to what is there" added

# The frozen half is read by its cut, and the loading goes to neither half of a frozen one.
frozen()
{
	local cut rc=0

	fresh dut 65536 && one 64K 512 || return
	cut=$(msg dut bitmap_rotate b) || return
	one 256K 512
	cbw-ioctl read $M/dut b "$cut" "$CBW_TMP/bits" >/dev/null || rc=1
	expect "frozen" "$(bits "$CBW_TMP/bits")" 1 || rc=1
	cbw-ioctl read $M/dut b - "$CBW_TMP/bits" >/dev/null || rc=1
	expect "recording" "$(bits "$CBW_TMP/bits")" 4 || rc=1
	refused EBUSY cbw-ioctl load $M/dut b 65536 "$CBW_TMP/bits" || rc=1
	# marking is possible at any time, and goes to the recording half
	cbw-ioctl mark $M/dut b 1048576+1 || rc=1
	cbw-ioctl read $M/dut b "$cut" "$CBW_TMP/bits" >/dev/null || rc=1
	expect "frozen, marked" "$(bits "$CBW_TMP/bits")" 1 || rc=1
	msg dut bitmap_abort b || rc=1
	refused ESTALE cbw-ioctl read $M/dut b "$cut" "$CBW_TMP/bits" || rc=1
	expect "extents" "$(extents dut b | xargs)" "65536 65536 1 262144 65536 1 1048576 65536 1" || rc=1
	return $rc
}
t "of a frozen bitmap" frozen

marks()
{
	local rc=0

	fresh dut 65536 && msg dut bitmap_add off granularity 512 disabled || return
	cbw-ioctl mark $M/dut b 0+1 65535+2 $((size - 1))+1 || rc=1
	expect "b" "$(extents dut b | xargs)" "0 131072 1 $((size / 65536 * 65536)) $((size % 65536)) 1" || rc=1
	expect "off" "$(extents dut off | xargs)" "" || rc=1
	# all of them, also one that does not record
	cbw-ioctl mark $M/dut - 1048576+1024 || rc=1
	expect "off, all" "$(extents dut off | xargs)" "1048576 1024 1" || rc=1
	expect "b, all" "$(extents dut b | xargs)" "0 131072 1 1048576 65536 1 $((size / 65536 * 65536)) $((size % 65536)) 1" || rc=1
	cbw-ioctl mark $M/dut off 0+$size || rc=1
	expect "dirty" "$(bitmap_get dut off dirty)" $size || rc=1
	msg dut bitmap_remove off || rc=1
	return $rc
}
t "marks" marks

bad()
{
	local rc=0

	fresh dut 65536 || return
	printf '\x01\0\0\0\0\0\0' >"$CBW_TMP/seven"
	printf '\x01\0\0\0\0\0\0\0' >"$CBW_TMP/eight"
	head -c $((size / 65536 / 64 * 8 + 16)) /dev/zero | tr '\0' '\377' >"$CBW_TMP/beyond"
	head -c 4096 /dev/zero >"$CBW_TMP/zeros"
	refused EINVAL unchanged cbw-ioctl load $M/dut b 65536 "$CBW_TMP/seven" || rc=1
	refused EINVAL unchanged cbw-ioctl load $M/dut b 4096 "$CBW_TMP/eight" || rc=1
	refused EINVAL unchanged cbw-ioctl load $M/dut b 65536 "$CBW_TMP/beyond" || rc=1
	refused ENOENT unchanged cbw-ioctl load $M/dut c 65536 "$CBW_TMP/eight" || rc=1
	# zeros beyond the end are no bits
	cbw-ioctl load $M/dut b 65536 "$CBW_TMP/zeros" || rc=1
	refused EINVAL unchanged cbw-ioctl mark $M/dut b 0+0 || rc=1
	refused EINVAL unchanged cbw-ioctl mark $M/dut b 0+1 $size+1 || rc=1
	refused EINVAL unchanged cbw-ioctl mark $M/dut b 512+$size || rc=1
	refused EINVAL unchanged cbw-ioctl mark $M/dut b 18446744073709551615+2 || rc=1
	refused ENOENT unchanged cbw-ioctl mark $M/dut c 0+1 || rc=1
	refused ENODEV unchanged cbw-ioctl mark "$origin" b 0+1 || rc=1
	msg dut bitmap_disable b || rc=1
	refused EINVAL unchanged cbw-ioctl load $M/dut b 65536 "$CBW_TMP/eight" 0123456789abcdef0123456789abcdef || rc=1
	return $rc
}
t "what is refused" bad
finish
