"""The look of figures: one specification serves paper, a light screen and a dark one.

``templates/look.json`` holds the colours of both schemes and the look of every mark, in which ``@ink`` is the scheme's ink.
Colours are those of Okabe and Ito, darkened or lightened until text in them has contrast on its paper.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_HELD = json.loads((resources.files("headlab.report") / "templates" / "look.json").read_text(encoding="utf-8"))
LIGHT, DARK = _HELD["light"], _HELD["dark"]


def theme(dark: bool = False) -> dict[str, Any]:
    """The look of every mark, as a Vega-Lite config."""
    own, look = DARK if dark else LIGHT, json.dumps(_HELD["look"])
    return json.loads(look, object_hook=lambda o: {k: own[v[1:]] if str(v)[:1] == "@" else v for k, v in o.items()})
