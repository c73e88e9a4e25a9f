#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 60
# long
#
# What judges power cuts is judged: the log of two devices, and the images of what they may
# hold after a cut. What a flush or FUA of that device made durable is always there, all else
# is seen to be there, to be lost, and to be torn; a file system holds what it promised, and
# not on a device that forgets what was flushed.
#
#	power-self.sh [SEED [CUTS]]	default 1, and 10 of the file system
# shellcheck disable=SC2317,SC2154,SC2119,SC2086,SC2034
. "${0%/*}/lib.sh"
. "${0%/*}/power.bash"

begin
power_begin 32
# the same each time: what is seen only sometimes is
seed "${1:-1}"
cuts=${2:-10}
LOG=$CBW_TMP/log
SEEDS=12

for i in 1 2; do
	nullb under 32 512
	t "make device $i" power_dev p$i "$under" $i
done
keep
image=$(power_image 1)

# put NAME SECTOR SECTORS GEN
put()
{
	cbw-load one "/dev/mapper/$1" --offset "${2}s" --len "${3}s" --gen "$4" --index "${1#p}" >/dev/null
}

# put_fua NAME SECTOR: some sector of this script
put_fua()
{
	dd if="$0" of=/dev/mapper/$1 seek=$2 bs=512 count=1 oflag=direct,dsync conv=notrunc status=none
}

flush()
{
	sync "/dev/mapper/$1"
}

# is SECTOR PATTERN: what cbw-check finds there in the image of p1
is()
{
	local got

	cbw-check at "$image" $(($1 * 512)) >"$CBW_TMP/got"
	read -r got <"$CBW_TMP/got"
	# shellcheck disable=SC2053 # a pattern
	[[ $got == $2 ]]
}

# has SECTOR GEN
has()
{
	is $1 "* gen=$2 *"
}

