# SPDX-License-Identifier: GPL-2.0-or-later
"""The rig in the VM: null_blk devices, the targets' stacks on them, fio."""
import json
import mmap
import os
import random
import re
import signal
import subprocess
import time

import dm
import rows as table

MIB = 1 << 20
TMP = os.environ.get("CBW_TMP", "/tmp")
NULLB = "/sys/kernel/config/nullb"
FIO = os.path.join(TMP, "fio")
RIGCLOCK = os.path.join(TMP, "rigclock.so")
RIGTOOL = os.path.join(TMP, "rigtool")
CBW_BOX = os.path.join(TMP, "cbw-box")


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
    values = dict(size=mib, blocksize=4096, memory_backed=1, irqmode=2, queue_mode=2, submit_queues=1,
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


def boxed(name, n, origin, box, region_kib):
    """A tracked device with a container."""
    zero_head(box)
    top = dm.create(name, "0 %d cbw %s 2 container %s" % (n, origin, box), resume=False)
    try:
        run(CBW_BOX, "attach", top, box, "--region", str(region_kib << 10))
        dm.resume(name)
    except (OSError, RuntimeError):
        dm.remove(name)
        raise
    return top


class Stack:
    """One target's devices. top: what is written; snap: what a backup reads."""

    def __init__(self, target, origin, store, meta=None, box=None):
        self.target = target
        self.names = []
        self.snap = None
        self.snaps = []
        try:
            self.make(origin, store, meta, box)
        except OSError:
            self.gone()
            raise

    def make(self, origin, store, meta, box):
        n = sectors(origin)
        kind, _, rest = self.target.partition("-")
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
            self.bitmaps(int(rest))
        elif kind == "box":
            words = rest.split("-")
            self.top = boxed("top", n, origin, box, int((words + ["4096k"])[1][:-1]))
            self.names.append("top")
            self.bitmaps(int(words[0]))
        elif kind == "cbw":
            words = rest.split("-")
            shots = 1
            self.top = self.dm("top", "0 %d cbw %s" % (n, origin))
            for w in words[1:]:
                if w[0] == "x":
                    shots = int(w[1:])
                elif w[0] == "b":
                    self.bitmaps(int(w[1:]))
            part = sectors(store) // shots // 8 * 8
            for i in range(shots):
                part_dev = store
                if shots > 1:
                    part_dev = self.dm("store%d" % i, "0 %d linear %s %d" % (part, store, i * part))
                self.snaps.append(self.dm("shot%d" % i, "0 %d cbw-snapshot %s %s %d" %
                                          (n, self.top, part_dev, int(words[0][:-1]) * 2)))
            self.snap = self.snaps[0]
        else:
            raise RuntimeError("no target " + self.target)

    def bitmaps(self, n):
        for i in range(n):
            dm.message("top", "bitmap_add b%d" % i)

    def dm(self, name, line):
        dev = dm.create(name, line)
        self.names.append(name)
        return dev

    def check(self):
        """A snapshot that has failed makes figures worthless."""
        for n in self.names:
            kind, text = dm.status(n)
            if kind == "cbw-snapshot" and text.startswith("failed") or \
               kind == "snapshot" and re.search("Invalid|Overflow", text):
                raise RuntimeError("the snapshot has failed: %s %s" % (kind, text))

    def gone(self):
        # a cbw snapshot before its source, dm-snapshot's origin before the snapshot
        names = self.names[::-1]
        if not self.target.startswith("snap"):
            names.sort(key=lambda n: not n.startswith("shot"))
        for n in names:
            dm.remove(n)
        self.names = []


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


class Fio:
    """One run; what it says when it has ended."""

    def __init__(self, dev, st):
        self.st = st
        args = [FIO, "--name=j", "--direct=1", "--ioengine=libaio", "--thread", "--eta=never",
                "--disk_util=0", "--output-format=json", "--lat_percentiles=1",
                "--clat_percentiles=0", "--randrepeat=1", "--norandommap=0",
                "--randseed=%d" % st.get("seed", 7), "--iodepth=%d" % st["qd"]]
        if st["rw"] == "spread":
            log = os.path.join(TMP, "iolog")
            spread_log(log, dev, st["n"] + st["qd"] - 1, st.get("seed", 7))
            args += ["--read_iolog=" + log, "--replay_no_stall=1"]
        else:
            jobs = st.get("jobs", 1)
            size = st["region"] // jobs
            io = st["n"] * st["bs"] // jobs
            if io < size and st["rw"] in ("write", "read"):
                size = io
            args += ["--filename=" + dev, "--rw=" + st["rw"], "--bs=%d" % st["bs"],
                     "--size=%d" % size, "--io_size=%d" % io]
            if jobs > 1:
                args += ["--numjobs=%d" % jobs, "--group_reporting=1",
                         "--offset_increment=%d" % size]
        args += st.get("args", [])
        self.clock = os.path.join(TMP, "clock")
        if os.path.exists(self.clock):
            os.unlink(self.clock)
        self.args = args
        self.p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  env=dict(os.environ, LD_PRELOAD=RIGCLOCK, RIGCLOCK=self.clock))

    def kill(self):
        """In the middle; its figures are of no use then."""
        self.p.send_signal(signal.SIGINT)
        self.p.communicate()

    def figures(self):
        out = self.p.communicate()[0]
        if self.p.returncode:
            raise RuntimeError("fio: " + out.strip()[-300:])
        job = json.loads(out[out.index("{"):])["jobs"][0]
        if job["error"]:
            raise RuntimeError("fio: error %d" % job["error"])
        d = job["read" if self.st.get("read") else "write"]
        first, last, ended, gap = map(int, open(self.clock).read().split())
        if ended != self.st["n"]:
            raise RuntimeError("fio did %d requests, not %d" % (ended, self.st["n"]))
        ns = last - first
        lat = d["lat_ns"]
        return dict(n=ended, ns=ns, iops=round(ended * 1e9 / ns, 1),
                    lat_us=round(lat["mean"] / 1e3, 3), max_us=round(lat["max"] / 1e3, 1),
                    gap_us=round(gap / 1e3, 1),
                    p99_us=round(lat["percentile"]["99.000000"] / 1e3, 1),
                    command=" ".join(self.args[1:]).replace(TMP + "/", ""))


