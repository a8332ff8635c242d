"""What a document says against itself: names that nobody declared, statistics that its task or edit cannot give.

Pure and without a model; :func:`faults` yields every fault with the place in the document where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from headlab.reading import brief, expected_one_of, meant
from headlab.reading.problems import expected
from headlab.tasks.grading import Grader
from headlab.trials import expressions, over, sets, thought_worlds
from headlab.trials.expressions import CURVES, DOSED, Expression, ExpressionError, Term
from headlab.trials.fields import ABLATIONS, PER_TOKEN, READOUTS, Fields, Reference, Write, WriteAxes, known_scores
from headlab.trials.sets import FAMILIES, SetSpec
from headlab.trials.sources import Fault, Place, partnerless, task, undeclared, write_of

NUMERIC = ("amount",)
"""Axes along which a statistic may have a slope; every other axis is nominal."""


def faults(doc: Fields) -> Iterator[Fault]:
    """``(place, message)`` of every fault, in the order in which a reader meets them."""
    if not doc.sets and not doc.thinking:
        yield (("sets",), "a document names its heads, such as sets: {named: L3H1 L5H0}")
        return
    unreadable = list(_readable(doc))
    yield from unreadable
    if unreadable:
        return
    yield from task(doc)
    yield from _readouts(doc)
    yield from _sets(doc)
    yield from _scores(doc)
    yield from _circles(doc)
    yield from _worlds(doc)
    yield from _reference(doc)
    yield from over.faults(doc)
    yield from _predictions(doc)
    yield from thought_worlds.faults(doc)
    yield from _honesty(doc)


def _readable(doc: Fields) -> Iterator[Fault]:
    """Sets and worlds that cannot be read at all."""
    for name, value in doc.sets.items():
        try:
            sets.parse(value)
        except ValueError as error:
            yield (("sets", name), str(error))
    for name, value in doc.worlds.items():
        for n, one in enumerate(value if isinstance(value, list | tuple) else [value]):
            place: Place = ("worlds", name, n) if isinstance(value, list | tuple) else ("worlds", name)
            try:
                WriteAxes(one)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                yield ((*place, *first["loc"]), expected(first["loc"], [first], Write))
            except ValueError as error:
                yield (place, str(error))


def is_family(doc: Fields, spec: SetSpec) -> bool:
    """Whether a set stands for several."""
    declared = doc.set_specs()
    return any(
        s.kind in FAMILIES or (s.kind == "name" and s.name in declared and is_family(doc, declared[s.name]))
        for s in spec.walk()
    )


def _readouts(doc: Fields) -> Iterator[Fault]:
    for name, spec in doc.readouts.items():
        kind = spec.get("kind")
        place = ("readout", name) if not isinstance(doc.readout, str) else ("readout",)
        if kind not in READOUTS:
            yield (place, f"no readout {kind!r}; {expected_one_of(kind, READOUTS)}")
            continue
        known = {"kind"} | ({"span"} if kind in PER_TOKEN and "corpus" in doc.task else set())
        known |= {"grader", "tokens", "decode_from"} if kind == "text" else set()
        if more := sorted(set(spec) - known):
            yield (
                (*place, more[0]),
                f"{kind} has no field {more[0]!r}; it has {', '.join(sorted(known))}{meant(more[0], known)}",
            )
        yield from _text(spec, place)
        if "span" in known & set(spec) and not _range(spec["span"]):
            yield (
                (*place, "span"),
                f"given {brief(spec['span'])}; expected [first token, after the last], such as [32, 64]",
            )
        if "corpus" in doc.task and kind not in PER_TOKEN:
            yield (place, f"a corpus gives no {kind}: it has no answers; expected loss or kl")


def _text(spec: dict[str, Any], place: Place) -> Iterator[Fault]:
    """How text is made and graded."""
    tokens = spec.get("tokens", 1)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= 500:
        yield ((*place, "tokens"), f"given {brief(tokens)}; expected a whole number from 1 to 500")
    if (start := spec.get("decode_from", "prompt")) not in {"prompt", "shared start"}:
        yield ((*place, "decode_from"), f"given {brief(start)}; expected prompt or shared start")
    grader = spec.get("grader", "prefix")
    if isinstance(grader, dict):
        try:
            Grader.from_plain(grader)
        except ValueError as error:
            yield ((*place, "grader"), str(error))
    elif grader not in ("number", "prefix"):
        yield (
            (*place, "grader"),
            f"given {brief(grader)}; expected number, prefix, or {{kind: exact | contains | choice, words: […]}}",
        )


def _range(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    whole = all(isinstance(x, int) and not isinstance(x, bool) for x in value)
    return whole and 0 <= value[0] < value[1]


def _sets(doc: Fields) -> Iterator[Fault]:
    declared = doc.set_specs()
    for name, spec in declared.items():
        if name in {"all", "selection"}:
            yield (("sets", name), f"{name!r} has a meaning of its own; choose another name")
        for inner in sorted(spec.names - set(declared) - {"all"}):
            yield (("sets", name), undeclared("set", inner, declared))
        for score in sorted(spec.scores - set(doc.scores) - set(known_scores())):
            yield (("sets", name), f"no score {score!r}; {expected_one_of(score, [*doc.scores, *known_scores()])}")


def _scores(doc: Fields) -> Iterator[Fault]:
    for name, spec in doc.scores.items():
        place = ("scores", name)
        if isinstance(spec, dict):
            if set(spec) == {"attention"}:
                roles = spec["attention"]
                if not (isinstance(roles, list | tuple) and len(roles) == 2 and all(isinstance(r, str) for r in roles)):
                    yield (place, f"attention takes [query role, key role], given {brief(roles)}")
            elif set(spec) == {"file"}:
                if not isinstance(spec["file"], str):
                    yield (place, f"file takes a name, given {brief(spec['file'])}")
            else:
                yield (place, f"given {brief(spec)}; expected {{attention: [query role, key role]}} or {{file: name}}")
        elif isinstance(spec, str) and ":" in spec:
            try:
                read = expressions.parse(spec)
            except ExpressionError as error:
                yield (place, str(error))
                continue
            if read.rank or read.family:
                yield (place, "a score is a number for each head; rank, mean, least, most and share give one for all")
            families = {t.world for t in read.terms if t.world in doc.worlds and _family_world(doc, t.world)}
            if not families:
                yield (place, "a score needs a world over {singles: …}: one number for each head")
            yield from _terms(doc, read, place)
        elif spec not in known_scores():
            yield (
                place,
                f"no score {brief(spec)}; expected {', '.join(known_scores())}, {{attention: …}}, {{file: …}} or an expression",
            )


def _family_world(doc: Fields, world: str) -> bool:
    return any(is_family(doc, w.spec) for w in doc.world_axes()[world])


def _circles(doc: Fields) -> Iterator[Fault]:
    """Sets that need themselves: through other sets, or through scores measured in worlds of theirs."""
    declared, worlds = doc.set_specs(), doc.world_axes()

    def below(kind: str, name: str) -> set[tuple[str, str]]:
        if kind == "set":
            spec = declared[name]
            own = {("set", n) for n in spec.names if n in declared}
            return own | {("score", s) for s in spec.scores if s in doc.scores}
        found: set[tuple[str, str]] = set()
        score = doc.scores[name]
        if isinstance(score, str) and ":" in score:
            for term in expressions.parse(score).terms:
                for write in worlds.get(term.world, ()):
                    found |= {("set", n) for n in write.spec.names if n in declared}
        return found

    state: dict[tuple[str, str], int] = {}

    def visit(node: tuple[str, str]) -> bool:
        if state.get(node) == 1:
            return True
        if state.get(node) == 2:
            return False
        state[node] = 1
        circle = any(visit(n) for n in below(*node))
        state[node] = 2
        return circle

    for name in declared:
        try:
            if visit(("set", name)):
                yield (("sets", name), "is made from itself, directly or through a score")
                return
        except ExpressionError:
            return  # said where the score stands


def _worlds(doc: Fields) -> Iterator[Fault]:
    declared = doc.set_specs()
    single = partnerless(doc)
    for name, writes in doc.world_axes().items():
        place = ("worlds", name)
        axes: dict[str, tuple[Any, ...]] = {}
        for write in writes:
            for axis, values in write.axes.items():
                if axes.setdefault(axis, values) != values:
                    yield (
                        place,
                        f"two writes have different lists under {axis}: {{each: …}}; one world has one such axis",
                    )
            for inner in sorted(write.spec.names - set(declared) - {"all"}):
                yield (place, undeclared("set", inner, declared))
            for score in sorted(write.spec.scores - set(doc.scores) - set(known_scores())):
                yield (place, f"no score {score!r}; {expected_one_of(score, [*doc.scores, *known_scores()])}")
            yield from write_of(doc, place, write, single)


def _reference(doc: Fields) -> Iterator[Fault]:
    ranks = [p for p in doc.predictions if p.op == "rank<"]
    ref = doc.reference
    if ref is None:
        if ranks:
            yield (
                ("predictions",),
                f"{ranks[0].statistic!r} needs reference: {{redraw: SET}}: the alternatives it is ranked among",
            )
        return
    if ref.keys:
        yield (("reference", "keys"), "keys cannot be redrawn: references are other heads, or labels; leave keys out")
    if not (ref.redraw or ref.labels):
        yield (
            ("reference",),
            "says nothing that is drawn anew; expected redraw: SET, or labels: WORLD (one that adds a direction)",
        )
        return
    if ref.labels:
        yield from _labels(doc, ref, [expressions.parse(p.statistic.removeprefix("pooled:")) for p in ranks])
        return
    declared = doc.set_specs()
    if ref.redraw not in declared:
        yield (("reference", "redraw"), undeclared("set", ref.redraw, declared))
        return
    if is_family(doc, declared[ref.redraw]):
        yield (("reference", "redraw"), f"{ref.redraw!r} is a family; a reference redraws one set")
    for name in ref.exclude:
        if name not in declared:
            yield (("reference", "exclude"), undeclared("set", name, declared))
    try:
        spec = sets.parse(ref.among)
    except sets.SetError as error:
        yield (("reference", "among"), str(error))
        return
    for inner in sorted(spec.names - set(declared) - {"all"}):
        yield (("reference", "among"), undeclared("set", inner, declared))


def _labels(doc: Fields, ref: Reference, ranks: Sequence[Expression]) -> Iterator[Fault]:
    """What directions of exchanged labels ask: a world that adds a difference of means, which the ranks read."""
    world, place = str(ref.labels), ("reference", "labels")
    if more := sorted(ref.model_fields_set - {"labels", "n", "keys"}):
        yield (
            ("reference", more[0]),
            f"{more[0]} belongs to sets that are redrawn, and here labels are; leave one out",
        )
    if world not in doc.worlds:
        yield (place, undeclared("world", world, doc.worlds))
        return
    writes = [w.at(c) for w in doc.world_axes()[world] for c in w.cells()]
    added = [w.direction for w in writes if w.write == "add"]
    if not added or any(isinstance(d, dict) and "file" in d for d in added):
        yield (
            place,
            f"{world!r} adds no difference of means; labels are those of write: add, direction: other or {{role: NAME}}",
        )
    if inner := [n for n, ws in doc.world_axes().items() if any(w.fixed.get("computed_in") == world for w in ws)]:
        yield (place, f"{inner[0]!r} is computed in {world!r}, whose labels are redrawn; predict {world!r} itself")
    if any(world not in {t.world for t in read.terms} for read in ranks):
        yield (place, f"a rank reads other worlds than {world!r}, and exchanged labels change nothing there")


def _predictions(doc: Fields) -> Iterator[Fault]:
    for n, p in enumerate(doc.predictions):
        place = ("predictions", n, "statistic")
        text = p.statistic
        if doc.over:
            text = text.removeprefix("pooled:")
        if text == "upheld:cells":
            continue
        try:
            read = expressions.parse(text)
        except ExpressionError as error:
            yield (place, str(error))
            continue
        if read.rank != (p.op == "rank<"):
            yield (place, f"{text!r} with {p.op!r}: ranks, and only ranks, are predicted with 'rank<'")
        if (read.family == "share") != bool(p.where):
            yield (place, "share: needs where (such as '> 0'), and only share has one")
        if p.tail != "greater" and not read.rank:
            yield (place, "tail belongs to ranks")
        yield from _terms(doc, read, place)
        yield from _shape(doc, read, place)


def _terms(doc: Fields, read: Expression, place: Place) -> Iterator[Fault]:
    readouts, single = doc.readouts, partnerless(doc)
    for term in read.terms:
        if term.world not in doc.worlds:
            yield (place, undeclared("world", term.world, doc.worlds))
            continue
        if term.readout and term.readout not in readouts:
            yield (place, undeclared("readout", term.readout, readouts))
            continue
        kind = str((readouts[term.readout] if term.readout else next(iter(readouts.values()))).get("kind"))
        if term.word == "lost" and doc.edit != "clean":
            yield (place, "lost is defined where the clean run is edited (edit: clean); use recovery or drop")
        if term.word == "recovery" and doc.edit != "corrupted":
            yield (place, "recovery is defined where the corrupted run is edited (edit: corrupted); use lost or drop")
        if term.word in {"lost", "recovery"} and kind == "kl":
            yield (place, f"{term.word} is a share of a lead, and kl measures from the run that is edited; use drop")
        if term.word in {"lost", "recovery", "repair"} and single:
            yield (place, f"{term.word} compares two prompts of a pair, and this task gives one; use drop")
        if term.word == "repair" and doc.edit != "corrupted":
            yield (place, "repair counts corrupted prompts made right (edit: corrupted); use drop of accuracy")
        if term.word in CURVES and (read.single is None or read.rank or read.family or kind != "margin"):
            yield (
                place,
                f"{term.word} is fitted to margins at all doses of one world: it stands alone, without a rank",
            )
        if term.word in {"repair", "dose50"} and kind not in {"margin", "accuracy", "text"}:
            yield (place, f"{term.word} counts right answers; {kind} has none (margin, accuracy and text do)")
        if term.word == "spearman" and term.score not in {*doc.scores, *known_scores()}:
            yield (place, f"no score {term.score!r}; {expected_one_of(term.score, [*doc.scores, *known_scores()])}")
        yield from _cell(doc, term, place)


def _cell(doc: Fields, term: Term, place: Place) -> Iterator[Fault]:
    axes = axes_of(doc, term.world)
    dosed = [a for a in axes if a in NUMERIC]
    if term.word in DOSED and not dosed:
        yield (place, f"{term.word}:{term.world} needs a dose: amount: {{each: [0, 0.5, 1]}}")
    known = {str(v): a for a, values in axes.items() for v in values}
    pinned = set()
    for cell in term.cell:
        if cell not in known:
            cells = ", ".join(known) or "none"
            yield (place, f"{term.world} has no cell {cell!r}; it has {cells}")
        else:
            pinned.add(known[cell])
    if dosed and term.word not in DOSED and not pinned & set(dosed):
        yield (place, f"{term.world} has doses; pin one ({term.world}/{axes[dosed[0]][0]}) or use slope or dose50")


def axes_of(doc: Fields, world: str) -> dict[str, tuple[Any, ...]]:
    """The axes of a world, by field; one that is computed in another world has that world's too."""
    out: dict[str, tuple[Any, ...]] = {}
    for write in doc.world_axes()[world]:
        out |= write.axes
        if (inner := write.fixed.get("computed_in")) in doc.worlds:
            for other in doc.world_axes()[str(inner)]:
                out |= other.axes
    return out


