#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 80
#
# Calls of the control device that are wrong, as Documentation/uapi.rst says: the right
# errno, nothing changes, and nothing is written behind the struct. The numbers are offsets
# in the structs of linux/dm-cbw.h. Transactions: bad-transactions.sh.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/raw.bash"

begin
nullb origin 4 512
nullb store 4 512
nullb store2 4 512
nullb origin2 1 512
t "make the device" cbw dut "$origin"
t "make a snapshot" snap shot dut "$store" 8
t "make an armed one" snap armed dut "$store2" 8 1 armed
# b has a dirty granule and a base, f is frozen, off does not record
msg dut bitmap_add b
done=$(msg dut bitmap_rotate b)
msg dut bitmap_commit b
msg dut bitmap_add f
msg dut bitmap_rotate f >/dev/null
msg dut bitmap_add off disabled
numbers ma mi dut
numbers sa si shot
numbers aa ai armed
cut=$(snap_get shot cut)
D="8:4:$ma 12:4:$mi"		# where dev is in every call that has one
S="8:4:$sa 12:4:$si"
A="8:4:$aa 12:4:$ai"
C=$(cut_at 16 "$cut")
wrongcut="16:8:0x1122334455667788 24:8:1"
size=4194304
session_open
t "mark, and release" eval \
	'session mark /dev/mapper/dut b 0+1 && session release /dev/mapper/shot "$cut" 0+4096'

# For each call: the size of its struct, values that are right but for what is being tested,
# and what it says to them; where it has a device, flags, reserved members.
declare -A LEN=([0x80]=24 [0x81]=48 [0x82]=40 [0x83]=32 [0x84]=24 [0x85]=48 [0x86]=136 [0x87]=40
		[0x88]=72 [0x89]=72 [0x8a]=72 [0x8b]=40 [0x8c]=328 [0x8d]=168 [0x8e]=32
		[0x8f]=112 [0x90]=32)
# Of those that have grown: what their first version had.
declare -A FIRST=([0x8d]=160)
declare -A ARGS=(
	[0x80]=""
	[0x81]="8:4:1 12:4:56 16:8:@bad"
	[0x82]="$D $(cut_at 16 "$done")"
	[0x83]="$D $wrongcut"
	[0x84]="8:8:1"
	[0x85]="$S $C 32:4:1 40:8:@{0:8:0,8:8:4096}"
	[0x86]="$S"
	[0x87]="$D 16:4:65536 24:8:@room"
	[0x88]="$D 32:8:@text=b 40:4:1 44:4:1 48:8:@room"
	[0x89]="$D 32:8:@text=b 40:4:1 44:4:8 48:8:@room"
	[0x8a]="$D 32:8:@text=b 40:4:1 44:4:8 48:8:@zeros 64:4:65536"
	[0x8b]="$D 16:8:@text=b 24:4:1 28:4:1 32:8:@{0:8:0,8:8:1}"
	[0x8c]="$D"
	[0x8d]="$D 16:4:$ma 20:4:$mi 104:8:4096 112:4:22"
	[0x8e]="$D"
	[0x8f]="$D"
	[0x90]="$D 16:4:1 24:8:@{0:8:4096,8:8:4096}"
)
declare -A SAYS=([0x81]=EFAULT [0x83]=ESTALE [0x84]=ESTALE [0x8d]=ENODEV [0x8e]=ENODEV
		[0x8f]=ENODEV [0x90]=ENODEV)
declare -A RESERVED=([0x82]=36 [0x85]=36 [0x88]=68 [0x89]=68 [0x8a]=68 [0x8e]=20 [0x90]=20)
calls=$(printf '%s\n' "${!LEN[@]}" | sort | xargs)

# right NR SIZE VALUE...: that would be right but for VALUE...
right()
{
	says "${SAYS[$1]-ok}" "$1" "$2" "${ARGS[$1]}" "${@:3}"
}

# wrong_in ERRNO NR VALUE...
wrong_in()
{
	says "$1" "$2" "${LEN[$2]}" "${ARGS[$2]}" "${@:3}"
}

