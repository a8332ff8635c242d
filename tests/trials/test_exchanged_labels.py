"""Directions of exchanged labels: what adding one does, against plain hooks; upheld where it is planted, not where nothing is.

Looked for beside what stands here: worlds that add nothing or a file's direction, worlds computed in one that is redrawn, ranks of
other worlds, fields of sets beside labels, few clusters (all exchanges listed), ranks that so few could never decide.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headlab
from headlab.claims import ClaimError
from headlab.experiments import load
from headlab.trials.alternatives import least_p
from headlab.trials.check_cells import explained
from headlab.trials.document import Document
from headlab.trials.prompts import encoded, split
from headlab.trials.relabelled import relabelled

MODEL = "decimals-planted-even"
BASE: dict[str, Any] = {
    "id": "labels",
    "words": "The difference of means at the even heads carries the answer, and no other direction made of these prompts does.",
    "source": "a test",
    "chosen_on": "other",
    "task": {"name": "decimals"},
    "edit": "corrupted",
    "pairs": 16,
    "selection_pairs": 16,
    "eligible": {"pairs": 10},
    "sets": {"even": {"pool": "even"}, "odd": {"pool": "odd"}},
    "layer": 1,
    "waive": {"whole": "a direction is not all that heads hold"},
    "worlds": {
        "put": {"heads": "even", "write": "add", "direction": "other", "roles": "read"},
        "idle": {"heads": "odd", "write": "add", "direction": "other", "roles": "read"},
    },
    "reference": {"labels": "put", "n": 39},
    "decide": "fixed",
    "predictions": [{"statistic": "rank:recovery:put", "op": "rank<", "threshold": 0.1}],
}
IDLE = BASE | {
    "reference": {"labels": "idle", "n": 39},
    "predictions": [{"statistic": "rank:recovery:idle", "op": "rank<", "threshold": 0.1}],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return headlab.trial(BASE, MODEL, store=tmp_path_factory.mktemp("labels"))


class Plain:
    """transformers' model with hooks on the output projection of layer 1, one row at a time."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.lab = load(MODEL)
        test, chosen = split(Document.from_data(data), self.lab.tokenizer, None, Path("."))
        self.test, self.chosen = (encoded(s, self.lab.tokenizer) for s in (test, chosen))
        self.gaps = np.array([self.read(p.clean)[1] - self.read(p.corrupted)[1] for p in self.chosen])

    def read(self, one: Any, shift: Any = None) -> tuple[float, Any]:
        """The margin, and what all heads held where it is read (before ``shift`` was added there)."""
        held: list[Any] = []

        def hook(_: Any, given: tuple[Any, ...]) -> Any:
            held.append(given[0][0, -1].detach().double().numpy())
            moved = given[0].clone()
            moved[0, -1] += 0 if shift is None else torch.as_tensor(shift, dtype=moved.dtype)
            return (moved,)

        handle = self.lab.model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(hook)
        with torch.no_grad():
            logits = self.lab.model(torch.tensor([list(one.ids)])).logits[0, -1].double()
        handle.remove()
        return float(logits[list(one.answer_ids)].logsumexp(0) - logits[list(one.wrong_ids)].max()), held[0]

    def recovery(self, turned: frozenset[str], heads: range, kept: set[str]) -> float:
        """When the difference of means is added to ``heads``, these clusters turned round, at each head's claimed norm."""
        signs = np.array([-1.0 if (p.pair.cluster or p.pair.id) in turned else 1.0 for p in self.chosen])
        own, other = (x.reshape(16, 8) for x in (self.gaps.mean(0), (self.gaps * signs[:, None]).mean(0)))
        norms = np.linalg.norm(own, axis=1) / np.linalg.norm(other, axis=1)
        shift = np.where(np.isin(np.arange(16), heads)[:, None], other * norms[:, None], 0).reshape(-1)
        some = [p for p in self.test if p.pair.id in kept]
        base = [self.read(p.corrupted)[0] for p in some]
        edited = [self.read(p.corrupted, shift)[0] for p in some]
        full = [self.read(p.clean)[0] for p in some]
        return (sum(edited) - sum(base)) / (sum(full) - sum(base))


def test_what_exchanged_labels_do_is_what_plain_hooks_give(found: Any) -> None:
    """The claimed direction, and two of those it is ranked among."""
    plain, rows = Plain(BASE), found.tables["alternatives"]
    kept, clusters = set(found.tables["effects"]["pair_id"]), [p.pair.cluster or p.pair.id for p in plain.chosen]
    drawn = relabelled(clusters, 39, 0).sets
    assert list(rows["heads"]) == [str(s) for s in drawn] and len(rows) == 39
    assert rows["named"][0] == pytest.approx(plain.recovery(frozenset(), range(0, 16, 2), kept), rel=1e-4)
    for n in (0, 38):
        assert rows["value"][n] == pytest.approx(
            plain.recovery(drawn[n].turned, range(0, 16, 2), kept), rel=1e-4, abs=1e-5
        )


