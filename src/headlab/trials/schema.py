"""JSON Schema of what headlab reads: a claim (of the docket, or a document) and a run's record.

Made from the models that read them and kept beside this file: ``python -m headlab.trials.schema`` writes both anew.  A
schema tells what each field may hold; what fields ask of each other (a set that is declared, a statistic that its task can
give) is told by ``headlab check``, in one line.  What passes one is therefore not yet a claim; what fails is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from headlab.claims import Claim
from headlab.heads import POOL
from headlab.interventions import SITES, WRITES
from headlab.store.records import SCHEMA, Record
from headlab.trials.document import Document
from headlab.trials.expressions import NAME
from headlab.trials.fields import ALWAYS, NAMED_CONTROLS, READOUTS, THINKING, WAIVABLE, Write
from headlab.trials.references import MATCHES
from headlab.trials.sets import HEADS, SHAPES

NAMES = ("claim", "record")
FOLDER = "schemas"

Schema = dict[str, Any]


def shipped(name: str) -> str:
    """The schema ``name`` of :data:`NAMES` as the JSON text that ships."""
    return (files("headlab.trials") / FOLDER / f"{name}.schema.json").read_text("utf-8")


def made(name: str) -> Schema:
    """The schema ``name`` of :data:`NAMES`, from the models as they are."""
    return _claim() if name == "claim" else _record()


def text(schema: Schema) -> str:
    """A schema as it is kept."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _claim() -> Schema:
    _, found = models_json_schema([(m, "validation") for m in (Claim, Document, Write)])
    defs: Schema = found["$defs"]
    write = defs.pop("Write")
    defs["Set"], defs["World"] = _set(), _one_or_more(_ref("Write"))
    defs["Write"] = _write(write["properties"])
    fields, reference = defs["Document"]["properties"], defs["Reference"]["properties"]
    readout, pair = {"enum": list(READOUTS)}, _tuple({"type": "string"})
    named = {
        "sets": _ref("Set"),
        "worlds": _ref("World"),
        "scores": {"anyOf": [{"type": "string"}, _only(attention=pair), _only(file={"type": "string"})]},
        "readout": {"anyOf": [readout, {"type": "object", "properties": {"kind": readout}, "required": ["kind"]}]},
    }
    for field, inner in named.items():
        mapping = {"patternProperties": {f"^{NAME}$": inner}, "additionalProperties": False}
        fields[field] |= {"type": "object", **mapping, "propertyNames": {"maxLength": 60}}
    in_order = {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}}  # as records keep them
    fields["readout"] = {
        "anyOf": [readout, _without(fields["readout"], "anyOf", "default"), in_order],
        "default": "margin",
    }
    fields["task"] |= _task()
    fields["over"] = _over()
    fields["controls"] = _one_or_more({"enum": [*ALWAYS, *NAMED_CONTROLS]})
    fields["waive"]["propertyNames"] = {"enum": list(WAIVABLE)}
    fields["waive"]["additionalProperties"]["pattern"] = r"\S"
    reference |= {
        "match": _one_or_more({"enum": list(MATCHES)}),
        "exclude": _one_or_more({"type": "string"}),
        "among": _ref("Set"),
    }
    of_sets = {"anyOf": [{"required": [k]} for k in reference if k not in {"labels", "n", "keys"}]}
    defs["Reference"]["anyOf"] = [
        {"required": ["redraw"], "properties": {"labels": {"const": False}}},
        {"required": ["labels"], "properties": {"labels": {"type": "string"}}, "not": of_sets},
    ]
    defs["Prediction"]["allOf"] = [_threshold(op) for op in ("within", "rank<", ">", "<")]
    which = [{"required": ["worlds"]}, {"required": ["language"]}, {"not": {"required": ["experiment"]}}]
    return _schema(
        "claim:1",
        "A claim about attention heads, as headlab reads it",
        {"type": "object", "if": {"anyOf": which}, "then": _ref("Document"), "else": _ref("Claim"), "$defs": defs},
    )


def _record() -> Schema:
    found = Record.model_json_schema()
    found["properties"]["schema_version"] |= {"maximum": SCHEMA}
    found["properties"]["digest"] = {
        "description": "SHA-256 of the file up to its last two lines; records of schema 1 have none.",
        "pattern": "^[0-9a-f]{64}$",
        "type": "string",
    }
    return _schema(f"record:{SCHEMA}", "The record of a run, as headlab writes it", found)


def _schema(name: str, title: str, found: Schema) -> Schema:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:headlab:{name}", "title": title}
    return {**head, **{k: v for k, v in _untitled(found).items() if k not in head}}


