# shellcheck shell=bash disable=SC2154,SC2086
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For cases that make wrong calls of the control device: `raw` of cbw-ioctl, in the session.

# says ERRNO|ok NUMBER SIZE VALUE...: what the call gives
says()
{
	local want=$1 got

	shift
	# some of these are several values
	got=$(session raw "$*")
	[[ $got == "error $want" || ($want == ok && $got == ok) ]] ||
		wrong "raw $*: '$got', expected $want"
}

# bad WHAT ERRNO NUMBER SIZE VALUE...: a test of one call, which changes nothing
bad()
{
	t "$1" unchanged says "$2" "${@:3}"
}

# replies REPLY COMMAND...: the last line of what the session says
replies()
{
	local want=$1 got

	shift
	got=$(session "$@" | tail -n 1)
	[[ $got == "$want" ]] || wrong "$*: '$got', expected '$want'"
}

# cut_at OFFSET CUT: a cut id as two values, little-endian
cut_at()
{
	local i lo='' hi=''

	for i in 14 12 10 8 6 4 2 0; do
		lo+=${2:i:2} hi+=${2:i+16:2}
	done
	echo "$1:8:0x$lo $(($1 + 8)):8:0x$hi"
}

# numbers VAR_MAJOR VAR_MINOR DEVICE
numbers()
{
	read -r "$1" "$2" < <(dmsetup info -c --noheadings -o major,minor --separator ' ' "$3")
}
