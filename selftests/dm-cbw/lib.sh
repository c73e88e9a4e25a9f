# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the cases share. Source it first:
#	. "${0%/*}/lib.sh"
#	begin [debug]			header, module, clean-up on exit
#	t NAME COMMAND...		a test; COMMAND runs in this shell
#	finish				all gone? module unloads? closes the report
#
# Devices made through it are removed, newest first, whatever happens. All
# sizes of tables are in sectors, as dmsetup has them.
set -u
shopt -s extglob
export LC_ALL=C DM_DISABLE_UDEV=1
here=$(cd "${0%/*}" && pwd) || exit 1
CBW_TOP=${CBW_TOP:-$(cd "$here/../.." && pwd)}
# shellcheck source=selftests/lib/ktap.sh
. "$CBW_TOP/selftests/lib/ktap.sh"
# shellcheck source=selftests/dm-cbw/hooks.bash
. "$CBW_TOP/selftests/dm-cbw/hooks.bash"
for dir in "${CBW_BUILD:-$CBW_TOP/build}/selftests/dm-cbw" "$here"; do
	[[ ! -x $dir/cbw-load ]] || PATH=$dir:$PATH
done
CBW_TMP=${CBW_TMP:-$(mktemp -d)}
CBW_MODULE=${CBW_MODULE-}
CBW_MODULE_DEBUG=${CBW_MODULE_DEBUG-}

DM_DEVS=()		# names, oldest first
DM_KEEP=9999		# see keep
NULLBS=()
LOOPS=()
T_NAME=			# the test that runs
declare -A BG=()	# label -> pid
GEN=1			# of the last fill or load

# ---- time without forks ------------------------------------------------------

mkfifo "$CBW_TMP/nap" && exec {NAP}<>"$CBW_TMP/nap" || exit 1

nap()
{
	read -r -t "$1" -u "$NAP"
	return 0
}

now_ms()
{
	local us=${EPOCHREALTIME/./}

	echo $((us / 1000))
}

# within MS COMMAND...: tries until the command succeeds.
within()
{
	local end=$(($(now_ms) + $1))

	shift
	while ! "$@"; do
		(($(now_ms) < end)) || return 1
		nap 0.02
	done
}

# until_true SECONDS COMMAND...: the same, with the patience that the machine needs, as for
# budgets: a debug kernel or a busy machine has more of it. Not so much that the module's own
# bound of 30 s comes first, or a hook's.
until_true()
{
	local ms=${1/./} scale=${CBW_BUDGET_SCALE:-1}

	# one digit behind the point at most
	[[ $1 == *.* ]] && ms=$((ms * 100)) || ms=$((ms * 1000))
	shift
	within $((ms * (scale < 4 ? scale : 4))) "$@"
}

# not_yet MS COMMAND...: what must not happen does not: watched for so long, a little longer
# on a slow machine, on which it would also take longer; hooks hold for 20 s.
not_yet()
{
	local ms=$1 scale=${CBW_BUDGET_SCALE:-1}

	shift
	! within $((ms * (scale < 5 ? scale : 5))) "$@"
}

# ---- tests ---------------------------------------------------------------------

# Within a test: says what is wrong and is false.
wrong()
{
	echo "$*"
	return 1
}

t()
{
	local name=$1 start

	shift
	start=$(now_ms)
	T_NAME=$name
	if "$@" >"$CBW_TMP/t.out" 2>&1; then
		ktap_pass "$name"
	else
		ktap_diag "$(tail -c 6000 "$CBW_TMP/t.out")"
		ktap_fail "$name"
		tidy >/dev/null 2>&1
	fi
	T_NAME=
	[[ -z ${CBW_TIMES-} ]] || echo "# $(($(now_ms) - start)) ms"
}

