# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A real directory tree, what is done to it, and how it is told from others.
# shellcheck disable=SC2154

# tree_pack FILE: files of this machine and of this project, about 30 MB. On the host: in
# the VM, where every file comes over 9p, it would take minutes.
tree_pack()
{
	local d dirs=()

	for d in usr/include/linux usr/share/perl; do
		[[ ! -d /$d ]] || dirs+=("$d")
	done
	tar -cf "$1" -C / "${dirs[@]}" -C "$CBW_TOP" --exclude=./build --exclude=./.git .
}

# tree_change DIR ROUND [COMMAND...]: adds, deletes, overwrites in place, appends, renames; as
# long as COMMAND is true
tree_change()
{
	local dir=$1 round=$2 i n=0 deleted=0 files gone=()

	shift 2
	mapfile -t files < <(find "$dir" -type f | LC_ALL=C sort)
	mkdir "$dir/round$round" && cp -a "$dir/usr/include/linux/netfilter" "$dir/round$round/" &&
		head -c 2000000 /dev/urandom >"$dir/round$round/random" || return
	for ((i = round; i < ${#files[@]}; i += 8)); do
		case $((n++ % 4)) in
		0)	gone+=("${files[i]}") ;;
		1)	printf 'round %d of changes' "$round" 1<>"${files[i]}" || return ;;
		2)	printf 'appended in round %d\n%4096s\n' "$round" x >>"${files[i]}" || return ;;
		3)	printf '%s\n' "${files[@]:i:40}" >"${files[i]}" || return ;;
		esac
		((n % 32 == 0)) || continue
		rm -f "${gone[@]}" || return
		deleted=$((deleted + ${#gone[@]}))
		gone=()
		sync -f "$dir"
		(($# == 0)) || "$@" || break
	done
	mv "$dir/round$round" "$dir/round-$round" || return
	((${#gone[@]} == 0)) || rm -f "${gone[@]}" || return
	sync -f "$dir"
	echo "$((deleted + ${#gone[@]})) files deleted, $((n - deleted - ${#gone[@]})) changed, 93 added"
}

# tree_manifest DIR: every file's sha256, and all that ls knows of everything
tree_manifest()
{
	(
		cd "$1" || exit
		find . -printf '%p %y %m %U:%G %l\n' | LC_ALL=C sort
		find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum
	)
}
