#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 30
#
# The judges can fail: cbw-check finds every kind of wrong data in images that
# are spoilt on purpose. On plain files, without the module.
# shellcheck disable=SC2317,SC2154,SC2119,SC2086
. "${0%/*}/lib.sh"

ktap_header
cd "$CBW_TMP" || exit 1
truncate -s 512K base work other
cbw-load fill base --gen 3
cbw-load fill other --gen 3 --index 1

# finds PATTERN COMMAND...: it says no (1), and why
finds()
{
	local want=$1 out rc

	shift
	out=$("$@")
	rc=$?
	((rc == 1)) || { wrong "status $rc: $out"; return; }
	# shellcheck disable=SC2053
	[[ $out == *$want* ]] || wrong "'$out' where '$want' was expected"
}

# poke FROM TO SECTOR [FROM-SECTOR]: one sector
poke()
{
	dd if="$1" of="$2" bs=512 seek="$3" skip="${4-$3}" count=1 conv=notrunc status=none
}

spoilt()
{
	local want=$2

	cp base work
	shift 2
	"$@"
	finds "$want" cbw-check verify work --gen 3 && finds "first difference at sector 77" cbw-check compare base work
}
byte()
{
	printf 'x' | dd of=work bs=1 seek=$((77 * 512 + $1)) conv=notrunc status=none
}
older()
{
	cbw-load fill old --gen 2 && poke old work 77
}
truncate -s 512K old
t "an image that is right" eval 'cp base work && cbw-check verify work --gen 3 && cbw-check compare base work'
for i in 0 8 20 33 42 48 511; do
	t "byte $i of a sector" spoilt x "first wrong sector 77" byte $i
done
t "zeros" spoilt x "has zeros" poke /dev/zero work 77
t "a sector of another place" spoilt x "misplaced" poke base work 77 78
t "a sector of another device" spoilt x "misplaced" poke other work 77
t "an older sector" spoilt x "gen=2 writer=0 seq=0, not" older
t "the last sector" eval 'cp base work && poke base work 1023 0 && finds "first wrong sector 1023" cbw-check verify work --gen 3'
t "sizes that differ" eval 'cp base work && truncate -s -512 work && finds "work has 523776" cbw-check compare base work'

# A load of its own, with a cut in the middle that is right.
cp base work
cbw-load run work --log log --sync 1 --mix 3:1:0 --bs 512:8K --ops 60 --gen 4 --seed 7 >/dev/null
T=$(cbw-check mark log)
t "a load's image that is right" cbw-check order log work --gen 3 --before "$T" --after "$T"

# order_finds WHAT COMMAND...: work spoilt by COMMAND; one of many sectors will do
order_finds()
{
	local want=$1

	cp work copy
	shift
	"$@" && finds "$want" cbw-check order log copy --gen 3 --before "$T" --after "$T"
}

# sector_of PATTERN: of the work image, the first that has it
sector_of()
{
	cbw-check at work 0 1024 | grep -n -m 1 "$1" | cut -d: -f1 | awk '{ print $1 - 1 }'
}
# of the oldest write that still is there
S=$(cbw-check at work 0 1024 | sed -n 's/^sector=\([0-9]*\) .*gen=4 .*seq=/\1 /p' | sort -n -k 2 | head -n 1 | cut -d' ' -f1)
t "a write that is missing" order_finds "sector $S lacks" eval 'poke base copy $S'
t "zeros that nobody wrote" order_finds "zeros that nobody wrote" eval 'poke /dev/zero copy $S && n=$(sector_of "gen=3 ") && poke /dev/zero copy $n'
t "a zeroing that is missing" eval 'Z=$(sector_of zeros) && order_finds "sector $Z lacks op" poke base copy $Z'
t "another base" eval 'B=$(sector_of "gen=3 ") && order_finds "of another base" poke old copy $B'
t "a write that is not in the log" order_finds "no such write in the log" eval 'cbw-load one copy --offset ${S}s --len 512 --gen 5 && cbw-load run copy --log log2 --uring 1:1 --ops 1 --gen 9 >/dev/null'
t "the future" finds "of the future" cbw-check order log work --gen 3 --after 5
# a later write is there, an earlier one to another place is not, no mark needed
t "the order alone" eval 'cp work copy && poke base copy $S && finds "sector $S lacks" cbw-check order log copy --gen 3'
t "a difference outside of the extents" eval 'cp base copy && poke old copy 77 && echo "0 39424" >ext && finds "first difference at sector 77" cbw-check diff base copy ext'
t "and inside" eval 'echo "39424 512" >>ext && cbw-check diff base copy ext'
ktap_done
