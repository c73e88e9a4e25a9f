#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 300
# only: kasan
#
# Each allocation, and each copy from and to user space, of loading the module,
# of tables, messages, ioctls, guest writes and snapshot reads fails once: the
# operation fails and all is as before, or goes on without it. Nothing leaks
# (the runner looks), nothing crashes.
#
#	inject-alloc.sh [SEED]
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

M=/dev/mapper
FAULTS=/sys/kernel/debug

# All kinds of allocation, also those that may sleep; how it went is not logged.
faults_ready()
{
	local d

	for d in failslab fail_page_alloc fail_usercopy; do
		echo 0 >$FAULTS/$d/probability && echo 0 >$FAULTS/$d/verbose || return
	done
	echo N >$FAULTS/failslab/ignore-gfp-wait &&
		echo N >$FAULTS/fail_page_alloc/ignore-gfp-wait &&
		echo N >$FAULTS/fail_page_alloc/ignore-gfp-highmem &&
		echo 0 >$FAULTS/fail_page_alloc/min-order
}

nth()
{
	inject-nth --seed "$SEED" "$@" >"$CBW_TMP/nth.out" 2>&1
	local rc=$?

	cat "$CBW_TMP/nth.out"
	return $rc
}

# each NAME NTH-ARGUMENT...: a test; how many points it had is shown
each()
{
	local name=$1

	shift
	t "$name" nth "$@"
	echo "# $(tail -n 1 "$CBW_TMP/nth.out")"
}

begin debug
seed "${1-}"
t "this kernel injects faults" faults_ready

# ---- the module -----------------------------------------------------------------------

# What comes before the module's own code runs is the kernel's.
module()
{
	rmmod dm_cbw || return
	nth --calls module --undo "rmmod dm_cbw" --last 200 --most 80 -- insmod "$CBW_MODULE_DEBUG"
}
t "loading the module" module
echo "# $(tail -n 1 "$CBW_TMP/nth.out")"
[[ -e $HOOKS ]] || insmod "$CBW_MODULE_DEBUG"

# ---- tables -----------------------------------------------------------------------------

nullb origin 4 512
nullb store 4 512
nullb store2 4 512
len=$(sectors "$origin")
# What null_blk allocates for its pages it has now.
for d in "$store" "$store2"; do
	cbw-load fill "$d" --gen 1
done
# The first table of a device is when the kernel makes its disk.
each "a cbw device: table, resume" --also EINVAL --most 200 -- cbw-dm try new "0 $len cbw $origin"
t "make the device" cbw dut "$origin"
fill dut
msg dut bitmap_add b granularity 4096
msg dut bitmap_add off granularity 512 disabled
keep
each "its table again, with bitmaps" -- cbw-dm load dut "0 $len cbw $origin"
each "its table again, resumed" --calls resume --moves \
	--before "dmsetup resume --noudevsync dut; echo 0 $len cbw $origin | dmsetup reload --noudevsync dut" \
	-- dmsetup resume --noudevsync dut
snapshot="cbw-snapshot $M/dut $store 8"
each "a snapshot: table, resume" --also EINVAL --most 400 -- cbw-dm try shot "0 $len $snapshot 2 buffer_kib 512"
each "a snapshot of a bitmap: resume" --calls resume \
	-- cbw-dm try shot "0 $len $snapshot 4 bitmap b buffer_kib 512"
t "make a snapshot to remove" dm_create shot "0 $len $snapshot 2 buffer_kib 512"
each "removing a snapshot" --calls remove --new-cut \
	--undo "echo 0 $len $snapshot 2 buffer_kib 512 | dmsetup create --noudevsync shot" \
	-- dmsetup remove --noudevsync shot

# ---- messages ----------------------------------------------------------------------------

message()
{
	local undo=$1

	shift
	each "message $*" --undo "$undo" -- cbw-dm message dut "$@"
}

