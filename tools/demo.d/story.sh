#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 560
#
# The main job, in the VM. A volume with a directory tree and a PostgreSQL that works
# is attached, backed up fully and twice incrementally (once the tool is killed half-way),
# and all three points in time are restored and judged.
#	/dev/vda	under the volume
#	/dev/vdb	store: what is overwritten while a backup reads
#	/dev/vdc	to restore to
# shellcheck disable=SC2317 # functions are run by need and check
set -u
export LC_ALL=C DM_DISABLE_UDEV=1
here=$(cd "${0%/*}" && pwd) || exit 1
. "$here/lib.bash"
. "$here/tree.bash"
. "$here/postgres.bash"

PATH=$CBW_BUILD/userspace:$PATH
vol=data
dev=/dev/mapper/$vol
mnt=/mnt/$vol
store=/dev/vdb
target=/dev/vdc
copy=/mnt/restored
chain=$CBW_RESULTS/chain
pgbench_pid=''
declare -a at_least=() at_most=()

clean()
{
	trap - EXIT
	exec >/dev/null 2>&1
	local d name _

	[[ -z $pgbench_pid ]] || kill -KILL "$pgbench_pid"
	[[ ! -f $copy/pg/postmaster.pid ]] || as_pg pg_ctl stop -m immediate -D "$copy/pg"
	[[ ! -f $mnt/pg/postmaster.pid ]] || as_pg pg_ctl stop -m immediate -D "$mnt/pg"
	umount "$copy" "$mnt"
	while read -r name _; do
		dmsetup remove --noudevsync --retry "${name%:}"
	done < <(dmsetup table --target cbw-snapshot)
	for d in "$vol" "$vol-cbw-origin"; do
		dmsetup remove --noudevsync --retry "$d"
	done
	rmmod dm_cbw
}

# ---- the volume ------------------------------------------------------------

volume_make()
{
	dmsetup create --noudevsync "$vol" --table "0 $(blockdev --getsz /dev/vda) linear /dev/vda 0" &&
		mkfs.ext4 -q "$dev" && mkdir -p "$mnt" "$copy" && mount "$dev" "$mnt"
}

is_attached()
{
	[[ $(dmsetup table "$vol") == "0 "*" cbw "* ]]
}

bitmap_of()
{
	sed -n 's/.*"bitmap": *"\([^"]*\)".*/\1/p' "$chain/$vol/manifest.json"
}

# bitmap_get dirty|flags|base: of the chain's bitmap
bitmap_get()
{
	local f i name

	name=$(bitmap_of)
	read -r -a f < <(dmsetup status "$vol")
	for ((i = 5; i + 4 < ${#f[@]}; i += 5)); do
		[[ ${f[i]} == "$name" ]] || continue
		case $1 in
		dirty)	echo "${f[i + 2]}" ;;
		flags)	echo "${f[i + 3]}" ;;
		base)	echo "${f[i + 4]}" ;;
		esac
		return
	done
	return 1
}

# ---- a backup ---------------------------------------------------------------

# The cuts of all snapshots that there are; one of a run that was killed may be left.
snapshot_cuts()
{
	dmsetup status --target cbw-snapshot | cut -d' ' -f7
}

# The fields of the status of this backup's snapshot, if its cut was made.
snapshot_status()
{
	while read -r -a snap; do
		[[ ${snap[4]-} != active && ${snap[4]-} != drained ]] ||
			[[ ${snap[6]} == - || " $stale " == *" ${snap[6]} "* ]] || return 0
	done < <(dmsetup status --target cbw-snapshot)
	return 1
}

backup_start()
{
	stale=$(snapshot_cuts | tr '\n' ' ')
	backup_log=$CBW_TMP/backup.log
	backup_began=$(now_ms)
	cbw backup "$vol" --to "$chain" --store "$store" "$@" >"$backup_log" 2>&1 &
	backup_pid=$!
}

backup_runs()
{
	kill -0 "$backup_pid" 2>/dev/null
}

# Until the cut is made; everything written after it must not be in the backup.
backup_cut()
{
	until snapshot_status; do
		backup_runs || return
		sleep 0.1
	done
}

# Follows the snapshot as long as there is one: what its last status was.
backup_watch()
{
	while snapshot_status; do
		echo "${snap[12]} ${snap[14]}" >"$CBW_TMP/watched"
		sleep 0.5
	done
}

