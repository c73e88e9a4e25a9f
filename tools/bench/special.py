# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures that are no run of fio: cuts of many devices, and memory."""
import os
import subprocess
import time

import dm
import rig
from rig import MIB, RIGTOOL, nullb, nullb_gone, put, run, sectors

CUT_DEVICES = 16
CUT_QD = 32
CUT_MIB = 8
READABLE_MS = 20
PREEMPT = "/sys/kernel/debug/sched/preempt"


class CutRig:
    """16 tracked devices, each with a bitmap and an armed snapshot."""

    def __init__(self, usec, hold_first=False):
        self.names, self.nullbs = [], []
        self.store = self.nullb("cutstore", CUT_MIB * (CUT_DEVICES + 2), 100)
        self.parts = 0
        self.tops, self.shots = [], []
        for i in range(CUT_DEVICES):
            origin = self.nullb("cut%d" % i, CUT_MIB, usec)
            n = sectors(origin)
            top = self.dm("top%d" % i, "0 %d cbw %s" % (n, origin))
            dm.message("top%d" % i, "bitmap_add b")
            if hold_first and i == 0:
                # a snapshot whose store does not answer, with little to buffer
                dead = self.slice("dead")
                self.dm("shot-dead", "0 %d cbw-snapshot %s %s 8 4 buffer_kib 512 cbw_timeout_ms 0" %
                        (n, top, dead))
                dm.suspend("dead")
            self.tops.append(top)
            self.shots.append(self.dm("shot%d" % i, "0 %d cbw-snapshot %s %s 8 1 armed" %
                                      (n, top, self.slice("store%d" % i))))
        self.children = []

    def nullb(self, name, mib, usec, **kw):
        dev = nullb(name, mib, usec, **kw)
        self.nullbs.append(name)
        return dev

    def slice(self, name):
        n = CUT_MIB * 2048
        dev = self.dm(name, "0 %d linear %s %d" % (n, self.store, n * self.parts))
        self.parts += 1
        return dev

    def dm(self, name, line):
        dev = dm.create(name, line)
        self.names.append(name)
        return dev

    def in_flight(self):
        n = 0
        for t in self.tops:
            n += sum(map(int, open("/sys/class/block/%s/inflight" % os.path.basename(t)).read().split()))
        return n

    def start(self, wait=True):
        """32 writes on each of them, for ever. wait: until all are in flight"""
        args = [rig.FIO, "--direct=1", "--ioengine=libaio", "--thread", "--eta=never", "--disk_util=0",
                "--rw=randwrite", "--bs=4k", "--iodepth=%d" % CUT_QD, "--time_based", "--runtime=1000"]
        # away from what rigtool writes and reads
        for i, t in enumerate(self.tops):
            args += ["--name=j%d" % i, "--filename=" + t, "--offset=1m"]
        load = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.children.append(load)
        while wait and self.in_flight() < CUT_DEVICES * CUT_QD:
            time.sleep(0.01)

    def gone(self):
        if "dead" in self.names:
            dm.resume("dead")
        for p in self.children:
            if p.poll() is None:
                p.kill()
            p.wait()
        order = [n for n in self.names if n.startswith("shot")] + \
                [n for n in self.names if not n.startswith("shot")]
        order.sort(key=lambda n: n.endswith("-origin"))
        for n in order:
            dm.remove(n)
        for n in self.nullbs:
            nullb_gone(n)


