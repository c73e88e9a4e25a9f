# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# shellcheck disable=SC2154 # $order is tools/vm/run's
#
# What tools/vm/run makes of a case's output, status and kernel log. A case
# counts each of its KTAP points; one without any counts as one point, by its
# exit status (0 passed, 4 skipped). Whatever else goes wrong with it (budget,
# splat, leftovers, plan not kept) is one failed point more.

# These are tools/vm/run's (and $order).
: "${results=}" "${kver=}" "${tally=}"

skip_allowed()
{
	local name=$1 test=$2 c t k

	while read -r c t k _; do
		[[ -n $c && $c != \#* ]] || continue
		# shellcheck disable=SC2053 # patterns
		[[ $name == $c && $test == $t && $kver == ${k:-*} ]] && return 0
	done <"$CBW_TOP/tools/vm/skips.allowed"
	return 1
}

# The console from the case's beginning on, at most 30 lines from the splat.
console_tail()
{
	local prefix=$1 case_=$2

	tr -d '\r' <"$prefix.console" >"$prefix.tail" 2>/dev/null
	awk -v m="cbw-vm: begin $case_" 'index($0, m) { n = 0; delete l } { l[n++] = $0 }
		END { for (i = 0; i < n; i++) print l[i] }' "$prefix.tail" |
		grep -m 1 -A 30 -E -f "$CBW_TOP/tools/vm/guest/splats" || tail -n 5 "$prefix.tail"
	rm -f "$prefix.tail"
}

console_lines()
{
	console_tail "$@" |
		sed 's/^/console: /'
}

case_output()
{
	awk -v b="# Subtest: $2" -v e="# End: $2" \
		'$0 == b { on = 1; next } $0 == e { on = 0 } on' "$1.ktap"
}

# A case's output without the points that passed, but for the last few lines.
brief()
{
	if [[ -n ${V-} ]]; then
		cat "$1"
		return
	fi
	awk '{ l[NR] = $0 }
	     END {
		for (i = 1; i <= NR; i++)
			if (l[i] !~ /^ok / || i > NR - 5) {
				if (left)
					print "  (" left " passed)"
				left = 0
				print l[i]
			} else {
				left++
			}
	     }' "$1" | tail -n 300
}

# finish_case PREFIX NAME STATUS SECONDS WHYS
finish_case()
{
	local prefix=$1 name=$2 rc=$3 secs=$4 whys=$5 out=$results/$2.out
	local pass=0 fail=0 skip=0 plan='' points text word line

	case_output "$prefix" "$name" | sed 's/^    //' >"$out"
	while IFS= read -r line; do
		case $line in
		'not ok '*)
			fail=$((fail + 1)) ;;
		'ok '*'# SKIP'*|'ok '*'# skip'*)
			text=${line#ok }
			text=${text#[0-9]* }
			text=${text#- }
			text=${text%% # [Ss][Kk][Ii][Pp]*}
			if skip_allowed "$name" "$text"; then
				skip=$((skip + 1))
			else
				fail=$((fail + 1))
				whys+="skipped, and not in tools/vm/skips.allowed: $text"$'\n'
			fi ;;
		'ok '*)	pass=$((pass + 1)) ;;
		1..[0-9]*)
			line=${line#1..}
			plan=$((plan + 10#${line%%[!0-9]*})) ;;
		'Bail out!'*)
			whys+=$line$'\n' ;;
		esac
	done <"$out"
	points=$((pass + fail + skip))
	if ((points == 0)) && [[ -z $whys ]]; then
		case $rc in
		0)	pass=1 ;;
		4)	if skip_allowed "$name" "$name"; then
				skip=1
			else
				whys+="skipped as a whole, and not in tools/vm/skips.allowed: $(tail -n 1 "$out")"$'\n'
			fi ;;
		*)	whys+="exit status $rc"$'\n' ;;
		esac
	elif ((points)) && [[ -z $plan && -z $whys ]]; then
		whys+="gave no plan (1..N)"$'\n'
	elif [[ -n $plan && -z $whys ]] && ((plan != points)); then
		whys+="planned $plan tests, ran $points"$'\n'
	elif ((rc != 0 && fail == 0)) && [[ -z $whys ]] && ! ((rc == 4 && pass == 0)); then
		whys+="exit status $rc, though no test failed"$'\n'
	fi
	# Skips that are not allowed are counted already.
	if grep -qv -e '^skipped, and not' -e '^$' <<<"$whys"; then
		fail=$((fail + 1))
	fi

	echo "$pass $fail $skip" >"$results/tally/$name"
	printf '%s' "$whys" >"$results/$name.why"
	word="ok  "
	((fail)) && word=FAIL
	((fail == 0 && pass == 0)) && word=skip
	{
		flock 9
		printf '%s %-32s %3s s  %s passed%s%s\n' "$word" "$name" "$secs" "$pass" \
			"$( ((fail)) && echo ", $fail failed")" "$( ((skip)) && echo ", $skip skipped")"
		if ((fail)) || [[ -n ${V-} ]]; then
			brief "$out" | sed 's/^/    | /'
			[[ -z $whys ]] || sed '/^$/d; s/^/    ! /' <<<"$whys"
		fi
	} 9>>"$results/.lock"
}

# fail_vm PREFIX WHAT WHY
fail_vm()
{
	local id=${1##*/}

	echo "0 1 0" >"$results/tally/$id-$2"
	{
		flock 9
		echo "FAIL ($id: $2)"
		sed '/^$/d; s/^/    ! /' <<<"$3"
	} 9>>"$results/.lock"
}

# The whole as one KTAP document, the sums, the exit status.
close_report()
{
	local o name p f s n=0 pass=0 fail=0 skip=0

	for o in "${order[@]}"; do
		read -r _ name _ <<<"$o"
		[[ -f $results/tally/$name ]] && continue
		echo "0 1 0" >"$results/tally/$name"
		echo "was not run" >"$results/$name.why"
		echo "FAIL $name: was not run"
	done
	{
		echo "KTAP version 1"
		echo "1..${#order[@]}"
		for o in "${order[@]}"; do
			read -r _ name _ <<<"$o"
			n=$((n + 1))
			read -r p f s <"$results/tally/$name"
			echo "# Subtest: $name"
			sed 's/^/    /' "$results/$name.out" 2>/dev/null
			sed 's/^/# /' "$results/$name.why" 2>/dev/null
			if ((f)); then
				echo "not ok $n $name"
			elif ((p == 0)); then
				echo "ok $n $name # SKIP"
			else
				echo "ok $n $name"
			fi
		done
	} >"$results/results.ktap"
	for o in "$results"/tally/*; do
		read -r p f s <"$o"
		pass=$((pass + p)) fail=$((fail + f)) skip=$((skip + s))
	done
	# A run in which nothing passed proves nothing.
	if ((pass == 0 && fail == 0)); then
		say "nothing passed: not a pass"
		fail=1
	fi
	if [[ -n $tally ]]; then
		echo "$pass $fail $skip" >"$tally"
	else
		echo "$pass passed, $fail failed, $skip skipped"
	fi
	((fail == 0))
	exit
}
