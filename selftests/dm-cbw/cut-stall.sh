#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 90
# long
#
# A cut over 16 devices is not a drain: it does not wait for writes in flight or
# held, nor do the writes that come after it, and soon the snapshots can be read.
#
#	cut-stall.sh [DEVICES]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
n=${1:-16}
modprobe -q dm-delay
M=/dev/mapper
# One disk in slices, one dmsetup for all of a kind: starting it takes long.
nullb disk $((n * 4)) 512
nullb stores $((n * 8)) 512

# create_all NAME TABLE: of each number, which is % in both
create_all()
{
	local i all=

	for ((i = 0; i < n; i++)); do
		all+="${1//%/$i},,,,$2;"
		all=${all//%O/$((i * 8192))}
		all=${all//%S/$((i * 16384))}
		all=${all//%/$i}
		DM_DEVS+=("${1//%/$i}")
	done
	dmsetup create --noudevsync --concise "${all%;}"
}

t "make a disk with a delay" dm_create slow "0 $(sectors "$disk") delay $disk 0 0"
t "make $n origins" create_all o% "0 8192 linear $M/slow %O"
t "make $n stores" create_all s% "0 8192 linear $stores %S"
t "make $n devices" create_all d% "0 8192 cbw $M/o%"
keep
for ((i = 0; i < n; i++)); do
	duts+=("$M/d$i") snaps+=("$M/shot$i") inflight+=("/sys/dev/block/$(stat -c '%Hr:%Lr' "$M/o$i")/inflight")
done

# writes_take MS: at the origins; reads take no time. What is there goes on at once.
writes_take()
{
	dm_reload slow "0 $(sectors "$disk") delay $disk 0 0 $disk 0 $1" &&
		dm_suspend --nolockfs slow && dm_resume slow
}

armed()
{
	create_all shot% "0 8192 cbw-snapshot $M/d% $M/s% 8 1 armed"
}

drop()
{
	local i

	dmsetup remove --noudevsync "${snaps[@]}" || return
	for ((i = 0; i < n; i++)); do
		dm_forget shot$i
	done
}

# in_flight NUMBER: so many writes are in flight at every origin
in_flight()
{
	local f counts

	for f in "${inflight[@]}"; do
		read -r -a counts <"$f"
		((counts[1] == $1)) || return
	done
}

# 32 writes to each device are in flight, and take long. The cut is made, and what is
# written afterwards, to other chunks, joins them down there while they are all still
# there.
not_a_drain()
{
	local rc=0

	writes_take 60000 && armed || return
	bg W cbw-probe write "${duts[@]}" --order seq --range 0:1M --qd 32 --ops $((n * 32))
	until_true 20 in_flight 32 || { wrong "not all are in flight"; return; }
	start=$(now_ms)
	cbw-ioctl transaction "${snaps[@]/#/start:}" >"$CBW_TMP/cut" || { cat "$CBW_TMP/cut"; rc=1; }
	figure "the cut took $(($(now_ms) - start)) ms with the start of the program"
	in_flight 32 || { wrong "the cut has waited for writes in flight"; rc=1; }
	# first writes under the snapshots: each has its copy to wait for, no more
	bg X cbw-probe write "${duts[@]}" --order seq --range 1M:1M --qd 2 --ops $((n * 2))
	until_true 20 in_flight 34 || { wrong "what came after the cut waits, or writes from before it are gone"; rc=1; }
	writes_take 0 || rc=1	# a suspend lets all of them go
	bg_wait W 20 && bg_wait X 20 || rc=1
	drop || rc=1
	return $rc
}
t "writes in flight" not_a_drain

# Cuts of all devices, then all snapshots are read, of which the best of some cuts counts:
# within 50 ms. The machine is emulated, and shared: where its grace period alone takes
# longer than the 5 to 25 ms of a real one, within three of them.
readable()
{
	local rc=0 i us gp bound good=0

	for i in 1 2 3 4 5; do
		armed || return
		cbw-probe cut "${snaps[@]}" >"$CBW_TMP/cut" || { cat "$CBW_TMP/cut"; rc=1; }
		figure "$1: $(<"$CBW_TMP/cut")"
		us=$(said_cut readable_us) gp=$(said_cut gp_us)
		bound=$((gp * 3 > 50000 ? gp * 3 : 50000))
		drop || return
		((us > bound)) || good=1
		((!good)) || break
	done
	((good)) || { wrong "readable only after $us us, a grace period is $gp us"; rc=1; }
	return $rc
}

said_cut()
{
	local f

	for f in $(<"$CBW_TMP/cut"); do
		[[ $f != "$1="* ]] || echo "${f#*=}"
	done
}
under_load()
{
	local rc=0

	writes_take 0 || return
	bg W cbw-probe write "${duts[@]}" --order rand --qd 32
	nap 0.5
	readable "under load" || rc=1
	kill -TERM "${BG[W]}"
	bg_wait W 30 || rc=1
	return $rc
}
t "readable soon, 32 writes in flight on each" under_load

# Writes are held for a snapshot whose store hangs: they keep no epoch alive, so
# other snapshots, cut meanwhile, can be read as soon.
while_held()
{
	local rc=0

	writes_take 0 && dm_create hang "0 8192 linear $stores 8192" &&
		snap first d0 $M/hang 8 4 buffer_kib 512 cbw_timeout_ms 0 && dm_suspend --nolockfs hang || return
	bg W cbw-probe write $M/d0 --order each --qd 32 --ops 1024
	until_true 5 snap_is first held 32 || { wrong "nothing is held"; return; }
	readable "while writes are held" || rc=1
	snap_is first held 32 || { wrong "they are not held any more"; rc=1; }
	dm_resume hang || return
	bg_wait W 20 || rc=1
	dm_remove first && dm_remove hang || rc=1
	return $rc
}
t "readable soon, while writes are held" while_held

# The same with the held write's own chunk: held twice, for the old snapshot and for
# the new one, it is in neither as written.
held_over_a_cut()
{
	local rc=0

	fill d0 && dm_create hang "0 8192 linear $stores 8192" &&
		snap first d0 $M/hang 8 2 on_cbw_error break_guest_write && dm_suspend --nolockfs hang || return
	bg W cbw-load one $M/d0 --offset 0 --len 64K --gen 70
	until_true 5 snap_is first held 1 || { wrong "nothing is held"; return; }
	snap second d0 $M/s0 8 || return
	at $M/second 0 "*gen=$BASE_GEN *" || rc=1
	dm_resume hang || return
	bg_wait W 10 || rc=1
	at $M/d0 0 '*gen=70 *' || rc=1
	cbw-check verify $M/first --gen "$BASE_GEN" && cbw-check verify $M/second --gen "$BASE_GEN" || rc=1
	dm_remove first && dm_remove second && dm_remove hang || rc=1
	return $rc
}
t "a write held over a cut belongs after it" held_over_a_cut
finish
