# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures: ratios and text tables. One figure is a dict with row, target, iops,
lat_us, ... or value and unit, as the guest gives it."""
import statistics


def is_peer(target):
    return target.startswith("snap-") or target == "era"


def line(f):
    if "value" in f:
        return "%-34s %-12s %10.3f %s" % (f["row"], f["target"], f["value"], f["unit"])
    if "lat_us" not in f:
        return "%-34s %-12s %10.1f/s" % (f["row"], f["target"], f["iops"])
    return "%-34s %-12s %10.1f/s  mean %9.3f us  p99 %8.1f  max %8.1f" % (
        f["row"], f["target"], f["iops"], f["lat_us"], f["p99_us"], f["max_us"])


def collapse(figs):
    """One figure per row and target: the median, if there are several. Those in pairs
    have the median of their ratios to dm-linear."""
    groups, out = {}, []
    for f in figs:
        groups.setdefault((f["row"], f["target"]), []).append(f)
    for (row, _), g in groups.items():
        key = "value" if "value" in g[0] else "iops"
        f = dict(sorted(g, key=lambda f: f[key])[len(g) // 2])
        if len(g) > 1:
            f["runs"] = len(g)
            f["spread"] = round((max(x[key] for x in g) - min(x[key] for x in g)) / f[key], 4)
        if "pair" in f:
            del f["pair"]
            lin = {x["pair"]: x["iops"] for x in groups.get((row, "linear"), [])}
            ratios = [x["iops"] / lin[x["pair"]] for x in g if x["pair"] in lin]
            if ratios:
                f["to_linear"] = round(statistics.median(ratios), 3)
        out.append(f)
    return out


def with_ratios(figs):
    """Of collapsed figures: to dm-linear, and to the best peer, in the same row."""
    rows = {}
    for f in figs:
        rows.setdefault(f["row"], {})[f["target"]] = f
    out = []
    for f in figs:
        g = dict(f)
        out.append(g)
        if "iops" not in f:
            continue
        others = rows[f["row"]]
        if "linear" in others and "to_linear" not in g:
            g["to_linear"] = round(f["iops"] / others["linear"]["iops"], 4)
        if "raw" in others:
            g["to_raw"] = round(f["iops"] / others["raw"]["iops"], 4)
        peers = [o for t, o in others.items() if is_peer(t)]
        if peers:
            best = max(peers, key=lambda o: o["iops"])
            g["to_best_peer"] = round(f["iops"] / best["iops"], 4)
            g["best_peer"] = best["target"]
    return out


def text_table(figs):
    out = ["", "%-34s %-12s %10s %10s %9s %9s %9s" % ("row", "target", "IOPS", "mean us", "/linear",
                                                    "/raw", "/peer")]

    def ratio(f, key):
        return "%.4f" % f[key] if key in f else "-"

    for f in with_ratios(collapse(figs)):
        if "value" in f:
            out.append(line(f))
        else:
            out.append("%-34s %-12s %10.1f %10s %9s %9s %9s" % (
                f["row"], f["target"], f["iops"], "%.3f" % f["lat_us"] if "lat_us" in f else "-",
                ratio(f, "to_linear"), ratio(f, "to_raw"), ratio(f, "to_best_peer")))
    return "\n".join(out)
