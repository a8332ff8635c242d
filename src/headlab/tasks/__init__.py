"""Tasks: where prompts come from.

A task is a generator with a name.  Those of headlab are listed here; a package of anybody's adds its own under the
entry point ``headlab.tasks`` (a :class:`Task`, or a function that returns one), which is installed code, never a
claim's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headlab.installed import Installed, InstalledError
from headlab.prompts import PromptError, PromptSet
from headlab.reading import expected_one_of


@dataclass(frozen=True)
class Task:
    """A generator of prompt pairs.

    ``make`` is ``"module:function"``, called as ``function(n, seed=…, tokenizer=…, **options)`` and returning at most
    ``n`` pairs as a :class:`~headlab.prompts.PromptSet` (fewer where the task has no more).  ``options`` are the
    settings a claim may give, with their defaults; ``roles`` the token roles of its prompts, in reading order;
    ``partner``: whether each prompt has a corrupted one; ``package``: the installed package that brought it.
    """

    name: str
    question: str
    make: str
    options: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    partner: bool = True
    source: str = ""
    package: str = ""

    def pairs(self, n: int, *, seed: int, tokenizer: Any, **options: Any) -> PromptSet:
        """At most ``n`` pairs.

        Raises PromptError for an option that the task does not have, or where it cannot be built for this tokenizer.
        """
        if unknown := sorted(set(options) - set(self.options)):
            raise PromptError(
                f"the task {self.name!r} has no option {unknown[0]!r}; {expected_one_of(unknown[0], self.options)}"
            )
        module, _, function = self.make.partition(":")
        try:
            made = getattr(importlib.import_module(module), function)(
                n, seed=seed, tokenizer=tokenizer, **{**self.options, **options}
            )
        except Exception as error:
            if not self.package or isinstance(error, PromptError):
                raise
            raise PromptError(
                f"the task {self.name!r} of the package {self.package} failed ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(made, PromptSet):
            raise PromptError(f"the task {self.name!r} gave {type(made).__name__}; expected a PromptSet")
        return made


_OWN = (
    Task(
        "decimals",
        "Which of two numbers is bigger, 9.8 or 9.11?",
        "headlab.tasks.decimals:task",
        {
            "clean": "simple",
            "corrupted": "qa",
            "category": "conflict",
            "wording": "bigger",
            "corruption": "format",
            "split": "held-out",
        },
        source="arXiv 2508.19414",
    ),
    Task(
        "ioi",
        "To whom is something given, of two people one of whom gives it?",
        "headlab.tasks.ioi:ioi",
        {"order": "mixed", "corruption": "swap", "templates": "all"},
        ("io", "s1", "place", "object", "s2"),
        source="arXiv 2211.00593",
    ),
    Task(
        "induction",
        "What came after this word when it stood here before?",
        "headlab.tasks.induction:induction",
        {"kind": "tokens", "length": 16},
        ("first", "after", "again"),
        source="arXiv 2209.11895",
    ),
    Task(
        "successor",
        "Which day, month, number or letter comes next?",
        "headlab.tasks.successor:successor",
        {"kind": "mixed", "corruption": "item"},
        ("e1", "f1", "e2", "f2", "item"),
        source="arXiv 2312.09230",
    ),
    Task(
        "greater-than",
        "Which years come after the one in which something began?",
        "headlab.tasks.greater_than:greater_than",
        {"digits": "auto"},
        ("noun", "century", "start"),
        source="arXiv 2305.00586",
    ),
    Task(
        "capitals",
        "What is a country's capital?",
        "headlab.tasks.capitals:capitals",
        {"wording": "plain"},
        ("subject",),
        source="arXiv 2202.05262",
    ),
    Task(
        "pronouns",
        "Is somebody she or he?",
        "headlab.tasks.pronouns:pronouns",
        {"kind": "stories"},
        ("size", "subject", "adjective", "object", "place"),
    ),
    Task(
        "agreement",
        "Is the subject one or many, whatever stands between it and its verb?",
        "headlab.tasks.agreement:agreement",
        {"attractor": "mixed", "language": "en"},
        ("subject", "link", "attractor"),
        source="arXiv 1611.01368",
    ),
    Task(
        "docstring",
        "Which argument of a function does its docstring treat next?",
        "headlab.tasks.docstring:docstring",
        {"corruption": "random-answer"},
        ("name", "x", "y", "a_def", "b_def", "c_def", "z", "one", "two", "a_doc", "three", "b_doc", "four"),
        source="Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer",
    ),
)


class _Tasks(Mapping[str, Task]):
    """Tasks by name: headlab's, then those of installed packages, each loaded when it is asked for (the name of its entry
    point is the task's).  No package takes the place of one of headlab's."""

    own: Mapping[str, Task] = {t.name: t for t in _OWN}
    more = Installed("headlab.tasks")

    def __getitem__(self, name: str) -> Task:
        if name in self.own:
            return self.own[name]
        found = self.more[name]
        found = found if isinstance(found, Task) or not callable(found) else found()
        if not isinstance(found, Task) or found.name != name:
            given = f"a task {found.name!r}" if isinstance(found, Task) else type(found).__name__
            raise InstalledError(
                f"{name!r} (headlab.tasks) of the package {self.more.package(name)} is {given}; expected a headlab.tasks.Task "
                "of that name, or a function that returns one"
            )
        return replace(found, package=self.more.package(name))

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.more

    def __iter__(self) -> Iterator[str]:
        return iter([*self.own, *(n for n in self.more if n not in self.own)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


TASKS: Mapping[str, Task] = _Tasks()
"""Every task by name."""
