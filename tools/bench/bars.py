# SPDX-License-Identifier: GPL-2.0-or-later
"""The bars: what the figures must reach, and how each is computed."""


class Missing(Exception):
    """A figure was not measured."""


class Figures:
    def __init__(self, figs):
        self.by = {(f["row"], f["target"]): f for f in figs}

    def get(self, row, target, key):
        try:
            return self.by[row, target][key]
        except KeyError:
            raise Missing("%s of %s" % (row, target)) from None

    def iops(self, row, target, to):
        return self.get(row, target, "iops") / self.get(row, to, "iops")

    def lat(self, row, target, to):
        return self.get(row, target, "lat_us") / self.get(row, to, "lat_us")

    def value(self, row, target):
        return self.get(row, target, "value")

    # ---- what the rig charges for the I/Os that a first write cannot do without ----

    def floor_qd1_us(self, dev):
        """dm-linear's write, and its read less the cost of asking for it (dm-zero)."""
        row = dev + "/floor/read-4k/qd1"
        return (self.get(dev + "/first/dense-4k/qd1", "linear", "lat_us") +
                self.get(row, "linear", "lat_us") - self.get(row, "zero", "lat_us"))

    def floor_qd32_iops(self, dev):
        """The same in CPU time, and 1/64 of a store write of 256 KiB."""
        row = dev + "/floor/read-4k/qd32"
        ns = (1e9 / self.get(dev + "/first/dense-4k/qd32", "linear", "iops") +
              1e9 / self.get(row, "linear", "iops") - 1e9 / self.get(row, "zero", "iops") +
              1e9 / self.get(dev + "/floor/write-256k/qd32", "raw", "iops") / 64)
        return 1e9 / ns


UP, DOWN = ">=", "<="


def bar(what, rule, bound, stretch, fn, unit="", best=None, floor=None):
    """fn, best (today's best peer) and floor: functions of Figures"""
    return dict(what=what, rule=rule, bound=bound, stretch=stretch, fn=fn, unit=unit, best=best,
                floor=floor)


def best_peer(f, row, peers, key="iops"):
    return max(f.iops(row, p, "linear") for p in peers)


def tracked(qd, n):
    rows = ["d100/%s/dense-4k/qd%d" % (w, qd) for w in ("first", "again")]
    return lambda f: min(f.iops(r, "track-%d" % n, "linear") for r in rows)


def boxed(qd, n):
    return lambda f: f.iops("d100/again/dense-4k/qd%d" % qd, "box-%d" % n, "linear")


def qd1(dev):
    row = dev + "/first/dense-4k/qd1"
    return dict(fn=lambda f: f.lat(row, "cbw-4k", "linear"),
                best=lambda f: min(f.lat(row, p, "linear") for p in ("snap-N-4k", "snap-P-4k", "era")),
                floor=lambda f: f.floor_qd1_us(dev) / f.get(row, "linear", "lat_us"))


def seq(what):
    row = "d100/first/" + what
    peers = ("snap-N-4k", "snap-N-64k", "snap-P-4k", "snap-P-64k")
    return dict(fn=lambda f: f.iops(row, "cbw-4k", "linear"),
                best=lambda f: max(f.iops(row, p, "linear") for p in peers))


def read(state):
    row = "d100/read/%s/seq-1m/qd1" % state
    return dict(fn=lambda f: f.iops(row, "cbw-4k", "raw"),
                best=lambda f: max(f.iops(row, p, "raw") for p in ("snap-N-4k", "snap-P-4k")))


def first32(where, row, us, peer, floor=False):
    row = "%s/first/%s/qd32" % (where, row)
    d = dict(fn=lambda f: f.iops(row, us, peer))
    if floor:
        d["floor"] = lambda f: f.floor_qd32_iops("d100") / f.get(row, peer, "iops")
    return d


