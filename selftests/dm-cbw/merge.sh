#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 180
# long
#
# Merge, copy and rename of bitmaps: across granularities and devices, several in one
# transaction, and while writes are in flight.
#
#	merge.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
seed "${1-}"
RANDOM=$SEED
M=/dev/mapper
nullb origin1 16 512
nullb origin2 16 512
nullb origin3 12 512
nullb store 16 512
# no multiple of any granularity but the smallest
len=$(($(sectors "$origin1") - 3))
t "make device 1" cbw dut1 "$origin1" $len
t "make device 2" cbw dut2 "$origin2" $len
t "make a smaller one" cbw small "$origin3"
keep

one()
{
	cbw-load one "$M/$1" --offset "$2" --len "$3" --gen "${4:-90}"
}

call()
{
	local got

	got=$(cbw-ioctl "$@" | tail -n 1)
	[[ $got == ok* ]] || { wrong "$*: '$got'"; return; }
	[[ $got != ok\ * ]] || CUT=${got#ok }
}

# extents DEV NAME [CUT]: lines of "offset length"
extents()
{
	cbw-ioctl extents "$M/$1" "${@:2}" | sed -n 's/^\([0-9]* [0-9]*\).*/\1/p'
}

# rounded GRANULARITY: the same for a larger one, runs joined
rounded()
{
	awk -v g="$1" -v size=$((len * 512)) '
	{
		from = $1 - $1 % g; to = $1 + $2 + g - 1; to -= to % g
		if (to > size) to = size
		if (n && from <= end) { if (to > end) end = to; next }
		if (n) print start, end - start
		start = from; end = to; n = 1
	}
	END { if (n) print start, end - start }'
}

# of BITMAP...: the union, of device 1, in order
of()
{
	local b

	for b; do
		extents dut1 $b
	done | sort -n
}

# same WHAT FILE FILE
same()
{
	cmp -s "$2" "$3" || { wrong "$1:"; diff "$2" "$3" | head -n 20; return 1; }
}

# A bitmap that only records these writes. scattered NAME GRANULARITY WRITES
scattered()
{
	local i

	msg dut1 bitmap_add $1 granularity $2 || return
	for ((i = 0; i < $3; i++)); do
		one dut1 $(((RANDOM * 32768 + RANDOM) % (len - 40) * 512)) $((512 * (1 + RANDOM % 40))) || return
	done
	# the short granule at the end
	((RANDOM % 2)) || one dut1 $(((len - 1) * 512)) 512 || return
	msg dut1 bitmap_disable $1
}

none()
{
	local b dev all=()

	for dev in dut1 dut2; do
		for b in $(cbw-ioctl list $M/$dev | sed -n 's/.*name=\([^ ]*\).*/\1/p'); do
			all+=("remove:$M/$dev:$b")
		done
	done
	((${#all[@]} == 0)) || call transaction "${all[@]}"
}

granularities()
{
	local rc=0 from to sizes=(512 65536 2147483648)

	((${CBW_LONG:-0} == 0)) || sizes=(512 4096 65536 1048576 2147483648)
	scattered fine 512 30 && scattered middle 65536 12 && scattered coarse 1048576 3 || return
	for from in fine middle coarse; do
		for to in "${sizes[@]}"; do
			msg dut1 bitmap_add t granularity $to disabled && msg dut1 bitmap_merge t $from || return
			of $from | rounded $to >"$CBW_TMP/want"
			of t >"$CBW_TMP/got"
			same "$from into $to" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
			msg dut1 bitmap_remove t || return
		done
	done
	# several at once, into one that is not empty
	scattered t 4096 3 && of t fine middle coarse | rounded 4096 >"$CBW_TMP/want"
	of fine >"$CBW_TMP/fine"
	msg dut1 bitmap_merge t fine middle coarse t || return
	of t >"$CBW_TMP/got"
	same "three at once" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	of fine >"$CBW_TMP/got"
	same "the source" "$CBW_TMP/fine" "$CBW_TMP/got" || rc=1
	[[ $(bitmap_get dut1 t flags) != *b* ]] || { echo "still busy"; rc=1; }
	none || rc=1
	return $rc
}
t "merge, all granularities" granularities

devices()
{
	local rc=0 no

	no=$(stat -L -c '%Hr:%Lr' $M/dut1)
	scattered a 4096 20 && msg dut2 bitmap_add t granularity 65536 || return
	msg dut2 bitmap_merge t $no/a || rc=1
	of a | rounded 65536 >"$CBW_TMP/want"
	extents dut2 t >"$CBW_TMP/got"
	same "from another device" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	msg small bitmap_add t && refused EINVAL msg small bitmap_merge t $no/a || rc=1
	refused EINVAL msg small bitmap_copy n $no/a || rc=1
	refused EINVAL cbw-ioctl transaction merge:$M/small:t:a:$M/dut1 || rc=1
	msg small bitmap_remove t || rc=1
	none || rc=1
	return $rc
}
t "merge from another device" devices

copies()
{
	local rc=0 base no

	msg dut1 bitmap_add a granularity 4096 && one dut1 64K 64K && msg dut1 bitmap_rotate a >/dev/null &&
		msg dut1 bitmap_commit a && one dut1 1M 8K || return
	base=$(bitmap_get dut1 a base)
	no=$(stat -L -c '%Hr:%Lr' $M/dut1)
	# on another device the base holds only if no write is in flight
	msg dut2 bitmap_copy none $no/a && bitmap_is dut2 none base 00000000000000000000000000000000 || rc=1
	msg dut1 bitmap_copy b a && dm_suspend dut1 && msg dut2 bitmap_copy b $no/a && dm_resume dut1 || return
	of a >"$CBW_TMP/want"
	of b >"$CBW_TMP/got"
	same "the copy" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	extents dut2 b >"$CBW_TMP/got"
	same "the copy on another device" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	bitmap_is dut1 b granularity 4096 && bitmap_is dut1 b base $base && bitmap_is dut1 b flags e &&
		bitmap_is dut2 b base $base || { cbw-dm status; rc=1; }
	# each for itself from here on
	one dut1 2M 4K && msg dut1 bitmap_clear a || rc=1
	expect "what the copy says" "$(of b)" "$(printf '1048576 8192\n2097152 4096')" || rc=1
	expect "what the original says" "$(of a)" "" || rc=1
	# one that does not record
	msg dut1 bitmap_disable b && msg dut1 bitmap_copy c b || rc=1
	bitmap_is dut1 c flags - && bitmap_is dut1 c base 00000000000000000000000000000000 ||
		{ cbw-dm status; rc=1; }
	expect "what the third says" "$(of c)" "$(of b)" || rc=1
	none || rc=1
	return $rc
}
t "copy" copies

# To another volume, in one transaction: it is on one of them at any time, and goes on there.
moves()
{
	local rc=0 base

	msg dut1 bitmap_add a granularity 4096 && msg dut1 bitmap_rotate a >/dev/null &&
		msg dut1 bitmap_commit a && one dut1 1M 8K || return
	base=$(bitmap_get dut1 a base)
	extents dut1 a >"$CBW_TMP/want"
	dm_suspend dut1 || return
	# it would have to be on both
	msg dut2 bitmap_add a || rc=1
	cbw-ioctl transaction copy:$M/dut2:a:a:$M/dut1 remove:$M/dut1:a | grep -q 'error EEXIST failed=0' || rc=1
	bitmap_is dut1 a base $base && msg dut2 bitmap_remove a || rc=1
	call transaction copy:$M/dut2:a:a:$M/dut1 remove:$M/dut1:a || rc=1
	dm_resume dut1 || rc=1
	extents dut2 a >"$CBW_TMP/got"
	same "what was moved" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	bitmap_is dut2 a base $base && bitmap_is dut2 a flags e && bitmap_is dut1 a base none ||
		{ cbw-dm status; rc=1; }
	none || rc=1
	return $rc
}
t "moved to another volume" moves

renames()
{
	local rc=0 base i all=()

	msg dut1 bitmap_add a granularity 4096 && msg dut1 bitmap_rotate a >/dev/null && msg dut1 bitmap_commit a &&
		one dut1 64K 4K || return
	base=$(bitmap_get dut1 a base)
	msg dut1 bitmap_rename a b || return
	bitmap_is dut1 a flags none && bitmap_is dut1 b base $base && bitmap_is dut1 b flags e ||
		{ cbw-dm status; rc=1; }
	one dut1 128K 4K || rc=1
	expect "what it says" "$(of b)" "$(printf '65536 4096\n131072 4096')" || rc=1
	# two change names, at one instant
	msg dut1 bitmap_add a granularity 512 || rc=1
	call transaction rename:$M/dut1:a:t rename:$M/dut1:b:a rename:$M/dut1:t:b || rc=1
	bitmap_is dut1 a granularity 4096 && bitmap_is dut1 b granularity 512 && bitmap_is dut1 t flags none ||
		{ cbw-dm status; rc=1; }
	expect "what it says now" "$(of a)" "$(printf '65536 4096\n131072 4096')" || rc=1
	# a name that is long, on a device that has as many bitmaps as it can have
	none || rc=1
	for ((i = 0; i < 128; i++)); do
		all+=("add:$M/dut1:b$i:1048576")
	done
	call transaction "${all[@]}" || rc=1
	msg dut1 bitmap_rename b5 "$(printf '%01000d' 0)" || rc=1
	none || rc=1
	return $rc
}
t "rename" renames

# In one transaction the order counts, and what an action makes the next ones can use.
in_order()
{
	local rc=0

	scattered a 4096 10 && scattered b 65536 5 || return
	of a b | rounded 65536 >"$CBW_TMP/want"
	call transaction add:$M/dut1:t:65536:disabled merge:$M/dut1:t:a merge:$M/dut1:t:b \
		add:$M/dut2:u:65536:disabled merge:$M/dut2:u:t:$M/dut1 copy:$M/dut1:v:t \
		clear:$M/dut1:a remove:$M/dut1:b || return
	of t >"$CBW_TMP/got"
	same "the union" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	extents dut2 u >"$CBW_TMP/got"
	same "what was merged from that" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	of v >"$CBW_TMP/got"
	same "what was copied from that" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	expect "the source that was cleared" "$(of a)" "" || rc=1
	bitmap_is dut1 b flags none || rc=1
	# each into the other
	scattered c 4096 5 && scattered d 4096 5 && of c d | rounded 4096 >"$CBW_TMP/want"
	call transaction merge:$M/dut1:c:d merge:$M/dut1:d:c || return
	of c >"$CBW_TMP/got"
	of d >"$CBW_TMP/got2"
	same "the one" "$CBW_TMP/want" "$CBW_TMP/got" && same "the other" "$CBW_TMP/want" "$CBW_TMP/got2" || rc=1
	none || rc=1
	return $rc
}
t "one transaction" in_order

# Checkpoints: a bitmap made of others is what a snapshot protects, all at one instant.
checkpoints()
{
	local rc=0 n

	scattered a 4096 10 && scattered b 4096 10 && of a b | rounded 4096 >"$CBW_TMP/want"
	# it is there when the table is loaded, and gets what it says at the cut
	msg dut1 bitmap_add t granularity 4096 disabled &&
		snap shot dut1 "$store" 8 3 armed bitmap t || return
	session_open
	CUT=$(session transaction merge:$M/dut1:t:a merge:$M/dut1:t:b start:$M/shot) ||
		{ wrong "transaction: $CUT"; return; }
	CUT=${CUT#ok }
	of_cut >"$CBW_TMP/got"
	same "the frozen half" "$CBW_TMP/want" "$CBW_TMP/got" || rc=1
	n=$(awk '{ n += int(($2 + 4095) / 4096) } END { print n }' "$CBW_TMP/want")
	until_true 5 snap_is shot needed $n || { echo "$n chunks are dirty"; cbw-dm status shot; rc=1; }
	bitmap_is dut1 a flags - || rc=1
	session commit $M/shot $CUT >/dev/null || rc=1
	session_close
	dm_remove shot && none || rc=1
	return $rc
}

of_cut()
{
	extents dut1 t $CUT
}
t "a snapshot of what was merged" checkpoints

# V has its epoch from before the cut and marks after it: what was merged has to wait for
# that. The target does not record, so nothing else tells it.
late_marker()
{
	local rc=0

	msg dut1 bitmap_add s granularity 4096 && msg dut1 bitmap_add t granularity 4096 disabled || return
	hook arm map-epoch sector 256 timeout_ms 20000
	bg V one dut1 128K 4K
	hook_wait map-epoch || return
	bg T msg dut1 bitmap_merge t s
	# long enough for who does not wait
	not_yet 1500 bg_ended T
	hook release map-epoch
	bg_wait V 10 && bg_wait T 10 || return
	expect "the source" "$(of s)" "131072 4096" || return
	[[ $(of t) == "131072 4096" ]] || { broken "the target has '$(of t)'"; rc=$?; }
	none || return
	return $rc
}
hazard 2 "merge" late_marker

# The same where the target is frozen at the cut: who reads that waits.
late_marker_frozen()
{
	local rc=0

	msg dut1 bitmap_add s granularity 4096 && msg dut1 bitmap_add t granularity 4096 disabled || return
	hook arm map-epoch sector 256 timeout_ms 20000
	bg V one dut1 128K 4K
	hook_wait map-epoch || return
	session_open
	session_ask transaction merge:$M/dut1:t:s rotate:$M/dut1:t
	until_true 3 bitmap_is dut1 t flags b
	CUT=$(cbw-ioctl list $M/dut1 | sed -n 's/.*name=t .*cut=\([0-9a-f]*\).*/\1/p')
	bg E extents dut1 t $CUT
	not_yet 1500 bg_ended E
	hook release map-epoch
	bg_wait V 10 && bg_wait E 10 && session_reply >/dev/null || { session_close; return 1; }
	[[ $(<"$CBW_TMP/E.out") == "131072 4096" ]] || { broken "the frozen half has '$(<"$CBW_TMP/E.out")'"; rc=$?; }
	session_close
	until_true 5 bitmap_is dut1 t flags - || { wrong "never idle again"; return; }
	none || return
	return $rc
}
hazard 2 "merge and rotate" late_marker_frozen

# A write from before the cut does not end: the target is busy, others wait for it, and
# whoever asked can be killed without an effect.
busy()
{
	local rc=0

	msg dut1 bitmap_add s granularity 4096 && msg dut1 bitmap_add t granularity 4096 disabled || return
	one dut1 64K 4K || return
	hook arm map-marked sector 256 timeout_ms 20000
	bg V one dut1 128K 4K
	hook_wait map-marked || return
	bg T cbw-ioctl transaction merge:$M/dut1:t:s
	until_true 5 bitmap_is dut1 t flags b || { wrong "not busy"; return; }
	bg C cbw-ioctl transaction clear:$M/dut1:t
	not_yet 500 bg_ended C || { echo "it was cleared while it was busy"; rc=1; }
	# what has nothing to do with it goes on
	call transaction add:$M/dut1:other remove:$M/dut1:other || rc=1
	kill -KILL "${BG[T]}" "${BG[C]}"
	until_true 5 bg_ended T && until_true 5 bg_ended C || { wrong "cannot be killed"; return; }
	unset 'BG[T]' 'BG[C]'
	bitmap_is dut1 t flags b || { echo "no longer busy"; rc=1; }
	hook release map-marked
	bg_wait V 10 || rc=1
	until_true 5 bitmap_is dut1 t flags - || { wrong "busy for ever"; return; }
	expect "what was merged" "$(of t)" "$(printf '65536 4096\n131072 4096')" || rc=1
	none || rc=1
	return $rc
}
t "busy, and killed" busy

# Messages that meet a merge or an abort wait for its end, and then do what they are for.
messages_wait()
{
	local rc=0 m

	for m in "bitmap_merge t u" "bitmap_merge u t" "bitmap_copy n t" "bitmap_rename t n"; do
		msg dut1 bitmap_add s granularity 4096 && msg dut1 bitmap_add t granularity 4096 disabled &&
			msg dut1 bitmap_add u granularity 4096 disabled || return
		hook arm map-marked sector 256 timeout_ms 20000
		bg V one dut1 128K 4K
		hook_wait map-marked || return
		bg T msg dut1 bitmap_merge t s
		until_true 5 bitmap_is dut1 t flags b || { wrong "not busy"; return; }
		bg M msg dut1 $m
		not_yet 300 bg_ended M || { echo "'$m' did not wait"; rc=1; }
		hook release map-marked
		bg_wait V 10 && bg_wait T 10 && bg_wait M 10 || return
		case $m in
		*merge*)	expect "after '$m': u" "$([[ $m == *"t u" ]] && of t || of u)" "131072 4096" || rc=1 ;;
		*)		expect "after '$m': n" "$(of n)" "131072 4096" || rc=1 ;;
		esac
		none || return
	done
	# an abort
	msg dut1 bitmap_add s granularity 4096 && msg dut1 bitmap_add t granularity 4096 disabled &&
		one dut1 64K 4K && msg dut1 bitmap_rotate s >/dev/null || return
	hook arm abort-work timeout_ms 20000
	bg A msg dut1 bitmap_abort s
	hook_wait abort-work || return
	bg M msg dut1 bitmap_merge t s
	not_yet 300 bg_ended M || { echo "it did not wait for the abort"; rc=1; }
	hook release abort-work
	bg_wait A 10 && bg_wait M 10 || return
	expect "after the abort" "$(of t)" "65536 4096" || rc=1
	none || rc=1
	return $rc
}
t "messages wait" messages_wait

# Under load: whatever was written is in the source's copy or in what recorded after.
under_load()
{
	local rc=0 i offset length

	fill dut1 && cbw-check save $M/dut1 "$CBW_TMP/ref" &&
		msg dut1 bitmap_add s granularity 4096 && msg dut1 bitmap_add t granularity 4096 disabled || return
	load_start load dut1 -- --uring 1:16 --sync 1 --bs 512:32K || return
	for ((i = 0; i < 20; i++)); do
		# consolidate: what s had goes to t, and s begins anew
		call transaction merge:$M/dut1:t:s clear:$M/dut1:s || rc=1
		nap 0.05
	done
	load_stop load || rc=1
	msg dut1 bitmap_merge t s || rc=1
	! cmp -s "$CBW_TMP/ref" $M/dut1 || { echo "nothing was written"; rc=1; }
	# the increment makes the old image the new one
	while read -r offset length; do
		dd if=$M/dut1 of="$CBW_TMP/ref" bs=64K skip=$offset count=$length seek=$offset conv=notrunc \
			iflag=skip_bytes,count_bytes oflag=seek_bytes status=none || rc=1
	done < <(of t)
	cmp "$CBW_TMP/ref" $M/dut1 || { echo "changed, and not dirty"; rc=1; }
	rm "$CBW_TMP/ref"
	none || rc=1
	return $rc
}
t "consolidated under load" under_load
finish