# seen SEQ [always|sometimes|never COMMAND...]...: how often each, as one word, is true of
# what is there after a cut there
seen()
{
	local seq=$1 s i count=()

	shift
	for ((s = SEED; s < SEED + SEEDS; s++)); do
		power_replay "$LOG" $seq $s >/dev/null || return
		for ((i = 2; i <= $#; i += 2)); do
			! ${!i} || count[i]=$((${count[i]-0} + 1))
		done
	done
	for ((i = 2; i <= $#; i += 2)); do
		s=$((i - 1))
		echo "at $seq, ${!s}: ${!i}: ${count[i]-0} of $SEEDS"
		case ${!s} in
		always)		((${count[i]-0} == SEEDS)) ;;
		sometimes)	((${count[i]-0} > 0 && count[i] < SEEDS)) ;;
		never)		((${count[i]-0} == 0)) ;;
		esac || wrong "so it is not" || return
	done
}

of_its_device()
{
	power_start fresh && put p1 8 8 1 && flush p2 && power_mark other && flush p1 && power_mark own &&
		power_stop "$LOG" || return
	cbw-power dump "$LOG"
	other=$(power_seq "$LOG" other)
	seen $other sometimes "has 8 1" && seen "$(power_seq "$LOG" own)" always "has 8 1"
}
t "only a flush of its own device makes a write durable" of_its_device

# some of the eight sectors are there
torn()
{
	local i n=0

	for i in {8..15}; do
		! has $i 1 || n=$((n + 1))
	done
	((n > 0 && n < 8))
}

is_torn()
{
	local i

	seen $other sometimes torn || return
	# of larger sectors, no part is alone
	for i in {1..4}; do
		power_replay "$LOG" $other $i --sector 4096 --choice torn >/dev/null || return
		! torn || wrong "a sector of 4096 bytes is torn" || return
	done
}
t "a write is torn at the sector" is_torn

fua_there()
{
	is 32 "not a stamp"
}

fua()
{
	local seq

	power_start fresh && put p1 8 8 1 && put_fua p1 32 && power_stop "$LOG" || return
	cbw-power dump "$LOG"
	# before the flush that dd's file asks for, too
	seq=$(cbw-power dump "$LOG" | awk '/fua/ { print $2 }')
	seen $seq always fua_there sometimes "has 8 1" && seen $((seq - 1)) sometimes fua_there
}
t "FUA makes a write durable, and no other" fua

second_alone()
{
	has 64 2 && ! has 8 1
}

neither()
{
	! has 8 1 && ! has 8 3
}

ordered()
{
	local seq second third

	power_start fresh && put p1 8 1 1 && flush p1 && put p1 64 1 2 && power_mark second &&
		put p1 8 1 3 && power_mark third && power_stop "$LOG" || return
	second=$(power_seq "$LOG" second) third=$(power_seq "$LOG" third)
	seen $second sometimes "has 64 2" never second_alone || return
	for ((seq = 1; seq < second; seq++)); do
		power_replay "$LOG" $seq $SEED >/dev/null || return
		! second_alone || wrong "at $seq the second is alone" || return
	done
	# either is there: what was flushed, or what was written over it
	seen $third sometimes "has 8 3" never neither
}
t "what was written after a flush is never there without what was before" ordered

# load LABEL RANGE: one write at a time there, on both devices
load()
{
	bg "$1" cbw-load run /dev/mapper/p1 /dev/mapper/p2 --log "$CBW_TMP/$1.log" --ops 150 --sync 1 \
		--mix 8:1:1 --bs 512:32K --align 512 --range "$2" --seed "$SEED"
}

# Writes in flight together lie apart: else the devices order them as they like.
end_is_the_device()
{
	local i last

	power_start && load a 0:4M && load b 4M:4M && bg_wait a 20 && bg_wait b 20 && power_stop "$LOG" || return
	read -r _ last _ < <(cbw-power info "$LOG")
	power_replay "$LOG" $last 0 --choice all --discard zeros || return
	for i in 1 2; do
		cbw-power save /dev/mapper/p$i "$CBW_TMP/now" && cmp "$CBW_TMP/now" "$(power_image $i)" || return
	done
	# a replay is as it was, whatever was done to the images
	power_replay "$LOG" $((last / 2)) $SEED && cp "$(power_image 1)" "$CBW_TMP/now" || return
	cbw-load one "$(power_image 1)" --offset 1M --len 256K >/dev/null
	cbw-load one "$(power_image 1)" --offset 20M --len 256K >/dev/null
	power_replay "$LOG" $((last / 2)) $SEED && cmp "$CBW_TMP/now" "$(power_image 1)"
}
t "with all that was written the images are as the devices" end_is_the_device

full()
{
	power_start fresh || return
	dd if=/dev/zero of=/dev/mapper/p1 bs=1M count=30 oflag=direct status=none || return
	dd if=/dev/zero of=/dev/mapper/p2 bs=1M count=4 oflag=direct status=none || return
	[[ $(dmsetup status p1) == *" full "* ]] || wrong "the status is $(dmsetup status p1)" || return
	! power_stop "$LOG" || wrong "a full log was stopped as if it were whole" || return
	cat /sys/kernel/debug/powerlog/log >"$LOG"
	! cbw-power info "$LOG" || wrong "a full log was read" || return
	power_msg reset
}
t "a log that is full is an error" full

# ---- a file system ----------------------------------------------------------------

MNT=$CBW_TMP/mnt
FILES=15
mkdir "$MNT"

content()
{
	local s

	printf -v s '%0*d' $((500 + $1 * 1777 % 30000)) $1
	echo "$s"
}

# files that come, go and are renamed, and some that are synced
fs_load()
{
	local i j

	RANDOM=$SEED
	mount -t ext4 /dev/mapper/p1 "$MNT" && mkdir "$MNT"/d{0..3} || return
	for ((i = 0; i < FILES; i++)); do
		for j in {1..6}; do
			content $((i + j)) >"$MNT/d$((i % 4))/junk$((RANDOM % 20))"
		done
		content $i >"$MNT/f$i.new"
		((i % 3 == 1)) || continue
		# its content, then its name
		sync "$MNT/f$i.new" && mv "$MNT/f$i.new" "$MNT/f$i" && sync "$MNT" && power_mark "f$i" || return
		rm -rf "$MNT/d$((i % 4))"/junk*
	done
	umount "$MNT"
}

# fs_judge SEQ: 1: something is wrong, which is said
fs_judge()
{
	local f rc=0 out

	mount -t ext4 "$fsloop" "$MNT" 2>/dev/null || { echo "no mount"; return 1; }
	for f in $(power_marks "$LOG" $1); do
		[[ $f == f+([0-9]) ]] || continue
		[[ -e $MNT/$f && $(<"$MNT/$f") == "$(content "${f#f}")" ]] ||
			{ echo "$f was synced and is not there"; rc=1; }
	done 2>/dev/null
	umount "$MNT" || return 2
	out=$(e2fsck -fn "$fsloop" 2>&1) || { echo "$out"; rc=1; }
	return $rc
}

fs_make()
{
	mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/mapper/p1 && power_start &&
		fs_load && power_mark end && power_stop "$LOG" && cbw-power info "$LOG" | head -n 1
}
t "a file system was written" fs_make

fs_cuts()
{
	local seq n=0

	for seq in $(power_points "$LOG" $cuts $SEED); do
		power_replay "$LOG" $seq $((SEED + n)) || return
		[[ -n ${fsloop-} ]] || power_loop fsloop 1 || return
		fs_judge $seq || wrong "at $seq, seed $((SEED + n))" || return
		n=$((n + 1))
	done
}
t "a file system is whole and has what was synced, at $cuts cuts" fs_cuts

fs_forgets()
{
	local seq n

	seq=$(power_seq "$LOG" end)
	for n in {1..6}; do
		power_replay "$LOG" $seq $((SEED + n)) --mutate both:1 || return
		fs_judge $seq
		case $? in
		1)	return 0 ;;
		2)	return 1 ;;
		esac
	done
	wrong "nobody noticed"
}
t "a device that forgets what was flushed is noticed" fs_forgets
finish
