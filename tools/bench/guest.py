#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
# budget: 1000000
"""The part of the benchmark that runs in the VM, as a case of tools/vm/run.

tools/bench/run starts it and reads $CBW_RESULTS/rows.jsonl. The budget is guest
time, of which an idle guest that counts instructions has any amount.
"""
import json
import mmap
import os
import random
import re
import shutil
import subprocess
import sys
import time

import rows as table

MIB = 1 << 20
TMP = os.environ.get("CBW_TMP", "/tmp")
OUT = os.path.join(os.environ.get("CBW_RESULTS", TMP), "rows.jsonl")
NULLB = "/sys/kernel/config/nullb"
FIO = os.path.join(TMP, "fio")
RIGCLOCK = os.path.join(TMP, "rigclock.so")


def run(*args, **kw):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if r.returncode:
        raise RuntimeError("%s: %s" % (" ".join(args), r.stdout.strip()))
    return r.stdout


def put(path, value):
    with open(path, "w") as f:
        f.write(str(value))


# ---- devices --------------------------------------------------------------------

def nullb(name, mib, usec, fill=True, **attr):
    d = os.path.join(NULLB, name)
    os.mkdir(d)
    values = dict(size=mib, blocksize=512, memory_backed=1, irqmode=2, queue_mode=2, submit_queues=1,
                  hw_queue_depth=256, completion_nsec=int(usec * 1000), discard=0)
    values.update(attr)
    for k, v in values.items():
        put(os.path.join(d, k), v)
    put(os.path.join(d, "power"), 1)
    dev = "/dev/" + name
    if not os.path.exists("/sys/block/" + name):	# older kernels name it by its index
        dev = "/dev/nullb" + open(os.path.join(d, "index")).read().strip()
    while not os.path.exists(dev):
        time.sleep(0.01)
    put("/sys/block/%s/queue/scheduler" % dev[5:], "none")
    if fill:
        prefill(dev, mib)
    return dev


def nullb_gone(name):
    d = os.path.join(NULLB, name)
    put(os.path.join(d, "power"), 0)
    os.rmdir(d)


def prefill(dev, mib):
    """All pages of the device exist, so that none is allocated when it counts."""
    buf = mmap.mmap(-1, 4 * MIB)
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT)
    left = mib
    while left > 0:
        n = min(left, 4)
        os.write(fd, memoryview(buf)[:n * MIB])
        left -= n
    os.close(fd)


def zero_head(dev):
    buf = mmap.mmap(-1, 65536)
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT)
    os.write(fd, buf)
    os.close(fd)


def sectors(dev):
    name = os.path.basename(os.path.realpath(dev))
    return int(open("/sys/class/block/%s/size" % name).read())


