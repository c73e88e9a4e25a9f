#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 80
#
# Transactions that are wrong, as Documentation/uapi.rst says: the right errno, it is said
# which action it was, and nothing changes. The numbers are offsets in struct
# cbw_transaction and, in @{}, struct cbw_action.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/raw.bash"

begin
nullb origin 4 512
nullb origin2 2 512
nullb store 4 512
nullb store2 4 512
nullb store3 4 512
t "make the device" cbw dut "$origin"
t "make a smaller one" cbw small "$origin2"
t "make a snapshot" snap shot dut "$store" 8
t "make an armed one" snap armed dut "$store2" 8 1 armed
msg dut bitmap_add b
msg dut bitmap_add g
msg dut bitmap_add f
msg dut bitmap_rotate f >/dev/null
msg small bitmap_add b
t "make an armed one with a bitmap" snap limited dut "$store3" 8 3 armed bitmap g
numbers ma mi dut
numbers aa ai armed
session_open
M=/dev/mapper

echo "# the call"
T="8:4:1 12:4:56 16:8:@bad"	# right, but for the array
form()
{
	local rc=0 n

	says EFAULT 0x81 48 "$T" || rc=1
	for n in 0 4097 0xffffffff; do
		says EINVAL 0x81 48 "$T" 8:4:$n || rc=1
	done
	says EFAULT 0x81 48 "$T" 8:4:4096 || rc=1
	for n in 0 32 55 64 0xffffffff; do
		says EINVAL 0x81 48 "$T" 12:4:$n || rc=1
	done
	return $rc
}
t "number and size of actions" unchanged form

freeze()
{
	local rc=0 ms flags

	# only with the flag, and not for ever
	says EINVAL 0x81 48 "$T" 28:4:1 || rc=1
	for ms in 600001 0xffffffff; do
		says EINVAL 0x81 48 "$T" 4:4:1 28:4:$ms || rc=1
	done
	for ms in 0 1 600000; do
		says EFAULT 0x81 48 "$T" 4:4:1 28:4:$ms || rc=1
	done
	for flags in 2 3 0x80000001; do
		says EINVAL 0x81 48 "$T" 4:4:$flags || rc=1
	done
	return $rc
}
t "freeze and its timeout" unchanged freeze

echo "# an action"
# act ERRNO TYPE FIELD,...: an action on bitmap b of dut, right but for that
act()
{
	says "$1" 0x81 48 8:4:1 12:4:56 "16:8:@{0:4:$2,8:4:$ma,12:4:$mi,16:8:@text=b,24:4:1${3:+,$3}}"
}

types()
{
	act EINVAL 0 && act EINVAL 11 && act EINVAL 0xffffffff
}
t "types" unchanged types

# What an action does not use is zero.
unused()
{
	local rc=0 type

	for type in 1 2 3 4 5 6 7 8 9 10; do
		act EINVAL $type 52:4:1 || rc=1
		act EINVAL $type 4:4:4 || rc=1
		[[ $type == 1 ]] || act EINVAL $type 4:4:1 || rc=1
		[[ $type == 1 ]] || act EINVAL $type 28:4:65536,32:8:@text=c,48:4:1 || rc=1
		case $type in
		8|9)	;;
		10)	act EINVAL $type 40:4:1,32:8:@text=c,48:4:1 || rc=1 ;;
		*)	act EINVAL $type 32:8:@text=c || rc=1
			act EINVAL $type 48:4:1 || rc=1
			act EINVAL $type 40:4:1 || rc=1
			act EINVAL $type 44:4:1 || rc=1 ;;
		esac
	done
	# a start has no name
	act EINVAL 7 8:4:$aa,12:4:$ai || rc=1
	act EINVAL 7 8:4:$aa,12:4:$ai,24:4:0 || rc=1
	act EINVAL 7 8:4:$aa,12:4:$ai,16:8:0 || rc=1
	return $rc
}
t "what is not used" unchanged unused

names()
{
	local rc=0 type

	for type in 1 2 3 4 5 6 8 9 10; do
		second=
		[[ $type != @(8|9|10) ]] || second=,32:8:@text=c,48:4:1
		act EINVAL $type 24:4:0$second || rc=1
		act EINVAL $type 16:8:@zeros,24:4:1024$second || rc=1
		act EFAULT $type 16:8:@bad$second || rc=1
		[[ -n $second ]] || continue
		act EINVAL $type || rc=1
		act EINVAL $type 32:8:@zeros,48:4:1024 || rc=1
		act EFAULT $type 32:8:@bad,48:4:1 || rc=1
	done
	return $rc
}
t "lengths and pointers of names" unchanged names

# tr_bad WHAT REPLY ACTION...
tr_bad()
{
	t "$1" unchanged replies "$2" transaction "${@:3}"
}

