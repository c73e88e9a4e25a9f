#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 150
#
# cbw export and cbw map of snapshots: stock NBD clients see the point in time and what has
# changed, several at once, while the volume is written; a trim releases, if it may; the bitmap
# is committed when it was asked for and the reader has all; killed, there is no access left.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119,SC1091
. "${0%/*}/lib.sh"

begin
. "$here/tool.bash"
seed "${1-}"
S=$CBW_TMP/nbd.sock
uri="nbd+unix:///?socket=$S"
G=65536
SIZE=$((32 * 1048576))

setup()
{
	nullb origin 32 512 && nullb store 32 512 && nullb small 1 512 || return
	tracked dut "$origin" && tool 0 bitmap add dut b --granularity $G && fill dut
}

# Runs of equal third columns, merged; "offset length" of those that are 1.
ones()
{
	awk '$3 == 1 {
			if (n && $1 == start + len) { len += $2; next }
			if (n++) print start, len
			start = $1; len = $2
		}
		END { if (n) print start, len }'
}

text_ones()
{
	awk '{ print $1, $2, 1 }' "$1" | ones
}

# export_start ARGUMENTS...: in the background, until it says that readers may come
export_start()
{
	bg export "$CBW" export "$@" --socket "$S"
	until_true 10 grep -q "nbd+unix:" "$CBW_TMP/export.out" ||
		{ cat "$CBW_TMP/export.out"; wrong "the export does not begin"; }
}

# export_stop STATUS: by SIGTERM
export_stop()
{
	[[ -n ${BG[export]-} ]] || wrong "there is no export" || return
	kill -TERM "${BG[export]}"
	export_ends "$1"
}

export_ends()
{
	local rc

	bg_wait export 20
	rc=$?
	cat "$CBW_TMP/export.out"
	((rc == $1)) || wrong "the export ended with $rc, expected $1" || return
	[[ ! -e $S ]] || wrong "the socket is left"
}

said()
{
	grep -q -e "$1" "$CBW_TMP/export.out" ||
		wrong "it did not say '$1': $(cat "$CBW_TMP/export.out")"
}

snapshot()
{
	local name _

	read -r name _ < <(dmsetup table --target cbw-snapshot)
	echo "${name%:}"
}

# The bitmap begins anew, and gets some changes, at the odd places.
change()
{
	msg dut bitmap_rotate b >/dev/null && msg dut bitmap_commit b &&
		cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen $((GEN += 1)) &&
		cbw-load one /dev/mapper/dut --offset $((5 * G + 512)) --len $((2 * G)) \
			--gen $GEN &&
		cbw-load one /dev/mapper/dut --offset $((SIZE - 4096)) --len 4096 --gen $GEN &&
		blkdiscard -o $((20 * G)) -l $((4 * G)) /dev/mapper/dut
}

dirty="0 $G
$((5 * G)) $((3 * G))
$((20 * G)) $((4 * G))
$((SIZE - G)) $G"

maps_agree()
{
	local snap f maps=()

	change && tool 0 map dut --bitmap b && cp "$TOOL_OUT" "$CBW_TMP/live" || return
	says "$((20 * G)) $((4 * G)) dirty,discarded" || return
	expect "live" "$(text_ones "$CBW_TMP/live")" "$dirty" || return
	cat /dev/mapper/dut >"$CBW_TMP/reference"
	export_start dut --store "$store" --bitmap b || return
	expect "mode" "$(stat -c %a "$S")" 600 || return
	snap=$(snapshot)
	# written after the cut: in no map of it
	cbw-load one /dev/mapper/dut --offset $((100 * G)) --len $G --gen $((GEN += 1)) || return
	tool 0 map "$snap" && cmp "$TOOL_OUT" "$CBW_TMP/live" || return
	cp "$TOOL_OUT" "$CBW_TMP/text"
	expect "to NBD" "$(nbdinfo --map=qemu:dirty-bitmap:b "$uri" | ones)" "$dirty" || return
	# what was discarded is known to be of no value, all else is data
	expect "base:allocation" "$(nbdinfo --map "$uri" | awk '{ print $1, $2, $3 }')" \
		"0 $((20 * G)) 0
$((20 * G)) $((4 * G)) 3
$((24 * G)) $((488 * G)) 0" || return
	for f in borg benji csi blocklist qcow2; do
		tool 0 map "$snap" --bitmap b --format $f --output "$CBW_TMP/map.$f" || return
		maps+=("${f/%blocklist/blocklist:$G}" "$CBW_TMP/map.$f")
	done
	"$here/map-check.py" --name b "$CBW_TMP/text" $SIZE "${maps[@]}" || return
	nbdinfo --list "$uri" >"$CBW_TMP/list" && grep -q "qemu:dirty-bitmap:b" "$CBW_TMP/list"
}

