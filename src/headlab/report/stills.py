"""The picture that stands for a chart on paper and without scripts: smaller than drawn, and never another word."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from . import figures

WIDTH = 460
"""Width in pixels: on a page of 420 the labels of its ticks (12 px) still have more than 10."""
_SVG = "http://www.w3.org/2000/svg"
_NUMBER = re.compile(r"-?\d*\.\d{3,}(?:e[+-]?\d+)?")
_PLACES = frozenset({"d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "dx", "dy", "r", "width", "height", "points"})


def still(specification: Mapping[str, Any]) -> str:
    """A chart without its title, as the address of a picture inside the page."""
    drawn = slim(figures.svg(specification, titled=False, width=WIDTH))
    return "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()


def slim(svg: str) -> str:
    """A picture without what only a live chart needs: no name for every mark, places to a hundredth of a pixel.

    Text, colours and sizes of type stay as they are.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name.startswith("aria-"):
                del element.attrib[name]
            elif name in _PLACES or (name == "transform" and value.startswith("translate") and value.count("(") == 1):
                element.set(name, _NUMBER.sub(_hundredth, value))
    return ElementTree.tostring(root, encoding="unicode")


def _hundredth(number: re.Match[str]) -> str:
    return f"{round(float(number[0]), 2) + 0.0:.2f}".rstrip("0").rstrip(".")
