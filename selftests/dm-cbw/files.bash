# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# File systems by their files: mounted.sh, and tools/vm/guest/chain-disk in another VM.

# list_files DIR: names, kinds, checksums of all that is in it
list_files()
(
	cd "$1" || exit
	find . -name lost+found -prune -o -printf '%y %m %p %l\n' | LC_ALL=C sort &&
		find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
)

# same_files DIR LIST
same_files()
{
	list_files "$1" | diff "$2" -
}

# fsck_mount DEVICE DIR: its journal is replayed, then it has to be sound, and is mounted
fsck_mount()
{
	mount -t ext4 "$1" "$2" && umount "$2" && e2fsck -fn "$1" && mount -t ext4 -o ro "$1" "$2"
}