class Cut:
    """rigtool cut, ready to go: starting a program is no part of a cut."""

    def __init__(self, args, dry=False):
        self.p = subprocess.Popen([RIGTOOL, "dry-cut" if dry else "cut", *args],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.p.stdout.readline()

    def go(self):
        self.p.stdin.write("\n")
        self.p.stdin.flush()

    def end(self):
        out = self.p.stdout.readline().split()
        self.p.communicate("\n")
        if self.p.returncode or len(out) != 2:
            raise RuntimeError("rigtool cut failed")
        return out


def cut_stall(_):
    """How much later than otherwise a write gets through while a cut is made.

    512 writes are in flight, on devices that take half a second, so that nothing
    else happens meanwhile. A real-time process writes every 20 us to a device of
    its own that ends a write at once and is part of the cut (its bitmap is
    rotated). The kernel is fully preemptible for this row: on one CPU the process
    stands for the other CPUs, and all that stops it is what would stop them.
    """
    was = open(PREEMPT).read()
    put(PREEMPT, "full")
    late = {}
    for cut in (False, True):
        c = CutRig(500000)
        # no worker between the write and its end: it would not be of real-time priority
        fast = c.dm("fast-origin", "0 %d zero" % (CUT_MIB * 2048))
        top = c.dm("fast", "0 %d cbw %s" % (CUT_MIB * 2048, fast))
        dm.message("fast", "bitmap_add b")
        try:
            made = Cut(c.shots + ["--", top + ":b"], dry=not cut)
            c.children.append(made.p)
            c.start()
            probe = subprocess.Popen([RIGTOOL, "probe", top, "20000", "120"],
                                     stdout=subprocess.PIPE, text=True)
            c.children.append(probe)
            time.sleep(0.05)
            made.go()
            late[cut] = [int(x) for x in probe.communicate()[0].split()]
            flying = c.in_flight()
            if flying != CUT_DEVICES * CUT_QD:
                raise RuntimeError("%d writes were in flight, not 512" % flying)
            made.end()
        finally:
            c.gone()
    put(PREEMPT, [w[1:-1] for w in was.split() if w[0] == "("][0])
    yield dict(row="cut/16-devices/stall", value=round((late[True][0] - late[False][0]) / 1e3, 2),
               unit="us", longest_us=late[True][0] / 1e3, without_us=late[False][0] / 1e3,
               median_us=late[True][3] / 1e3, second_us=late[True][1] / 1e3,
               third_us=late[True][2] / 1e3, n=late[True][4], command="rigtool probe, rigtool cut")


def cut_readable(_, held=False):
    """From the call that makes the cut until each of 16 snapshots can be read, while 32
    writes are in flight on each device. One request takes 20 ms, so that the CPU is
    not what is waited for. The writes in flight have to end first, as they decide what
    is read: 20 ms is the least. That reading takes another 20 ms is left out."""
    c = CutRig(READABLE_MS * 1000, hold_first=held)
    try:
        made = Cut(c.shots)
        c.children.append(made.p)
        c.start(wait=False)
        while rig.ios(c.tops[-1]) < 1000:
            time.sleep(0.01)
        holding = 0
        while held and not holding:
            time.sleep(0.01)
            holding = int(dm.status("shot-dead")[1].split()[9])
        made.go()
        out = made.end()
    finally:
        c.gone()
    row = "cut/16-devices/readable" + ("-held" if held else "")
    yield dict(row=row, value=round(int(out[1]) / 1e6 - READABLE_MS, 3), unit="ms", call_ms=round(int(out[0]) / 1e6, 3),
               held=holding, command="rigtool cut")


def cut_readable_held(s):
    return cut_readable(s, held=True)


# ---- checkpoints -----------------------------------------------------------------

def checkpoint(row, n):
    """A bitmap of 64 KiB on 1 TiB, n random writes, then a checkpoint: how long it takes with a
    container of 100 us, and what it writes."""
    dev = sparse("rigorigin", 1 << 20)
    box = nullb("rigbox", 8, 100)
    top = rig.boxed("top", sectors(dev), dev, box, 4096)
    dm.message("top", "bitmap_add b")
    rig.fio(top, dict(rw="randwrite", bs=4096, qd=32, n=n, region=1 << 40))
    before = int(run(rig.CBW_BOX, "info", top).split()[11])
    start = time.monotonic_ns()
    said = run(rig.CBW_BOX, "info", top, "--checkpoint")
    ms = (time.monotonic_ns() - start) / 1e6
    again = time.monotonic_ns()
    run(rig.CBW_BOX, "info", top)
    ms -= (time.monotonic_ns() - again) / 1e6	# starting the program
    dm.remove("top")
    nullb_gone("rigorigin")
    nullb_gone("rigbox")
    yield dict(row="container/checkpoint-" + row, value=round(ms, 2), unit="ms", n=n,
               pages=int(said.split()[11]) - before,
               command="%d random writes of 4 KiB to 1 TiB, then cbw-box info --checkpoint" % n)


def checkpoint_all(_):
    return checkpoint("all", 8192)


def checkpoint_some(_):
    return checkpoint("some", 64)


# ---- memory ------------------------------------------------------------------------

def used_now():
    os.sync()
    put("/proc/sys/vm/drop_caches", 3)
    m = {}
    for line in open("/proc/meminfo"):
        k, v = line.split()[:2]
        m[k[:-1]] = int(v) * 1024
    return m["MemTotal"] - m["MemFree"] - m["Buffers"] - m["Cached"] - m["SReclaimable"]


def used():
    """Bytes that are neither free nor cache, when nothing is freed any more."""
    last = used_now()
    for _ in range(20):
        time.sleep(1)
        n = used_now()
        if abs(n - last) < 65536:
            break
        last = n
    return n


def sparse(name, mib):
    """Any size, no memory; reads zeros."""
    return nullb(name, mib, 0, fill=False, memory_backed=0, irqmode=0)


def memory_bitmap(_):
    """8 bitmaps of 64 KiB on 4 TiB: 32 TiB and planes."""
    dev = sparse("rigorigin", 4 << 20)
    dm.create("top", "0 %d cbw %s" % (sectors(dev), dev))
    before = used()
    for i in range(8):
        dm.message("top", "bitmap_add b%d" % i)
    grown = used() - before
    dm.remove("top")
    nullb_gone("rigorigin")
    yield dict(row="memory/bitmap-64k", value=round(grown / 32 / MIB, 3), unit="MiB/TiB",
               command="8 bitmaps on 4 TiB, MemFree before and after")


def memory_snapshot(_):
    """A snapshot of 4 TiB takes so much more than one of 1 TiB, the store being the
    same. What does not depend on the size, mostly the buffer, is apart."""
    got = {}
    for tib in (1, 4):
        dev = sparse("rigorigin", tib << 20)
        store = sparse("rigstore", 16 << 10)
        top = dm.create("top", "0 %d cbw %s" % (sectors(dev), dev))
        before = used()
        dm.create("shot", "0 %d cbw-snapshot %s %s 8" % (sectors(dev), top, store))
        got[tib] = used() - before
        dm.remove("shot")
        dm.remove("top")
        nullb_gone("rigorigin")
        nullb_gone("rigstore")
    slope = (got[4] - got[1]) / 3
    yield dict(row="memory/snapshot-4k", value=round(slope / MIB, 3), unit="MiB/TiB",
               fixed_mib=round((got[1] - slope) / MIB, 2),
               command="snapshots of 1 and 4 TiB, store of 16 GiB, MemFree before and after")


def memory_chunks(s):
    """What each preserved chunk adds when 10 % of 4 GiB are written at random."""
    gib = 4
    n = gib * (1 << 18) // 10
    dev = sparse("rigorigin", gib << 10)
    store = sparse("rigstore", gib << 10)
    # the first run only warms up what a load takes by itself
    got = {}
    for target in ("linear", s["target"]):
        stack = rig.Stack(target, dev, store)
        before = used()
        rig.fio(stack.top, dict(rw="randwrite", bs=4096, qd=32, n=n, region=gib << 30))
        time.sleep(0.5)
        got[target] = used() - before
        stack.gone()
    nullb_gone("rigorigin")
    nullb_gone("rigstore")
    grown = got[s["target"]]
    yield dict(row="memory/per-chunk", value=round(grown / n, 2), unit="bytes/chunk", n=n,
               command="%d random writes of 4 KiB to %d GiB, MemFree before and after" % (n, gib))
