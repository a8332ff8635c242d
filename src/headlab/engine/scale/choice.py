"""The engine of a trial, by name or as given.  Starts nothing, loads neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headlab.reading import expected_one_of

from .ray import Ray
from .replica import ScaleError

if TYPE_CHECKING:
    from headlab.engine.run import Engine


ENGINES = {"here": "in this process", "ray": "in Ray workers, on this machine or on a cluster"}
"""The engines that :func:`pick` knows by name."""

ADDRESS = "--ray-address"
"""What the command line calls the address of a cluster."""


@dataclass
class Choice:
    """An engine for a trial; as a context manager it lets go of what it started itself.

    ``settings`` is what a record says of it, ``threads`` the number of threads of its workers where it is not the
    driver's.
    """

    engine: Engine | None
    settings: dict[str, Any]
    own: bool = True
    threads: int | None = None

    def __enter__(self) -> Choice:
        return self

    def __exit__(self, *_: object) -> None:
        if self.own and isinstance(self.engine, Ray):
            self.engine.close()


def pick(engine: str | Engine = "here", workers: int | None = None, address: str | None = None) -> Choice:
    """The engine of that name, or the one given (its workers then stay with the caller).  Starts nothing.

    Raises ScaleError for an unknown name, options that the engine does not take, or a missing extra.
    """
    if not isinstance(engine, str):
        if workers is not None or address is not None:
            raise ScaleError("workers and address are for an engine given by name; this one has its own")
        name = "ray" if isinstance(engine, Ray) else getattr(engine, "__name__", type(engine).__name__)
        settings = {"engine": name, "workers": getattr(engine, "workers", None)}
        return Choice(engine, settings, own=False, threads=getattr(engine, "threads", None))
    if engine not in ENGINES:
        raise ScaleError(f"no engine {engine!r}; {expected_one_of(engine, ENGINES)}")
    if engine == "here":
        if workers is not None or address is not None:
            raise ScaleError(f"--workers and {ADDRESS} go with --engine ray; without it sweeps run in this process")
        return Choice(None, {"engine": "here", "workers": 1})
    chosen = Ray(2 if workers is None else workers, address=address)
    return Choice(chosen, {"engine": "ray", "workers": chosen.workers})
