#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 120
#
# Persistent bitmaps where two things meet: several actions of one transaction, an attach and a
# removal, a merge and a removal, a container whose queue is full.
# shellcheck disable=SC2317,SC2154,SC2086,SC2119
. "${0%/*}/lib.sh"
. "$here/box.bash"
. "$here/box-fresh.bash"

begin debug

# Attached and taken away again before anything could be written.
never_live()
{
	fresh && cbw-box detach $D && dm_remove dev && attach_only && cbw-box attach $D "$box" || return
	expect "base after the attach" "$(box_base $box a)" "$CUT" || return
	# so that somebody who looks knows that nothing can have been recorded
	[[ $(cbw-box state "$box") == *" attaching "* ]] || wrong "$(cbw-box state $box)" || return
	# another table of the same, too
	dm_reload dev "0 131072 cbw $origin 2 container $box" && dm_remove dev || return
	cbw-box state "$box" | grep -q clean && expect "base after that" "$(box_base $box a)" "$CUT" &&
		expect dirty "$(box_dirty $box a)" "3145728 4096" || return
	attach_only && cbw-box attach $D "$box" && dm_resume dev &&
		[[ $(cbw-box state "$box") != *" attaching "* ]] && cbw-box detach $D && dm_remove dev
}

# renamed ACTION...: what has the base on disk has all that is written, and all it had
renamed()
{
	local dirty base

	fresh && hook arm cp-pages || return
	bg txn cbw-ioctl transaction "$@"
	hook_wait cp-pages && one 20971520 || return
	base=$(box_base $box a) dirty=" $(box_dirty $box a) "
	hook release cp-pages
	bg_wait txn 10 || return
	[[ $base == "$CUT" ]] || return 0
	[[ $dirty == *" 3145728 "* ]] || wrong "it forgot what it had: $dirty" || return
	[[ $dirty == *" 20971520 "* || $dirty == *" 20971520 "* ]] ||
		[[ $(bitmap_get dev z flags) == *e* ]] || wrong "a write went by"
}

# Names that do not fit into the state are refused, as they are for new bitmaps.
long_names()
{
	local i long

	fresh || return
	long=$(printf 'n%.0s' {1..1000})
	for ((i = 0; i < 40; i++)); do
		msg dev bitmap_add b$i || return
		cbw-ioctl transaction rename:$D:b$i:$long$i >"$CBW_TMP/rename" 2>&1 || break
	done
	((i > 20 && i < 40)) && grep -q ENOSPC "$CBW_TMP/rename" &&
		refused ENOSPC cbw-ioctl transaction "add:$D:$long" || return
	bitmap_is dev a flags ep && box_sync dev
}

# A container that has its queue full of somebody else's I/O: the timeout counts.
full_queue()
{
	local i pids=() start ms

	nullb slow 16 512 completion_nsec=300000000 hw_queue_depth=1 || return
	echo none >"/sys/block/${slow##*/}/queue/scheduler"
	dm_remove dev && boxed dev "$origin" "$slow" --region 1048576 --timeout 1500 &&
		msg dev bitmap_add a || return
	for ((i = 0; i < 24; i++)); do
		dd if=/dev/zero of="$slow" bs=4k count=1 seek=$((3000 + i * 3)) oflag=direct \
			conv=notrunc status=none &
		pids+=($!)
	done
	nap 0.3
	start=$(now_ms)
	one 20971520 || return
	ms=$(($(now_ms) - start))
	wait "${pids[@]}"
	echo "took $ms ms"
	((ms <= 1500 + 500 * ${CBW_BUDGET_SCALE:-1})) && dm_remove dev
}

# Neither a resume nor a cut writes what is there already.
nothing_twice()
{
	local pages

	blkdiscard -zf "$box" 2>/dev/null && nullb big $((1 << 20)) 512 memory_backed=0 && boxed dev "$big" "$box" --region 16777216 &&
		msg dev bitmap_add a && box_sync dev || return
	pages=$(box_get dev pages)
	((pages == 512)) || wrong "$pages pages of 512" || return
	dm_suspend dev && dm_resume dev && msg dev bitmap_rotate a >/dev/null && one 0 &&
		msg dev bitmap_commit a && box_sync dev || return
	pages=$(($(box_get dev pages) - pages))
	((pages <= 2)) || wrong "$pages pages for a cut and a write"
	dm_remove dev
}

# The table goes while its container is attached.
attach_and_remove()
{
	nullb box 8 512 && fresh && cbw-box detach $D && dm_remove dev && attach_only &&
		hook arm cp-retire || return
	bg attach cbw-box attach $D "$box"
	hook_wait cp-retire || return
	bg remove dmsetup remove --noudevsync dev
	not_yet 300 bg_ended remove
	hook release cp-retire
	bg_wait attach 10
	bg_wait remove 10 || return
	dm_forget dev
	! dmsetup info dev >/dev/null 2>&1 || wrong "it is still there"
}

# Nobody waits for a merge any more, and its device is removed.
merge_and_remove()
{
	nullb large $((1 << 20)) 512 memory_backed=0 && nullb box2 64 512 || return
	boxed dev "$large" "$box2" --region 65536 && msg dev bitmap_add t granularity 65536 &&
		msg dev bitmap_add s transient granularity 65536 || return
	head -c 1048576 /dev/zero | tr '\0' '\125' >"$CBW_TMP/pattern"
	cbw-ioctl load $D s 65536 "$CBW_TMP/pattern" || return
	bg merge cbw-ioctl transaction merge:$D:t:s
	nap 0.3
	kill -KILL "${BG[merge]}"
	unset "BG[merge]"
	dm_remove dev
}

t "set up" setup
keep
t "attached, and never live" never_live
t "renamed and disabled at once" renamed rename:$D:a:z disable:$D:z
t "renamed and cleared at once" renamed rename:$D:a:z clear:$D:z
t "cleared and renamed at once" renamed clear:$D:a rename:$D:a:z
t "renamed twice and removed at once" renamed rename:$D:a:y rename:$D:y:z remove:$D:z
t "long names" long_names
t "a container with a full queue" full_queue
t "nothing is written twice" nothing_twice
t "an attach meets a removal" attach_and_remove
t "a merge meets a removal" merge_and_remove
finish