def fio(dev, st):
    return Fio(dev, st).figures()


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


def ios(dev):
    """Requests that a device has ended."""
    f = open("/sys/class/block/%s/stat" % os.path.basename(dev)).read().split()
    return int(f[0]) + int(f[4])


def mixed(stack, st, origin):
    """70 % reads and 30 % writes while a backup reads the snapshot, and releases what
    it has read where the target can. Figures: of the time that the backup took."""
    src = stack.snap or stack.dm("reader", "0 %d linear %s 0" % (sectors(origin), origin))
    before = ios(stack.top)
    load = Fio(stack.top, dict(st, rw="randrw", n=1 << 24, args=["--rwmixread=70"]))
    while ios(stack.top) < before + 2000:
        time.sleep(0.01)
    start = ios(stack.top)
    ns = int(run(RIGTOOL, "backup", src, str(st["backup"]),
                 *(["release"] if stack.snaps else [])))
    n = ios(stack.top) - start
    load.kill()
    return dict(n=n, ns=ns, iops=round(n * 1e9 / ns, 1), backup_mib_s=round(st["backup"] / MIB * 1e9 / ns, 1),
                command=" ".join(load.args[1:]))


def step(stack, st, devices):
    if st["kind"] == "fio":
        return fio(stack.snap if st.get("read") and stack.snap else stack.top, st)
    if st["kind"] == "preserve":
        return preserve(stack, st)
    if st["kind"] == "mixed":
        return mixed(stack, st, devices.origin)
    raise RuntimeError("no kind " + st["kind"])


class Devices:
    """The null_blk devices, made anew when a scenario wants others."""

    def __init__(self, fill, queues, mib):
        self.mib = mib
        self.have = None
        self.fill = fill
        self.queues = queues

    def make(self, dev_us, store_us, fill):
        fill = fill and self.fill
        if self.have == (dev_us, store_us) and fill:
            return
        self.gone()
        self.origin = nullb("rigorigin", self.mib, dev_us, fill,
                            submit_queues=self.queues)
        self.store = nullb("rigstore", self.mib + table.STORE_MORE_MIB, store_us, fill,
                           submit_queues=self.queues)
        self.meta = nullb("rigmeta", 32, store_us, fill)
        self.box = nullb("rigbox", 8, store_us, fill)
        self.have = (dev_us, store_us)
        if not fill:
            self.have = (0, 0)

    def gone(self):
        if self.have:
            for n in ("rigorigin", "rigstore", "rigmeta", "rigbox"):
                nullb_gone(n)
        self.have = None