# Under load, two at once, each the whole of it; and what the small qcow2 shows.
readers()
{
	load_start load dut -- --uring 1:16 --mix 8:1:1 --bs 512:65536 --max-iops 200 || return
	bg other nbdcopy "$uri" "$CBW_TMP/copy2"
	nbdcopy "$uri" "$CBW_TMP/copy1" && bg_wait other 30 || return
	load_stop load || return
	cmp "$CBW_TMP/copy1" "$CBW_TMP/reference" && cmp "$CBW_TMP/copy2" "$CBW_TMP/reference" &&
		qemu-img compare -f qcow2 -F raw "$CBW_TMP/map.qcow2" "$CBW_TMP/reference" &&
		qemu-img compare -f raw -F raw "$uri" "$CBW_TMP/reference" || return
	# read-only: nothing to write or trim
	! qemu-io -d unmap -f raw -c "discard 0 4096" "$uri" ||
		wrong "it can be opened to trim" || return
	snap_is "$(snapshot)" released 0
}

# A clean end takes nothing from the bitmap.
stopped()
{
	export_stop 0 && no_snapshots || return
	tool 0 map dut --bitmap b && [[ $(text_ones "$TOOL_OUT") == "0 "* ]] || return
	# of what was written after the cut, too
	awk -v at=$((100 * G)) '$1 <= at && at < $1 + $2 { found = 1 } END { exit !found }' \
		"$TOOL_OUT" ||
		wrong "what was written meanwhile is not dirty" || return
	expect "flags" "$(bitmap_get dut b flags)" e
}

unanswered()
{
	! nbdinfo --size "$uri" 2>/dev/null
}

aborted()
{
	[[ $(bitmap_get dut b flags) == e ]]
}

killed()
{
	local pid base

	change && base=$(bitmap_get dut b base) &&
		export_start dut --store "$store" --bitmap b || return
	expect "flags" "$(bitmap_get dut b flags)" eb || return
	bg reader nbdcopy "$uri" null:
	pid=${BG[export]}
	kill -KILL $pid
	until_true 10 bg_ended export || return
	wait $pid
	unset 'BG[export]'
	until_true 5 bg_ended reader || wrong "the reader still reads" || return
	wait "${BG[reader]}"
	unset 'BG[reader]'
	unanswered || wrong "somebody still answers" || return
	# nobody has it open, the cut is as if it had not been
	until_true 5 aborted || wrong "flags $(bitmap_get dut b flags)" || return
	tool 0 map dut --bitmap b && expect "dirty" "$(text_ones "$TOOL_OUT")" "$dirty" &&
		expect "base" "$(bitmap_get dut b base)" "$base" || return
	[[ -S $S ]] || return
	# the next one takes socket and store over
	export_start dut --store "$store" --bitmap b && nbdinfo --size "$uri" && export_stop 0 &&
		no_snapshots
}

