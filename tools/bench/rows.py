# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: scenarios, each a stack of devices and a sequence of steps.

A step is one run of fio, or something of its own, and gives the figure of one
row. Steps of a scenario see what the ones before have done ("again").
Sizes are in bytes unless the name says otherwise.
"""

KIB = 1 << 10
MIB = 1 << 20

ORIGIN_MIB = 512
STORE_MIB = 544		# all of the origin in chunks, and dm-snapshot's metadata
SPREAD = 64 * KIB	# "spread" writes: one in each of these, so that every
			# write is a first touch with any chunk size
DENSE = 128 * MIB	# region of the other random writes

PEERS = ["snap-N-4k", "snap-N-64k", "snap-P-4k", "snap-P-64k"]
BASE = ["raw", "linear"]
ERA = ["era"]
US = ["cbw-4k", "cbw-64k"]
TRACK = ["track-1", "track-8"]


def scenario(name, target, steps, dev_us=100, **kw):
    s = dict(name=name, target=target, steps=steps, dev_us=dev_us, store_us=dev_us)
    s.update(kw)
    return s


def fio(row, rw, bs, qd, n, **kw):
    """n requests; region: they are spread over the first so many bytes"""
    s = dict(kind="fio", row=row, rw=rw, bs=bs, qd=qd, n=n, unit="iops")
    s.update(kw)
    return s


def writes(dev_us, qd):
    """First touch and again, all patterns."""
    d = "d%d" % dev_us
    few = 2048 if qd == 1 else 8160	# qd more are given
    for target in BASE + ERA + PEERS + US + TRACK + ["cbw-4k-x4"]:
        n = 2048 if target == "cbw-4k-x4" and qd == 1 else few
        yield scenario("%s/rand-4k/qd%d" % (d, qd), target, [
            fio("%s/first/rand-4k/qd%d" % (d, qd), "spread", 4 * KIB, qd, n),
            fio("%s/again/rand-4k/qd%d" % (d, qd), "spread", 4 * KIB, qd, n, seed=2),
        ], dev_us)
    if dev_us == 100:
        for target in ["cbw-8k", "cbw-16k", "cbw-32k"]:
            yield scenario("%s/chunk/qd%d" % (d, qd), target, [
                fio("%s/first/rand-4k/qd%d" % (d, qd), "spread", 4 * KIB, qd, few),
            ], dev_us)
            yield scenario("%s/chunk-16k/qd%d" % (d, qd), target, [
                fio("%s/first/rand-16k/qd%d" % (d, qd), "randwrite", 16 * KIB, qd, few // 2,
                    region=256 * MIB),
            ], dev_us)
        for target in BASE + US + ["snap-N-4k", "snap-P-4k"]:
            yield scenario("%s/chunk-16k/qd%d" % (d, qd), target, [
                fio("%s/first/rand-16k/qd%d" % (d, qd), "randwrite", 16 * KIB, qd, few // 2,
                    region=256 * MIB),
            ], dev_us)
    for target in BASE + ERA + ["snap-N-4k", "snap-P-4k", "cbw-4k"] + TRACK:
        n = 2048 if qd == 1 else 16384
        yield scenario("%s/dense-4k/qd%d" % (d, qd), target, [
            fio("%s/first/dense-4k/qd%d" % (d, qd), "randwrite", 4 * KIB, qd, n, region=64 * MIB),
            fio("%s/again/dense-4k/qd%d" % (d, qd), "randwrite", 4 * KIB, qd, n, region=64 * MIB),
        ], dev_us)
    for rw, bs, n in (("seq", 4, 2048 if qd == 1 else 8192),
                      ("rand", 64, 1024 if qd == 1 else 4096),
                      ("seq", 64, 1024 if qd == 1 else 4096)):
        what = "%s-%dk/qd%d" % (rw, bs, qd)
        for target in BASE + ERA + PEERS + US + TRACK:
            yield scenario("%s/%s" % (d, what), target, [
                fio("%s/first/%s" % (d, what), "randwrite" if rw == "rand" else "write",
                    bs * KIB, qd, n, region=256 * MIB),
                fio("%s/again/%s" % (d, what), "randwrite" if rw == "rand" else "write",
                    bs * KIB, qd, n, region=256 * MIB),
            ], dev_us)


def slow_store():
    for qd, n in ((1, 2048), (32, 8160)):
        for target in ["linear", "snap-N-4k", "snap-P-4k", "cbw-4k"]:
            yield scenario("slow-store/qd%d" % qd, target, [
                fio("slow-store/first/rand-4k/qd%d" % qd, "spread", 4 * KIB, qd, n),
            ], 100, store_us=2000)


READ_REGION = 64 * MIB


def reads(dev_us):
    d = "d%d" % dev_us
    for state in ("none", "half-4k", "half-64k", "all"):
        for target in BASE + PEERS + US:
            steps = [
                dict(kind="preserve", state=state, region=READ_REGION),
                fio("%s/read/%s/seq-1m/qd1" % (d, state), "read", MIB, 1, 64, region=READ_REGION,
                    read=True),
                fio("%s/read/%s/seq-1m/qd4" % (d, state), "read", MIB, 4, 128, region=READ_REGION,
                    read=True),
                fio("%s/read/%s/rand-4k/qd1" % (d, state), "randread", 4 * KIB, 1, 1024,
                    region=READ_REGION, read=True),
                fio("%s/read/%s/rand-4k/qd32" % (d, state), "randread", 4 * KIB, 32, 8192,
                    region=READ_REGION, read=True),
            ]
            yield scenario("%s/read/%s" % (d, state), target, steps, dev_us)


def floor(dev_us):
    """What the unavoidable I/Os of a first write cost in the rig."""
    d = "d%d" % dev_us
    for qd in (1, 32):
        n = 2048 if qd == 1 else 8192
        for target in ("raw", "zero"):
            yield scenario("%s/floor" % d, target, [
                fio("%s/floor/read-4k/qd%d" % (d, qd), "randread", 4 * KIB, qd, n, region=DENSE,
                    read=True)], dev_us)
    yield scenario("%s/floor" % d, "raw", [
        fio("%s/floor/write-256k/qd1" % d, "write", 256 * KIB, 1, 256, region=256 * MIB)], dev_us)


def all_scenarios():
    out = []
    for dev_us in (100, 10):
        for qd in (1, 32):
            out += writes(dev_us, qd)
        out += reads(dev_us)
        out += floor(dev_us)
        if dev_us == 100:
            out += slow_store()
    return out


def select(rows, target, scenarios=None):
    """The scenarios that have a step wanted; rows and target: regular expressions."""
    out = []
    for s in scenarios or all_scenarios():
        if not target.search(s["target"]):
            continue
        want = [i for i, st in enumerate(s["steps"]) if "row" in st and rows.search(st["row"])]
        if want:
            s = dict(s)
            s["steps"] = s["steps"][:want[-1] + 1]
            out.append(s)
    return out