def test_a_planted_direction_is_upheld_and_one_of_heads_that_carry_nothing_is_not(found: Any, tmp_path: Path) -> None:
    idle = headlab.trial(IDLE, MODEL, store=tmp_path)
    assert found.verdict.outcome == "upheld" and idle.verdict.outcome in {"refuted", "undecided"}
    (p,) = found.verdict.rulings
    values = found.tables["alternatives"]["value"]
    assert p.value == (1 + (values >= found.tables["alternatives"]["named"][0]).sum()) / 40
    assert "labels of whole clusters of selection prompts exchanged" in found.record.readings[0].words
    assert found.record.settings["least_p"] == 1 / 40


def test_exchanges_are_of_whole_clusters_all_different_and_all_where_they_are_few() -> None:
    """Of three clusters there are eight, the claimed one first; drawn ones leave it out, and turn each cluster in half of them."""
    every = relabelled(["a", "b", "b", "c"], 4, 0)
    assert every.enumerated and len(every.sets) == every.total == 8 == len({s.turned for s in every.sets})
    assert not every.sets[0].turned and least_p(every) == 1 / 8
    some = relabelled([f"c{i % 20}" for i in range(60)], 999, 1)
    assert (
        not some.enumerated
        and len({s.turned for s in some.sets}) == 999
        and frozenset() not in {s.turned for s in some.sets}
    )
    counted = Counter(c for s in some.sets for c in s.turned)
    assert len(counted) == 20 and all(400 < n < 600 for n in counted.values())
    assert relabelled(["a", "b"], 99, 3) == relabelled(["b", "a"], 99, 3)


@pytest.mark.accept
def test_where_labels_mean_nothing_p_is_as_often_under_a_level_as_it_says() -> None:
    """Gaps without a mean, read by a linear effect at equal norm: 2,000 p of 99 draws, under .1 in a tenth (bounds: 4 standard
    errors)."""
    rng, under = np.random.default_rng(0), 0
    for trial in range(2000):
        gaps = rng.standard_normal((12, 6)) * rng.exponential(size=(12, 1))
        signs = [
            [-1.0 if str(i) in s.turned else 1.0 for i in range(12)]
            for s in relabelled(list(map(str, range(12))), 99, trial).sets
        ]
        made = np.concatenate([np.ones((1, 12)), signs]) @ gaps
        effects = made[:, 0] / np.linalg.norm(made, axis=1)
        under += (1 + (effects[1:] >= effects[0]).sum()) / 100 <= 0.1
    assert abs(under / 2000 - 0.1) < 4 * (0.09 / 2000) ** 0.5


def test_the_least_p_is_said_before_anything_runs() -> None:
    said = explained(Document.from_data(BASE), MODEL, Path("."))
    assert any("39 exchanges of labels at most" in line and "p is 0.025" in line for line in said.lines["model"])
    assert not said.faults
    few = explained(Document.from_data(BASE | {"selection_pairs": 3}), MODEL, Path("."))
    assert any("least attainable p is 0.125" in f and "selection_pairs" in f for f in few.faults)


ADDED = BASE["worlds"]["put"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reference": {"labels": "putt"}}, "no world 'putt'"),
        ({"reference": {"labels": True}}, "labels"),
        ({"reference": {"labels": "put", "redraw": "even"}}, "redraw belongs to sets"),
        ({"reference": {"labels": "put", "match": ["layer"]}}, "match belongs to sets"),
        ({"reference": {"labels": "put", "exclude": ["odd"]}}, "exclude belongs to sets"),
        ({"reference": {"labels": "idle"}}, "a rank reads other worlds"),
        ({"reference": {"n": 3}}, "redraw: SET, or labels: WORLD"),
        ({"worlds": {"put": ADDED | {"direction": {"file": "d.npy"}}}}, "adds no difference of means"),
        ({"worlds": {"put": {"heads": "even", "write": "patch"}}}, "adds no difference of means"),
        (
            {"worlds": {"put": ADDED, "next": {"heads": "L2H0", "write": "patch", "site": "v", "computed_in": "put"}}},
            "'next' is computed in 'put'",
        ),
    ],
)
def test_what_labels_cannot_mean_is_refused_when_it_is_read(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ClaimError, match=said):
        Document.from_data(BASE | fields)
