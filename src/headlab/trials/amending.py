"""A document with some of its fields changed by path, as a command line or ``as_published`` gives them.

``sets.movers`` or ``predictions.0.threshold`` names a field; the changes stand in the record, and heads that are not the
published ones are not called so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from headlab.claims import ClaimError, read_text
from headlab.reading import brief


def changed(data: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """``data`` with each path of ``changes`` set to its value (None: left out).  Raises ClaimError for a path that leads
    through something that has no fields."""
    out = deepcopy(dict(data))
    if isinstance(out.get("readout"), list):  # kept as pairs, whose order says which is the default
        out["readout"] = dict(out["readout"])
    for path, value in changes.items():
        keys, here = path.split("."), out
        for n, key in enumerate(keys[:-1]):
            here = _step(here, key, f"{name}: {'.'.join(keys[: n + 1])}")
        last = _index(here, keys[-1], f"{name}: {path}")
        if value is not None:
            here[last] = value
        elif isinstance(here, list) or last in here:
            del here[last]
        else:
            raise ClaimError(f"{name}: {path} does not stand there, so it cannot be left out")
    return out


def by_hand(data: Mapping[str, Any], changes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """:func:`changed` on a command line.  Raises ClaimError for heads in the place of published ones whose origin is not
    said."""
    moved = [p for p in changes if p.startswith("sets.")]
    if moved and data.get("chosen_on") == "published" and "chosen_on" not in changes:
        raise ClaimError(
            f"{name}: with other heads than the published ones ({moved[0]}), say where they were found: chosen_on=other, or "
            "chosen_on=these (then nothing is upheld)"
        )
    return changed(data, changes, name)


def _step(here: Any, key: str, name: str) -> Any:
    at = _index(here, key, name)
    if isinstance(here, dict) and at not in here:
        here[at] = {}
    found = here[at]
    if not isinstance(found, dict | list):
        raise ClaimError(f"{name} is {brief(found)}, which has no fields to change")
    return found


def _index(here: Any, key: str, name: str) -> Any:
    if not isinstance(here, list):
        return key
    if not key.isdigit() or int(key) >= len(here):
        raise ClaimError(f"{name}: expected a number from 0 to {len(here) - 1}, given {key!r}")
    return int(key)


def read(given: Sequence[str]) -> dict[str, Any]:
    """``["sets.movers=L0H4", …]`` as paths with values, each read as YAML.  Raises ClaimError."""
    out: dict[str, Any] = {}
    for one in given:
        path, equals, text = one.partition("=")
        path = path.strip()
        if not equals or not all(path.split(".")):
            raise ClaimError(f"--amend {one!r}; expected a field and its value, such as sets.movers='L0H4 L1H2'")
        if path in out:
            raise ClaimError(f"--amend {path} is given twice")
        out[path] = read_text(f"value: {text}", ".yaml", f"--amend {path}")[0].get("value")
    return out


def written(changes: Mapping[str, Any]) -> list[str]:
    """The changes as words of a command line that :func:`read` reads back."""
    import json

    return [f"{path}={json.dumps(value, ensure_ascii=False)}" for path, value in changes.items()]
