# SPDX-License-Identifier: GPL-2.0-or-later
"""What is measured: scenarios, each a stack of devices and a sequence of steps.

A step is one run of fio, or something of its own, and gives the figure of one
row. Steps of a scenario see what the ones before have done ("again").
Sizes are in bytes unless the name says otherwise.
"""

KIB = 1 << 10
MIB = 1 << 20

ORIGIN_MIB = 512
STORE_MORE_MIB = 32	# than the origin's: dm-snapshot's metadata
SPREAD = 64 * KIB	# "spread" writes: one in each of these, so that every
			# write is a first touch with any chunk size
DENSE = 128 * MIB	# region of the other random writes

PEERS = ["snap-N-4k", "snap-N-64k", "snap-P-4k", "snap-P-64k"]
BASE = ["raw", "linear"]
ERA = ["era"]
US = ["cbw-4k", "cbw-64k"]
TRACK = ["track-1", "track-8"]
BOX = ["box-1", "box-8"]	# tracked, with a container; box-1-1024k: regions of 1 MiB


def scenario(name, target, steps, dev_us=100, **kw):
    s = dict(name=name, target=target, steps=steps, dev_us=dev_us, store_us=dev_us, fill=True)
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
            yield scenario("%s/rand-4k/qd%d" % (d, qd), target, [
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
    for target in BASE + ERA + ["snap-N-4k", "snap-P-4k", "cbw-4k"] + TRACK + BOX:
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
                fio("%s/read/%s/seq-1m/qd1" % (d, state), "read", MIB, 1, 256, region=READ_REGION,
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
        for target in ("linear", "zero"):
            yield scenario("%s/floor" % d, target, [
                fio("%s/floor/read-4k/qd%d" % (d, qd), "randread", 4 * KIB, qd, n, region=DENSE,
                    read=True)], dev_us)
    yield scenario("%s/floor" % d, "raw", [
        fio("%s/floor/write-256k/qd32" % d, "write", 256 * KIB, 32, 1024, region=256 * MIB)], dev_us)


def fresh():
    """On devices never written before null_blk allocates each page that is written,
    in the origin and in the store: a device that is slow in another way."""
    for row, rw, n in (("dense-4k", "randwrite", 16384), ("rand-4k", "spread", 8160)):
        for target in ["linear"] + PEERS + US:
            if row == "dense-4k" and target.endswith("64k"):
                continue
            yield scenario("fresh/%s/qd32" % row, target, [
                fio("fresh/first/%s/qd32" % row, rw, 4 * KIB, 32, n, region=64 * MIB)], fill=False)


def containers():
    """What bitmaps that survive cost where no region has been seen, by the size of regions."""
    for qd in (1, 32):
        for target in ["linear", "track-1", "box-1", "box-8", "box-1-256k", "box-1-1024k", "box-1-16384k"]:
            yield scenario("d100/pass/qd%d" % qd, target, [
                fio("d100/first/pass-4k/qd%d" % qd, "randwrite", 4 * KIB, qd, 65536 if qd > 1 else 8192,
                    region=256 * MIB)])
    for what in ("all", "some"):
        yield scenario("container/checkpoint", "box-1", [dict(row="container/checkpoint-" + what)],
                       special="checkpoint_" + what)


def mixed():
    for target in ["linear"] + PEERS + US:
        yield scenario("d100/mixed", target, [
            dict(kind="mixed", row="d100/mixed-7030/qd8", bs=4 * KIB, qd=8, region=256 * MIB,
                 backup=64 * MIB)])


def cuts():
    """Without fio's figures: see special.py."""
    for what in ("stall", "readable", "readable-held"):
        yield scenario("cut/" + what, "cbw-4k", [dict(row="cut/16-devices/" + what)],
                       special="cut_" + what.replace("-", "_"))


def memory():
    yield scenario("memory/bitmap", "track-8", [dict(row="memory/bitmap-64k")],
                   special="memory_bitmap")
    yield scenario("memory/snapshot", "cbw-4k", [dict(row="memory/snapshot-4k")],
                   special="memory_snapshot")
    for target in ("cbw-4k", "snap-N-4k"):
        yield scenario("memory/chunks", target, [dict(row="memory/per-chunk")],
                       special="memory_chunks")


def databases():
    """A database while its volume is backed up: see database.py."""
    for target in ("linear", "cbw-4k", "snap-N-4k", "snap-P-4k"):
        yield scenario("database/pgbench", target, [dict(row="database/pgbench")], special="pgbench")


SMP_PAIRS = 5


def smp():
    """Two CPUs, real time: pairs of runs, one after the other in the same boot."""
    for jobs in (2, 4):
        steps = [fio("smp/%s/dense-4k/jobs%d" % (what, jobs), "randwrite", 4 * KIB, 16, 16384,
                     region=64 * MIB, jobs=jobs) for what in ("first", "again")]
        for pair in range(SMP_PAIRS):
            for target in ("linear", "track-1", "cbw-4k", "snap-N-4k"):
                yield scenario("smp/jobs%d" % jobs, target, steps, 10, pair=pair)


def all_scenarios():
    out = []
    for dev_us in (100, 10):
        for qd in (1, 32):
            out += writes(dev_us, qd)
        out += reads(dev_us)
        out += floor(dev_us)
    out += fresh()
    out += containers()
    out += mixed()
    out += slow_store()
    out += cuts()
    out += memory()
    out += databases()
    for s in out:
        # a worker against the submitter: where the tick falls makes a percent
        if s["target"].startswith("snap") and "dense-4k/qd32" in s["name"]:
            s["repeat"] = 3
    return out


def select(rows, target, real_time=False):
    """The scenarios that have a step wanted; rows and target: regular expressions."""
    out = []
    for s in smp() if real_time else all_scenarios():
        if not target.search(s["target"]):
            continue
        want = [i for i, st in enumerate(s["steps"]) if "row" in st and rows.search(st["row"])]
        if want:
            s = dict(s)
            s["steps"] = s["steps"][:want[-1] + 1]
            out.append(s)
    return out


def cost(s):
    """Roughly, in seconds."""
    n = sum(2 + st.get("n", 8192) * (1 if st.get("bs", 0) < 65536 else 3) / 4096 for st in s["steps"])
    return (n + 2) * s.get("repeat", 1)


def share(scenarios, part, parts):
    """One VM's part. What is compared stays together; so do the same devices."""
    groups = {}
    for s in scenarios:
        groups.setdefault(s["name"], []).append(s)
    order = sorted(groups.values(), key=lambda g: (-g[0]["dev_us"], -g[0]["store_us"], g[0]["fill"]))
    total = sum(cost(s) for s in scenarios)
    out, done = [], 0
    for g in order:
        c = sum(cost(s) for s in g)
        if min(parts - 1, int((done + c / 2) * parts / total)) == part:
            out += g
        done += c
    return out
