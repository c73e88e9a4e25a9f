# SPDX-License-Identifier: GPL-2.0-or-later
"""device-mapper by its ioctl: no program has to start, which is most of the time
where every instruction is emulated."""
import errno
import fcntl
import os
import struct

HEAD = "=3I I I I i I I I Q 128s 129s 7s".replace(" ", "")
SIZE = struct.calcsize(HEAD)
BUF = 65536
CREATE, REMOVE, SUSPEND, LOAD, TABLE, MESSAGE = 3, 4, 6, 9, 12, 14
SUSPEND_FLAG, STATUS_TABLE_FLAG = 1 << 1, 1 << 4
_control = None


def call(nr, name, payload=b"", flags=0, targets=0):
    global _control
    if _control is None:
        _control = os.open("/dev/mapper/control", os.O_RDWR)
    head = struct.pack(HEAD, 4, 0, 0, BUF, SIZE, targets, 0, flags, 0, 0, 0, name.encode(), b"", b"")
    buf = bytearray((head + payload).ljust(BUF, b"\0"))
    try:
        fcntl.ioctl(_control, 0xC0000000 | SIZE << 16 | 0xFD << 8 | nr, buf)
    except OSError as e:
        raise OSError(e.errno, "dm ioctl %d of %s %r: %s" % (nr, name, payload[:200], os.strerror(e.errno)))
    return buf


def node(buf):
    dev = struct.unpack_from(HEAD, buf)[10]
    return "/dev/dm-%d" % (dev & 0xFF | (dev >> 12) & 0xFFF00)


def create(name, line, resume=True):
    """line: a table of one target, as dmsetup has it. Returns the device's node."""
    path = node(call(CREATE, name))
    try:
        load(name, line)
        if resume:
            call(SUSPEND, name)
    except OSError:
        remove(name)
        raise
    return path


def load(name, line):
    start, length, kind, params = (line + " ").split(" ", 3)
    params = params.strip().encode() + b"\0"
    spec = struct.pack("=QQiI16s", int(start), int(length), 0, 0, kind.encode())
    call(LOAD, name, spec + params, targets=1)


def remove(name):
    for _ in range(200):
        try:
            call(REMOVE, name)
            return
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            os.sched_yield()
    call(REMOVE, name)


def suspend(name):
    call(SUSPEND, name, flags=SUSPEND_FLAG | 1 << 10)	# without flushing a file system


def resume(name):
    call(SUSPEND, name)


def message(name, text):
    call(MESSAGE, name, struct.pack("=Q", 0) + text.encode() + b"\0")


def status(name):
    buf = call(TABLE, name)
    at = struct.unpack_from(HEAD, buf)[4]
    kind = struct.unpack_from("=QQiI16s", buf, at)[4].rstrip(b"\0").decode()
    text = bytes(buf[at + 40:]).split(b"\0", 1)[0].decode()
    return kind, text
