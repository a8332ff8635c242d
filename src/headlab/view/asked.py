"""What a bench is opened with.  Light: nothing here loads a model, or what models need."""

from __future__ import annotations

from dataclasses import dataclass

from headlab.reading import expected_one_of
from headlab.store.records import Plain
from headlab.tasks import TASKS


@dataclass(frozen=True)
class Asked:
    """What a bench is opened with: a model, and a task's name or the text of a file of pairs (``suffix``: its kind)."""

    model: str
    task: str = ""
    text: str = ""
    suffix: str = ".csv"
    pairs: int = 200
    looked_at: int = 60
    seed: int = 0

    @classmethod
    def from_plain(cls, given: Plain) -> Asked:
        """Raises ValueError for what no bench can be opened with."""
        model, task, text = (str(given.get(k) or "").strip() for k in ("model", "task", "text"))
        suffix = str(given.get("suffix") or ".csv")
        if not model:
            raise ValueError("no model named; choose a shipped one, or give a folder or a hub id")
        if bool(task) == bool(text):
            raise ValueError("choose a task, or give prompts of your own: one of the two")
        if task and task not in TASKS:
            raise ValueError(f"no task {task!r}; {expected_one_of(task, TASKS)}")
        if suffix not in {".csv", ".jsonl"}:
            raise ValueError(f"prompts come as .csv or .jsonl, given {suffix!r}")
        sizes = {}
        for name, least, most in (("pairs", 2, 100_000), ("looked_at", 2, 2_000), ("seed", 0, 2**31)):
            value = given.get(name, getattr(cls, name))
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(
                    f"{name.replace('_', ' ')} is {value!r}; expected a whole number from {least} to {most}"
                )
            sizes[name] = value
        return cls(model, task, text + "\n" if text else "", suffix, **sizes)