trim()
{
	local snap

	export_start dut --store "$store" --bitmap b --release || return
	snap=$(snapshot)
	expect "released" "$(snap_get "$snap" released)" 0 || return
	qemu-io -d unmap -f raw -c "discard 4M 1M" "$uri" &&
		expect "released" "$(snap_get "$snap" released)" 256 || return
	# inwards: 2K to 10K is one chunk
	qemu-io -d unmap -f raw -c "discard 2K 8K" "$uri" &&
		expect "released" "$(snap_get "$snap" released)" 257 || return
	expect "base:allocation" "$(nbdinfo --map "$uri" | awk '$3 == 1 { print $1, $2 }')" \
		"4096 4096
4194304 1048576" || return
	# gone is not broken
	qemu-io -r -f raw -c "read 4M 64K" "$uri" >"$CBW_TMP/io" 2>&1
	grep -q "Invalid argument" "$CBW_TMP/io" || { cat "$CBW_TMP/io"; return 1; }
	# nothing is written
	! qemu-io -f raw -c "write 0 64K" "$uri" || wrong "it was written" || return
	qemu-io -r -f raw -c "read 0 4096" -c "read 8192 4096" "$uri" &&
		snap_is "$snap" state active && export_stop 0
}

# The commit is for who has read all of it, and said good-bye.
commits()
{
	local base cut

	change && base=$(bitmap_get dut b base) || return
	export_start dut --store "$store" --bitmap b --once --commit on-success || return
	nbdinfo --size "$uri" && export_ends 1 && said "of what is dirty was not read" || return
	expect "base" "$(bitmap_get dut b base)" "$base" || return
	export_start dut --store "$store" --bitmap b --once --commit on-success &&
		export_stop 1 && said "it was stopped" || return
	expect "base" "$(bitmap_get dut b base)" "$base" || return
	export_start dut --store "$store" --bitmap b --once --commit on-success --json || return
	cut=$(sed -n 's/.*"cut":"\([0-9a-f]*\)".*/\1/p' "$CBW_TMP/export.out")
	nbdcopy "$uri" null: && export_ends 0 && no_snapshots || return
	expect "base" "$(bitmap_get dut b base)" "$cut" && tool 0 map dut --bitmap b || return
	[[ ! -s $TOOL_OUT ]] || wrong "it is still dirty"
}

# Without a base nobody has the rest: what is dirty is not enough.
no_base()
{
	local cut

	change && tool 0 bitmap clear dut b &&
		cbw-load one /dev/mapper/dut --offset 0 --len 4096 --gen $((GEN += 1)) || return
	export_start dut --store "$store" --bitmap b --once --commit on-success &&
		qemu-io -r -f raw -c "read 0 $G" "$uri" && export_ends 1 &&
		said "the first time a reader needs all" || return
	expect "base" "$(bitmap_get dut b base)" 00000000000000000000000000000000 || return
	export_start dut --store "$store" --bitmap b --once --commit on-success --json || return
	cut=$(sed -n 's/.*"cut":"\([0-9a-f]*\)".*/\1/p' "$CBW_TMP/export.out")
	nbdcopy "$uri" null: && export_ends 0 && expect "base" "$(bitmap_get dut b base)" "$cut"
}