form()
{
	local nr=$1 n=${LEN[$1]} rc=0 size flag

	right $nr $n || rc=1
	for size in 0 4 $((${FIRST[$nr]-$n} - 1)); do
		wrong_in EINVAL $nr 0:4:$size || rc=1
	done
	right $nr ${FIRST[$nr]-$n} || rc=1
	# a longer one
	right $nr $((n + 8)) && right $nr 4096 || rc=1
	says E2BIG $nr $((n + 8)) "${ARGS[$nr]}" $n:4:1 || rc=1
	says E2BIG $nr 4096 "${ARGS[$nr]}" 4095:1:1 || rc=1
	# longer than a page
	says E2BIG $nr 4097 "${ARGS[$nr]}" || rc=1
	wrong_in E2BIG $nr 0:4:0xffffffff || rc=1
	says EFAULT $nr @bad || rc=1
	for flag in 2 0x80000000 1; do
		[[ $flag == 1 && $nr == 0x8[1aef] ]] || wrong_in EINVAL $nr 4:4:$flag || rc=1
	done
	[[ -z ${RESERVED[$nr]-} ]] || wrong_in EINVAL $nr ${RESERVED[$nr]}:4:1 || rc=1
	return $rc
}

echo "# every call"
for nr in $calls; do
	t "call $nr: size, tail, flags, reserved" unchanged form $nr
done

unknown()
{
	local nr rc=0

	# the last two: with a direction and a size, and of another type
	for nr in 0 0x7f 0x91 0x99 0xff 0x40180080 0x480; do
		says ENOTTY $nr 64 || rc=1
	done
	return $rc
}
t "what is no call" unknown

echo "# who may open it"
t "not without CAP_SYS_ADMIN" eval \
	'[[ $(setpriv --bounding-set -sys_admin --inh-caps -sys_admin cbw-ioctl info) == "error open EPERM" ]]'
t "nobody but root" eval \
	'[[ $(setpriv --reuid 65534 --clear-groups cbw-ioctl info) == "error open EACCES" ]]'

echo "# devices and cuts"
devices()
{
	local nr=$1 rc=0 other=$S

	[[ $nr != 0x8[56] ]] || other=$D
	# what is not there; numbers too large to be one; of another kind
	wrong_in ENODEV $nr 12:4:4242 || rc=1
	wrong_in ENODEV $nr 8:4:0 12:4:0 || rc=1
	wrong_in ENODEV $nr 8:4:$((ma + 4096)) || rc=1
	wrong_in ENODEV $nr 12:4:$((mi + 1048576)) || rc=1
	case $nr in
	0x8[23])	wrong_in ESTALE $nr $other || rc=1 ;;	# take a snapshot, too
	*)		wrong_in ENODEV $nr $other || rc=1 ;;
	esac
	return $rc
}
for nr in $calls; do
	[[ $nr == 0x8[014] ]] || t "call $nr: of which device" unchanged devices $nr
done

cuts()
{
	local rc=0 nr mode

	# another one, and none where there has to be one
	for nr in 0x82 0x83 0x85; do
		wrong_in ESTALE $nr $wrongcut || rc=1
		wrong_in ESTALE $nr 16:8:0 24:8:0 || rc=1
	done
	for nr in 0x86 0x88 0x89; do
		wrong_in ESTALE $nr $wrongcut || rc=1
	done
	for mode in 0 1 2; do
		wrong_in ESTALE 0x82 $wrongcut 32:4:$mode || rc=1
		wrong_in ESTALE 0x82 $S $wrongcut 32:4:$mode || rc=1
	done
	# committed, so there is nothing to abort any more
	wrong_in ESTALE 0x82 32:4:1 || rc=1
	wrong_in ESTALE 0x83 "$(cut_at 16 "$done")" || rc=1
	wrong_in ESTALE 0x84 "$(cut_at 8 "$done")" || rc=1
	wrong_in ESTALE 0x84 8:8:0 || rc=1
	# an armed one has none
	wrong_in ESTALE 0x85 $A || rc=1
	wrong_in ESTALE 0x85 $A 16:8:0 24:8:0 || rc=1
	return $rc
}
t "cuts" unchanged cuts

modes()
{
	wrong_in EINVAL 0x82 32:4:3 && wrong_in EINVAL 0x82 32:4:0xffffffff
}
t "modes of a commit" unchanged modes

echo "# names, ranges, data"
# names NR: where the name is
names()
{
	local nr=$1 p=32 n=40 rc=0

	[[ $nr != 0x8b ]] || p=16 n=24
	wrong_in EINVAL $nr $n:4:0 || rc=1
	wrong_in EINVAL $nr $p:8:@zeros $n:4:1024 || rc=1
	wrong_in ENOENT $nr $p:8:@zeros $n:4:1023 || rc=1
	wrong_in EINVAL $nr $n:4:0xffffffff || rc=1
	wrong_in EFAULT $nr $p:8:@bad || rc=1
	wrong_in EFAULT $nr $p:8:0 || rc=1
	wrong_in ENOENT $nr $p:8:@text=c || rc=1
	return $rc
}
for nr in 0x88 0x89 0x8a 0x8b; do
	t "call $nr: names" unchanged names $nr