# What there is now stays when a test fails; what tests make goes.
keep()
{
	DM_KEEP=${#DM_DEVS[@]}
}

# What was left suspended: who removes what is above it would wait for ever.
resume_all()
{
	local d

	for d in "${DM_DEVS[@]:$1}"; do
		dmsetup resume --noudevsync "$d"
	done >/dev/null 2>&1
}

tidy()
{
	local i

	hooks_off
	resume_all $DM_KEEP
	for i in "${!BG[@]}"; do
		kill -KILL "${BG[$i]}"
		unset "BG[$i]"
	done
	for ((i = ${#DM_DEVS[@]} - 1; i >= DM_KEEP; i--)); do
		until_true 5 dm_remove "${DM_DEVS[i]}"
	done
}

# refused ERRNO[|ERRNO...] COMMAND...: has to fail with one of these
refused()
{
	local want=$1 out e text

	shift
	if out=$("$@" 2>&1); then
		wrong "'$*' was accepted: $out"
		return
	fi
	for e in ${want//|/ }; do
		case $e in
		EINVAL)	text='Invalid argument' ;;
		ENOENT)	text='No such file or directory' ;;
		EEXIST)	text='File exists' ;;
		EBUSY)	text='Device or resource busy' ;;
		ENODEV)	text='No such device' ;;
		ENOSPC)	text='No space left on device' ;;
		ENOMEM)	text='Cannot allocate memory' ;;
		ENOTBLK) text='Block device required' ;;
		EOPNOTSUPP) text='Operation not supported' ;;
		ENAMETOOLONG) text='File name too long' ;;
		*)	text='' ;;
		esac
		# programs that use strerror, and those that say the name
		[[ -n $text && $out == *"$text"* || $out == *"$e"* ]] && return 0
	done
	wrong "'$*' says '$out' where $want was expected"
}

# What must not change when something is refused.
state_of_all()
{
	cbw-dm table
	cbw-dm status
}

# unchanged COMMAND...: runs it, true if it is and nothing has changed
unchanged()
{
	local before

	before=$(state_of_all)
	"$@" || return
	[[ $(state_of_all) == "$before" ]] ||
		wrong "'$*' has changed: $before to: $(state_of_all)"
}

need_debug()
{
	[[ -n $CBW_MODULE_DEBUG ]] && return
	ktap_skip "delay hooks" "there is no debug build of the module"
	finish
}

begin()
{
	local module=$CBW_MODULE out

	[[ ${1-} != debug ]] || module=$CBW_MODULE_DEBUG
	ktap_header
	if [[ -z $module ]]; then
		ktap_skip "module" "no such build of dm-cbw.ko"
		ktap_done
	fi
	if ! type -P cbw-load >/dev/null; then
		ktap_fail "cbw-load and the like are not built (make selftests)"
		ktap_done
	fi
	modprobe -a dm_mod loop
	# the module's checksums; built in on newer kernels
	modprobe libcrc32c 2>/dev/null
	modprobe null_blk nr_devices=0
	trap on_exit EXIT
	if ! out=$(insmod "$module" 2>&1); then
		ktap_diag "$out"
		ktap_fail "insmod $module"
		ktap_done
	fi
	[[ ${1-} != debug ]] || [[ -e $HOOKS ]] || {
		ktap_fail "the debug build has no $HOOKS"
		ktap_done
	}
}

seed()
{
	SEED=${1:-$((RANDOM * 32768 + RANDOM))}
	echo "# seed $SEED"
}

# ---- devices -------------------------------------------------------------------

