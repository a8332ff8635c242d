"""YAML: only what every reader takes alike.

Bounded as PyYAML's events come, before anything is built; anchors, aliases and tags are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml as pyyaml

from headlab.reading.bounds import MOST_DEPTH, MOST_VALUES, Place, Refused, brief

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)?\.[0-9]+|(?:0|[1-9][0-9]*)\.)(?:[eE][-+]?[0-9]+)?")
_GUESSED = re.compile(  # by YAML 1.1 as it is written, by PyYAML, by YAML 1.2, or by people
    r"(?i:y|n|yes|no|on|off|true|false|null|=|<<|[-+]?\.inf|\.nan|[-+]?0[xob][0-9a-f_]+)"
    r"|[-+]?[0-9][0-9_]*(?::[0-9_]+)+(?:\.[0-9_]*)?"
    r"|[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9].*)?"
)
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


def yaml(text: str, lines: dict[Place, int]) -> Any:
    """The data of a text; ``lines`` is filled.  Raises Refused, ValueError."""
    try:
        events = _events(text)
        first = next(events)
        if isinstance(first, pyyaml.StreamEndEvent):
            return None
        data = _built(next(events), events, (), lines)
        next(events)  # the document's end
        after = next(events)
    except pyyaml.YAMLError as failed:
        mark = getattr(failed, "problem_mark", None) or getattr(failed, "context_mark", None)
        position = getattr(failed, "position", None)
        line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if isinstance(position, int) else None
        reason = getattr(failed, "problem", None) or getattr(failed, "reason", None) or failed
        raise ValueError(f"line {line}: {reason}" if line else str(reason)) from failed
    if not isinstance(after, pyyaml.StreamEndEvent):
        raise Refused("a second document begins; expected one", after.start_mark.line + 1)
    return data


def _events(text: str) -> Iterator[Any]:
    """The parser's events without the stream's start, bounded in depth and count as they come."""
    loader = pyyaml.SafeLoader(text)
    depth = count = 0
    loader.get_event()
    while loader.check_event():
        event = loader.get_event()
        line = event.start_mark.line + 1
        count += isinstance(event, pyyaml.NodeEvent)
        depth += isinstance(event, pyyaml.CollectionStartEvent)
        depth -= isinstance(event, pyyaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise Refused(f"nested more than {MOST_DEPTH} deep", line)
        if count > MOST_VALUES:
            raise Refused(f"more than {MOST_VALUES:,} values", line)
        if isinstance(event, pyyaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise Refused(f"an anchor or alias ({brief(event.anchor)}); write the value out where it is meant", line)
        if getattr(event, "tag", None) is not None:
            raise Refused(f"the tag {brief(event.tag)}; write the value without a tag", line)
        yield event


def _built(event: Any, events: Iterator[Any], place: Place, lines: dict[Place, int]) -> Any:
    if isinstance(event, pyyaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, pyyaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(item := next(events), pyyaml.SequenceEndEvent):
            inside = (*place, len(items))
            lines[inside] = item.start_mark.line + 1
            items.append(_built(item, events, inside, lines))
        return items
    made: dict[str, Any] = {}
    while not isinstance(named := next(events), pyyaml.MappingEndEvent):
        line = named.start_mark.line + 1
        key = named.value if _names(named) else _built(named, events, place, {})
        if not isinstance(key, str):
            raise Refused(f"the key {brief(key)} is no text; quote it", line)
        if key in made:
            raise Refused(f"{brief(key)} stands twice", line)
        lines[(*place, key)] = line
        made[key] = _built(next(events), events, (*place, key), lines)
    return made


def _names(event: Any) -> bool:
    """Whether a key is one of the two letters that only the letter of YAML 1.1 takes for a boolean."""
    return getattr(event, "value", None) in {"n", "y"}


def _scalar(event: Any) -> Any:
    value = event.value
    if not event.implicit[0]:  # quoted, or a block of text
        return value
    if value in _WORDS:
        return _WORDS[value]
    try:
        if _INT.fullmatch(value):
            return int(value)
        if _FLOAT.fullmatch(value):
            return float(value)
    except ValueError:  # more digits than Python reads
        raise Refused("a whole number beyond 64 bits", event.start_mark.line + 1) from None
    if _GUESSED.fullmatch(value):
        raise Refused(
            f"{brief(value)} is read as a number, a boolean or a date by some and as text by others; quote it, or write "
            "it plainly (true, false, null, 10, 0.5)",
            event.start_mark.line + 1,
        )
    return value