# Only what has changed is protected: the rest cannot be had, and is not said to be zero.
only_changed()
{
	local base cut

	change && base=$(bitmap_get dut b base) &&
		export_start dut --store "$store" --bitmap b --only-changed || return
	expect "base:allocation" "$(nbdinfo --map "$uri" | awk '{ print $1, $2, $3 }')" \
		"0 $G 0
$G $((4 * G)) 1
$((5 * G)) $((3 * G)) 0
$((8 * G)) $((12 * G)) 1
$((20 * G)) $((4 * G)) 3
$((24 * G)) $((487 * G)) 1
$((511 * G)) $G 0" || return
	export_stop 0 || return
	# a reader that was told an error has not all of it
	export_start dut --store "$store" --bitmap b --only-changed --once \
		--commit on-success || return
	qemu-io -r -f raw -c "read 0 $G" -c "read $((5 * G)) $((3 * G))" -c "read $((511 * G)) $G" \
		-c "read $G $G" "$uri" >"$CBW_TMP/io" 2>&1
	grep -q "Invalid argument" "$CBW_TMP/io" && export_ends 1 && said "1 requests failed" &&
		expect "base" "$(bitmap_get dut b base)" "$base" || return
	export_start dut --store "$store" --bitmap b --only-changed --once \
		--commit on-success || return
	cut=$(sed -n 's/.*  cut \([0-9a-f]*\).*/\1/p' "$CBW_TMP/export.out")
	qemu-io -r -f raw -c "read 0 $G" -c "read $((5 * G)) $((3 * G))" -c "read $((511 * G)) $G" \
		"$uri" && export_ends 0 && expect "base" "$(bitmap_get dut b base)" "$cut"
}

# A snapshot that somebody made stays his.
of_a_snapshot()
{
	local snap cut

	change && cat /dev/mapper/dut >"$CBW_TMP/reference" &&
		tool 0 snapshot create dut --store "$store" || return
	snap=$(snapshot)
	tool 1 map "$snap" && says "no bitmap was frozen at its cut" || return
	tool 1 map "$snap" --bitmap b && says "'b' was not frozen at the cut" || return
	tool 1 export "$snap" --socket "$S" --bitmap none && says "has no bitmap 'none'" || return
	export_start "$snap" && nbdcopy "$uri" "$CBW_TMP/copy1" &&
		cmp "$CBW_TMP/copy1" "$CBW_TMP/reference" && tool 1 snapshot remove "$snap" &&
		says "it is in use" && export_stop 0 && tool 0 snapshot remove "$snap" || return
	tool 0 snapshot create dut --store "$store" --bitmap b --json || return
	snap=$(snapshot) cut=$(sed -n 's/.*"cut":"\([0-9a-f]*\)".*/\1/p' "$TOOL_OUT")
	export_start "$snap" --release || return
	expect "to NBD" "$(nbdinfo --map=qemu:dirty-bitmap:b "$uri" | ones)" "$dirty" || return
	export_stop 0 && tool 0 snapshot remove "$snap" --commit &&
		expect "base" "$(bitmap_get dut b base)" "$cut"
}

# Killed after a release: that is gone, so nobody begins anew unawares; who has it goes on.
released()
{
	local snap base

	change && base=$(bitmap_get dut b base) &&
		tool 0 snapshot create dut --store "$store" --bitmap b || return
	snap=$(snapshot)
	export_start "$snap" --release && qemu-io -d unmap -f raw -c "discard 0 64K" "$uri" || return
	kill -KILL "${BG[export]}"
	until_true 10 bg_ended export || return
	wait "${BG[export]}"
	unset 'BG[export]'
	expect "released" "$(snap_get "$snap" released)" 16 || return
	tool 1 export "$snap" --socket "$S" --release && says "64.0 KiB of it were released before" &&
		says "--resume" && tool 1 export "$snap" --socket "$S" && says "--resume" || return
	export_start "$snap" --release --resume &&
		qemu-io -r -f raw -c "read $((5 * G)) 64K" "$uri" || return
	qemu-io -r -f raw -c "read 0 4K" "$uri" >"$CBW_TMP/io" 2>&1
	grep -q "Invalid argument" "$CBW_TMP/io" || { cat "$CBW_TMP/io"; return 1; }
	export_stop 0 && tool 2 export dut --socket "$S" --resume && says "of dut a new one is made" &&
		tool 0 snapshot remove "$snap" && expect "base" "$(bitmap_get dut b base)" "$base"
}

stores()
{
	find /var/tmp -maxdepth 1 -name 'cbw-store-*' | wc -l
}

