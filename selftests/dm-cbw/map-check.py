#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
What `cbw map' wrote in a format of others, against that format's own grammar, and against
the text format, which says the same.

	map-check.py [--name BITMAP] [--whole] TEXT SIZE FORMAT FILE [FORMAT FILE]...

blocklist:N as a format is one of blocks of N bytes.

Grammars, as their readers have them:
  borg	read_input_map() and input_map_check_size(), borg 2, src/borg/helpers/fs.py
  benji	hints_from_rbd_diff() and Benji._blocks_from_hints(), benji, src/benji
  csi	GetMetadataDeltaResponse, container-storage-interface/spec, csi.proto
  blocklist	badblocks(8)
  qcow2	qemu-img check, qemu-nbd -B, nbdinfo are the judges
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time


def die(text):
    sys.exit("map-check: " + text)


def unique(pairs):
    d = dict(pairs)
    if len(d) != len(pairs):
        die("a key is there twice: %r" % pairs)
    return d


def loads(text):
    try:
        return json.loads(text, object_pairs_hook=unique)
    except ValueError as e:
        die("no JSON: %s: %.80r" % (e, text))


def whole_number(v, least=0):
    if type(v) is not int or v < least or v >= 1 << 63:
        die("%r is no number from %d on" % (v, least))
    return v


def read_text(path, size):
    """[(offset, length, state)]: data, or zero for what need not be read"""
    out, end = [], 0
    for line in open(path):
        offset, length, flags = line.split()
        offset, length, flags = int(offset), int(length), flags.split(",")
        if flags[0] != "dirty" or not set(flags[1:]) <= {"discarded", "zero"}:
            die("text: flags %r" % flags)
        if offset < end or length <= 0 or offset + length > size:
            die("text: extent %d+%d after %d" % (offset, length, end))
        end = offset + length
        out.append((offset, length, "zero" if flags[1:] else "data"))
    return out


def merged(extents):
    out = []
    for offset, length, state in extents:
        if out and out[-1][2] == state and out[-1][0] + out[-1][1] == offset:
            out[-1] = (out[-1][0], out[-1][1] + length, state)
        else:
            out.append((offset, length, state))
    return out


def borg(args):
    states, out, expected = {"data", "zero", "same"}, [], 0
    for line in open(args.file):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        start, length, state = line.split()
        start, length = int(start, 0), int(length, 0)
        if state not in states:
            die("borg: state %r" % state)
        if length <= 0:
            die("borg: length %d" % length)
        if start != expected:
            die("borg: begins at %d, expected %d" % (start, expected))
        expected = start + length
        out.append((start, length, state))
    if not out:
        die("borg: empty map")
    if expected != args.size:
        die("borg: covers %d bytes, the input has %d" % (expected, args.size))
    if args.whole and any(s == "same" for _, _, s in out):
        die("borg: 'same' in an image without a parent")
    return [e for e in out if e[2] != "same"]


def benji(args):
    out = []
    data = loads(open(args.file).read())
    if type(data) is not list:
        die("benji: no list")
    for hint in data:
        if set(hint) != {"offset", "length", "exists"}:
            die("benji: keys %r" % sorted(hint))
        if hint["exists"] not in ("true", "false"):
            die("benji: exists %r" % (hint["exists"],))
        out.append((whole_number(hint["offset"]), whole_number(hint["length"], 1),
                    "data" if hint["exists"] == "true" else "zero"))
    if out and max(o + n for o, n, _ in out) > args.size:
        die("benji: beyond the end of the source")
    return out


def csi(args):
    out, end = [], 0
    text = open(args.file).read()
    if not text.endswith("\n"):
        die("csi: the last message is cut")
    for line in text.splitlines():
        m = loads(line)
        if set(m) != {"block_metadata_type", "volume_capacity_bytes", "block_metadata"}:
            die("csi: fields %r" % sorted(m))
        if m["block_metadata_type"] != "VARIABLE_LENGTH":
            die("csi: type %r" % m["block_metadata_type"])
        if whole_number(m["volume_capacity_bytes"]) != args.size:
            die("csi: capacity %d" % m["volume_capacity_bytes"])
        if len(m["block_metadata"]) > 1024:
            die("csi: %d tuples in a message" % len(m["block_metadata"]))
        for b in m["block_metadata"]:
            if set(b) != {"byte_offset", "size_bytes"}:
                die("csi: fields %r" % sorted(b))
            offset, length = whole_number(b["byte_offset"]), whole_number(b["size_bytes"], 1)
            if offset < end:
                die("csi: %d+%d after %d" % (offset, length, end))
            end = offset + length
            out.append((offset, length, "data"))
    if end > args.size:
        die("csi: beyond the capacity")
    return out


def blocklist(args):
    out, last = [], -1
    for line in open(args.file):
        if not line[:-1].isdigit() or line[-1] != "\n":
            die("blocklist: %r" % line)
        n = int(line)
        if n <= last or n * args.block >= args.size:
            die("blocklist: %d after %d" % (n, last))
        last = n
        out.append(n)
    return out


def qcow2(args):
    def run(*command):
        p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if p.returncode:
            die("%s: %s" % (command, p.stdout))
        return p.stdout

    run("qemu-img", "check", "-q", args.file)
    info = loads(run("qemu-img", "info", "--output=json", args.file))
    bitmaps = info["format-specific"]["data"]["bitmaps"]
    if info["virtual-size"] != args.size or len(bitmaps) != 1:
        die("qcow2: %r" % info)
    if bitmaps[0]["name"] != args.name or bitmaps[0]["flags"] != []:
        die("qcow2: bitmap %r" % bitmaps[0])
    with tempfile.TemporaryDirectory() as tmp:
        sock = os.path.join(tmp, "s")
        nbd = subprocess.Popen(["qemu-nbd", "-r", "-t", "-k", sock, "-B", args.name, "-f", "qcow2",
                                args.file])
        try:
            while not os.path.exists(sock):
                if nbd.poll() is not None:
                    die("qcow2: qemu-nbd refuses it")
                time.sleep(0.02)
            found = loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:" + args.name,
                              "nbd+unix:///?socket=" + sock))
        finally:
            nbd.kill()
            nbd.wait()
    return [(e["offset"], e["length"], "data") for e in found if e["type"] == 1]


def check(args, text, form, path):
    form, _, block = form.partition(":")
    if form not in ("borg", "benji", "csi", "blocklist", "qcow2"):
        die("unknown format " + form)
    args.file, args.block = path, int(block or 0)
    got = globals()[form](args)
    want = text
    if form == "blocklist":
        want = sorted({b for o, n, s in want if s == "data"
                       for b in range(o // args.block, (o + n - 1) // args.block + 1)})
    else:
        if form == "csi" and args.whole:
            want = [e for e in want if e[2] == "data"]
        if form in ("csi", "qcow2"):
            want = [(o, n, "data") for o, n, _ in want]
        want, got = merged(want), merged(got)
    if got != want:
        die("%s says %.300r, text says %.300r" % (form, got, want))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--name")
    p.add_argument("--whole", action="store_true")
    p.add_argument("text")
    p.add_argument("size", type=int)
    p.add_argument("map", nargs="+")
    args = p.parse_args()
    text = read_text(args.text, args.size)
    for form, path in zip(args.map[::2], args.map[1::2], strict=True):
        check(args, text, form, path)


main()
