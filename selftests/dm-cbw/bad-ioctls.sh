#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
#
# Calls of the control device that are wrong: the right errno, nothing changes,
# and nothing is written behind the struct. The numbers are offsets in the
# structs of linux/dm-cbw.h.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin
nullb origin 4 512
nullb store 4 512
nullb store2 4 512
t "make the device" cbw dut "$origin"
t "make a snapshot" snap shot dut "$store" 8
t "make an armed one" snap armed dut "$store2" 8 1 armed
msg dut bitmap_add b
read -r ma mi < <(dmsetup info -c --noheadings -o major,minor --separator ' ' dut)
read -r sa si < <(dmsetup info -c --noheadings -o major,minor --separator ' ' shot)
D="8:4:$ma 12:4:$mi"		# where dev is in every call
S="8:4:$sa 12:4:$si"
cut=$(snap_get shot cut)
# its 16 bytes as two little-endian numbers, at offset $1
cut_at()
{
	local i lo='' hi=''

	for i in 14 12 10 8 6 4 2 0; do
		lo+=${cut:i:2} hi+=${cut:i+16:2}
	done
	echo "$1:8:0x$lo $(($1 + 8)):8:0x$hi"
}
session_open

# bad WHAT ERRNO RAW...: error of one call
bad()
{
	t "$1" unchanged says "$2" "${@:3}"
}

says()
{
	local want=$1 got

	shift
	# shellcheck disable=SC2048
	got=$(session raw $*)
	[[ $got == "error "@($want) || ($want == ok && $got == ok) ]] ||
		wrong "raw $*: '$got', expected $want"
}

echo "# every call"
declare -A LEN=([0x80]=24 [0x81]=48 [0x82]=40 [0x83]=32 [0x84]=24 [0x85]=48 [0x86]=136 [0x87]=40 [0x88]=72)
for nr in "${!LEN[@]}"; do
	n=${LEN[$nr]}
	bad "call $nr: no size" EINVAL $nr 64 0:4:0
	bad "call $nr: too short" EINVAL $nr 4
	bad "call $nr: a tail that is not zero" E2BIG $nr $((n + 8)) $((n)):4:1
	bad "call $nr: an unknown flag" 'EINVAL|EOPNOTSUPP' $nr $n 4:4:0x80000000
	bad "call $nr: a huge size" 'E2BIG|EINVAL|EFAULT' $nr 64 0:4:0xffffffff
done
for nr in 0 0x7f 0x89 0x99 0xff; do
	bad "call $nr is not known" ENOTTY $nr 64
done
bad "a tail of zeros" ok 0x80 64
t "not root" eval '! setpriv --reuid 65534 --clear-groups cbw-ioctl info'

echo "# devices and cuts"
for nr in 0x82 0x83 0x85 0x87 0x88 0x86; do
	n=${LEN[$nr]}
	# what follows would be right, so that it is the device that is wrong
	x=
	case $nr in
	0x85)	x="32:4:1 40:8:@zeros" ;;
	0x87)	x="16:4:64 24:8:@zeros" ;;
	0x88)	x="32:8:@text=b 40:4:1 44:4:1 48:8:@zeros" ;;
	esac
	bad "call $nr: no such device" ENODEV $nr $n 8:4:1 12:4:4242 16:4:64 $x
done
# 0x87 has no cut; 0x88 and 0x86 take none for any
wrongcut="16:8:0x1122334455667788 24:8:1"
bad "commit of another cut" ESTALE 0x82 40 $D $wrongcut
bad "commit of no cut" 'ESTALE|EINVAL' 0x82 40 $D
bad "abort of another cut" ESTALE 0x83 32 $D $wrongcut
bad "abort of no cut" 'ESTALE|EINVAL' 0x83 32 $D
bad "detach of a cut that is not the session's" ESTALE 0x84 24 8:8:1
bad "release with another cut" ESTALE 0x85 48 $S $wrongcut 32:4:1 40:8:@zeros
bad "info with another cut" ESTALE 0x86 136 $S $wrongcut
bad "extents with another cut" ESTALE 0x88 72 $D $wrongcut 32:8:@text=b 40:4:1 44:4:1 48:8:@zeros
bad "release on the source" 'ENODEV|EINVAL' 0x85 48 $D $wrongcut 32:4:1 40:8:@zeros
bad "list of a snapshot" 'ENODEV|EINVAL' 0x87 40 $S 16:4:64 24:8:@zeros
bad "commit with an unknown mode" 'EINVAL|EOPNOTSUPP' 0x82 40 $D 16:8:1 32:4:7
bad "commit always" EOPNOTSUPP 0x82 40 $D 16:8:1 32:4:2
bad "commit, reserved" EINVAL 0x82 40 $D 16:8:1 36:4:1

echo "# transactions"
bad "no action" EINVAL 0x81 48 8:4:0 12:4:56 16:8:@zeros
bad "4097 actions" EINVAL 0x81 48 8:4:4097 12:4:56 16:8:@zeros
bad "actions of no size" EINVAL 0x81 48 8:4:1 12:4:0 16:8:@zeros
bad "actions that are too short" EINVAL 0x81 48 8:4:1 12:4:16 16:8:@zeros
bad "actions at a bad address" EFAULT 0x81 48 8:4:1 12:4:56 16:8:@bad
bad "an action of type 0" 'EINVAL|EOPNOTSUPP' 0x81 48 8:4:1 12:4:56 16:8:@zeros
bad "reserved" EINVAL 0x81 48 8:4:1 12:4:56 16:8:@zeros 28:4:1

