"""The flow of every document, once.

choices on selection prompts → eligibility → named worlds and controls → redrawn documents → statistics → verdict.
Nothing here knows which claim is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headlab.claims import Control, Ruled, Verdict, decide
from headlab.designs import Matched
from headlab.heads import Heads
from headlab.interventions import World
from headlab.stats import Estimate, Rank
from headlab.stats.sequential import Walk, walk
from headlab.store import Reading, content_hash
from headlab.trials import controls, kept, over, scores, sets, words
from headlab.trials.alternatives import Alternatives, in_order, least_p, plan_of, planned, remark, wanted
from headlab.trials.choices import Choices
from headlab.trials.consistency import ablations_left_out
from headlab.trials.document import Document
from headlab.trials.eligibility import Eligibility, eligibility, gate
from headlab.trials.expressions import Expression
from headlab.trials.figures import drawn
from headlab.trials.findings import Findings
from headlab.trials.kept import Asked
from headlab.trials.measured import Array, Measured, name_of
from headlab.trials.references import Matching
from headlab.trials.relabelled import Labels, Relabelled, Turning, relabelled
from headlab.trials.sets import Family, Resolved
from headlab.trials.sources import partnerless
from headlab.trials.stand_ins import MOST, StandIns, judged
from headlab.trials.statistics import Statistics
from headlab.trials.subject import Language
from headlab.trials.thinking import Thinking
from headlab.trials.worlds import Arm, arms

Arms = dict[str, list[Arm]]


@dataclass
class Trial:
    """One document before one model.  :meth:`findings` runs it."""

    doc: Document
    subject: Language | Thinking
    folder: Path = Path(".")
    exploratory: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    walked: Walk | None = None
    """The walk through the alternatives, once it is done."""
    drawn: list[Arms] = field(default_factory=list)
    """The arms of the redrawn documents that were measured, in the order of their sets."""
    stand_ins: int | None = MOST
    """How many drawn sets are decided in place of the named one, as far as ranks ran their worlds (None: all, in full)."""
    parts: over.Strata = field(default_factory=list)
    """The strata of the pairs that the trial is about, once eligibility is known."""
    short: dict[str, str] = field(default_factory=dict)
    """Strata in which the model is not eligible, where it is in others, each with the reason."""

    # -- what runs --------------------------------------------------------------------------------------------

    @cached_property
    def choices(self) -> Choices:
        made = Choices(self.doc, self.subject, self.folder)
        made.choose_layers()
        return made

    @cached_property
    def sets(self) -> dict[str, Resolved]:
        """The declared sets, made on selection prompts."""
        return self.choices.resolve([{}])[0]

    @cached_property
    def matched(self) -> Matched | Relabelled | None:
        """The sets, or labels, that stand in for what the reference redraws."""
        ref = self.doc.reference
        if ref is None:
            return None
        if ref.labels:
            return relabelled(self.turning.clusters, wanted(self.doc, ref.n), self.doc.seed)
        observed = self.sets[ref.redraw]
        assert isinstance(observed, Heads)
        find = self.choices.find(self.sets)
        among = None if ref.among == "all" else find(sets.parse(ref.among))
        exclude = Heads(h for name in ref.exclude for h in self._flat(name))
        norms = scores.norms(self.subject) if "norm" in ref.match else None
        matching = Matching(frozenset(ref.match), ref.norm_within, norms, among, exclude)
        return in_order(
            self.doc, planned(self.doc, self.subject.grid, observed, matching, ref.n), observed, self.doc.seed
        )

    @cached_property
    def turning(self) -> Turning:
        """The directions of exchanged labels."""
        assert isinstance(self.subject, Language)
        return Turning(self.subject, self.doc)

    def _flat(self, name: str) -> Heads:
        found = self.sets[name]
        return Heads(h for m in found.members for h in m) if isinstance(found, Family) else found

    @cached_property
    def asked(self) -> list[Asked]:
        """Every prediction in every cell of its bare worlds."""
        return kept.asked(self.doc)

    def worlds_run(self) -> list[str]:
        """Declared worlds that run on test prompts: those of predictions, and every one that is no family."""
        from headlab.trials.consistency import _family_world

        predicted = {t.world for a in self.asked for t in a.read.terms}
        return [w for w in self.doc.worlds if w in predicted or not _family_world(self.doc, w)]

    def read_of(self, world: str) -> frozenset[str]:
        """The readouts a world is measured by: all; of families and doses, of which there are many, those that
        predictions read (or the first)."""
        from headlab.trials.consistency import _family_world
        from headlab.trials.worlds import doses

        every = frozenset(self.doc.readouts)
        if not (_family_world(self.doc, world) or doses(self.doc, world)):
            return every
        read = {name_of(self.doc, t.readout) for a in self.asked for t in a.read.terms if t.world == world}
        return frozenset(read or {name_of(self.doc, "")})

    def _measured(self, flat: Sequence[Arm], everything: Sequence[controls.Whole], others: Sequence[Any]) -> Measured:
        """Named arms and controls; ``others`` by every readout."""
        every = frozenset(self.doc.readouts)
        wanted: dict[str, tuple[Any, set[str]]] = {w.name: (w, set(every)) for w in others}
        for arm in [*flat, *(x.arm for x in everything)]:
            for w in arm.draws:
                wanted.setdefault(w.name, (w, set()))[1].update(self.read_of(arm.world))
        groups: dict[frozenset[str], list[Any]] = {}
        for w, read in wanted.values():
            groups.setdefault(frozenset(read), []).append(w)
        seen: Measured | None = None
        for read in sorted(groups, key=lambda r: (-len(r), sorted(r))):
            what = "the worlds of the claim" + ("" if read == every else f", by {' and '.join(sorted(read))}")
            asked = {n: s for n, s in self.doc.readouts.items() if n in read}
            more = self.subject.measure(groups[read], asked, what)
            seen = more if seen is None else seen.joined(more)
        assert seen is not None
        return seen

    def compiled(self, resolved: Mapping[str, Resolved], worlds: Sequence[str], redraw: Mapping[str, Heads]) -> Arms:
        find = self.choices.find(resolved, redraw)
        return {w: arms(self.doc, self.subject, w, resolved, find) for w in worlds}

    # -- the flow ---------------------------------------------------------------------------------------------

    def findings(self) -> Findings:
        """Run the document.  Raises what sets, sweeps and statistics raise, each with one sentence."""
        doc, subject = self.doc, self.subject
        named, matched = self.sets, self.matched
        self._keep_selection(matched)
        able = self._eligibility()
        worlds = self.worlds_run()
        own = self.compiled(named, worlds, {})
        flat = [a for w in worlds for a in own[w]]
        everything = controls.wholes(doc, subject, flat)
        idle = [] if doc.thinking else controls.no_ops(subject.grid, flat)
        mirrored = self._mirrored(flat)
        seen = self._measured(flat, everything, [*idle, *(w for _, a in mirrored for w in a.draws)])
        seen.eligible = None if able.both is None else able.both[able.keep]
        ruled = [replace(a, prediction=p) for a in self.asked for _, p in over.each(a.prediction, self.parts)]
        deciding = [(n, w) for n, w in self.parts if n not in self.short and w.sum() >= over.LEAST]
        found, values, seen = self._ranked(matched, seen, own, [("", None), *deciding], len(ruled))
        stats = Statistics(doc, seen, self.choices.score)
        for name, which in [("", None), *deciding]:
            here = stats if which is None else Statistics(doc, seen.only(which), self.choices.score)
            for a in self.asked:
                if not a.read.rank:
                    told = here.estimate(a.read, own, a.prediction.where)
                    found[over.within(a.prediction.statistic, name) if name else a.prediction.statistic] = told
        for a in ruled:
            pooled = a.prediction.statistic.startswith("pooled:")
            if a.prediction.statistic not in found or (pooled and self.short):
                found[a.prediction.statistic] = Estimate.undefined(
                    subject.unit, 0, self._lacking(a.prediction.statistic)
                )
        able_here = np.any([w for _, w in deciding], axis=0) if self.short else None
        shown = stats if able_here is None else Statistics(doc, seen.only(able_here), self.choices.score)
        checks = self._checks(shown, seen, flat, everything, idle, mirrored)
        verdict = self._verdict(ruled, found, checks, able)
        estimates = kept.estimates(doc, stats, own, found, ruled)
        tables = kept.tables(doc, self.subject.items, seen, own, matched, values) | kept.members(self.asked, stats, own)
        if self.choices.scan:
            tables["layers"] = pd.DataFrame(self.choices.scan)
        reading = Reading(protocol="standard", words=words.method(doc), verdict=verdict, estimates=tuple(estimates))
        return Findings(
            readings=[reading],
            figures=drawn(doc, stats, own, estimates, found, values, matched, self.asked),
            tables=tables,
            eligibility=able.plain(),
            settings=self._settings(matched) | kept.ranks(found) | self._error_rate(stats, own, checks, able),
            sections=words.sections(doc, named),
            notes=self._notes(matched),
        )

    def _keep_selection(self, matched: Alternatives | None) -> None:
        """What was chosen stands in the run before the first test prompt is seen (rule 26)."""
        rows = []
        for name, found in self.sets.items():
            members = found.members if isinstance(found, Family) else (found,)
            rows += [{"set": name, "member": i, "heads": str(m), "size": len(m)} for i, m in enumerate(members)]
        self.facts["selection_hash"] = content_hash(
            {
                "layers": list(self.choices.layers),
                "sets": rows,
                "redrawn": [str(s) for s in matched.sets] if matched else [],
            }
        )
        self.subject.run.table(
            f"{getattr(self.subject, 'label', '')}selection",
            pd.DataFrame(rows).assign(selection_hash=self.facts["selection_hash"]),
        )

    def _eligibility(self) -> Eligibility:
        """Both unedited runs of every test pair; the subject keeps the pairs that the trial is about."""
        doc, subject = self.doc, self.subject
        if isinstance(subject, Thinking):
            return subject.able()
        name = gate(doc)
        paired = not partnerless(doc) and any(p.clean.ids != p.corrupted.ids for p in subject.encoded)
        answered = all(p.pair.wrong for p in subject.encoded)
        asked = (
            {name: doc.readouts.get(name, {"kind": "margin"})} if name and (answered or name in doc.readouts) else {}
        )
        seen = (
            subject.measure([], asked, "eligibility")
            if asked
            else Measured({}, {}, {}, {}, self._clusters(), subject.unit)
        )
        able = eligibility(doc, seen, paired=paired)
        parts = over.strata(doc, subject)
        each = {name: eligibility(doc, seen.only(which), paired=paired).reason for name, which in parts}
        if short := {name: why for name, why in each.items() if why}:
            able = replace(able, reason="; ".join(f"in {name}: {why}" for name, why in short.items()))
            self.short = short if len(short) < len(parts) and "eligible" not in doc.waive else {}
        self.parts = [(name, which[able.keep]) for name, which in parts]
        subject.encoded = [p for p, keep in zip(subject.encoded, able.keep, strict=True) if keep]
        return able

    def _lacking(self, statistic: str) -> str:
        """Why a statistic of a stratum, or of all together, is not defined."""
        own = next((why for name, why in self.short.items() if statistic.endswith(over.within("", name))), "")
        return own or "; ".join(f"in {n}: {why}" for n, why in self.short.items()) or "no eligible pairs in it"

    def _clusters(self) -> list[str]:
        return [p.cluster or p.id for p in self.subject.items]

    def _mirrored(self, flat: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
        """Arms that add a direction, each with the same at the other sign, where the control is asked for."""
        if "opposite" not in self.doc.controls:
            return []
        from headlab.trials.worlds import named

        out = []
        for arm in flat:
            if all(one.write == "add" for w in arm.draws for one in w.interventions):
                turned = tuple(named([replace(o, amount=-o.amount) for o in w.interventions]) for w in arm.draws)
                out.append((arm, replace(arm, draws=turned)))
        return out

    def _ranked(
        self,
        matched: Matched | Relabelled | None,
        seen: Measured,
        own: Arms,
        parts: Sequence[tuple[str, NDArray[np.bool_] | None]],
        tests: int,
    ) -> tuple[dict[str, Estimate | Rank], dict[str, Array], Measured]:
        """Every rank in every part of the prompts, its values, and what was measured with the redrawn documents: walked look
        by look until ``tests`` predictions are settled."""
        doc, places, values = self.doc, {}, {}
        for name, which in parts:
            for a in self.asked:
                if a.read.rank:
                    statistic = a.prediction.statistic
                    places[over.within(statistic, name) if name else statistic] = (a, which)
        if matched is None or not (places or self.stand_ins is None):
            return {}, {}, seen
        if not places:
            return {}, {}, self._measure_alternatives(self.drawn, matched.sets, seen, "")
        plan = plan_of(doc, len(matched.sets), matched.enumerated)
        several, others, known = len(plan.at) > 1, self.drawn, sum(len(x) for x in seen.edited.values())

        def place(statistic: str, look: int) -> tuple[Estimate | Rank, bool]:
            nonlocal seen
            n, (a, which) = plan.at[look], places[statistic]
            if n > len(others):
                seen = self._measure_alternatives(others, matched.sets[len(others) : n], seen, f", to {n}" * several)
            stats = Statistics(doc, seen if which is None else seen.only(which), self.choices.score)
            p = a.prediction
            got, settled, numbers = stats.rank(
                a.read, own, others, plan=plan, look=look, alpha=p.limit, tests=tests, tail=p.tail
            )
            if isinstance(got, Rank) and len(numbers):
                values[statistic] = numbers
            return got, settled

        found, path = walk(plan, list(places), place)
        passes = (sum(len(x) for x in seen.edited.values()) - known) * seen.n
        self.walked = replace(path, passes=passes, of=round(passes * path.plan.planned / path.drawn))
        return (
            found,
            {a.prediction.statistic: values[s] for s, (a, w) in places.items() if w is None and s in values},
            seen,
        )

    def _measure_alternatives(
        self, others: list[Arms], sets: Sequence[Heads | Labels], seen: Measured, mark: str
    ) -> Measured:
        """The worlds of ranked expressions for every redrawn document, measured by the readouts that ranks read; ``others``
        grows by their arms."""
        ranked = self._read_of_alternatives
        readouts = {name_of(self.doc, t.readout) for r in ranked for t in r.terms}
        made = self.redrawn(sets)
        run: dict[str, Any] = {w.name: w for arms_ in made for each in arms_.values() for a in each for w in a.draws}
        known = set.intersection(*(set(seen.place[r]) for r in readouts)) if readouts else set()
        others += made
        fresh = [w for name, w in run.items() if name not in known]
        if fresh:
            asked = {n: s for n, s in self.doc.readouts.items() if n in readouts}
            seen_more = self.subject.measure(fresh, asked, f"alternatives that nobody named{mark}")
            eligible, seen = seen.eligible, seen.joined(seen_more)
            seen.eligible = eligible
        return seen

    @property
    def _read_of_alternatives(self) -> list[Expression]:
        return [a.read for a in self.asked if a.read.rank or self.stand_ins is None]

    def redrawn(self, some: Sequence[Heads | Labels]) -> list[Arms]:
        """The arms of every redrawn document that ranked expressions read."""
        assert self.doc.reference is not None
        ranked = self._read_of_alternatives
        worlds, made = sorted({t.world for r in ranked for t in r.terms}), []
        if turned := str(self.doc.reference.labels or ""):
            own = {w: self._only(ranked, w, x) for w, x in self.compiled(self.sets, worlds, {}).items()}
            labels = [s for s in some if isinstance(s, Labels)]
            return [{**own, turned: arms} for arms in self.turning.arms(own[turned], labels)]
        redraws = [{self.doc.reference.redraw: s} for s in some if isinstance(s, Heads)]
        for redraw, resolved in zip(redraws, self.choices.resolve(redraws), strict=True):
            found = self.compiled(resolved, worlds, redraw)
            made.append({w: self._only(ranked, w, found[w]) for w in worlds})
        return made

    def _only(self, ranked: Sequence[Expression], world: str, found: list[Arm]) -> list[Arm]:
        """The cells of a world that ranks read."""
        pins = {t.cell for r in ranked for t in r.terms if t.world == world}
        return [a for a in found if any(set(p) <= set(a.values) for p in pins)]

    def _checks(
        self,
        stats: Statistics,
        seen: Measured,
        flat: Sequence[Arm],
        everything: Sequence[controls.Whole],
        idle: Sequence[World],
        mirrored: Sequence[tuple[Arm, Arm]],
    ) -> list[Control]:
        doc, tolerance, subject = self.doc, self.subject.tolerance, self.subject
        out = [
            subject.no_op(flat) if isinstance(subject, Thinking) else controls.no_op(seen, idle, tolerance),
            controls.takes_hold(seen, everything, tolerance),
            controls.whole(doc, stats, everything, [(a.prediction, a.read) for a in self.asked]),
        ]
        if any(s["kind"] == "text" for s in doc.readouts.values()):
            out.append(controls.parse_rate(self.subject.spoken))
        if "opposite" in doc.controls:
            out.append(controls.opposite(doc, stats, mirrored))
        return out

    # -- the verdict ------------------------------------------------------------------------------------------

    def _verdict(
        self, ruled: Sequence[Asked], found: Mapping[str, Estimate | Rank], checks: Sequence[Control], able: Eligibility
    ) -> Verdict:
        doc = self.doc
        # a model that does not show the behaviour has nothing for every head to take away: it is untestable, not void
        short = "" if self.short else able.reason  # where some strata can decide, they do
        aside = {*doc.waive, *(["whole"] if short else [])}
        binding = [c.name for c in checks if c.name not in aside]
        case = Ruled(predictions=tuple(a.prediction for a in ruled), controls=tuple(binding))
        waived = able.reason if "eligible" in doc.waive and able.reason else ""
        verdict = decide(case, found, checks, ineligible="" if waived else short)
        if self.short and verdict.outcome == "untestable":
            said = f"Untestable: not every stratum can decide: {able.reason}."
            verdict = verdict.model_copy(update={"sentence": said})
        return self._qualified(ruled, verdict, checks, waived)

    def _error_rate(self, stats: Statistics, own: Arms, checks: Sequence[Control], able: Eligibility) -> dict[str, Any]:
        """How often this rule is upheld of sets that nobody named, where enough were run to say so."""
        if not isinstance(self.matched, Matched) or able.reason or self.doc.over or self.stand_ins == 0:
            return {}  # in strata a rule is another one, and labels are no sets
        binding = tuple(c.name for c in checks if c.name not in self.doc.waive)
        asked = [(a.prediction, a.read) for a in self.asked]
        every = self.matched.enumerated and len(self.drawn) == len(self.matched.sets)
        some = StandIns(stats, asked, own, self.drawn, every, self.stand_ins)
        found = judged(some, checks, binding)
        return {} if found is None else {"stand_ins": found}

    def _qualified(self, ruled: Sequence[Asked], verdict: Verdict, checks: Sequence[Control], waived: str) -> Verdict:
        """What stands beside a verdict: waivers, looks at these prompts, ablations left out."""
        doc, said = self.doc, []
        outcome, sentence = verdict.outcome, verdict.sentence.rstrip(".")
        if waived:
            outcome = "untestable"
            sentence = (
                f"Untestable: verdict withheld, since eligibility is waived ({doc.waive['eligible']}) and {waived}"
            )
        elif (doc.chosen_on == "these" or self.exploratory) and outcome == "upheld":
            outcome, sentence = "undecided", sentence.replace("Upheld", "Undecided", 1)
            said.append("exploratory: the heads were chosen on these prompts, so nothing stronger can be said")
        failed = {c.name for c in checks if not c.passed}
        said += [f"control {n} waived: {r}" for n, r in doc.waive.items() if n != "eligible" and n in failed]
        left = ablations_left_out(doc)
        if left:
            said.append(f"{' and '.join(left)} ablation not tried, because {doc.only_because}")
        if split := words.split_by_write(ruled, verdict):
            said.append(split)
        tail = f"; {'; '.join(said)}" if said else ""
        return verdict.model_copy(update={"outcome": outcome, "sentence": f"{sentence}{tail}."})

    # -- what the record keeps --------------------------------------------------------------------------------

    def _settings(self, matched: Alternatives | None) -> dict[str, Any]:
        layers = list(self.choices.layers)
        return {
            **self.facts,
            "sets": {n: str(s) if isinstance(s, Heads) else f"{len(s)} sets" for n, s in self.sets.items()},
            "layers": layers,
            **({"layer": layers[0]} if len(layers) == 1 else {}),
            **({"walks": {"alternatives": self.walked.plain()}} if self.walked else {}),
            **(
                {"alternatives": len(matched.sets), "enumerated": matched.enumerated, "least_p": least_p(matched)}
                if matched
                else {}
            ),
        }

    def _notes(self, matched: Alternatives | None) -> list[str]:
        out = []
        if isinstance(self.subject, Thinking) and self.subject.borrows_from_test:
            out.append("Means and donors are taken from the problems that are tried (mean: over: test).")
        if matched is not None:
            drawn_ = "all" if matched.enumerated else "a random sample"
            out.append(
                f"{len(matched.sets):,} alternatives ({drawn_}); the least attainable p is {least_p(matched):.3g}."
            )
        if self.walked is not None and len(self.walked.plan.at) > 1:
            out.append(remark(self.walked))
        return out


__all__ = ["Trial"]
