# SPDX-License-Identifier: GPL-2.0-or-later
"""Bar charts as SVG."""
from xml.sax.saxutils import escape

WIDTH, LABEL, BAR, GAP, TOP = 760, 180, 20, 8, 44


def bars(title, data):
    """data: (label, value, ours)"""
    room = WIDTH - LABEL - 90
    top = max(v for _, v, _ in data)
    height = TOP + len(data) * (BAR + GAP) + 8
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" '
           'font-size="13">' % (WIDTH, height),
           '<rect width="100%" height="100%" fill="#ffffff"/>',
           '<text x="10" y="24" font-size="15" fill="#222">%s</text>' % escape(title)]
    for i, (label, v, ours) in enumerate(data):
        y = TOP + i * (BAR + GAP)
        w = max(1, room * v / top)
        out.append('<text x="%d" y="%d" text-anchor="end" fill="#222">%s</text>' %
                   (LABEL - 8, y + 15, escape(label)))
        out.append('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>' %
                   (LABEL, y, w, BAR, "#1f77b4" if ours else "#b0b0b0"))
        out.append('<text x="%.1f" y="%d" fill="#222">%s</text>' %
                   (LABEL + w + 6, y + 15, "%.0f" % v if v >= 1000 else "%.1f" % v))
    out.append("</svg>")
    return "\n".join(out) + "\n"