done

# ranges NR COUNT_AT POINTER_AT
ranges()
{
	local nr=$1 rc=0 range

	wrong_in EINVAL $nr $2:4:0 || rc=1
	wrong_in EINVAL $nr $2:4:65537 || rc=1
	wrong_in EFAULT $nr $3:8:@bad || rc=1
	# empty; behind the end; over it; a sum that wraps
	for range in 0+0 $size+4096 $((size - 4096))+8192 18446744073709547520+8192 0+18446744073709547520; do
		wrong_in EINVAL $nr "$3:8:@{0:8:${range%+*},8:8:${range#*+}}" || rc=1
		# the second one: nothing is done of the first
		wrong_in EINVAL $nr $2:4:2 "$3:8:@{0:8:65536,8:8:4096,16:8:${range%+*},24:8:${range#*+}}" || rc=1
	done
	return $rc
}
t "release: ranges" unchanged ranges 0x85 32 40
t "mark: ranges" unchanged ranges 0x8b 28 32

aligned()
{
	wrong_in EINVAL 0x85 "40:8:@{0:8:512,8:8:4096}" && wrong_in EINVAL 0x85 "40:8:@{0:8:4096,8:8:512}"
}
t "release: no multiples of the chunk" unchanged aligned

list()
{
	wrong_in EFAULT 0x87 24:8:@bad && wrong_in EMSGSIZE 0x87 16:4:8 && wrong_in EMSGSIZE 0x87 16:4:0
}
t "list: the buffer" unchanged list

extents()
{
	wrong_in EFAULT 0x88 48:8:@bad && wrong_in EINVAL 0x88 44:4:0 && wrong_in EINVAL 0x88 44:4:65537
}
t "extents: the array" unchanged extents

# offsets NR: 64 granules of 64 KiB are all of the device
offsets()
{
	local rc=0 off

	right $1 72 56:8:$size || rc=1
	for off in 1 512 65536 $((size + 1)) $((2 * size)) 9223372036854775808; do
		wrong_in EINVAL $1 56:8:$off || rc=1
	done
	return $rc
}
t "read: places" unchanged offsets 0x89
t "load: places" unchanged offsets 0x8a

data()
{
	local rc=0 nr len

	for nr in 0x89 0x8a; do
		for len in 0 4 12 1048584 0xfffffff8; do
			wrong_in EINVAL $nr 44:4:$len || rc=1
		done
		wrong_in EFAULT $nr 48:8:@bad || rc=1
		right $nr 72 44:4:1048576 || rc=1
	done
	return $rc
}
t "read and load: the data" unchanged data

load()
{
	local rc=0 g

	for g in 0 4096 131072 65537; do
		wrong_in EINVAL 0x8a 64:4:$g || rc=1
	done
	# bits beyond the end
	wrong_in EINVAL 0x8a 56:8:$size 48:8:@text=ABCDEFGH || rc=1
	wrong_in EINVAL 0x8a 44:4:16 "48:8:@{8:8:1}" || rc=1
	# a base that is not asked for; for what does not record; for nothing else
	wrong_in EINVAL 0x8a 16:8:1 || rc=1
	wrong_in EINVAL 0x8a 4:4:1 16:8:1 32:8:@text=off 40:4:3 || rc=1
	right 0x8a 72 32:8:@text=off 40:4:3 || rc=1
	right 0x8a 72 4:4:1 "$(cut_at 16 "$done")" 44:4:0 48:8:0 || rc=1
	wrong_in EBUSY 0x8a 32:8:@text=f || rc=1
	return $rc
}
t "load: granularity, bits, base, state" unchanged load

mark()
{
	# all bitmaps, but a length without a name, or a name without
	wrong_in EFAULT 0x8b 16:8:0 24:4:1 && wrong_in EINVAL 0x8b 24:4:0
}
t "mark: all or one" unchanged mark

echo "# read()"
gone()
{
	cbw other "$origin2" && dm_remove other
}

reads()
{
	local rc=0

	replies "error EAGAIN" rawread 40 || rc=1
	replies "error EINVAL" rawread 39 || rc=1
	replies "error EINVAL" rawread 0 || rc=1
	gone || rc=1
	replies "error EINVAL" rawread 39 || rc=1
	replies "error EFAULT" rawread 40 @bad || rc=1
	# that one was lost, and counts as such
	replies "error EAGAIN" rawread 4096 || rc=1
	gone || rc=1
	[[ $(session events) == *" lost=1 "* ]] || { echo "nothing was lost"; rc=1; }
	return $rc
}
t "read()" unchanged reads

session_close
finish