class Stack:
    """One target's devices. top: what is written; snap: what a backup reads."""

    def __init__(self, target, origin, store, meta):
        self.target = target
        self.names = []
        self.snap = None
        self.snaps = []
        self.cut = None
        n = sectors(origin)
        kind, _, rest = target.partition("-")
        if kind == "raw":
            self.top = origin
        elif kind == "linear":
            self.top = self.dm("top", "0 %d linear %s 0" % (n, origin))
        elif kind == "zero":
            self.top = self.dm("top", "0 %d zero" % n)
        elif kind == "era":
            zero_head(meta)
            self.top = self.dm("top", "0 %d era %s %s 8" % (n, meta, origin))
        elif kind == "snap":
            how, chunk = rest.split("-")
            zero_head(store)
            self.snap = self.dm("shot", "0 %d snapshot %s %s %s %d" %
                                (n, origin, store, how, int(chunk[:-1]) * 2))
            self.top = self.dm("top", "0 %d snapshot-origin %s" % (n, origin))
        elif kind == "track":
            self.top = self.dm("top", "0 %d cbw %s" % (n, origin))
            for i in range(int(rest)):
                run("dmsetup", "message", "top", "0", "bitmap_add b%d" % i)
        elif kind == "cbw":
            words = rest.split("-")
            shots = 1
            self.top = self.dm("top", "0 %d cbw %s" % (n, origin))
            for w in words[1:]:
                if w[0] == "x":
                    shots = int(w[1:])
                elif w[0] == "b":
                    for i in range(int(w[1:])):
                        run("dmsetup", "message", "top", "0", "bitmap_add b%d" % i)
            part = sectors(store) // shots // 8 * 8
            for i in range(shots):
                part_dev = store
                if shots > 1:
                    part_dev = self.dm("store%d" % i, "0 %d linear %s %d" % (part, store, i * part))
                self.snaps.append(self.dm("shot%d" % i, "0 %d cbw-snapshot %s %s %d" %
                                          (n, self.top, part_dev, int(words[0][:-1]) * 2)))
            self.snap = self.snaps[0]
        else:
            raise RuntimeError("no target " + target)

    def dm(self, name, line):
        run("dmsetup", "create", "--noudevsync", name, "--table", line)
        self.names.append(name)
        dev = "/dev/mapper/" + name
        return dev

    def gone(self):
        # snapshots before what they are of
        order = [n for n in self.names if n.startswith("shot")] + \
                [n for n in reversed(self.names) if not n.startswith("shot")]
        if self.target.startswith("snap"):
            order = ["top", "shot"]
        for n in order:
            run("dmsetup", "remove", "--noudevsync", n)
        self.names = []

    def check(self):
        """A snapshot that has failed makes figures worthless."""
        if not self.names:
            return
        for line in run("dmsetup", "status").splitlines():
            if re.search(r"snapshot\b.*(Invalid|Overflow)|cbw-snapshot failed", line):
                raise RuntimeError("a snapshot has failed: " + line)


# ---- fio ---------------------------------------------------------------------------