# nullb VAR MIB BLOCKSIZE [ATTRIBUTE=VALUE...]: a memory-backed null_blk
nullb()
{
	local -n nullb_ref=$1
	local name=cbwt${#NULLBS[@]} dir a

	dir=/sys/kernel/config/nullb/$name
	mkdir "$dir" || return
	NULLBS+=("$name")
	for a in "size=$2" "blocksize=$3" memory_backed=1 discard=1 irqmode=2 \
		 completion_nsec=20000 hw_queue_depth=128 "${@:4}" power=1; do
		echo "${a#*=}" >"$dir/${a%%=*}" || { echo "null_blk: $a refused"; return 1; }
	done
	# older kernels name it by its index
	if [[ -e /sys/block/$name ]]; then
		nullb_ref=/dev/$name
	else
		nullb_ref=/dev/nullb$(<"$dir/index")
	fi
	until_true 5 test -b "$nullb_ref"
}

# ramdisks NUMBER MIB: /dev/ram0 and on. They do all in the context of who submits,
# where null_blk wants a worker on a CPU that a test may have stopped.
ramdisks()
{
	modprobe brd rd_nr="$1" rd_size=$(($2 * 1024)) max_part=0 &&
		until_true 5 test -b /dev/ram$(($1 - 1))
}

# loopdev VAR MIB BLOCKSIZE: on tmpfs; has discard and write-zeroes
loopdev()
{
	local -n loop_ref=$1
	local file=$CBW_TMP/loop${#LOOPS[@]}

	truncate -s "$2M" "$file" &&
		loop_ref=$(losetup --show -f -b "$3" "$file") || return
	LOOPS+=("$loop_ref")
}

sectors()
{
	local dev=/sys/class/block

	[[ $1 != /dev/mapper/* ]] || { cbw-dm table "${1##*/}" | tail -n 1 | cut -d' ' -f2; return; }
	echo $(($(<"$dev/${1##*/}/size")))
}

# dm_create NAME TABLE
dm_create()
{
	# pushed first: a device that cannot be loaded may be there nevertheless
	DM_DEVS+=("$1")
	dmsetup create --noudevsync "$1" --table "$2" && return
	unset 'DM_DEVS[-1]'
	return 1
}

dm_forget()
{
	local i

	for i in "${!DM_DEVS[@]}"; do
		[[ ${DM_DEVS[i]} != "$1" ]] || unset "DM_DEVS[$i]"
	done
	DM_DEVS=("${DM_DEVS[@]}")
}

dm_remove()
{
	dmsetup remove --noudevsync "$@" || return
	dm_forget "${!#}"
}

dm_reload()
{
	dmsetup reload --noudevsync "$1" --table "$2"
}

dm_suspend()
{
	dmsetup suspend --noudevsync "$@"
}

dm_resume()
{
	dmsetup resume --noudevsync "$1"
}

msg()
{
	local dev=$1

	shift
	dmsetup message "$dev" 0 "$@"
}

# cbw NAME ORIGIN [SECTORS [FEATURES...]]
cbw()
{
	dm_create "$1" "0 ${3:-$(sectors "$2")} cbw $2${4:+ ${*:4}}"
}

# snap NAME SOURCE STORE CHUNK [FEATURES...]   (with their number first)
snap()
{
	local f

	read -r -a f < <(cbw-dm table "$2")
	dm_create "$1" "0 ${f[1]-0} cbw-snapshot /dev/mapper/$2 $3 $4${5:+ ${*:5}}"
}

# snap_load NAME SOURCE STORE CHUNK [FEATURES...]: all but the cut, which is the
# first resume
snap_load()
{
	local f

	read -r -a f < <(cbw-dm table "$2")
	DM_DEVS+=("$1")
	dmsetup create --noudevsync "$1" --notable &&
		dm_reload "$1" "0 ${f[1]-0} cbw-snapshot /dev/mapper/$2 $3 $4${5:+ ${*:5}}"
}

# ---- status ----------------------------------------------------------------------

declare -A SNAP_FIELD=([state]=0 [reason]=1 [cut]=2 [chunk]=3 [used]=4
	[capacity]=5 [needed]=6 [released]=7 [copied]=8 [held]=9 [maxhold]=10)

# snap_get NAME FIELD
snap_get()
{
	local f

	read -r -a f < <(cbw-dm status "$1")
	echo "${f[3 + ${SNAP_FIELD[$2]}]-?}"
}

# snap_is NAME FIELD VALUE
snap_is()
{
	# shellcheck disable=SC2053 # a pattern
	[[ $(snap_get "$1" "$2") == $3 ]]
}

# snap_failed NAME REASON: within 5 s
snap_failed()
{
	until_true 5 snap_is "$1" state failed ||
		{ wrong "$1 did not fail: $(dmsetup status "$1")"; return; }
	snap_is "$1" reason "$2" ||
		wrong "$1 failed for another reason than $2: $(dmsetup status "$1")"
}

# bitmap_get DEV NAME granularity|dirty|flags|base
bitmap_get()
{
	local f i

	read -r -a f < <(cbw-dm status "$1")
	for ((i = 5; i + 4 < ${#f[@]}; i += 5)); do
		[[ ${f[i]} == "$2" ]] || continue
		case $3 in
		granularity)	echo "${f[i + 1]}" ;;
		dirty)		echo "${f[i + 2]}" ;;
		flags)		echo "${f[i + 3]}" ;;
		base)		echo "${f[i + 4]}" ;;
		esac
		return
	done
	echo none
}

# bitmap_is DEV NAME FIELD VALUE
bitmap_is()
{
	[[ $(bitmap_get "$1" "$2" "$3") == "$4" ]]
}

# expect WHAT GOT WANTED
expect()
{
	[[ $2 == "$3" ]] || wrong "$1 is '$2', expected '$3'"
}

# at DEV BYTES PATTERN: what cbw-check finds there (stamp or error) fits
at()
{
	local got

	got=$(cbw-check at "$1" "$2")
	# shellcheck disable=SC2053 # a pattern
	[[ $got == $3 ]] || wrong "$1 at $2 has '$got', expected '$3'"
}

# ---- in the background --------------------------------------------------------------

# bg LABEL COMMAND...: its output goes to $CBW_TMP/LABEL.out
bg()
{
	local label=$1

	shift
	"$@" >"$CBW_TMP/$label.out" 2>&1 &
	BG[$label]=$!
}

bg_alive()
{
	local stat=

	# an unreaped child is a zombie
	read -r stat 2>/dev/null <"/proc/${BG[$1]-0}/stat"
	[[ -n $stat && $stat != *") Z "* ]]
}

bg_ended()
{
	! bg_alive "$1"
}

# Where everything of this case is in the kernel.
stacks()
{
	local p

	for p in $(<"/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/cgroup.procs"); do
		[[ $p != "$$" ]] || continue
		echo "$(tr '\0' ' ' <"/proc/$p/cmdline"):"
		cat "/proc/$p"/task/*/stack
	done 2>/dev/null
}

# bg_wait LABEL SECONDS: its status; 124 and a line when it does not end
bg_wait()
{
	local rc

	[[ -n ${BG[$1]-} ]] || { wrong "$1 was killed before"; return; }
	if ! until_true "$2" bg_ended "$1"; then
		echo "$1 did not end within $2 s:"
		stacks
		return 124
	fi
	wait "${BG[$1]}"
	rc=$?
	unset "BG[$1]"
	((rc == 0)) || { echo "$1 ended with $rc:"; cat "$CBW_TMP/$1.out"; } 2>/dev/null
	return $rc
}

# fill NAME: a new base, of generation $GEN
fill()
{
	GEN=$((GEN + 1))
	# shellcheck disable=SC2034
	BASE_GEN=$GEN
	cbw-load fill "/dev/mapper/$1" --gen $GEN
}

# load_start LABEL DEV... -- OPTIONS...: cbw-load run, log in $CBW_TMP/LABEL.log
load_start()
{
	local label=$1 devs=()

	shift
	while [[ $1 != -- ]]; do
		devs+=("/dev/mapper/$1")
		shift
	done
	shift
	rm -f "$CBW_TMP/$label.log"
	GEN=$((GEN + 1))
	bg "$label" cbw-load run "${devs[@]}" --log "$CBW_TMP/$label.log" \
		--seed "${SEED:-1}" --gen $GEN "$@"
	until_true 10 test -s "$CBW_TMP/$label.log"
}

# Stops it; what it says is shown. False if a write failed.
load_stop()
{
	kill -TERM "${BG[$1]}"
	bg_wait "$1" 30
	local rc=$?

	cat "$CBW_TMP/$1.out"
	return $rc
}

# ---- sessions of the control device -----------------------------------------------

# session_open; session COMMAND...: its reply, true if ok; session_close
session_open()
{
	coproc SESSION { exec cbw-ioctl - 2>&1; }
	# the coprocess's own are not there in subshells
	exec {SESSION_IN}>&"${SESSION[1]}" {SESSION_OUT}<&"${SESSION[0]}"
	eval "exec ${SESSION[1]}>&- ${SESSION[0]}<&-"
	# shellcheck disable=SC2153
	session_child=$SESSION_PID
}

session_ask()
{
	echo "$*" >&"$SESSION_IN"
}

session_reply()
{
	local line

	while IFS= read -r -t "30" -u "$SESSION_OUT" line; do
		echo "$line"
		case $line in
		ok*)	return 0 ;;
		error*)	return 1 ;;
		esac
	done
	echo "error NOREPLY"
	return 1
}

session()
{
	session_ask "$@"
	session_reply
}

session_close()
{
	exec {SESSION_IN}>&- {SESSION_OUT}<&-
	wait "$session_child" 2>/dev/null
}

session_kill()
{
	kill -KILL "$session_child"
	wait "$session_child" 2>/dev/null
	exec {SESSION_IN}>&- {SESSION_OUT}<&-
}

# ---- the end ------------------------------------------------------------------------

give_back()
{
	local i d rc=0

	hooks_off
	for i in "${!BG[@]}"; do
		kill -KILL "${BG[$i]}" 2>/dev/null
	done
	for i in "${!BG[@]}"; do
		until_true 20 bg_ended "$i" ||
			{ echo "$i cannot be killed"; rc=1; }
		unset "BG[$i]"
	done
	resume_all 0
	for ((i = ${#DM_DEVS[@]} - 1; i >= 0; i--)); do
		d=${DM_DEVS[i]}
		# gone, although who removed it was told an error
		dmsetup info "$d" >/dev/null 2>&1 || continue
		# what was left suspended has to be resumed to be removed
		until_true 5 dmsetup remove --noudevsync "$d" 2>/dev/null ||
			{ dmsetup remove --noudevsync "$d"; echo "$d cannot be removed"; rc=1; }
	done
	DM_DEVS=()
	if [[ -d /sys/module/dm_cbw ]]; then
		until_true 5 rmmod dm_cbw 2>/dev/null || { rmmod dm_cbw; rc=1; }
	fi
	if [[ -d /sys/module/powerlog ]]; then
		until_true 5 rmmod powerlog 2>/dev/null || { rmmod powerlog; rc=1; }
	fi
	for d in "${LOOPS[@]}"; do
		losetup -d "$d" || rc=1
	done
	for d in "${NULLBS[@]}"; do
		echo 0 >"/sys/kernel/config/nullb/$d/power"
		rmdir "/sys/kernel/config/nullb/$d" || rc=1
	done
	[[ ! -d /sys/module/brd ]] || rmmod brd || rc=1
	NULLBS=() LOOPS=()
	return $rc
}

on_exit()
{
	trap - EXIT
	# an error of the shell, such as a variable that is not set, ends it
	if [[ -n $T_NAME ]]; then
		ktap_diag "$(tail -c 6000 "$CBW_TMP/t.out")"
		ktap_fail "$T_NAME"
	fi
	give_back >/dev/null 2>&1
}

finish()
{
	t "all devices are removed and the module unloads" give_back
	trap - EXIT
	ktap_done
}