BARS = [
    bar("tracked 4 KiB random writes, queue depth 1, 1 bitmap, to dm-linear", UP, 0.995, None, tracked(1, 1)),
    bar("the same, 8 bitmaps", UP, 0.995, None, tracked(1, 8)),
    bar("the same, queue depth 32, 1 bitmap", UP, 0.99, None, tracked(32, 1)),
    bar("the same, queue depth 32, 8 bitmaps", UP, 0.985, None, tracked(32, 8)),
    bar("the same with a container, queue depth 1, 1 bitmap, written before", UP, 0.99, None, boxed(1, 1)),
    bar("the same, queue depth 32, 1 bitmap", UP, 0.99, None, boxed(32, 1)),
    bar("the same, queue depth 32, 8 bitmaps", UP, 0.98, None, boxed(32, 8)),
    bar("random writes of a first pass over 256 MiB with a container, queue depth 32, to dm-linear", UP, 0.80,
        None, lambda f: f.iops("d100/first/pass-4k/qd32", "box-1", "linear")),
    bar("first 4 KiB write, queue depth 1, 100 us device: latency, to dm-linear", DOWN, 2.05, 1.95,
        **qd1("d100")),
    bar("the same, 10 us device", DOWN, 2.05, 1.95, **qd1("d10")),
    bar("first 4 KiB writes, queue depth 32, 4 KiB chunks, to dm-snapshot N", UP, 1.3, 1.45,
        **first32("d100", "dense-4k", "cbw-4k", "snap-N-4k", floor=True)),
    bar("the same, 64 KiB chunks", UP, 1.5, None, **first32("d100", "rand-4k", "cbw-64k", "snap-N-64k")),
    bar("our 4 KiB chunks to dm-snapshot P with 4 KiB", UP, 1.5, None,
        **first32("d100", "dense-4k", "cbw-4k", "snap-P-4k", floor=True)),
    bar("our 4 KiB chunks to dm-snapshot P with 64 KiB", UP, 6, None,
        **first32("d100", "rand-4k", "cbw-4k", "snap-P-64k", floor=True)),
    bar("never written devices: 4 KiB chunks, to dm-snapshot N", UP, 1.3, 1.45,
        **first32("fresh", "dense-4k", "cbw-4k", "snap-N-4k")),
    bar("never written devices: 64 KiB chunks, to dm-snapshot N", UP, 1.5, None,
        **first32("fresh", "rand-4k", "cbw-64k", "snap-N-64k")),
    bar("never written devices: our 4 KiB chunks to dm-snapshot P with 4 KiB", UP, 1.5, None,
        **first32("fresh", "dense-4k", "cbw-4k", "snap-P-4k")),
    bar("never written devices: our 4 KiB chunks to dm-snapshot P with 64 KiB", UP, 6, None,
        **first32("fresh", "rand-4k", "cbw-4k", "snap-P-64k")),
    bar("write to a preserved chunk, queue depth 32, to dm-linear", UP, 0.99, None,
        lambda f: f.iops("d100/again/dense-4k/qd32", "cbw-4k", "linear"),
        best=lambda f: max(f.iops("d100/again/dense-4k/qd32", p, "linear")
                           for p in ("snap-N-4k", "snap-P-4k"))),
    bar("first write, store 20 times slower: latency, to an equal store", DOWN, 1.02, None,
        lambda f: f.get("slow-store/first/rand-4k/qd1", "cbw-4k", "lat_us") /
        f.get("d100/first/rand-4k/qd1", "cbw-4k", "lat_us"),
        best=lambda f: f.get("slow-store/first/rand-4k/qd1", "snap-N-4k", "lat_us") /
        f.get("d100/first/rand-4k/qd1", "snap-N-4k", "lat_us")),
    bar("first writes, sequential 4 KiB, queue depth 1, to dm-linear", UP, 0.90, None, **seq("seq-4k/qd1")),
    bar("first writes, sequential 64 KiB, queue depth 1, to dm-linear", UP, 0.50, None, **seq("seq-64k/qd1")),
    bar("first writes, sequential 64 KiB, queue depth 32, to dm-linear", UP, 0.36, None, **seq("seq-64k/qd32")),
    bar("snapshot read, 1 MiB, half preserved in random 4 KiB, to the raw device", UP, 0.65, None,
        **read("half-4k")),
    bar("snapshot read, 1 MiB, half preserved in 64 KiB runs, to the raw device", UP, 0.97, None,
        **read("half-64k")),
    bar("longest delay of a write by a cut, 16 devices, 512 writes in flight", DOWN, 20, None,
        lambda f: f.value("cut/16-devices/stall", "cbw-4k"), unit="us"),
    bar("16 snapshots readable after the cut", DOWN, 50, None,
        lambda f: f.value("cut/16-devices/readable", "cbw-4k"), unit="ms"),
    bar("the same, while writes are held", DOWN, 50, None,
        lambda f: f.value("cut/16-devices/readable-held", "cbw-4k"), unit="ms"),
    bar("memory of a bitmap, 64 KiB granularity", DOWN, 2.1, None,
        lambda f: f.value("memory/bitmap-64k", "track-8"), unit="MiB/TiB"),
    bar("memory of a snapshot, 4 KiB chunks", DOWN, 33, None,
        lambda f: f.value("memory/snapshot-4k", "cbw-4k"), unit="MiB/TiB"),
    bar("and per preserved chunk, 10 % at random", DOWN, 24, 8,
        lambda f: f.value("memory/per-chunk", "cbw-4k"), unit="bytes",
        best=lambda f: f.value("memory/per-chunk", "snap-N-4k")),
]


def optional(fn, f):
    try:
        return fn(f) if fn else None
    except Missing:
        return None


def judge(figs):
    """Each bar with its value and verdict: reached, stretch, missed or not measured."""
    f = Figures(figs)
    out = []
    for b in BARS:
        r = dict(what=b["what"], rule=b["rule"], bound=b["bound"], stretch=b["stretch"], unit=b["unit"])
        v = optional(b["fn"], f)
        r["best_peer"] = optional(b["best"], f)
        r["floor"] = optional(b["floor"], f)
        r["value"] = v

        def ok(bound):
            return v >= bound if b["rule"] == UP else v <= bound

        if v is None:
            r["verdict"] = "not measured"
        elif b["stretch"] is not None and ok(b["stretch"]):
            r["verdict"] = "stretch reached"
        else:
            r["verdict"] = "reached" if ok(b["bound"]) else "missed"
        out.append(r)
    return out