def _untitled(node: Any) -> Any:
    """Without the titles that pydantic makes of the fields' names, and with docstrings in one paragraph."""
    if isinstance(node, list):
        return [_untitled(x) for x in node]
    if not isinstance(node, Mapping):
        return node
    out = {k: _untitled(v) for k, v in node.items() if not (k == "title" and isinstance(v, str))}
    if isinstance(out.get("description"), str):
        out["description"] = " ".join(out["description"].split())
    return out


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _one_or_more(item: Schema) -> Schema:
    """One, or a list of them."""
    return {"anyOf": [item, {"type": "array", "items": item}]}


def _without(found: Schema, *keys: str) -> Schema:
    return {k: v for k, v in found.items() if k not in keys}


def _task() -> Schema:
    """One place for prompts; problems of thinking models may stand in a file of their own."""
    places = ("name", "file", "corpus")
    thinking = {"properties": {"name": {"const": THINKING}}, "required": ["name"]}
    return {
        "properties": {k: {"type": "string"} for k in places},
        "anyOf": [thinking, {"oneOf": [{"required": [k]} for k in places]}],
    }


def _over() -> Schema:
    """Strata alone, or models, revisions and settings together."""
    names = {"type": "array", "items": {"type": "string", "pattern": r"\S"}, "minItems": 1, "uniqueItems": True}
    changes = {"patternProperties": {f"^{NAME}$": {"type": "object"}}, "additionalProperties": False}
    cells = {"models": names, "revisions": names, "settings": {"type": "object", "minProperties": 1, **changes}}
    return {"anyOf": [_only(stratum={"type": "string"}), _only(**cells) | {"required": []}]}


def _tuple(item: Schema) -> Schema:
    """Two of a kind."""
    return {"type": "array", "items": item, "minItems": 2, "maxItems": 2}


def _only(**fields: Schema) -> Schema:
    """A mapping with these keys and no others."""
    return {"type": "object", "properties": fields, "required": sorted(fields), "additionalProperties": False}


def _threshold(op: str) -> Schema:
    """What the threshold of a prediction by ``op`` is."""
    level = {"exclusiveMinimum": 0, "exclusiveMaximum": 1} if op == "rank<" else {}
    wanted = _tuple({"type": "number"}) if op == "within" else {"type": "number", **level}
    return {"if": {"properties": {"op": {"const": op}}}, "then": {"properties": {"threshold": wanted}}}


def _set() -> Schema:
    """What :func:`headlab.trials.sets.parse` takes."""
    inner = {"among", "from", "not", "singles", "leave_one_out", "chains"}
    index, count = {"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}
    some, level = {"type": "array", "items": index}, {"type": "number", "exclusiveMinimum": 0}
    fields: dict[str, Schema] = {k: _ref("Set") for k in inner} | {
        "pool": {"anyOf": [{"type": "string", "pattern": f"^({POOL})$"}, index, {**some, "minItems": 1}]},
        "layer": {"anyOf": [index, some]},
        **{"top": level, "bottom": level, "draw": level, "above": {"type": "number"}, "n": count, "less": index},
    }
    shapes = [
        _only(**{k: fields.get(k, {}) for k in sorted(must | may)}) | {"required": sorted(must)}
        for must, may in SHAPES.values()
    ]
    named = {"type": "string", "pattern": rf"^\s*({HEADS.pattern})\s*$|^{NAME}$"}
    return {"anyOf": [named, {"type": "array", "items": _ref("Set"), "minItems": 1}, *shapes]}


def _write(fields: Schema) -> Schema:
    """What :class:`headlab.trials.fields.WriteAxes` takes: each field with one value, or an axis of them."""
    words = {
        "site": {"enum": [*SITES, "thought"]},
        "write": {"enum": list(WRITES)},
        **{k: {"anyOf": [{"type": ["string", "null"]}, fields[k]]} for k in ("roles", "keys", "from_keys")},
    }
    steps = _only(**{k: {"type": "number"} for k in ("from", "to", "step")})

    def axis(one: Schema) -> Schema:
        values = {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}
        return {"anyOf": [one, _only(each={"anyOf": [values, steps]})]}

    axes = {k: axis(words.get(k, v)) for k, v in fields.items() if k != "heads"}
    needs = [{"required": ["heads"]}, {"required": ["site"], "properties": {"site": {"const": "thought"}}}]
    return {
        "type": "object",
        "properties": {"heads": _ref("Set"), **axes},
        "additionalProperties": False,
        "anyOf": needs,
    }


if __name__ == "__main__":
    for each in NAMES:
        (Path(__file__).parent / FOLDER / f"{each}.schema.json").write_text(text(made(each)), encoding="utf-8")