# tr WHAT REPLY ACTION...
tr_bad()
{
	t "$1" unchanged replies "$2" transaction "${@:3}"
}

replies()
{
	local want=$1 got

	shift
	got=$(session "$@" | tail -n 1)
	# shellcheck disable=SC2053
	[[ $got == $want ]] || wrong "$*: '$got', expected '$want'"
}

M=/dev/mapper
tr_bad "no such bitmap" "error ENOENT failed=0" rotate:$M/dut:nothing
tr_bad "all or none" "error ENOENT failed=2" add:$M/dut:n1 add:$M/dut:n2 rotate:$M/dut:nothing
tr_bad "all or none, over the device's bounds" "error ENODEV failed=1" add:$M/dut:n1 add:$origin:n2
tr_bad "twice the same name" "error EEXIST failed=1" add:$M/dut:n1 add:$M/dut:n1
tr_bad "a granularity that is no power of two" "error EINVAL failed=0" add:$M/dut:n1:513
tr_bad "a granularity that is too small" "error EINVAL failed=0" add:$M/dut:n1:256
tr_bad "a name with a slash" "error EINVAL failed=0" 'add:'$M'/dut:a/b'
tr_bad "a name with a NUL" "error EINVAL failed=0" 'add:'$M'/dut:a\x00b'
tr_bad "no name" "error EINVAL failed=0" add:$M/dut
tr_bad "rotate twice" "error EINVAL failed=1" rotate:$M/dut:b rotate:$M/dut:b
tr_bad "rotate, then remove" "error EBUSY failed=1" rotate:$M/dut:b remove:$M/dut:b
tr_bad "start what is started" "error EBUSY failed=0" start:$M/shot
tr_bad "start what is no snapshot" "error ENODEV failed=0" start:$M/dut
tr_bad "a snapshot's bitmap" "error ENODEV failed=0" add:$M/shot:n1
for verb in merge copy rename; do
	tr_bad "$verb without a second name" "error EINVAL failed=0" $verb:$M/dut:b
done
tr_bad "merge into what is not there" "error ENOENT failed=0" merge:$M/dut:nothing:b
tr_bad "merge of what is not there" "error ENOENT failed=0" merge:$M/dut:b:nothing
tr_bad "merge from what is no device" "error ENODEV failed=0" merge:$M/dut:b:b:$origin
tr_bad "copy of what is not there" "error ENOENT failed=0" copy:$M/dut:n1:nothing
tr_bad "copy over another one" "error EEXIST failed=1" add:$M/dut:n1 copy:$M/dut:n1:b
tr_bad "rename to what is there" "error EEXIST failed=1" add:$M/dut:n1 rename:$M/dut:n1:b
tr_bad "rename, and the old name is gone" "error ENOENT failed=2" add:$M/dut:n1 rename:$M/dut:n1:n2 clear:$M/dut:n1
tr_bad "a new name with a slash" "error EINVAL failed=1" add:$M/dut:n1 rename:$M/dut:n1:a/b
tr_bad "merge, and then it fails" "error ENOENT failed=3" add:$M/dut:n1 merge:$M/dut:n1:b copy:$M/dut:n2:n1 rotate:$M/dut:nothing

echo "# ranges, lists, extents"
C=$(cut_at 16)
bad "no range" EINVAL 0x85 48 $S $C 32:4:0 40:8:@zeros
bad "65537 ranges" EINVAL 0x85 48 $S $C 32:4:65537 40:8:@zeros
bad "ranges at a bad address" EFAULT 0x85 48 $S $C 32:4:1 40:8:@bad
bad "a range of no length" EINVAL 0x85 48 $S $C 32:4:1 40:8:@zeros
rel()
{
	t "$1" unchanged replies "error EINVAL" release $M/shot "$cut" "${@:2}"
}
rel "an offset that is no multiple" 512+4096
rel "a length that is no multiple" 0+512
rel "behind the end" 4194304+4096
rel "over the end" 4190208+8192
rel "a sum that wraps" 18446744073709547520+8192
rel "the second range is bad: the first is not released" 0+4096 1+1
bad "list at a bad address" EFAULT 0x87 40 $D 16:4:4096 24:8:@bad
bad "list with no room" EMSGSIZE 0x87 40 $D 16:4:8 24:8:@zeros
bad "extents, no name" EINVAL 0x88 72 $D 32:8:@text=b 40:4:0 44:4:1 48:8:@zeros
bad "extents, a name that is too long" 'EINVAL|ENAMETOOLONG' 0x88 72 $D 32:8:@zeros 40:4:1024 44:4:1 48:8:@zeros
bad "extents, a name at a bad address" EFAULT 0x88 72 $D 32:8:@bad 40:4:1 44:4:1 48:8:@zeros
bad "extents, no such bitmap" ENOENT 0x88 72 $D 32:8:@text=c 40:4:1 44:4:1 48:8:@zeros
bad "extents, no room" EINVAL 0x88 72 $D 32:8:@text=b 40:4:1 44:4:0 48:8:@zeros
bad "extents, room for too many" EINVAL 0x88 72 $D 32:8:@text=b 40:4:1 44:4:65537 48:8:@zeros
bad "extents, reserved" EINVAL 0x88 72 $D 32:8:@text=b 40:4:1 44:4:1 48:8:@zeros 68:4:1
bad "extents of a frozen half that is not there" ESTALE 0x88 72 $D $wrongcut 32:8:@text=b 40:4:1 44:4:1 48:8:@zeros

session_close
finish
