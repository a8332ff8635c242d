"""What goes together: an experiment with its task, the settings given and the prompts; told before anything runs.

What an experiment reads is what the claim that ships with it names: its task, and which of ``layer`` (as ``auto``: a number
says that none is looked at), ``pool`` and ``matched_sets`` it sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from headlab.claims import Claim, ClaimError
from headlab.prompts import Pair, PromptError
from headlab.reading import brief

THINKING = "word-problems"
SETTINGS = ("layer", "pool", "matched_sets")
"""Settings of a claim that not every experiment reads."""
NUMBER_ROLES = tuple(f"{letter}_{part}" for letter in "ab" for part in ("int", "dot", "frac"))


def unread(settings: Iterable[str], shipped: Claim) -> list[str]:
    """The settings that the experiment of a shipped claim does not read."""
    return [s for s in settings if s in SETTINGS and s not in reads(shipped)]


def reads(shipped: Claim) -> list[str]:
    """Of :data:`SETTINGS`, those that the experiment of a shipped claim reads."""
    return [s for s in SETTINGS if s in shipped.model_fields_set and not (s == "layer" and shipped.layer != "auto")]


def check_fit(claim: Claim, changes: Mapping[str, Any], shipped: Claim | None) -> None:
    """Raises ClaimError where a claim's task is of the other kind, a file would be left unread, or a setting was given that
    its experiment does not read (``shipped``: the experiment's own claim, which says what it reads)."""
    task, slug = claim.task, claim.experiment
    if task.name == "decimals" and task.file:
        raise ClaimError(
            f"the task has the file {brief(task.file)}, which decimals would not read; write task: {{name: file, file: …}}"
        )
    if shipped is None:
        return
    thinks = shipped.task.name == THINKING
    if thinks != (task.name == THINKING):
        about = (
            f"thinking models: its task is {{name: {THINKING}}}, with a file of problems if you like"
            if thinks
            else "language models: its task is {name: decimals} or {name: file, file: pairs.csv}"
        )
        raise ClaimError(f"{slug} is about {about}; given {{name: {task.name}}}")
    given = [k for k, v in changes.items() if v is not None]
    if claim.pool != type(claim).model_fields["pool"].default:
        given.append("pool")
    if ignored := unread(given, shipped):
        raise ClaimError(
            f"{slug} does not read {ignored[0]} (--{ignored[0].replace('_', '-')}), so it would change nothing; leave it out. "
            f"Of {', '.join(SETTINGS)} it reads {', '.join(reads(shipped)) or 'none'}"
        )


def check_prompts(slug: str, needs: str, pairs: Iterable[Pair]) -> None:
    """Raises PromptError where prompts lack what an experiment measures: a corrupted prompt, and with ``needs`` "numbers" the
    two numbers of each prompt by their roles."""
    for pair in pairs:
        if not pair.partner:
            raise PromptError(
                f"{slug} compares clean with corrupted prompts; {brief(pair.id)} has no corrupted one (a document of your own "
                "can do without: headlab new)"
            )
        if needs != "numbers":
            continue
        for which, prompt in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            named = {s.role[0] for s in prompt.spans if s.role in NUMBER_ROLES}
            if named != {"a", "b"}:
                raise PromptError(
                    f"{slug} reads the two numbers that a prompt compares; pair {brief(pair.id)} does not name both in its "
                    f"{which} prompt: give clean_spans and corrupted_spans with roles such as {', '.join(NUMBER_ROLES[:3])} and "
                    f"{', '.join(NUMBER_ROLES[3:])}, or use the task decimals"
                )
