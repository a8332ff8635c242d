"""From a claim and a model to a stored record: the one way in for the CLI, notebooks and scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from headlab.claims import Claim, ClaimError
from headlab.effects import Progress, quiet
from headlab.engine import scale
from headlab.engine.limits import beyond
from headlab.engine.model import Lab
from headlab.engine.run import Engine
from headlab.experiments import documents, null_rates, over_models, planning
from headlab.experiments.fitting import check_fit, check_prompts
from headlab.experiments.known import adjusted, builtin_claims, find_claim
from headlab.experiments.subsets import reanalysis, simulator
from headlab.heads import layer as all_heads
from headlab.heads import pool
from headlab.interventions import Intervention, World
from headlab.prompts import PromptSet, remarks
from headlab.reading import brief, some
from headlab.reading.callables import callable_as
from headlab.store import Record, Result, Run, Store
from headlab.tasks.word_problems import ProblemSet
from headlab.thoughts.loading import Thinker
from headlab.trials.attainable import dead_end, of_claim, said_before
from headlab.trials.case import Bench, draw
from headlab.trials.document import Document
from headlab.trials.experiment import Entry
from headlab.trials.findings import Findings
from headlab.trials.loading import Loading, ModelLike, load, load_thinker
from headlab.trials.record import BY_RECORD, again, decided
from headlab.trials.recorded import How, Prepared, recorded
from headlab.trials.thought_case import TASK as THINKING
from headlab.trials.thought_case import ThoughtBench, draw_problems, read_problems

_DOCKET = (
    ("heads", "parity head_count layer_scan bug_rate robustness"),
    ("subsets", "subset_sweep spatial_patterns"),
    ("doses", "pattern_threshold"),
    ("attention", "bandwidth"),
    ("doses", "bandwidth_dose bandwidth_repair format_masking format_injection"),
    ("attention", "routing critical_paths"),
    ("doses", "position_sensitivity"),
    ("attention", "head_similarity"),
    ("exchanges", "pattern_swap head_exchange"),
    ("training", "cross_model"),
    ("attention", "architecture"),
    ("exchanges", "reindexing"),
    ("training", "training_dynamics"),
    ("weights", "weight_clusters"),
    ("heads", "mechanism"),
    ("weights", "cluster_behaviour"),
    ("thoughts", "head_ablation position_patching forced_patterns hub_rerouting transplant thought_attention hubs"),
    ("thoughts", "head_metrics compare_models layer_probes attribution difficulty"),
)
"""The docket in its order, by folder.  A new module is added here; its claim stands in ``claims/SLUG.yaml``."""
_ROOMS = [import_module(f"headlab.experiments.{folder}.{name}") for folder, some in _DOCKET for name in some.split()]
ROOMS = {room.EXPERIMENT.slug: room for room in _ROOMS}
EXPERIMENTS: dict[str, Entry] = {slug: room.EXPERIMENT for slug, room in ROOMS.items()}
_BESIDE = {null_rates.EXPERIMENT.slug: null_rates.EXPERIMENT}
"""What checks headlab's own rule and is no published claim: tried like the others, in no scorecard."""