message "cbw-dm message dut bitmap_remove new" bitmap_add new granularity 4096
message "cbw-dm message dut bitmap_add new granularity 4096" bitmap_remove new
message "cbw-dm message dut bitmap_enable off; cbw-dm message dut bitmap_disable off" bitmap_disable off
message "cbw-dm message dut bitmap_disable off" bitmap_enable off
msg dut bitmap_disable off
message "" bitmap_clear off
message "cbw-dm message dut bitmap_abort b" bitmap_rotate b
message "cbw-dm message dut bitmap_rotate b" bitmap_abort b
each "message bitmap_commit" --moves --before "cbw-dm message dut bitmap_rotate b" \
	-- cbw-dm message dut bitmap_commit b
each "status" --calls status --moves -- cbw-dm status dut
each "table" --calls status -- cbw-dm table dut

# ---- ioctls -------------------------------------------------------------------------------

dut=$M/dut
one()
{
	cbw-load one "$1" --offset "$2" --len "$3" --gen 90 >"$CBW_TMP/one.out"
}

each "opening the control device" --calls open -- cbw-ioctl info
each "CBW_TRANSACTION: add, add, clear" \
	--undo "cbw-dm message dut bitmap_remove n1; cbw-dm message dut bitmap_remove n2" \
	-- cbw-ioctl transaction add:$dut:n1:4096 add:$dut:n2:512:disabled clear:$dut:off
cbw-dm message dut bitmap_remove n1
cbw-dm message dut bitmap_remove n2
# the session ends with the program, and that is the undo
one $dut 0 64K
each "CBW_TRANSACTION: rotate" -- cbw-ioctl transaction rotate:$dut:b
each "CBW_BITMAP_LIST" -- cbw-ioctl list $dut
each "CBW_BITMAP_EXTENTS" -- cbw-ioctl extents $dut b

armed="echo 0 $len cbw-snapshot $dut $store2 8 3 armed bitmap b | dmsetup create --noudevsync armed"
t "make an armed snapshot" dm_create armed "0 $len cbw-snapshot $dut $store2 8 3 armed bitmap b"
each "CBW_TRANSACTION: start" --undo "dmsetup remove --noudevsync armed; $armed" \
	-- cbw-ioctl transaction start:$M/armed
dm_remove armed

# With the same cut again and again: committed once, it stays so.
committed()
{
	local cut

	cut=$(msg dut bitmap_rotate b) && nth --moves -- cbw-ioctl commit $dut "$cut" &&
		bitmap_is dut b base "$cut" && bitmap_is dut b flags e
}
t "CBW_COMMIT" committed

t "make a snapshot" snap shot dut "$store" 8 2 buffer_kib 512
cut=$(snap_get shot cut)
each "CBW_SNAPSHOT_INFO" -- cbw-ioctl snapinfo $M/shot
each "CBW_RELEASE" --moves -- cbw-ioctl release $M/shot "$cut" 0+65536 131072+4096
released()
{
	at $M/shot 0 ENODATA && at $M/shot 64K "*gen=$BASE_GEN *"
}
t "what is released is, and nothing else" released

# ---- guest writes, snapshot reads ---------------------------------------------------------

# Each write copies other chunks. It is done, or it is not and says so.
writes()
{
	nth --calls io --moves -- cbw-load one $dut --offset 512K --len 40K --gen 91 || return
	nth --calls io --moves -- cbw-load one $dut --offset 1M --len 4K --gen 92 || return
	nth --calls io --moves -- cbw-load one $dut --offset 2M --len 512 --gen 93 || return
	nth --calls io --moves -- cbw-load one $dut --offset 3M --len 256K --op discard || return
	at $dut 512K "*gen=91 *" && at $dut 1M "*gen=92 *" && at $dut 2M "*gen=93 *"
}
t "writes and discards" writes

reads()
{
	local at

	# from memory or the store, from the origin, some of both
	for at in 512K 1540K 508K 768K; do
		nth --calls io --moves -- cbw-check read $M/shot $at 64K || return
	done
}
t "snapshot reads" reads

right()
{
	local at

	snap_is shot state active || { dmsetup status shot; return 1; }
	for at in 64K 512K 1M 2M 3M; do
		at $M/shot $at "*gen=$BASE_GEN *" || return
	done
}
t "the snapshot is right" right
finish
