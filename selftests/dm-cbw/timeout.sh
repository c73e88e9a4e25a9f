#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
#
# Nobody's write is held for longer than cbw_timeout_ms and a tenth, whatever hangs:
# the store, or the origin's reads. Measured by who writes, and by the status.
#
#	timeout.sh [MS]		the bound; default 2000, on a slow machine or kernel up to 8000
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"
. "${0%/*}/probe.bash"

begin
scale=${CBW_BUDGET_SCALE:-1}
ms=${1:-$((2000 * (scale < 4 ? scale : 4)))}
modprobe -q dm-delay
for i in "" 30 0; do
	nullb origin$i 8 512
	nullb store$i 8 512
	t "make device dut$i" eval "cbw dut$i \$origin$i"
done
len=$(sectors "$origin")
# Its reads take for ever, its writes no time. A suspend lets go what waits there.
t "make an origin whose reads hang" \
	dm_create stuck "0 $len delay $origin 0 1000000000 $origin 0 0"
keep

# The default is 30 s, 0 is no bound: both have the whole case to show it.
default_start()
{
	fill dut30 && hang_store hang30 "$store30" && snap shot30 dut30 /dev/mapper/hang30 8 2 buffer_kib 512 &&
		fill dut0 && BASE_GEN0=$GEN && hang_store hang0 "$store0" &&
		snap shot0 dut0 /dev/mapper/hang0 8 4 buffer_kib 512 cbw_timeout_ms 0 || return
	dm_suspend --nolockfs hang30 && dm_suspend --nolockfs hang0 || return
	bg W30 cbw-probe write /dev/mapper/dut30 --order each --qd 4 --ops 1000
	bg W0 cbw-probe write /dev/mapper/dut0 --order each --qd 4 --ops 1000
	until_true 5 snap_is shot30 held 4 && until_true 5 snap_is shot0 held 4 ||
		{ wrong "nothing is held: $(cbw-dm status)"; return; }
	started=$(now_ms)
}
t "writes are held: default bound, no bound" default_start
keep

store_hangs()
{
	local rc=0

	fill dut && hang_store hang "$store" &&
		snap shot dut /dev/mapper/hang 8 4 buffer_kib 512 cbw_timeout_ms $ms || return
	dm_suspend --nolockfs hang || return
	bg W cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 1500
	until_true 5 snap_is shot held 16 || { wrong "nothing is held"; cbw-dm status shot; return 1; }
	nothing_else_waits || rc=1
	bg_wait W $((ms / 1000 + 10)) || { echo "the guest saw it"; rc=1; }
	snap_failed shot timeout || rc=1
	snap_is shot held 0 || { cbw-dm status shot; rc=1; }
	expect "writes done" "$(said W writes)" 1500 || rc=1
	unhang_store hang || rc=1
	((rc == 0)) && held_for W shot $ms
}

# While first writes are held: reads, flushes, discards and writes to what is preserved.
nothing_else_waits()
{
	local start rc=0

	start=$(now_ms)
	cbw-check read /dev/mapper/dut 0 64K >/dev/null || { echo "a read"; rc=1; }
	cbw-load one /dev/mapper/dut --offset 0 --len 4M --op discard || { echo "a discard"; rc=1; }
	(($(now_ms) - start < ms / 2)) || wrong "they took $(($(now_ms) - start)) ms" || rc=1
	snap_is shot state active || { echo "it was over too early"; rc=1; }
	return $rc
}
t "the store hangs" measured store_hangs

# The write waits for the read of the old data, and that does not come.
origin_hangs()
{
	local rc=0

	on_stuck_origin 2 cbw_timeout_ms $ms || return
	bg W cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 1500
	until_true 5 snap_is shot held 16 || { wrong "nothing is held"; return; }
	bg_wait W $((ms / 1000 + 10)) || { echo "the guest saw it"; rc=1; }
	snap_failed shot timeout || rc=1
	expect "writes done" "$(said W writes)" 1500 || rc=1
	# the reads that hang end, late: nothing comes of them
	unstick || rc=1
	snap_is shot reason timeout && snap_is shot copied 0 || { cbw-dm status shot; rc=1; }
	dm_remove shot || rc=1
	off_stuck_origin || rc=1
	((rc == 0)) && held_for W none $ms
}
t "the origin's reads hang" measured origin_hangs

