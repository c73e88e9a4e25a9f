#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 30
#
# The example of the admin guide works when pasted.
set -u
# shellcheck source=../lib/ktap.sh
. "${0%/*}/../lib/ktap.sh"

ktap_header
ktap_plan 2
: "${CBW_TMP:=$(mktemp -d)}" "${CBW_TOP:=${0%/*}/../..}"
modprobe -a dm_mod loop
# what modprobe would bring along; newer kernels have it built in
modprobe libcrc32c 2>/dev/null
if ! insmod "$CBW_MODULE"; then
	echo "Bail out! the module cannot be loaded"
	exit 1
fi
guide=$CBW_TOP/Documentation/admin-guide/dm-cbw.rst
sed -n '/example-begin/,/example-end/s/^    //p' "$guide" >"$CBW_TMP/example"
ktap_test "the example of the admin guide" eval \
	"[[ -s \$CBW_TMP/example ]] && bash -x \"\$CBW_TMP/example\" 2>&1"
ktap_test "the module unloads" rmmod dm_cbw
ktap_done
