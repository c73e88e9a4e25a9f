#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
# long
#
# What becomes of a bitmap after a backup: every way a commit can be asked for, after one
# that succeeded, failed half-way or was cancelled, with granules smaller than a chunk, as
# large, and larger.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

begin debug
M=/dev/mapper
nullb origin 4 512
nullb store 4 512
nullb store2 4 512
t "make the device" cbw dut "$origin"
keep

one()
{
	cbw-load one $M/dut --offset "$1" --len "$2" --gen "${3:-90}"
}

# extents [BITMAP]: "offset+length" in KiB, in one line
extents()
{
	local off len _ out=

	while read -r off len _; do
		[[ $off == [0-9]* ]] && out+="$((off >> 10))+$((len >> 10)) "
	done < <(cbw-ioctl extents $M/dut "${1:-b}")
	echo "${out% }"
}

idle()
{
	[[ $(bitmap_get dut b flags) != *b* ]]
}

base()
{
	bitmap_get dut b base
}

# A base, chunks 16 to 19 and 32 dirty (KiB 64-79 and 128-131), then the cut: $cut.
# started GRANULARITY CHUNK-SECTORS
started()
{
	local first

	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity $1 || return
	first=$(msg dut bitmap_rotate b) && msg dut bitmap_commit b || return
	old=$first
	one 64K 16K && one 128K 4K && snap shot dut "$store" $2 2 bitmap b || return
	cut=$(snap_get shot cut)
	expect "base before" "$(base)" "$old"
}

release()
{
	cbw-ioctl release $M/shot "$cut" "$@"
}

commit()
{
	cbw-ioctl commit $M/shot "$cut" $1
}

# after DIRTY BASE: extents and base are right, and the bitmap can be used again
after()
{
	local rc=0

	until_true 5 idle || { echo "busy for ever"; rc=1; }
	expect "dirty" "$(extents)" "$1" || rc=1
	expect "base" "$(base)" "$2" || rc=1
	dm_remove shot || rc=1
	# removing the snapshot changes nothing any more
	expect "dirty after the snapshot" "$(extents)" "$1" || rc=1
	expect "base after the snapshot" "$(base)" "$2" || rc=1
	msg dut bitmap_rotate b && msg dut bitmap_commit b || rc=1
	return $rc
}

# ---- a backup that succeeded: everything was read and released -------------------------

success()
{
	started 4096 8 && release 65536+16384 131072+4096 || return
	one 256K 4K || return
	commit $1 && after "$2" "$(eval echo $3)"
}
t "success, on-success" success on-success "256+4" '$cut'
t "success, never" success never "64+16 128+4 256+4" '$old'
t "success, always" success always "256+4" '$cut'

# ---- a backup that failed when a part was safe -------------------------------------------

failure()
{
	started 4096 8 && release 65536+8192 || return
	one 256K 4K && one 68K 4K 91 || return
	commit $1 && after "$2" "$(eval echo $3)"
}
# what it said was safe by mistake is the caller's
t "failure, on-success" failure on-success "68+4 256+4" '$cut'
t "failure, never" failure never "64+16 128+4 256+4" '$old'
t "failure, always" failure always "68+12 128+4 256+4" '$cut'

# ---- a backup that was cancelled: the snapshot is removed, the agent is gone -----------------

cancelled()
{
	started 4096 8 && release 65536+8192 || return
	dm_remove shot && until_true 5 idle || return
	expect "dirty" "$(extents)" "64+16 128+4" && expect "base" "$(base)" "$old"
}
t "cancelled: an abort" cancelled

# always, and then the snapshot goes at once
cancelled_always()
{
	started 4096 8 && release 65536+8192 || return
	hook arm abort-work timeout_ms 20000
	bg C commit always
	hook_wait abort-work || return
	bg R dmsetup remove --noudevsync shot
	nap 0.3
	refused EBUSY cbw-ioctl commit $M/dut "$cut" || return
	hook release abort-work
	bg_wait C 5 && bg_wait R 5 || return
	dm_forget shot
	expect "dirty" "$(extents)" "72+8 128+4" && expect "base" "$(base)" "$cut"
}
t "always, and the snapshot is removed meanwhile" cancelled_always

# Twice at once, and again later.
always_twice()
{
	local rc=0

	started 4096 8 && release 65536+8192 || return
	hook arm abort-work timeout_ms 20000
	bg C commit always
	hook_wait abort-work || return
	bg D commit always
	not_yet 500 bg_ended D || { echo "the second did not wait"; rc=1; }
	# an abort comes too late
	bg A cbw-ioctl abort $M/dut "$cut"
	hook release abort-work
	bg_wait C 5 && bg_wait D 5 || rc=1
	bg_wait A 5 >/dev/null && { echo "an abort of what was committed"; rc=1; }
	grep -q 'error ESTALE' "$CBW_TMP/A.out" || { cat "$CBW_TMP/A.out"; rc=1; }
	commit always && commit on-success || rc=1
	after "72+8 128+4" "$cut" || rc=1
	return $rc
}
t "always, twice" always_twice

# ---- granules and chunks -------------------------------------------------------------------

# granules GRANULARITY CHUNK-SECTORS RELEASE... -- DIRTY
granules()
{
	local ranges=() g=$1 c=$2

	shift 2
	while [[ $1 != -- ]]; do
		ranges+=("$1")
		shift
	done
	started $g $c && release "${ranges[@]}" && commit always && after "$2" "$cut"
}
# all of a granule has to be released
t "always, granules of 64 KiB, chunks of 4 KiB, a part" \
	granules 65536 8 65536+16384 -- "64+128"