# Its exit status.
backup_wait()
{
	local rc

	wait "$backup_pid"
	rc=$?
	backup_took=$(($(now_ms) - backup_began))
	wait "$watch_pid"
	read -r copied hold <"$CBW_TMP/watched"
	cat "$backup_log"
	return "$rc"
}

# What this point in time has to look like.
record()
{
	sync -f "$mnt"
	tree_manifest "$mnt/tree" >"$CBW_RESULTS/manifest-$1" || return
	at_least[$1]=$(pg_count)
	pg_load_sane
}

backup_ended()
{
	local left

	left=$(dmsetup table --target cbw-snapshot)
	[[ -z $left || $left == "No devices found" ]] &&
		[[ -f $chain/$vol/$(printf %06d "$1")-$2.qcow2 ]]
}

# backup NUMBER full|inc OPTION...: with pgbench at work, and a round of changes to
# the tree behind the cut
backup()
{
	local n=$1 kind=$2 lines changes

	shift 2
	need "recording the tree before backup $n" record "$n"
	lines=$(pg_lines)
	backup_start "$@"
	need "the cut of backup $n" backup_cut
	echo 0 0 >"$CBW_TMP/watched"
	backup_watch &
	watch_pid=$!
	tell "the cut is made; the tree goes on changing while the tool reads"
	changes=$(tree_change "$mnt/tree" "1$n" backup_runs)
	need "backup $n" backup_wait
	at_most[n]=$(pg_count)
	tell "$(<"$backup_log")"
	tell "took $(seconds "$backup_took"); meanwhile in the tree: $changes"
	tell "$((copied * 4)) KiB were preserved before they were overwritten; the longest that a write waited for it: $((hold / 1000)) ms"
	tell "pgbench meanwhile: $(pg_rate $((lines + 1))) transactions a second"
	check "backup $n is complete and leaves no snapshot behind" backup_ended "$n" "$kind"
}

# ---- a backup that is killed ---------------------------------------------------

half_way()
{
	local size

	size=$(stat -c %s "$image" 2>/dev/null) || size=0
	((size > dirty / 2)) || ! backup_runs
}

kill_half_way()
{
	image=$chain/$vol/000003-inc.qcow2
	until_true 60 half_way || return
	size=$(stat -c %s "$image") || return
	kill -KILL "$backup_pid" || { cat "$backup_log"; return 1; }
	wait "$backup_pid" 2>/dev/null
	(($? == 137)) || { cat "$backup_log"; return 1; }
}

is_idle()
{
	[[ $(bitmap_get flags) == e ]]
}

# As if that backup had not begun: the chain, the bitmap's base, all that was dirty.
as_if_never_begun()
{
	until_true 10 is_idle || { echo "the bitmap is frozen: $(dmsetup status "$vol")"; return 1; }
	cmp "$CBW_TMP/chain.json" "$chain/$vol/manifest.json" || return
	echo "base $(bitmap_get base), was $base; dirty $(bitmap_get dirty), was $dirty"
	[[ $(bitmap_get base) == "$base" ]] && (($(bitmap_get dirty) >= dirty))
}

interrupted()
{
	cp "$chain/$vol/manifest.json" "$CBW_TMP/chain.json" || return
	base=$(bitmap_get base) && dirty=$(bitmap_get dirty) || return
	backup_start --incremental --rate 4M
	kill_half_way
}

# ---- restoring -------------------------------------------------------------------

replayed()
{
	dmesg -c >/dev/null
	mount "$target" "$copy" || return
	dmesg | grep 'EXT4-fs.*recovery complete' || { dmesg; return 1; }
	umount "$copy" && e2fsck -fn "$target"
}

same_tree()
{
	tree_manifest "$copy/tree" >"$CBW_TMP/manifest" || return
	diff "$CBW_RESULTS/manifest-$1" "$CBW_TMP/manifest"
}

pg_recovers()
{
	pg_start "$copy/pg" "$CBW_TMP/pg.log" && cat "$CBW_TMP/pg.log" &&
		grep -q 'automatic recovery in progress' "$CBW_TMP/pg.log"
}

# No transaction that was acknowledged before the cut is missing, none from after it is there.
at_that_time()
{
	echo "$pg_transactions transactions, expected ${at_least[$1]} to ${at_most[$1]}"
	((pg_transactions >= at_least[$1] && pg_transactions <= at_most[$1]))
}

