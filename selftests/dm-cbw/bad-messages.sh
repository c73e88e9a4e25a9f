#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# Messages that are wrong: the right errno, and nothing changes.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
nullb origin 4 512
nullb store 4 512
t "make the device" cbw dut "$origin"
msg dut bitmap_add b
msg dut bitmap_add frozen
msg dut bitmap_rotate frozen >/dev/null
t "a snapshot with a bitmap" eval 'msg dut bitmap_add used && snap shot dut "$store" 8 2 bitmap used'

# bad WHAT ERRNO MESSAGE...
bad()
{
	t "$1" unchanged refused "$2" cbw-dm message dut "${@:3}"
}

long=$(printf '%01024d' 0)
bad "an unknown message" EINVAL hello
bad "an empty one" EINVAL ""
bad "add without a name" EINVAL bitmap_add
bad "add with an empty name" EINVAL bitmap_add ""
bad "add a name that is there" EEXIST bitmap_add b
bad "add a name with a slash" EINVAL bitmap_add a/b
bad "add a name of 1024 bytes" 'EINVAL|ENAMETOOLONG' bitmap_add "$long"
# device-mapper itself takes one backslash away
bad "add a name with a broken escape" EINVAL bitmap_add 'a\\xzz'
bad "add a name with an escaped NUL" EINVAL bitmap_add 'a\\x00b'
bad "add a name with an escaped slash" EINVAL bitmap_add 'a\\x2fb'
bad "granularity without a number" EINVAL bitmap_add n granularity
for g in 0 1 256 513 3000 -512 x 4294967296 8589934592 99999999999999999999999; do
	bad "granularity $g" EINVAL bitmap_add n granularity $g
done
bad "add with an unknown option" EINVAL bitmap_add n fast
for verb in remove clear enable disable rotate commit abort; do
	bad "$verb without a name" EINVAL bitmap_$verb
	bad "$verb of what is not there" ENOENT bitmap_$verb nothing
	bad "$verb with a name too many" EINVAL bitmap_$verb b b
done
for verb in remove clear enable disable rotate; do
	bad "$verb of a frozen bitmap" EBUSY bitmap_$verb frozen
	bad "$verb of a snapshot's bitmap" EBUSY bitmap_$verb used
done
for verb in merge copy rename; do
	bad "$verb without a name" EINVAL bitmap_$verb
	bad "$verb with one name" EINVAL bitmap_$verb b
	bad "$verb with a bad second name" EINVAL bitmap_$verb b 'a\\xzz'
done
bad "copy of two" EINVAL bitmap_copy n b b
bad "rename to two" EINVAL bitmap_rename b n n
bad "rename to another device" EINVAL bitmap_rename b 253:0/n
bad "merge of what is not there" ENOENT bitmap_merge b nothing
bad "merge into what is not there" ENOENT bitmap_merge nothing b
bad "merge with one source too many" ENOENT bitmap_merge b b nothing
bad "merge from no device" ENODEV bitmap_merge b 1048575:1/b
bad "merge from what is no number" EINVAL bitmap_merge b 253/b
bad "merge of a frozen bitmap" EBUSY bitmap_merge b frozen
bad "merge into a frozen bitmap" EBUSY bitmap_merge frozen b
bad "copy of a frozen bitmap" EBUSY bitmap_copy n frozen
bad "copy over another one" EEXIST bitmap_copy b b
bad "rename of a frozen bitmap" EBUSY bitmap_rename frozen n
bad "rename to what is there" EEXIST bitmap_rename b used
bad "commit of what is not frozen" 'EINVAL|ENOENT|ESTALE' bitmap_commit b
bad "abort of what is not frozen" 'EINVAL|ENOENT|ESTALE' bitmap_abort b
bad "commit of a snapshot's bitmap" EBUSY bitmap_commit used
t "a message to a snapshot" unchanged refused EINVAL cbw-dm message shot bitmap_add x

# 128 bitmaps and no more
many()
{
	local i

	for ((i = 3; i < 128; i++)); do
		cbw-dm message dut bitmap_add "n$i" disabled || return
	done
	unchanged refused ENOSPC msg dut bitmap_add n128 || return
	msg dut bitmap_remove n3 && msg dut bitmap_add n128
}
t "128 bitmaps, and no more" many
finish