# Two snapshots, both in trouble: the bounds do not add up. The one that could
# wait longer is none the worse.
two_snapshots()
{
	local rc=0

	fill dut && hang_store hang "$store" && snap shot dut /dev/mapper/hang 8 4 buffer_kib 512 cbw_timeout_ms $ms &&
		hang_store hangb "$storeb" &&
		snap shotb dut /dev/mapper/hangb 8 4 buffer_kib 512 cbw_timeout_ms $((ms * 3 / 4)) || return
	dm_suspend --nolockfs hang && dm_suspend --nolockfs hangb || return
	bg W cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 1500
	bg_wait W $((ms / 1000 + 10)) || { echo "the guest saw it"; rc=1; }
	snap_failed shot timeout && snap_failed shotb timeout || rc=1
	unhang_store hang && dm_resume hangb && dm_remove shotb && dm_remove hangb || rc=1
	((rc == 0)) && held_for W none $ms
}
nullb storeb 8 512
t "two snapshots' stores hang" measured two_snapshots

# Only one snapshot is in trouble; the other one stays, and is right.
one_of_two()
{
	local rc=0

	fill dut && snap shotb dut "$storeb" 8 2 cbw_timeout_ms $((ms / 2)) && hang_store hang "$store" &&
		snap shot dut /dev/mapper/hang 8 4 buffer_kib 512 cbw_timeout_ms $ms || return
	dm_suspend --nolockfs hang || return
	bg W cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 1500
	bg_wait W $((ms / 1000 + 10)) || { echo "the guest saw it"; rc=1; }
	snap_failed shot timeout || rc=1
	snap_is shotb state active || { echo "the other one failed, too"; rc=1; }
	cbw-check verify /dev/mapper/shotb --gen "$BASE_GEN" || rc=1
	unhang_store hang && dm_remove shotb || rc=1
	((rc == 0)) && held_for W none $ms
}
t "one of two snapshots' stores hangs" measured one_of_two

# ---- break_guest_write --------------------------------------------------------------

# The writes get the error in time, the snapshot stays. When the store is back all
# goes on, and every slot comes back in the end.
guest_store_hangs()
{
	local rc=0

	fill dut && hang_store hang "$store" &&
		snap shot dut /dev/mapper/hang 8 6 buffer_kib 512 on_cbw_error break_guest_write cbw_timeout_ms $ms || return
	dm_suspend --nolockfs hang || return
	bg W cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 16
	bg_ended_in W || rc=1
	expect "errors" "$(said W errors)" 16 || rc=1
	[[ $(said W first) == ETIMEDOUT ]] || { echo "the error is $(said W first)"; rc=1; }
	snap_is shot state active && snap_is shot held 0 || { cbw-dm status shot; rc=1; }
	dm_resume hang || return
	bg X cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 1500
	bg_wait X 20 || { echo "with the store back"; rc=1; }
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	cbw-ioctl release /dev/mapper/shot "$(snap_get shot cut)" 0+$((len * 512)) || rc=1
	until_true 3 snap_is shot used 0 || { echo "slots have leaked"; rc=1; }
	snap_is shot state drained || { cbw-dm status shot; rc=1; }
	dm_remove shot && dm_remove hang || rc=1
	((rc == 0)) && held_for W none $ms
}
t "break_guest_write: the store hangs" measured guest_store_hangs

guest_origin_hangs()
{
	local rc=0

	on_stuck_origin 4 cbw_timeout_ms $ms on_cbw_error break_guest_write || return
	bg W cbw-probe write /dev/mapper/dut --order each --qd 16 --ops 16
	bg_ended_in W || rc=1
	expect "errors" "$(said W errors)" 16 || rc=1
	snap_is shot state active || { cbw-dm status shot; rc=1; }
	# what was read late is preserved, or it is still needed: either is right
	unstick || rc=1
	read_now || rc=1
	cbw-check verify /dev/mapper/shot --gen "$BASE_GEN" || rc=1
	dm_remove shot || rc=1
	off_stuck_origin || rc=1
	((rc == 0)) && held_for W none $ms
}
t "break_guest_write: the origin's reads hang" measured guest_origin_hangs

# ---- the default, and no bound ---------------------------------------------------------

no_bound()
{
	local rc=0

	# once more than the default bound: it was started before the other one
	nap "$(((started + 33500 - $(now_ms)) / 1000 + 1))"
	snap_is shot0 state active && snap_is shot0 held 4 || { cbw-dm status shot0; rc=1; }
	dm_resume hang0 || return
	bg_wait W0 20 || rc=1
	expect "writes done" "$(said W0 writes)" 1000 || rc=1
	cbw-check verify /dev/mapper/shot0 --gen "$((BASE_GEN0))" || rc=1
	dm_remove shot0 && dm_remove hang0 || rc=1
	return $rc
}

default_bound()
{
	local rc=0

	until_true $(((started + 33500 - $(now_ms)) / 1000 + 1)) bg_ended W30 || rc=1
	bg_wait W30 1 || { echo "the guest saw it"; rc=1; }
	snap_failed shot30 timeout || rc=1
	dm_resume hang30 && dm_remove shot30 && dm_remove hang30 || rc=1
	((rc == 0)) && held_for W30 none 30000
}
t "the default is 30 s" default_bound
t "0 is no bound" no_bound
finish