def _shape(doc: Fields, read: Expression, place: Place) -> Iterator[Fault]:
    """Families need a word for all of them; bare worlds of one expression have the same cells."""
    known = [t for t in read.terms if t.world in doc.worlds]
    families = [t for t in known if _family_world(doc, t.world) and t.word != "spearman"]
    if families and not read.family:
        yield (place, f"{families[0].world} is a family of worlds; say mean:, least:, most: or share: of it")
    if read.family and not families:
        yield (place, f"{read.family}: needs a world over a family (singles, leave_one_out, draw, chains)")
    axes: dict[str, tuple[Any, ...]] = {}
    for term in known:
        pins = set(term.cell)
        for axis, values in axes_of(doc, term.world).items():
            if axis in NUMERIC and term.word in DOSED:
                continue
            if pins & set(map(str, values)):
                continue
            if axes.setdefault(axis, values) != values:
                yield (place, f"{term.world} has other values of {axis} than another world here; pin the cells")


def _honesty(doc: Fields) -> Iterator[Fault]:
    literal = [n for n, s in doc.set_specs().items() if s.literal]
    literal += [n for n, writes in doc.world_axes().items() if any(w.spec.literal for w in writes)]
    literal += [n for n, s in doc.scores.items() if isinstance(s, dict) and "file" in s]
    if literal and doc.chosen_on is None:
        yield (
            ("chosen_on",),
            f"{literal[0]!r} names heads: say where they were found, chosen_on: published | other | these",
        )
    left = ablations_left_out(doc)
    if left and not doc.only_because:
        yield (
            ("worlds",),
            f"ablates without {' and '.join(left)}; try them too (write: {{each: [mean, zero, resample]}}), or say "
            "only_because: the reason, which stands beside the verdict",
        )


def ablations_left_out(doc: Fields) -> tuple[str, ...]:
    """Ablations among zero, mean and resample that some world which ablates does not try."""
    missing: set[str] = set()
    for writes in doc.world_axes().values():
        used = {w.at(c).write for w in writes for c in w.cells()} & set(ABLATIONS)
        missing |= set(ABLATIONS) - used if used else set()
    return tuple(a for a in ABLATIONS if a in missing)
