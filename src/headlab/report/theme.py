"""The look of figures: one specification serves paper, a light screen and a dark one.

Colours are those of Okabe and Ito, darkened or lightened until text in them has contrast on its paper.
"""

from __future__ import annotations

from typing import Any

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c2127",
    "quiet": "#56606b",
    "grid": "#e3e7eb",
    "null": "#9aa7b4",
    "beyond": "#c4500a",
    "observed": "#0b5ea8",
    "series": ["#0b5ea8", "#c4500a", "#0b7a5c", "#9b3f7f", "#7a5c00", "#4b5560"],
}
DARK = {
    "paper": "#14181d",
    "ink": "#e8ecf0",
    "quiet": "#a9b4bf",
    "grid": "#343c45",
    "null": "#66727e",
    "beyond": "#f2a35e",
    "observed": "#6cb8f0",
    "series": ["#6cb8f0", "#f2a35e", "#4fd1a5", "#e39ac6", "#e6cf5a", "#c5ccd3"],
}


def theme(dark: bool = False) -> dict[str, Any]:
    """The look of every mark, as a Vega-Lite config."""
    c = DARK if dark else LIGHT
    return {
        "background": "transparent" if dark else "#ffffff",
        "font": "Helvetica, Arial, sans-serif",
        "view": {"stroke": None},
        "padding": {"left": 4, "right": 10, "top": 6, "bottom": 4},
        "title": {
            "color": c["ink"],
            "subtitleColor": c["quiet"],
            "fontSize": 15,
            "subtitleFontSize": 12,
            "anchor": "start",
            "frame": "bounds",
            "offset": 14,
            "subtitlePadding": 6,
        },
        "axis": {
            "labelColor": c["quiet"],
            "titleColor": c["ink"],
            "gridColor": c["grid"],
            "domainColor": c["quiet"],
            "tickColor": c["quiet"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 8,
            "labelLimit": 0,
            "labelFlush": False,
            "tickCount": 6,
        },
        "legend": {
            "labelColor": c["ink"],
            "titleColor": c["ink"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "labelLimit": 0,
            "symbolSize": 90,
        },
        "range": {"category": c["series"]},
        "style": {
            "null": {"color": c["null"], "stroke": c["paper"], "strokeWidth": 0.6},
            "beyond": {"color": c["beyond"], "stroke": c["paper"], "strokeWidth": 0.6},
            "observed": {"color": c["observed"], "strokeWidth": 3},
            "observed-interval": {"color": c["observed"], "opacity": 0.2},
            "observed-label": {"color": c["observed"], "fontSize": 12, "fontWeight": "bold"},
            "threshold": {"color": c["ink"], "strokeDash": [5, 4], "strokeWidth": 1.5, "opacity": 0.8},
            "threshold-label": {"color": c["ink"], "fontSize": 12},
            "interval-bar": {"strokeWidth": 2.5},
            "series-band": {"opacity": 0.18},
            "dot": {"color": c["observed"], "opacity": 0.55},
            "middle": {"color": c["beyond"], "thickness": 3},
        },
    }
