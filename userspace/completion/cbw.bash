# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for cbw

_cbw_devices()
{
	# names in /dev/mapper, without dmsetup, which needs root
	local d

	for d in /dev/mapper/*; do
		[[ $d == */control || ! -e $d ]] || printf '%s\n' "${d##*/}"
	done
}

_cbw()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} verb=${COMP_WORDS[2]-} words=''

	COMPREPLY=()
	case $prev in
	--to|--store-dir|--resume|--output|--socket)
		# of backup; that of export has no value
		if [[ $prev != --resume || $command != export ]]; then
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi ;;
	--store|--against|--container)
		mapfile -t COMPREPLY < <(compgen -f -- "${cur:-/dev/}")
		[[ $prev != --store || auto != "$cur"* ]] || COMPREPLY+=(auto)
		return ;;
	--granularity|--chunk|--cluster|--threads|--rate|--store-size|--store-max|--until|--bitmap|--region|--size|--timeout|--keep|--keep-*|--id|\
	--name|--block-size)
		return ;;
	--format)
		[[ $command == copy ]] && words='raw qcow2' ||
			words='text json borg benji csi blocklist qcow2'
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
		return ;;
	--source-format)
		mapfile -t COMPREPLY < <(compgen -W 'raw qcow2' -- "$cur")
		return ;;
	--ioprio)
		mapfile -t COMPREPLY < <(compgen -W 'idle low normal' -- "$cur")
		return ;;
	--commit)
		# of export; that of snapshot remove has no value
		if [[ $command == export ]]; then
			mapfile -t COMPREPLY < <(compgen -W 'never on-success' -- "$cur")
			return
		fi ;;
	--policy)
		mapfile -t COMPREPLY < <(compgen -W 'continue hold' -- "$cur")
		return ;;
	--compress)
		mapfile -t COMPREPLY < <(compgen -W 'none zstd zstd:' -- "$cur")
		return ;;
	esac
	if ((COMP_CWORD == 1)); then
		words='attach detach create remove status list bitmap snapshot
			backup copy restore verify chain info check map export monitor --help --version'
	else
		case $command in
		attach)
			words="$(_cbw_devices) --container --region --size --policy --timeout
				--force --force-full --elsewhere --help" ;;
		remove)		words="$(_cbw_devices) --help" ;;
		detach)		words="$(_cbw_devices) --force --help" ;;
		create)
			words='--container --region --size --policy --timeout --force
				--force-full --elsewhere --help' ;;
		map)
			words="$(_cbw_devices) --bitmap --format --id --output --block-size --help" ;;
		export)
			words="$(_cbw_devices) --socket --bitmap --name --release --resume
				--persistent --once --id --store --only-changed --commit --chunk --freeze --force
				--elsewhere --json --help" ;;
		check)		words='-r --repair --remove-inconsistent --help' ;;
		status|list)	words="$(_cbw_devices) --json --help" ;;
		backup)
			words="$(_cbw_devices) --to --store --auto --full --incremental
				--differential --store-dir --store-size --store-max --resumable
				--resume --bitmap --format --backing --chunk --compress --rate --freeze
				--force --elsewhere --json --help" ;;
		copy)
			words='--map --format --source-format --compress --cluster --backing --only-changed
				--salvage --rate --threads --ioprio --force --json --help' ;;
		restore)	words='--to --until --only-changed --salvage --rate --force --json --help' ;;
		verify)		words='--against --until --json --help' ;;
		info|monitor)	words='--json --help' ;;
		bitmap)
			if ((COMP_CWORD == 2)); then
				words='add remove clear enable disable merge copy rename list'
			else
				words=$(_cbw_devices)
				[[ $verb != add ]] || words+=' --granularity --disabled --transient'
				[[ $verb != list ]] || words+=' --json'
			fi ;;
		snapshot)
			if ((COMP_CWORD == 2)); then
				words='create remove'
			else
				words=$(_cbw_devices)
				[[ $verb != create ]] || words+=' --store --bitmap --chunk --force --elsewhere --json'
				[[ $verb != remove ]] || words+=' --commit'
			fi ;;
		chain)
			if ((COMP_CWORD == 2)); then
				words='list merge prune'
			else
				words='--json --help'
				[[ $verb != merge ]] || words+=' --punch'
				[[ $verb != prune ]] || words+=' --keep --keep-daily --keep-weekly --keep-monthly
					--dry-run --punch'
			fi ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
	# directories where they are arguments
	case $command in
	restore|verify|chain|map|export)
		[[ $cur == -* ]] || mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY \
			< <(compgen -d -- "$cur") ;;
	create|check|info|copy)
		[[ $cur == -* ]] || mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY \
			< <(compgen -f -- "$cur") ;;
	esac
}

complete -F _cbw cbw
