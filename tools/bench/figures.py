# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures: ratios, tables, files. One figure is a dict with row, target, iops,
lat_us, ... as the guest gives it."""
import json
import subprocess


def is_peer(target):
    return target.startswith("snap-") or target == "era"


def line(f):
    return "%-34s %-12s %10.1f/s  mean %9.3f us  p99 %8.1f  max %8.1f" % (
        f["row"], f["target"], f["iops"], f["lat_us"], f["p99_us"], f["max_us"])


def best(figs, row, want):
    """The best IOPS in this row of the targets that want() likes."""
    c = [f for f in figs if f["row"] == row and "iops" in f and want(f["target"])]
    return max(c, key=lambda f: f["iops"]) if c else None


def with_ratios(figs):
    out = []
    for f in figs:
        g = dict(f)
        if "iops" in f:
            lin = best(figs, f["row"], lambda t: t == "linear")
            peer = best(figs, f["row"], is_peer)
            if lin:
                g["to_linear"] = round(f["iops"] / lin["iops"], 4)
            if peer:
                g["to_best_peer"] = round(f["iops"] / peer["iops"], 4)
                g["best_peer"] = peer["target"]
        out.append(g)
    return out


def text_table(figs):
    rows = list(dict.fromkeys(f["row"] for f in figs))
    out = ["", "%-34s %-12s %10s %10s %9s %9s" % ("row", "target", "IOPS", "mean us", "/linear", "/peer")]
    for r in rows:
        for f in with_ratios([f for f in figs if f["row"] == r]):
            out.append("%-34s %-12s %10.1f %10.3f %9s %9s" % (
                r, f["target"], f.get("iops", 0), f.get("lat_us", 0),
                "%.4f" % f["to_linear"] if "to_linear" in f else "-",
                "%.3f" % f["to_best_peer"] if "to_best_peer" in f else "-"))
    return "\n".join(out)


def revision(top):
    try:
        return subprocess.run(["git", "-C", top, "describe", "--always", "--dirty", "--abbrev=12"],
                              check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def save(path, figs, release, top):
    with open(path, "w") as f:
        json.dump(dict(kernel=release, revision=revision(top), figures=with_ratios(figs)), f, indent=1)
        f.write("\n")