def _prepared(
    claim: Claim | str | Path, model: Any, prompts: Any, loading: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[Claim, Lab | Thinker, Any, Any]:
    """The claim as it will be tried, the model, and test and selection prompts (or problems, for thinking models)."""
    changes = dict(changes)
    protocol = changes.pop("protocol", None)
    if protocol is not None:
        changes["readings"] = (protocol,)
    chosen = adjusted(_docketed(find_claim(claim)), **changes)
    tried = experiment(chosen.experiment)
    tried.check(chosen)
    check_fit(chosen, changes, builtin_claims().get(tried.slug))
    given = {k: v for k, v in loading.items() if v is not None}
    if isinstance(prompts, str | Path):
        prompts = read_problems(prompts) if chosen.task.name == THINKING else PromptSet.from_file(prompts)
    if chosen.task.name == THINKING:
        thinker = load_thinker(model, **given)
        if isinstance(prompts, tuple):
            return chosen, thinker, *prompts
        if prompts is not None and not isinstance(prompts, ProblemSet):
            raise ClaimError(f"{chosen.id} is about a thinking model; expected problems, given prompt pairs")
        return chosen, thinker, *draw_problems(chosen, thinker, prompts)
    lab = load(model, **given)
    if isinstance(chosen.layer, int):
        lab.grid.check_layer(chosen.layer)
    pool(lab.grid, 0, chosen.pool)  # an unknown or empty pool is refused before anything runs
    if isinstance(prompts, ProblemSet):
        raise ClaimError(f"{chosen.id} is about prompt pairs; expected those, given word problems")
    test, selection = draw(chosen, lab.tokenizer, prompts)
    check_prompts(tried.slug, tried.needs, [*test, *selection])
    return chosen, lab, test, selection


def _given(claim: Any, prompts: object) -> tuple[object, Claim | Document, Any]:
    """The claim as its command names it (a text is named by what it says), what it says, and prompts: a DataFrame, rows or pairs
    as a set of them."""
    found = find_claim(claim)
    sets = isinstance(prompts, PromptSet | ProblemSet | Path | str) or prompts is None
    both = isinstance(prompts, tuple) and prompts and isinstance(prompts[0], PromptSet | ProblemSet)
    text = isinstance(claim, str) and "\n" in claim
    return found if text else claim, found, prompts if sets or both else PromptSet.of(prompts)


def _docketed(claim: Claim | Document) -> Claim:
    """A claim of the docket.  Raises ClaimError for a document, which has no experiment."""
    if isinstance(claim, Document):
        raise ClaimError(f"{claim.id} is a document of its own; an entry of the docket is expected here")
    return claim


def experiment(slug: str) -> Entry:
    """The experiment of that name.  Raises ClaimError."""
    known = EXPERIMENTS | _BESIDE
    if slug not in known:
        raise ClaimError(f"no experiment {brief(slug)}; expected one of {some(known, 40)[:300]}")
    return known[slug]


CHANGES = ("protocol", "layer", "pairs", "seed", "pool", "matched_sets", "decide")
"""What may be changed of a claim beside it."""
Own = PromptSet | ProblemSet | Path | str | tuple[PromptSet, PromptSet] | tuple[ProblemSet, ProblemSet]
"""Prompts of one's own: the test's alone, the file that holds them, or test and selection."""


def trial(
    claim: Claim | Document | Mapping[str, object] | str | Path,
    model: ModelLike | Thinker | None = None,
    *,
    protocol: str | None = None,
    layer: int | str | None = None,
    pairs: int | None = None,
    seed: int | None = None,
    pool: str | None = None,
    matched_sets: int | None = None,
    decide: str | None = None,
    amend: Mapping[str, object] | None = None,
    prompts: Own | None = None,
    store: Store | Path | str | None = None,
    memory: int | None = None,
    engine: str | Engine = "here",
    workers: int | None = None,
    address: str | None = None,
    progress: Progress = quiet,
    call: Mapping[str, str] | None = None,
    looked: Mapping[str, object] | None = None,
    dead_end: Callable[[str], object] | None = None,
    **loading: Unpack[Loading],
) -> Result:
    """Try a claim on a model and store the record.

    ``claim``: a :class:`Claim` or :class:`Document`, a mapping that declares ``worlds``, a built-in name ("parity",
    "ioi-name-movers"), a YAML/TOML file, or YAML of several lines.  ``model``: whatever :func:`load` takes (left out where a
    document names its models itself, ``over: {models: [...]}``; given, it is the one of them that is tried); ``loading``
    goes to it (revision,
    dtype, device, adapter, tokenizer).  ``amend``: fields of a document by path with other values, such as
    ``{"sets.movers": "L0H4", "chosen_on": "other"}``; they stand in the record.  ``protocol`` "standard" or
    "published" runs that one only.  ``decide``: "sequential" stops drawing sets once no more could change what a rank
    decides, "fixed" runs as many as were asked for.  ``prompts``: pairs (or problems) of your own, the file that
    holds them, a DataFrame or rows.  An unfinished run with the same inputs is taken up where it stopped.
    ``engine``: where sweeps run, "here" or "ray" with so many ``workers`` (at the ``address`` of a cluster), or an
    engine of your own making (:class:`headlab.engine.scale.Ray`); the tables are the same.  ``call``: the command and the
    line of Python that repeat the trial, where another function was called for it.  ``looked``: how often heads were looked
    at before they were claimed, which stands in the record (``headlab view`` counts).  ``dead_end``: told in one
    sentence, before anything runs, that no outcome could decide the claim at its size; it may raise (without it: logged).

    Raises ClaimError, PromptError, ModelError, ScaleError, StoreError or ValueError, each with one clear sentence.
    """
    where = scale.pick(engine, workers, address)
    how = How(
        where, store, memory, progress, "trial", call, loading, workers, address, looked=looked, dead_end=dead_end
    )
    changes = {
        "protocol": protocol,
        "layer": layer,
        "pairs": pairs,
        "seed": seed,
        "pool": pool,
        "matched_sets": matched_sets,
        "decide": decide,
    }
    return _tried(claim, model, how, changes, amend, prompts)


def _tried(claim: Any, model: Any, how: How, changes: Mapping[str, Any], amend: object, prompts: Any) -> Result:
    """:func:`trial`, told how it is run."""
    claim, found, prompts = _given(claim, prompts)
    if isinstance(found, Document):
        return over_models.trial(found, claim, model, how, changes={**changes, "amend": amend}, own=prompts)
    if amend:
        raise ClaimError(f"{found.id} is an entry of the docket; amend is for documents (headlab list claims)")
    chosen, subject, test, selection = _prepared(found, model, prompts, how.loading, changes)
    kept = prompts is not None or chosen.task.name == "file" or bool(chosen.task.file)
    short = [] if isinstance(subject, Thinker) else of_claim(chosen, subject.tokenizer, test, own=kept)
    said_before(short)
    plain = chosen.model_dump(mode="json")
    tried = Prepared(chosen.experiment, chosen.id, plain, chosen.seed, subject, test, selection, kept)
    call = how.before(_dead_end(chosen, subject, test, kept), _call(claim, chosen, tried.lab, prompts, how.told))
    chosen = chosen.model_copy(update={"decide": how.decide or chosen.decide})

    def find(run: Run) -> Findings:
        if isinstance(subject, Thinker):
            case: Any = ThoughtBench(subject, chosen, test, selection, run, how.progress, how.memory, how.where.engine)
            return experiment(chosen.experiment).tried(case)
        case = Bench(subject, chosen, test, selection, run, how.progress, how.memory, how.where.engine)
        out = experiment(chosen.experiment).tried(case)
        out.notes = [*short, *remarks([*test, *selection], subject.tokenizer), *out.notes, *beyond(subject, test)]
        return out

    # before there was a choice, the number was fixed: such a run is not handed on, nor gone on with, for another
    told = {"decide": chosen.decide}
    return recorded(tried, how, call, find, facts=told, inputs={} if chosen.decide == "fixed" else told)


def _dead_end(claim: Claim, subject: Lab | Thinker, test: Any, own: bool) -> str:
    """Why no outcome could uphold or refute a claim on these prompts (:func:`headlab.trials.attainable.dead_end`)."""

    def drawn(pairs: int) -> Any:
        other = claim.model_copy(update={"pairs": pairs})
        return (
            draw_problems(other, subject, None)
            if isinstance(subject, Thinker)
            else draw(other, subject.tokenizer, None)
        )[0]

    asked = () if isinstance(subject, Thinker) or claim.readings[0] != "standard" else claim.predictions
    return dead_end(asked, test, experiment(claim.experiment).needed(claim), None if own else drawn)


def ahead(claim: Claim, subject: Lab | Thinker, changes: Mapping[str, Any]) -> str:
    """As :func:`trial` says it before it runs, without running it: why no outcome could decide the claim; empty where one could."""
    chosen, _, test, _ = _prepared(claim, subject, None, {}, changes)
    return _dead_end(chosen, subject, test, bool(chosen.task.file))


def plan(
    claim: Claim | Document | Mapping[str, object] | str | Path,
    model: Any = None,
    *,
    prompts: PromptSet | Path | str | tuple[Any, Any] | None = None,
    memory: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What a trial would take, without running it: passes, rows, memory, seconds (from one timed batch); of a document at
    most, over models or revisions in all of them."""
    from headlab.engine.run import dry_run
    from headlab.prompts import encode

    changes = {k: options.pop(k, None) for k in CHANGES}
    amend = options.pop("amend", None)
    for name in ("store", "progress", "engine", "workers", "address"):
        options.pop(name, None)
    named, found, prompts = _given(claim, prompts)
    if isinstance(found, Document):
        how = How(scale.pick("here", None, None), memory=memory, loading=options)
        return planning.plan(found, named, model, how, changes={**changes, "amend": amend}, own=prompts)
    chosen, lab, test, selection = _prepared(found, model, prompts, options, changes)
    if isinstance(lab, Thinker):
        raise ClaimError(f"{chosen.id} runs the latent loop, whose passes --dry-run does not count")
    at = chosen.layer if isinstance(chosen.layer, int) else lab.grid.n_layers // 2
    bench = Bench(lab, chosen, test, selection, run=None)  # type: ignore[arg-type]
    worlds = experiment(chosen.experiment).worlds(bench, at) or [World("all", (Intervention(all_heads(lab.grid, at)),))]
    encoded = [encode(p, lab.tokenizer) for p in test]
    short = of_claim(chosen, lab.tokenizer, test, own=prompts is not None)
    return {
        "claim": chosen.id,
        "model": lab.name,
        "pairs": len(test),
        "worlds": len(worlds),
        **dry_run(lab, encoded, worlds, memory=memory),
        **({"cannot be decided": short} if short else {}),
        **({"dead end": end} if (end := _dead_end(chosen, lab, test, prompts is not None)) else {}),
    }


def repeat(record: Record, *, store: Store | Path | str | None = None, progress: Progress = quiet) -> Result:
    """Run a record's claim again, on the same model and pairs, as a new record.  One from before ``decide`` is decided as it
    was: by a fixed number of sets."""
    if record.slug == "reanalysis":
        return reanalysis.repeat(record, store)
    if record.slug == "simulator":
        return simulator.simulated(seed=record.settings["seed"], store=store)
    if record.claim is None or not (record.model or "cells" in record.settings):
        raise ClaimError(f"{record.id} is no trial; repeat one of its trials instead ({', '.join(record.children)})")
    how = How(
        scale.pick("here", None, None),
        store if isinstance(store, Store) else Store(store),
        record.settings.get("memory_bytes"),
        progress,
        record.kind,
        record.call if "worlds" in record.claim else None,
        dict(record.settings.get("loading", {})),
        decide=decided(record),
    )
    if "worlds" in record.claim:
        return (documents if record.model else over_models).repeat(record, how)
    claim = Claim.model_validate_json(json.dumps(record.claim))
    prompts = None
    if stored := record.prompts.get("pairs"):
        kind = ProblemSet if claim.task.name == THINKING else PromptSet
        test, selection = (kind.from_plain(p) for p in stored)
        prompts = (test, selection)
    return _tried(claim, record.model["name"], how, {}, None, prompts)


_FLAGS = ("layer", "pairs", "seed", "pool", "matched_sets", "decide")


def _call(given: Any, claim: Claim, lab: Lab, prompts: Any, told: Mapping[str, Any]) -> dict[str, str]:
    """The command and the line of Python that repeat this trial (a claim made in Python: the claim's own name)."""
    named = str(given) if isinstance(given, str | Path) else claim.id
    try:
        origin = _docketed(find_claim(named))
    except ClaimError:
        return dict(BY_RECORD)
    file = isinstance(prompts, str | Path)
    same = adjusted(origin, **{k: getattr(claim, k) for k in (*_FLAGS, "readings")}) == claim
    if not same or (prompts is not None and not file):
        return dict(BY_RECORD)
    flags = {k: getattr(claim, k) for k in _FLAGS if getattr(claim, k) != getattr(origin, k)}
    if claim.readings != origin.readings:
        flags["protocol"] = claim.readings[0]
    own = ("problems" if claim.task.name == THINKING else "prompts", prompts if file else None)
    return again(named, lab.name, {**flags, **told}, own)


callable_as(__name__, trial)
