# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A chain whose backups are killed: what is the same for few kills and for many. Source it
# after lib.sh; $kills is how many.
# shellcheck disable=SC2034,SC2154,SC2086,SC2119,SC2120
. "$here/chain.bash"

completed=0

setup()
{
	nullb origin 8 512 && nullb store 16 512 && nullb small 1 512 || return
	dm_create below "0 $(sectors "$origin") linear $origin 0" &&
		chain_begin /dev/mapper/below 150
}

# What as_before compares with; in $base and $dirty of who calls it.
before()
{
	base=$(bitmap_get dut "$bitmap" base)
	dirty=$(bitmap_get dut "$bitmap" dirty)
	cp "$to/dut/manifest.json" "$CBW_TMP/manifest"
}

as_before()
{
	is_idle || return
	expect "base" "$(bitmap_get dut "$bitmap" base)" "$base" || return
	(($(bitmap_get dut "$bitmap" dirty) >= dirty)) ||
		wrong "dirty bytes: $(bitmap_get dut "$bitmap" dirty), before $dirty"
}

# killed SIGNAL MILLISECONDS: a slow increment, killed after so long
killed()
{
	local rc

	before || return
	bg tool "$CBW" backup dut --to "$to" --store "$store" --incremental --rate 4M
	nap "$(($2 / 1000)).$(printf %03d $(($2 % 1000)))"
	kill "-$1" "${BG[tool]}" 2>/dev/null
	wait "${BG[tool]}" 2>/dev/null
	rc=$?
	unset "BG[tool]"
	# it may have been faster, or just before the end
	if ! cmp -s "$to/dut/manifest.json" "$CBW_TMP/manifest"; then
		echo "too late after $2 ms: status $rc"
		late=$((late + 1))
		return 0
	fi
	as_before || return
	# 143: before it could catch signals
	[[ $1 == KILL ]] || ((rc == 143)) || {
		expect "status after SIG$1" $rc 1 && no_snapshots || return
		grep -q "stopped by signal" "$CBW_TMP/tool.out" || return
	}
}

# What is not killed has to be complete, whatever was before.
complete()
{
	increment && no_snapshots || return
	expect "leftovers" "$(find "$to/dut" -name '*.tmp' | wc -l)" 0 || return
	expect "images" "$(find "$to/dut" -name '*.qcow2' | wc -l)" \
		"$(grep -c '"file"' "$to/dut/manifest.json")" || return
	# as an operator would, who has no room for all of them
	((++completed % 8)) || tool 0 chain prune "$to" --keep 3
}

# at_random SIGNAL...: increments killed at random moments, each of the signals in turn
at_random()
{
	local i ms late=0 base dirty

	RANDOM=$SEED
	for ((i = 0; i < kills; i++)); do
		cbw-load run /dev/mapper/dut --log "$CBW_TMP/w.log" --uring 1:4 \
			--bs 4096:65536 --ops 60 --seed $((SEED + i)) --gen $((GEN += 1)) >/dev/null ||
			return
		rm -f "$CBW_TMP/w.log"
		ms=$((20 + RANDOM % 1100))
		killed "${@:i % $# + 1:1}" $ms || wrong "kill $i, after $ms ms" || return
		((i % 2 == 0)) || complete || return
	done
	echo "$late of $kills were too late"
	((late < kills / 2)) || wrong "$late of $kills were too late" || return
	complete
}

# The cut is made.
any_active()
{
	[[ $(dmsetup status --target cbw-snapshot) == *" active "* ]]
}