pg_verifies()
{
	pg_stop "$copy/pg" && as_pg pg_checksums --check -D "$copy/pg"
}

restored()
{
	local n=$1

	need "restoring point in time $n" cbw restore "$chain/$vol" --to "$target" --until "$n"
	tell "restored to $target in $(seconds "$took")"
	check "the file system: journal replayed, e2fsck -fn finds nothing" replayed || return
	need "mounting the restored volume" mount "$target" "$copy"
	check "the tree: $(grep -c '^[0-9a-f]\{64\} ' "$CBW_RESULTS/manifest-$n") files, every checksum, mode, owner and link as recorded" \
		same_tree "$n"
	if check "PostgreSQL recovers" pg_recovers; then
		check "the balances of all accounts, tellers and branches agree with their history" pg_consistent
		check "it has all $pg_transactions transactions of that moment (at least ${at_least[n]}, at most ${at_most[n]})" \
			at_that_time "$n"
		check "pg_checksums verifies every page" pg_verifies
	fi
	need "unmounting the restored volume" umount "$copy"
}

# ---- the story ---------------------------------------------------------------------

ktap_header
trap clean EXIT
[[ -n $CBW_MODULE ]] || give_up "dm-cbw.ko is not built"

chapter "1. A volume in use: ext4, a directory tree, PostgreSQL at work"
tell "kernel $(uname -r), $(nproc) CPUs, emulated: times are some ten times those of a real machine"
need "making the volume" volume_make
mkdir "$mnt/tree"
need "unpacking the tree" tar -C "$mnt/tree" --no-same-owner -xf /run/cbw/tree.tar
tell "$dev: a plain dm-linear volume of $(mib "$(blockdev --getsize64 "$dev")"), ext4; a tree of $(find "$mnt/tree" -type f | wc -l) files, $(du -sm "$mnt/tree" | cut -f1) MiB"
need "initdb" pg_init "$mnt/pg"
need "starting PostgreSQL" pg_start "$mnt/pg" "$mnt/pg.log"
need "filling the data base" pg_fill
need "starting pgbench" pg_load_start
tell "PostgreSQL $(as_pg postgres -V | grep -o '[0-9.]*' | head -n 1) as user $pg_user, data checksums on; pgbench runs from now on: $(pg_rate 1) transactions a second"

chapter "2. cbw attach $vol: under the mounted file system, while PostgreSQL writes"
need "loading the module" insmod "$CBW_MODULE"
need "attaching" cbw attach "$vol"
tell "attached in $(seconds "$took")"
check "the target is in the live table" is_attached
sleep 2
check "pgbench has not noticed" pg_load_sane

chapter "3. The full backup"
backup 1 full --full --rate 64M

chapter "4. More changes, then an increment"
tell "the tree: $(tree_change "$mnt/tree" 1)"
sleep 3
tell "changed since the last backup: $(mib "$(bitmap_get dirty)")"
backup 2 inc --incremental --rate 8M

chapter "5. The next increment, killed half-way with SIGKILL"
tell "the tree: $(tree_change "$mnt/tree" 2)"
sleep 3
need "an increment that is interrupted" interrupted
tell "killed when $(mib "$size") of about $(mib "$dirty") were in its image"
check "chain and bitmap are as if it had not begun" as_if_never_begun

chapter "6. The same increment again, after more changes"
tell "the tree: $(tree_change "$mnt/tree" 3)"
tell "changed since the last complete backup: $(mib "$(bitmap_get dirty)")"
backup 3 inc --incremental --rate 8M
run cbw chain list "$chain" && quote <"$log"
check "cbw verify: every image is as it was written" cbw verify "$chain"

chapter "7. cbw detach $vol: live as well"
need "detaching" cbw detach "$vol"
tell "detached in $(seconds "$took")"
check "the table is the plain one again" eval '! is_attached'
check "not one of $(pg_count) transactions failed in all that time" pg_load_sane
pg_load_stop
need "stopping PostgreSQL" pg_stop "$mnt/pg"
need "unmounting" umount "$mnt"

for n in 1 2 3; do
	chapter "$((7 + n)). Back to point in time $n"
	restored "$n"
done

clean_up()
{
	dmsetup remove --noudevsync --retry "$vol" && rmmod dm_cbw
}
printf '\n' >&3
check "all devices are gone and the module unloads" clean_up
trap - EXIT
ktap_done