# Without --store it makes one, and takes it away again.
own_store()
{
	export_start dut && expect "stores" "$(stores)" 1 || return
	cp /dev/mapper/dut "$CBW_TMP/before" &&
		cbw-load fill /dev/mapper/dut --gen $((GEN += 1)) && nbdcopy "$uri" "$CBW_TMP/copy1" &&
		cmp "$CBW_TMP/before" "$CBW_TMP/copy1" || return
	rm "$CBW_TMP/before"
	export_stop 0 && expect "stores" "$(stores)" 0 && no_snapshots
}

# One for a snapshot that stays: room for all of it from the beginning, gone with the snapshot.
kept_store()
{
	local snap rc

	tool 0 snapshot create dut --store auto && expect "stores" "$(stores)" 1 || return
	snap=$(snapshot)
	cp /dev/mapper/dut "$CBW_TMP/before" && cbw-load fill /dev/mapper/dut --gen $((GEN += 1)) &&
		! snap_is "$snap" state failed && cmp "$CBW_TMP/before" "/dev/mapper/$snap" || return
	rm "$CBW_TMP/before"
	# what makes another store does not take it for a leftover
	export_start dut && expect "stores" "$(stores)" 2 && export_stop 0 || return
	tool 0 snapshot remove "$snap" && expect "stores" "$(stores)" 0 || return
	# gone otherwise it is a leftover
	change && tool 0 snapshot create dut --store auto --bitmap b || return
	dm_remove "$(snapshot)" && expect "stores" "$(stores)" 1 &&
		tool 0 snapshot create dut --store auto && says "is removed" &&
		expect "stores" "$(stores)" 1 && tool 0 snapshot remove "$(snapshot)" || return
	# a store of somebody else stays, whatever its name is
	tool 0 snapshot create dut --store "$store" && tool 0 snapshot remove "$(snapshot)" &&
		[[ -b $store ]] || return
	truncate -s 64M /var/tmp/cbw-store-mine01
	tool 0 snapshot create dut --store /var/tmp/cbw-store-mine01 &&
		tool 0 snapshot remove "$(snapshot)" && expect "stores" "$(stores)" 1 &&
		rm /var/tmp/cbw-store-mine01 || return
	mount -t tmpfs -o size=80M none /var/tmp || return
	tool 1 snapshot create dut --store auto && says "nobody makes it larger" && no_snapshots &&
		expect "stores" "$(stores)" 0
	rc=$?
	umount /var/tmp
	return $rc
}

errors()
{
	tool 1 export dut --socket "$S" --store "$store" --bitmap none &&
		says "it has no bitmap 'none'" && no_snapshots || return
	tool 1 export /dev/null --socket "$S" && says "neither a tracked device" || return
	tool 1 map nosuch --bitmap b && tool 1 map dut --bitmap none && says none || return
	export_start dut --store "$store" || return
	tool 1 export dut --socket "$S" --store "$small" &&
		says "somebody serves on this socket" || return
	nbdinfo --size "$uri" && export_stop 0 || return
	# nothing is left of what was refused
	no_snapshots || return
	# a snapshot that breaks ends the export, and is said to have
	export_start dut --store "$small" --bitmap b || return
	cbw-load fill /dev/mapper/dut --gen $((GEN += 1)) && export_ends 1 && said "store-full" &&
		no_snapshots
}

t "set up" setup
keep
t "what NBD and others' formats say is what cbw map says" maps_agree
t "several readers, under load, see the point in time" readers
t "a clean end: the bitmap is as it was, and more" stopped
t "killed: no access, the bitmap is as it was" killed
t "a trim releases" trim
t "a commit, when the reader has all" commits
t "a commit without a base" no_base
t "only what has changed" only_changed
t "of a snapshot that is there" of_a_snapshot
t "killed after a release" released
t "a store of its own" own_store
t "a store of its own for a snapshot that stays" kept_store
t "errors" errors
t "nothing is left" no_snapshots
finish
