# SPDX-License-Identifier: GPL-2.0-or-later
"""A database under pgbench while its volume is backed up, beside dm-snapshot and dd.

The volume is a null_blk of 100 us, the place that the backup goes to takes
TARGET_MIB_S, so that the backup lasts. Transactions are counted by pgbench's log: in
the time before, and from the command that makes the snapshot to its end, when
all is durable. One CPU has to do all of it, the database and the copying.
"""
import glob
import os
import pwd
import subprocess
import time

import dm
import rig
from rig import TMP, nullb, nullb_gone, run, sectors

VOLUME_MIB = 256
TARGET_MIB_S = 32
SCALE = 2
CLIENTS = 8
BEFORE_S = 8
AFTER_S = 3
LONGEST = dict(linear=1, cbw=2, snap=6)	# that a backup may take, to the target's speed
CBW = os.path.join(TMP, "cbw")
SOCK = os.path.join(TMP, "pgsock")
MOUNT = os.path.join(TMP, "pg")


class Postgres:
    """As an ordinary user, with its data on the volume."""

    def __init__(self):
        self.bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
        self.user = pwd.getpwnam("postgres")
        self.data = os.path.join(MOUNT, "data")
        os.makedirs(SOCK, exist_ok=True)
        os.chown(SOCK, self.user.pw_uid, self.user.pw_gid)
        os.chmod(TMP, 0o755)
        os.mkdir(self.data, 0o700)
        os.chown(self.data, self.user.pw_uid, self.user.pw_gid)
        self.load = None

    def args(self, name, *args):
        return ["setpriv", "--reuid", str(self.user.pw_uid), "--regid", str(self.user.pw_gid), "--clear-groups",
                os.path.join(self.bin, name), *args]

    def go(self, name, *args):
        env = dict(os.environ, HOME="/", PGHOST=SOCK, PGUSER="postgres", LC_ALL="C")
        return run(*self.args(name, *args), cwd="/", env=env)

    def start(self):
        self.go("initdb", "-D", self.data, "--auth", "trust", "-U", "postgres", "--no-locale", "--encoding", "UTF8",
                "--wal-segsize", "4", "--no-sync")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as f:
            f.write("listen_addresses = ''\nunix_socket_directories = '%s'\nshared_buffers = 24MB\n"
                    "min_wal_size = 16MB\nmax_wal_size = 32MB\nautovacuum = off\n" % SOCK)
        log = os.path.join(TMP, "pg.log")
        open(log, "w").close()
        os.chown(log, self.user.pw_uid, self.user.pw_gid)
        self.go("pg_ctl", "start", "-w", "-t", "1000", "-s", "-D", self.data, "-l", log)
        self.go("createdb", "bench")
        self.go("pgbench", "-i", "-q", "-s", str(SCALE), "bench")
        self.go("psql", "-qc", "checkpoint", "bench")

    def begin(self, seconds):
        env = dict(os.environ, HOME="/", PGHOST=SOCK, PGUSER="postgres", LC_ALL="C")
        prefix = os.path.join(SOCK, "tx")
        self.load = subprocess.Popen(self.args("pgbench", "-n", "-c", str(CLIENTS), "-T", str(seconds), "-l",
                                               "--log-prefix=" + prefix, "--random-seed=1", "bench"),
                                     cwd="/", env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self):
        """When the transactions ended."""
        out = self.load.communicate()[0]
        if self.load.returncode:
            raise RuntimeError("pgbench: " + out)
        times = []
        for path in glob.glob(os.path.join(SOCK, "tx.*")):
            with open(path) as f:
                times += [int(w[4]) + int(w[5]) / 1e6 for w in map(str.split, f)]
            os.unlink(path)
        return times

    def kill(self):
        """All of it, also after an error."""
        if self.load and self.load.poll() is None:
            self.load.kill()
            self.load.communicate()
        if os.path.exists(os.path.join(self.data, "postmaster.pid")):
            self.go("pg_ctl", "stop", "-m", "immediate", "-w", "-s", "-D", self.data)


def backup(tested, origin, store, target):
    """From the snapshot to the copy's end; what is left is removed."""
    n = sectors(origin)
    if tested.startswith("cbw"):
        run(CBW, "backup", "top", "--to", target, "--store", store, "--force")
    elif tested.startswith("snap"):
        _, kept, chunk = tested.split("-")
        rig.zero_head(store)
        dm.suspend("top")
        try:
            dm.load("top", "0 %d snapshot-origin %s" % (n, origin))
            shot = dm.create("shot", "0 %d snapshot %s %s %s %d" % (n, origin, store, kept, int(chunk[:-1]) * 2))
        finally:
            dm.resume("top")
        run("dd", "if=" + shot, "of=" + target, "bs=1M", "iflag=direct", "oflag=direct", "conv=fsync", "status=none")
    else:
        time.sleep(VOLUME_MIB / TARGET_MIB_S)


def pgbench(s):
    kind = s["target"].split("-")[0]
    names = ("pgorigin", "pgstore", "pgtarget")
    origin, store = (nullb(x, VOLUME_MIB + (x == "pgstore") * 32, 100) for x in names[:2])
    target = nullb(names[2], VOLUME_MIB, 100, mbps=TARGET_MIB_S)
    n = sectors(origin)
    top = dm.create("top", "0 %d cbw %s" % (n, origin) if kind == "cbw" else "0 %d linear %s 0" % (n, origin))
    if kind == "cbw":
        dm.message("top", "bitmap_add b")
    mounted = pg = None
    try:
        run("mkfs.ext4", "-q", "-F", top)
        os.makedirs(MOUNT, exist_ok=True)
        run("mount", top, MOUNT)
        mounted = True
        pg = Postgres()
        pg.start()
        pg.begin(int(2 + BEFORE_S + LONGEST[kind] * VOLUME_MIB / TARGET_MIB_S + AFTER_S))
        time.sleep(2)
        at = [time.time()]
        time.sleep(BEFORE_S)
        at.append(time.time())
        backup(s["target"], origin, store, target)
        at.append(time.time())
        times = pg.end()
        if max(times) < at[-1]:
            raise RuntimeError("the backup took longer than pgbench ran")
    finally:
        if pg:
            pg.kill()
        if mounted:
            run("umount", MOUNT)
        if kind == "snap":
            try:
                dm.remove("shot")
            except OSError:
                pass
        dm.remove("top")
        for name in names:
            nullb_gone(name)
    count = [sum(a <= t < b for t in times) for a, b in zip(at, at[1:])]
    tps = [c / (b - a) for c, a, b in zip(count, at, at[1:])]
    yield dict(row="database/pgbench", value=round(tps[1], 1), unit="tps", before=round(tps[0], 1),
               seconds=round(at[2] - at[1], 2), n=count[1],
               command="pgbench -c %d, during %s" % (CLIENTS, {
                   "cbw": "cbw backup --to a device", "snap": "dd of a dm-snapshot", "linear": "no backup"}[kind]))