t "always, granules of 64 KiB, chunks of 4 KiB, all of one" \
	granules 65536 8 65536+65536 -- "128+64"
t "always, granules of 4 KiB, chunks of 64 KiB" \
	granules 4096 128 131072+65536 -- "64+16"
t "always, granules of 512 bytes, chunks of 4 KiB" \
	granules 512 8 65536+12288 -- "76+4 128+4"
t "always, granules of 2 MiB" granules 2097152 8 65536+16384 131072+4096 -- "0+2048"

# ---- what does not count as safe --------------------------------------------------------------

# Preserved is not released; what was read once is.
preserved()
{
	started 4096 8 && one 64K 8K 91 && release 73728+4096 || return
	snap_is shot copied 2 || { cbw-dm status shot; return 1; }
	commit always && after "64+8 76+4 128+4" "$cut"
}
t "preserved is not released" preserved

# It fails in the midst: what was released until then is safe, the rest not.
failed_snapshot()
{
	local rc=0

	started 4096 8 || return
	dm_remove shot && until_true 5 idle || return
	dm_create tiny "0 16 linear $store 0" && snap shot dut $M/tiny 8 2 bitmap b || return
	cut=$(snap_get shot cut)
	release 65536+8192 || return
	one 72K 4K && one 76K 4K && one 128K 4K || return
	snap_failed shot store-full || return
	commit always || rc=1
	after "72+8 128+4" "$cut" || rc=1
	dm_remove tiny || rc=1
	return $rc
}
t "the snapshot fails half-way" failed_snapshot

# A rotation without a snapshot has nothing to release.
no_snapshot()
{
	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity 4096 && one 64K 8K || return
	session_open
	cut=$(session transaction rotate:$M/dut:b) || return
	cut=${cut#ok }
	refused EBUSY cbw-ioctl commit $M/dut "$cut" always || return
	session commit $M/dut "$cut" always || return
	session_close
	expect "dirty" "$(extents)" "64+8" && expect "base" "$(base)" "$cut"
}
t "always without a snapshot, and by another session" no_snapshot

# The snapshot is limited to b: what it has not protected for another one was not released.
limited_to_another()
{
	local rc=0

	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity 4096 && msg dut bitmap_add y granularity 4096 &&
		one 64K 8K && msg dut bitmap_clear b && one 128K 8K || return
	snap shot dut "$store" 8 3 armed bitmap b || return
	session_open
	cut=$(session transaction start:$M/shot rotate:$M/dut:y) || return
	cut=${cut#ok }
	# until what b does not say has been given up
	until_true 5 snap_is shot needed 2 || rc=1
	cbw-ioctl release $M/shot "$cut" 131072+4096 || rc=1
	session commit $M/dut "$cut" always || rc=1
	expect "b" "$(extents b)" "132+4" || rc=1
	expect "y" "$(extents y)" "64+8 128+8" || rc=1
	session_close
	dm_remove shot && msg dut bitmap_remove y || rc=1
	return $rc
}
t "always, limited to another bitmap" limited_to_another

# With read_once a chunk is released by being read, whatever became of the data then.
read_once()
{
	local rc=0

	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity 4096 && one 64K 8K || return
	snap shot dut "$store" 8 3 read_once bitmap b || return
	cut=$(snap_get shot cut)
	dd if=$M/shot of=/dev/null bs=4k skip=16 count=1 iflag=direct status=none || rc=1
	snap_is shot released 1 || { cbw-dm status shot; rc=1; }
	commit always || rc=1
	expect "dirty" "$(extents)" "64+8" || rc=1
	dm_remove shot || rc=1
	return $rc
}
t "always, with read_once" read_once

# One that stopped recording has no base.
disabled()
{
	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity 4096 disabled || return
	cut=$(msg dut bitmap_rotate b) || return
	cbw-ioctl commit $M/dut "$cut" always || return
	expect "base" "$(base)" 00000000000000000000000000000000
}
t "always for a bitmap that does not record" disabled

# The snapshot is named by the source: two of one cut, and nothing counts.
by_source()
{
	local rc=0

	bitmap_is dut b dirty none || msg dut bitmap_remove b || return
	fill dut && msg dut bitmap_add b granularity 4096 && one 64K 8K || return
	snap shot dut "$store" 8 1 armed && snap shot2 dut "$store2" 8 1 armed || return
	session_open
	cut=$(session transaction start:$M/shot rotate:$M/dut:b) || return
	cut=${cut#ok }
	cbw-ioctl release $M/shot "$cut" 65536+4096 || rc=1
	session commit $M/dut "$cut" always || rc=1
	expect "dirty with one snapshot" "$(extents)" "68+4" || rc=1
	dm_remove shot && snap shot dut "$store" 8 1 armed || rc=1
	cut=$(session transaction start:$M/shot start:$M/shot2 rotate:$M/dut:b) || return
	cut=${cut#ok }
	cbw-ioctl release $M/shot "$cut" 0+4194304 || rc=1
	session commit $M/dut "$cut" always || rc=1
	expect "dirty with two" "$(extents)" "68+4" || rc=1
	session_close
	dm_remove shot && dm_remove shot2 || rc=1
	return $rc
}
t "always through the source" by_source
finish
