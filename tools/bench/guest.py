#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 1000000
"""The part of the benchmark that runs in the VM, as a case of tools/vm/run.

tools/bench/run starts it and reads $CBW_RESULTS/rows.jsonl. The budget is guest
time, of which an idle guest that counts instructions has any amount.
"""
import json
import os
import re
import shutil
import sys

import database
import rig
import rows as table
import special
from rig import TMP, run

OUT = os.path.join(os.environ.get("CBW_RESULTS", TMP), "rows.jsonl")


def emit(**kw):
    line = json.dumps(kw)
    with open(OUT, "a") as f:
        f.write(line + "\n")
    print("#", line, flush=True)


def one(s, devices, only):
    """A scenario once."""
    what = dict(target=s["target"], dev_us=s["dev_us"], store_us=s["store_us"])
    if "pair" in s:
        what["pair"] = s["pair"]
    if s.get("special"):
        devices.gone()
        for f in getattr(database if s["special"] == "pgbench" else special, s["special"])(s):
            if only.search(f["row"]):
                emit(**{**what, **f})
        return
    devices.make(s["dev_us"], s["store_us"], s["fill"])
    stack = rig.Stack(s["target"], devices.origin, devices.store, devices.meta, devices.box)
    try:
        for st in s["steps"]:
            f = rig.step(stack, st, devices)
            if f and only.search(st["row"]):
                emit(row=st["row"], **what, **f)
        stack.check()
    finally:
        stack.gone()


def main():
    only = re.compile(os.environ.get("BENCH_ONLY", "."))
    target = re.compile("^(?:%s)$" % os.environ.get("BENCH_TARGET", ".*"))
    part, parts = map(int, os.environ.get("BENCH_PART", "0/1").split("/"))
    smp = os.environ.get("BENCH_SMP", "0") == "1"
    once = os.environ.get("BENCH_ONCE", "0") == "1"
    times = int(os.environ.get("BENCH_REPEAT", "1"))
    devices = rig.Devices(os.environ.get("BENCH_FILL", "1") == "1", os.cpu_count(),
                          int(os.environ.get("BENCH_MIB", table.ORIGIN_MIB)))
    failed = 0

    print("KTAP version 1")
    shutil.copy("/usr/bin/fio", rig.FIO)
    for name in ("rigclock.so", "rigtool", "cbw-box", "cbw"):
        shutil.copy(os.path.join(os.environ["BENCH_BIN"], name), TMP)
    run("modprobe", "null_blk", "nr_devices=0")
    run("modprobe", "-a", "dm_mod", "dm_snapshot", "dm_era", "dm_zero")
    run("modprobe", "-q", "libcrc32c")
    run("insmod", os.environ["CBW_MODULE"])
    emit(kernel=os.uname().release, clock=open(
        "/sys/devices/system/clocksource/clocksource0/current_clocksource").read().strip())
    mine = table.share(table.select(only, target, smp), part, parts)
    for s in mine:
        for _ in range(times * (1 if once else s.get("repeat", 1))):
            try:
                one(s, devices, only)
            except Exception as e:	# the other rows are of use nevertheless
                failed += 1
                why = " after ".join("%s: %s" % (type(x).__name__, x) for x in (e, e.__context__) if x)
                emit(error=why, row=s["name"], target=s["target"])
    devices.gone()
    run("rmmod", "dm_cbw")
    print("%sok 1 bench\n1..1" % ("not " if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
