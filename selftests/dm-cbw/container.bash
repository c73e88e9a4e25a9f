# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the cases of the tool's containers share. Source it after lib.sh and tool.bash.
# shellcheck disable=SC2034,SC2154

# volume: vol, on $origin, with an identity of its own; new statistics each time
volume()
{
	DM_DEVS+=(vol)
	dmsetup create --noudevsync -u "${1-TEST-volume}" vol \
		--table "0 ${2-$(sectors "$origin")} linear $origin 0"
}

again()
{
	dm_remove vol && volume "$@"
}

# What the kernel says is dirty, a line of "offset length" pairs in order.
dirty_live()
{
	cbw-ioctl extents "/dev/mapper/${2-vol}" "$1" | awk '
		$1 ~ /^[0-9]+$/ {
			if (n && $1 == start + len) { len += $2; next }
			if (n++) printf "%d+%d ", start, len
			start = $1; len = $2
		}
		END { if (n) printf "%d+%d ", start, len }'
}

# The same as stock QEMU has it from the container: over NBD.
dirty_qemu()
{
	local sock=$CBW_TMP/nbd.sock pid rc

	rm -f "$sock"
	qemu-nbd -r -t -k "$sock" -B "$1" --image-opts \
		"driver=qcow2,file.driver=${3-file},file.filename=$2,backing.driver=raw,backing.file.driver=host_device,backing.file.filename=/dev/mapper/vol" &
	pid=$!
	until_true 10 test -S "$sock" || { wait $pid; return 1; }
	nbdinfo --map="qemu:dirty-bitmap:$1" "nbd+unix:///?socket=$sock" | awk '
		$3 == 1 {
			if (n && $1 == start + len) { len += $2; next }
			if (n++) printf "%d+%d ", start, len
			start = $1; len = $2
		}
		END { if (n) printf "%d+%d ", start, len }'
	rc=$?
	kill $pid
	wait $pid 2>/dev/null
	return $rc
}

# another_boot: from now on the machine has another boot id
another_boot()
{
	local id=/proc/sys/kernel/random/boot_id

	umount "$id" 2>/dev/null
	cat /proc/sys/kernel/random/uuid >"$CBW_TMP/boot_id" && mount --bind "$CBW_TMP/boot_id" "$id"
}

same_boot()
{
	umount /proc/sys/kernel/random/boot_id
}

# flags_of NAME FILE: those of the directory, as qemu-img has them
flags_of()
{
	qemu-img info -U --output=json "$2" | tr -d ' \n"' |
		sed "s/.*{flags:\[\([a-z,-]*\)\],name:$1,.*/\1/"
}

qemu_ok()
{
	qemu-img check -U "$1" >"$CBW_TMP/qemu.out" 2>&1 ||
		wrong "qemu-img check: $(<"$CBW_TMP/qemu.out")"
}

# based NAME: it gets a base, and is empty
based()
{
	msg vol bitmap_rotate "$1" >/dev/null && msg vol bitmap_commit "$1"
}

base_of()
{
	bitmap_get "${2-vol}" "$1" base
}