def spread_log(path, dev, n, seed):
    """n writes of 4 KiB, each in a 64 KiB area of its own, in random order.

    The file is not closed at the end, so fio leaves without waiting for what is
    in flight: a queue depth more than is counted has to be given.
    """
    areas = list(range(table.ORIGIN_MIB * MIB // table.SPREAD))
    random.Random(1).shuffle(areas)
    areas = areas[:n]
    random.Random(seed).shuffle(areas)
    with open(path, "w") as f:
        f.write("fio version 2 iolog\n%s add\n%s open\n" % (dev, dev))
        f.write("".join("%s write %d 4096\n" % (dev, a * table.SPREAD) for a in areas))
        f.write("%s close\n" % dev)


def fio(dev, st):
    args = [FIO, "--name=j", "--direct=1", "--ioengine=libaio", "--thread", "--eta=never",
            "--disk_util=0", "--output-format=json", "--randrepeat=1", "--norandommap=0",
            "--randseed=%d" % st.get("seed", 7), "--iodepth=%d" % st["qd"]]
    if st["rw"] == "spread":
        log = os.path.join(TMP, "iolog")
        spread_log(log, dev, st["n"] + st["qd"] - 1, st.get("seed", 7))
        args += ["--read_iolog=" + log, "--replay_no_stall=1"]
    else:
        size = st["region"]
        if st["n"] * st["bs"] < size and st["rw"] in ("write", "read"):
            size = st["n"] * st["bs"]
        args += ["--filename=" + dev, "--rw=" + st["rw"], "--bs=%d" % st["bs"], "--size=%d" % size,
                 "--io_size=%d" % (st["n"] * st["bs"])]
    clock = os.path.join(TMP, "clock")
    if os.path.exists(clock):
        os.unlink(clock)
    out = run(*args, env=dict(os.environ, LD_PRELOAD=RIGCLOCK, RIGCLOCK=clock))
    job = json.loads(out[out.index("{"):])["jobs"][0]
    if job["error"]:
        raise RuntimeError("fio: error %d" % job["error"])
    d = job["read" if st.get("read") else "write"]
    first, last, ended, gap = map(int, open(clock).read().split())
    if ended != st["n"]:
        raise RuntimeError("fio did %d requests, not %d" % (ended, st["n"]))
    ns = last - first
    lat = d["lat_ns"]
    return dict(n=ended, ns=ns, iops=round(ended * 1e9 / ns, 1), lat_us=round(lat["mean"] / 1e3, 3),
                max_us=round(lat["max"] / 1e3, 1), gap_us=round(gap / 1e3, 1),
                p99_us=round(d["clat_ns"]["percentile"]["99.000000"] / 1e3, 1),
                command=" ".join(args[1:]).replace(TMP + "/", ""))


# ---- steps ---------------------------------------------------------------------------

def preserve(stack, st):
    """Overwrite what is to be preserved before a snapshot is read."""
    state, region = st["state"], st["region"]
    if state == "none" or not stack.snap:
        return
    bs = {"half-4k": 4096, "half-64k": 65536, "all": MIB}[state]
    n = region // bs // (1 if state == "all" else 2)
    fio(stack.top, dict(rw="write" if state == "all" else "randwrite", bs=bs, qd=8, n=n,
                        region=region))
    time.sleep(0.2)	# what is still buffered goes to the store


def step(stack, st):
    if st["kind"] == "fio":
        dev = stack.top
        if st.get("read") and stack.snap:
            dev = stack.snap
        return fio(dev, st)
    if st["kind"] == "preserve":
        preserve(stack, st)
        return None
    raise RuntimeError("no kind " + st["kind"])


class Rig:
    """The null_blk devices, made anew when a scenario wants others."""

    def __init__(self, fill):
        self.have = None
        self.fill = fill

    def devices(self, dev_us, store_us):
        if self.have == (dev_us, store_us):
            return
        self.gone()
        self.origin = nullb("rigorigin", table.ORIGIN_MIB, dev_us, self.fill)
        self.store = nullb("rigstore", table.STORE_MIB, store_us, self.fill)
        self.meta = nullb("rigmeta", 32, store_us, self.fill)
        self.have = (dev_us, store_us)

    def gone(self):
        if self.have:
            for n in ("rigorigin", "rigstore", "rigmeta"):
                nullb_gone(n)
        self.have = None


def emit(**kw):
    line = json.dumps(kw)
    with open(OUT, "a") as f:
        f.write(line + "\n")
    print("#", line, flush=True)


def main():
    only = re.compile(os.environ.get("BENCH_ONLY", "."))
    target = re.compile("^(?:%s)$" % os.environ.get("BENCH_TARGET", ".*"))
    part, parts = map(int, os.environ.get("BENCH_PART", "0/1").split("/"))
    rig = Rig(os.environ.get("BENCH_FILL", "1") == "1")
    failed = 0

    print("KTAP version 1")
    shutil.copy("/usr/bin/fio", FIO)
    shutil.copy(os.environ["BENCH_RIGCLOCK"], RIGCLOCK)
    run("modprobe", "null_blk", "nr_devices=0")
    run("modprobe", "-a", "dm_mod", "dm_snapshot", "dm_era", "dm_zero")
    run("insmod", os.environ["CBW_MODULE"])
    scenarios = table.select(only, target)
    scenarios.sort(key=lambda s: (s["dev_us"], s["store_us"]), reverse=True)
    mine = scenarios[len(scenarios) * part // parts:len(scenarios) * (part + 1) // parts]
    emit(kernel=os.uname().release, clock=open(
        "/sys/devices/system/clocksource/clocksource0/current_clocksource").read().strip())
    for s in mine:
        for _ in range(int(os.environ.get("BENCH_REPEAT", "1"))):
            try:
                rig.devices(s["dev_us"], s["store_us"])
                stack = Stack(s["target"], rig.origin, rig.store, rig.meta)
                try:
                    for st in s["steps"]:
                        f = step(stack, st)
                        if f and "row" in st and only.search(st["row"]):
                            emit(row=st["row"], target=s["target"], dev_us=s["dev_us"],
                                 store_us=s["store_us"], **f)
                    stack.check()
                finally:
                    stack.gone()
            except Exception as e:	# the other rows are of use nevertheless
                failed += 1
                emit(error=str(e), row=s["name"], target=s["target"])
    rig.gone()
    run("rmmod", "dm_cbw")
    print("%sok 1 bench\n1..1" % ("not " if failed else ""))
    return 1 if failed else 0


sys.exit(main())