echo "# all or none"
tr_bad "no such bitmap" "error ENOENT failed=0" rotate:$M/dut:nothing
tr_bad "all or none" "error ENOENT failed=2" add:$M/dut:n1 add:$M/dut:n2 rotate:$M/dut:nothing
tr_bad "all or none, over the device's bounds" "error ENODEV failed=1" add:$M/dut:n1 add:$origin:n2
tr_bad "all or none, frozen for it" "error ENOENT failed=1" freeze add:$M/dut:n1 rotate:$M/dut:nothing
tr_bad "twice the same name" "error EEXIST failed=1" add:$M/dut:n1 add:$M/dut:n1
tr_bad "a granularity that is no power of two" "error EINVAL failed=0" add:$M/dut:n1:513
tr_bad "a granularity that is too small" "error EINVAL failed=0" add:$M/dut:n1:256
tr_bad "a name with a slash" "error EINVAL failed=0" 'add:'$M'/dut:a/b'
tr_bad "a name with a NUL" "error EINVAL failed=0" 'add:'$M'/dut:a\x00b'
tr_bad "no name" "error EINVAL failed=0" add:$M/dut
mapfile -t many < <(printf "add:$M/small:n%d\n" {1..128})
tr_bad "too many bitmaps" "error ENOSPC failed=127" "${many[@]}"
tr_bad "rotate twice" "error EINVAL failed=1" rotate:$M/dut:b rotate:$M/dut:b
tr_bad "rotate, then remove" "error EBUSY failed=1" rotate:$M/dut:b remove:$M/dut:b
for verb in remove clear enable disable rotate; do
	tr_bad "$verb what is frozen" "error EBUSY failed=0" $verb:$M/dut:f
done

echo "# snapshots"
tr_bad "start what is started" "error EBUSY failed=0" start:$M/shot
tr_bad "start what is no snapshot" "error ENODEV failed=0" start:$M/dut
tr_bad "start twice" "error EBUSY failed=1" start:$M/armed start:$M/armed
tr_bad "a snapshot's bitmap" "error ENODEV failed=0" add:$M/shot:n1
tr_bad "start, and rotate its bitmap" "error EINVAL failed=1" start:$M/limited rotate:$M/dut:g
tr_bad "rotate its bitmap, and start" "error EINVAL failed=1" rotate:$M/dut:g start:$M/limited
tr_bad "start without its bitmap" "error ENOENT failed=1" remove:$M/dut:g start:$M/limited
tr_bad "start, and then it fails" "error ENOENT failed=2" start:$M/armed start:$M/limited clear:$M/dut:nothing

echo "# two bitmaps"
for verb in merge copy rename; do
	tr_bad "$verb without a second name" "error EINVAL failed=0" $verb:$M/dut:b
done
tr_bad "merge into what is not there" "error ENOENT failed=0" merge:$M/dut:nothing:b
tr_bad "merge of what is not there" "error ENOENT failed=0" merge:$M/dut:b:nothing
tr_bad "merge from what is no device" "error ENODEV failed=0" merge:$M/dut:b:b:$origin
tr_bad "merge from a smaller device" "error EINVAL failed=0" merge:$M/dut:b:b:$M/small
tr_bad "merge into what is frozen" "error EBUSY failed=0" merge:$M/dut:f:b
tr_bad "merge of what is frozen" "error EBUSY failed=0" merge:$M/dut:b:f
tr_bad "copy of what is not there" "error ENOENT failed=0" copy:$M/dut:n1:nothing
tr_bad "copy over another one" "error EEXIST failed=1" add:$M/dut:n1 copy:$M/dut:n1:b
tr_bad "copy of what is frozen" "error EBUSY failed=0" copy:$M/dut:n1:f
tr_bad "copy from a smaller device" "error EINVAL failed=0" copy:$M/dut:n1:b:$M/small
tr_bad "copy to what is no device" "error ENODEV failed=0" copy:$origin:n1:b:$M/dut
tr_bad "rename to what is there" "error EEXIST failed=1" add:$M/dut:n1 rename:$M/dut:n1:b
tr_bad "rename what is frozen" "error EBUSY failed=0" rename:$M/dut:f:n1
tr_bad "rename, and the old name is gone" "error ENOENT failed=2" add:$M/dut:n1 rename:$M/dut:n1:n2 clear:$M/dut:n1
tr_bad "a new name with a slash" "error EINVAL failed=1" add:$M/dut:n1 rename:$M/dut:n1:a/b
tr_bad "merge, and then it fails" "error ENOENT failed=3" add:$M/dut:n1 merge:$M/dut:n1:b copy:$M/dut:n2:n1 rotate:$M/dut:nothing

session_close
finish
