"""Numbers for heads that rank or choose them, measured on selection prompts of the run that is edited.

``previous``  attention of each position to the one before it, averaged over positions
``sink``      attention to the first position, averaged over the other positions
``induction`` attention to the token after the earlier occurrence of the current one, on repeated random tokens
``duplicate`` attention to the earlier occurrence itself, on the same
``norm``      the norm of what a head writes to the residual stream, ‖z·W_O‖, averaged over positions
``composite`` the published score of hub, flow and skip, of thinking models alone
``copying``, ``successor``, ``probe``: see :mod:`headlab.trials.token_scores`
``attribution`` the first-order estimate of what patching the head from the other run does to the margin
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headlab.claims import ClaimError
from headlab.engine.captures import capture, write_norms
from headlab.engine.gradients import attribution_patching
from headlab.engine.model import Lab, ModelError, probe_ids
from headlab.heads import Head, Heads
from headlab.interventions import role_positions
from headlab.prompts import Encoded
from headlab.reading import expected_one_of
from headlab.trials import token_scores
from headlab.trials.fields import MORE_SCORES, known_scores

REPEATED = 24
ROWS = 32


def attention(subject: Any, query: str, key: str) -> Mapping[Head, float]:
    """Mean attention from the last token of role ``query`` to all tokens of role ``key``."""

    def of(pattern: Tensor, e: Encoded) -> Tensor:
        at, keys = role_positions(e, query)[-1], list(role_positions(e, key))
        return pattern[at, :, keys].sum(-1)

    return _patterns(subject.lab, [p.corrupted for p in subject.chosen], of)


def builtin(subject: Any, name: str) -> Mapping[Head, float]:
    """One of the scores of this module.  Raises ClaimError where the task or the model cannot give it."""
    if subject.doc.thinking:
        return subject.score(name)
    lab: Lab = subject.lab
    encoded = [p.corrupted for p in subject.chosen]
    if name == "previous":
        return _patterns(lab, encoded, lambda x, _: x.diagonal(-1, dim1=0, dim2=2).mean(-1))
    if name == "sink":
        return _patterns(lab, encoded, lambda x, _: x[1:, :, 0].mean(0))
    if name in {"induction", "duplicate"}:
        back = REPEATED - (1 if name == "induction" else 0)
        return _patterns(lab, _repeated(lab), lambda x, _: _behind(x, back))
    if name == "norm":
        return norms(subject)
    if name == "attribution":
        return _attribution(subject)
    if name in {"copying", "successor", "probe"}:
        return getattr(token_scores, name)(subject)
    return installed(lab, encoded, name)


def installed(lab: Lab, prompts: list[Encoded], name: str) -> Mapping[Head, float]:
    """A score of an installed package, ``function(lab, prompts)``: a number for each head, by :class:`Head`, name or
    (layer, head).  Raises ClaimError where the package fails or gives something else."""
    try:
        found = MORE_SCORES[name](lab, prompts)
        out = {_head(key): float(value) for key, value in dict(found).items()}
    except KeyError as error:
        raise ClaimError(f"no score {name!r}; {expected_one_of(name, known_scores())}") from error
    except Exception as error:
        who = f" of the package {MORE_SCORES.package(name)}"
        raise ClaimError(f"the score {name!r}{who} failed ({type(error).__name__}: {error})") from error
    lab.grid.check(Heads(out))
    if not out or not all(math.isfinite(v) for v in out.values()):
        raise ClaimError(f"the score {name!r} gives no finite number for some heads, or for none")
    return out


def _head(key: object) -> Head:
    if isinstance(key, str):
        (one,) = Heads.parse(key)
        return one
    layer, index = key  # type: ignore[misc]
    return Head(int(layer), int(index))


def norms(subject: Any) -> Mapping[Head, float]:
    """Mean norm of what each head writes, over all positions of selection prompts (of z, where W_O is not its own)."""
    if subject.doc.thinking:
        return subject.score("norm")
    lab: Lab = subject.lab
    out: dict[Head, float] = {}
    for slot in lab.slots:
        try:
            w = lab.weight("o", slot.layer)
        except ModelError:
            w = torch.eye(lab.head_dim, device=lab.device).expand(lab.grid.n_heads, -1, -1)
        kept = capture(lab, [p.corrupted for p in subject.chosen], [(slot.layer, "z")])[slot.layer, "z"]
        out |= write_norms({slot.layer: w}, ((slot.layer, z) for z in kept))
    return out


def _patterns(lab: Lab, encoded: list[Encoded], of: Callable[[Tensor, Encoded], Tensor]) -> Mapping[Head, float]:
    """Mean over prompts of a number that ``of`` reads from a pattern [query, head, key]."""
    out: dict[Head, float] = {}
    for slot in lab.slots:
        kept = capture(lab, encoded, [(slot.layer, "pattern")])[slot.layer, "pattern"]
        mean = np.mean([of(x.double(), e).cpu().numpy() for x, e in zip(kept, encoded, strict=True)], axis=0)
        out |= {Head(slot.layer, h): float(mean[h]) for h in range(lab.grid.n_heads)}
    return out


def _repeated(lab: Lab) -> list[Encoded]:
    """Random tokens written twice, a row each; the same in every run."""
    first = probe_ids(lab.model, REPEATED, ROWS, seed=0).cpu()
    return [
        Encoded(tuple(row.tolist() * 2), 2 * REPEATED, {"last": (2 * REPEATED - 1,)}, frozenset(), 0, 1, "")
        for row in first
    ]


def _behind(pattern: Tensor, back: int) -> Tensor:
    """Mean attention of the second half's positions to the one ``back`` before them, [head]."""
    at = torch.arange(REPEATED, 2 * REPEATED)
    return pattern[at, :, at - back].mean(0)


def _attribution(subject: Any) -> Mapping[Head, float]:
    if any(p.clean.ids == p.corrupted.ids for p in subject.chosen):
        raise ClaimError("the score 'attribution' compares two prompts of a pair, and this task gives one")
    table = attribution_patching(subject.lab, subject.chosen, align=subject.doc.align)
    mean = table.groupby(["layer", "head"])["attribution"].mean()
    sign = 1 if subject.doc.edit == "corrupted" else -1
    return {Head(int(at), int(h)): sign * float(v) for (at, h), v in mean.items()}  # type: ignore[misc]
