"""Ray workers: a replica of the model in each, shards handed to whoever is free, lost workers replaced.

Importing this loads neither torch nor Ray.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .replica import Replica, ScaleError, first_line, place_of, proof_of, seed_of

if TYPE_CHECKING:
    from headlab.engine.model import Lab
    from headlab.engine.plan import Shard
    from headlab.engine.run import Job, Made


LOST_AT_MOST = 3
PATIENCE = 60.0
"""Seconds until a sweep that no worker has begun says so."""

POLL = 0.5
"""Seconds between looks at what the workers have done."""


class Ray:
    """An engine: the shards of a sweep in Ray workers, each with a replica of the model.

    >>> with Ray(workers=4) as engine:                                        # doctest: +SKIP
    ...     effects = headlab.sweep(lab, pairs, worlds, engine=engine)

    ``workers``: how many; no more are started than there are shards.  ``address``: the cluster to join ("auto": the one
    that this machine belongs to; "host:port"); without it, and without ``RAY_ADDRESS``, Ray is started on this machine.
    ``device``: where each replica lies (default: the kind of device that the driver's model lies on; with GPUs of
    its own, a worker sees them as cuda:0 …).  ``gpus_per_worker``: GPUs that Ray keeps for each worker; default 1
    when the driver's model lies on a GPU (as many as it lies on, when it is spread over several), else 0; a fraction
    lets workers share one.  ``threads`` of each worker; default the driver's, which alone gives the driver's bits.

    A replica is loaded as the driver's model was (the same folder or hub id, which every node must reach), or, where
    that model came from memory, made from the module itself, whose weights go through Ray's object store once and, on
    a CPU, are shared by the workers of a machine.  The first sweep starts the workers; they stay for the next ones of
    any model, and go at :meth:`close`, at the end of ``with``, or with any error, Ctrl-C among them.  Shards go to
    the next free worker and come back as they are done.  A shard whose worker is lost (killed, crashed, out of memory,
    its node gone) runs again on a fresh one.

    Raises ScaleError when Ray is not installed or the workers do not fit; EngineError when a replica is not the
    driver's model, or a shard loses its worker three times; any error of a shard as itself.
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        device: str | None = None,
        address: str | None = None,
        gpus_per_worker: int | float | None = None,
        threads: int | None = None,
    ) -> None:
        for name, number in (("workers", workers), ("threads", threads)):
            if number is not None and number < 1:
                raise ScaleError(f"{name} is {number}; expected a whole number of at least 1")
        if find_spec("ray") is None:
            raise ScaleError(
                "--engine ray needs the extra: pip install 'headlab[ray]', in a clone pip install -e '.[ray]'"
            )
        self.workers, self.device, self.address = workers, device, address
        self.gpus_per_worker, self.threads = gpus_per_worker, threads
        self.kind: type[Replica] = Replica
        self.hands: list[Hand] = []
        self._needs: dict[str, Any] = {}
        self._proof: dict[str, Any] | None = None
        self._seed: tuple[int, Any] | None = None
        self._number = 0
        self._began = False

    def __call__(self, lab: Lab, job: Job, shards: Sequence[Shard], tick: Callable[[int], None]) -> Iterator[Made]:
        """Runs shards of the job and yields each when it is done, in any order."""
        if not shards:
            return
        try:
            yield from self._run(lab, job, shards, tick)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Ray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go, and Ray too where it was started here.  The next sweep starts them again."""
        self._release()
        if self._began:
            import ray

            self._began = False
            ray.shutdown()

    def _release(self) -> None:
        """Let the workers go, and what replicas are made from."""
        hands, self.hands, self._proof, self._seed = self.hands, [], None, None
        for hand in hands:
            hand.kill()

    # -- one sweep ------------------------------------------------------------------------------------------

    def _run(self, lab: Lab, job: Job, shards: Sequence[Shard], tick: Callable[[int], None]) -> Iterator[Made]:
        import ray
        from ray.exceptions import RayError

        from headlab.engine.run import Made

        self._ready(lab)
        parcel, number = ray.put(job), {s.name: n for n, s in enumerate(job.plan.shards)}
        todo, losses, done, shown = Queue(shards), {}, 0, 0
        while len(self.hands) < min(self.workers, len(shards)):
            self.hands.append(self._hire())
        for hand in self.hands:
            hand.prepare(self._seed, parcel)
        alive, patience = [hand.actor.done.remote() for hand in self.hands], time.monotonic() + PATIENCE
        while todo or any(hand.shard for hand in self.hands):
            busy = [hand for hand in self.hands if hand.at is not None]
            refs, _ = ray.wait([hand.at for hand in busy], timeout=POLL)
            for hand in [hand for hand in busy if hand.at in refs]:
                shard, found = hand.shard, None
                try:
                    found = _said(ray.get(hand.at))
                except LOST() as error:
                    self._lost(hand, lab, losses, error)
                    if shard is not None:
                        todo.put_back(shard)
                    self.hands[self.hands.index(hand)] = fresh = self._hire()
                    fresh.prepare(self._seed, parcel)
                    continue
                except RayError as error:
                    from headlab.engine.passes import EngineError

                    raise EngineError(f"Ray gave up: {first_line(error)}") from error
                if shard is None:
                    hand.pid = found
                hand.rest()
                # the next shard is on its way before the driver stores this one
                if following := todo.take(hand, self.hands):
                    hand.run(following, number[following.name])
                if shard is not None and found is not None:
                    done += len(shard.rows)
                    tick(shown := max(shown, done + sum(h.sofar for h in self.hands)))
                    yield Made(shard, *found)
            if patience and time.monotonic() > patience:
                if not ray.wait(alive, timeout=0)[0]:
                    warnings.warn(
                        "Ray has no free CPUs or GPUs for a worker yet; `ray status` shows who holds them", stacklevel=2
                    )
                patience = 0
            for hand in self.hands:
                hand.look()
            tick(shown := max(shown, done + sum(h.sofar for h in self.hands)))

    def _ready(self, lab: Lab) -> None:
        """Ray runs, has room, and holds what replicas of this model are made from."""
        import ray
        import torch

        proof = {"model": id(lab), **proof_of(lab)}
        if self._proof == proof:
            return
        self._proof = None  # replicas are of another model, or of this one before it was changed
        device, gpus = place_of(lab, self.device, self.gpus_per_worker)
        threads = self.threads or torch.get_num_threads()
        if not ray.is_initialized():
            address = self.address or os.environ.get("RAY_ADDRESS") or "local"
            self._began = True  # from now on there may be something to shut down
            begin(address, cpus=self.workers * threads if address == "local" else None)
        needs = {
            "num_cpus": threads,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))},
        }
        if needs != self._needs:
            self._release()
        self._needs = needs
        room = _room(threads, gpus)
        if room < self.workers:
            raise ScaleError(
                f"{self.workers} workers of {threads} CPU(s) and {gpus:g} GPU(s) each do not fit into this Ray, which "
                f"has room for {room}; ask for fewer workers, fewer threads or a part of a GPU (gpus_per_worker)"
            )
        self._seed = self._number, ray.put({**seed_of(lab, device), **proof, "threads": threads})
        self._number, self._proof = self._number + 1, proof

    def _hire(self) -> Hand:
        """A fresh worker; it loads its replica when it is first prepared."""
        import ray

        # a second thread of the worker says how far it is while the first one is at work
        return Hand(
            ray.remote(self.kind).options(max_concurrency=2, scheduling_strategy="SPREAD", **self._needs).remote()
        )

    def _lost(self, hand: Hand, lab: Lab, losses: dict[str, int], error: Exception) -> None:
        """Count the loss.  Raises EngineError when it was the third one of a shard."""
        from headlab.engine.passes import EngineError

        hand.kill()
        key = hand.shard.name if hand.shard else f"worker {self.hands.index(hand)}"
        losses[key] = losses.get(key, 0) + 1
        if losses[key] >= LOST_AT_MOST:
            what = f"shard {key!r} lost its worker" if hand.shard else f"a worker that loads {lab.name} was lost"
            raise EngineError(
                f"{what} {losses[key]} times (killed, crashed, out of memory, or its node gone); try fewer workers or a "
                f"smaller --memory. Ray says: {first_line(error)}"
            ) from error


@dataclass(eq=False)
class Hand:
    """A worker as the driver sees it.  ``at``: what it is at; ``shard``: the one it runs (None: it is made ready)."""

    actor: Any
    at: Any = None
    shard: Shard | None = None
    block: int | None = None
    pid: int | None = None
    sofar: int = 0
    _asked: Any = field(default=None, repr=False)

    def kill(self) -> None:
        import ray

        with suppress(Exception):  # Ray itself may be gone
            ray.kill(self.actor)

    def prepare(self, seed: Any, job: Any) -> None:
        self.block, self.at = None, self.actor.prepare.remote(seed, job)

    def run(self, shard: Shard, number: int) -> None:
        self.shard, self.block, self.at = shard, block_of(shard), self.actor.run.remote(number)

    def rest(self) -> None:
        self.at = self.shard = self._asked = None
        self.sofar = 0

    def look(self) -> None:
        """Ask how many rows of its shard are done, and take the answer to the last question.  Never waits."""
        import ray

        if self.shard is None:
            return
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            with suppress(Exception):  # a lost worker is met where its shard is waited for
                self.sofar = ray.get(self._asked)
            self._asked = None
        if self._asked is None:
            self._asked = self.actor.done.remote()


def block_of(shard: Shard) -> int:
    """The block of a shard by its first pair: a pair is in one block, and a block may have thousands, which nobody wants
    to compare for each of a thousand workers."""
    return shard.block[0]


class Queue:
    """Shards to do.  A worker goes on in its block, whose captured activations it has, or begins one that no other
    worker is at; else it helps another.  Blocks go by their first pair (:func:`block_of`).
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.blocks: dict[int, deque[Shard]] = {}
        for shard in shards:
            self.blocks.setdefault(block_of(shard), deque()).append(shard)

    def __bool__(self) -> bool:
        return bool(self.blocks)

    def put_back(self, shard: Shard) -> None:
        self.blocks.setdefault(block_of(shard), deque()).appendleft(shard)

    def take(self, hand: Hand, hands: Sequence[Hand]) -> Shard | None:
        """The next shard for this worker, or None when none is left."""
        if not self.blocks:
            return None
        taken = {h.block for h in hands if h.shard is not None}
        free = (b for b in self.blocks if b not in taken)
        block = hand.block if hand.block in self.blocks else next(free, next(iter(self.blocks)))
        assert block is not None
        shard = self.blocks[block].popleft()
        if not self.blocks[block]:
            del self.blocks[block]
        return shard


# -- Ray itself -------------------------------------------------------------------------------------------------


def begin(address: str, *, cpus: int | None = None, gpus: int | None = None) -> None:
    """Start Ray here ("local"), or join it, without its notices.  Raises ScaleError when nobody answers there."""
    import logging
    import socket

    import ray

    # Started here, workers have the driver's priority (by Ray's own rule they would starve beside other processes), no
    # spare ones are started, and nothing is reported to anyone.
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # a headlab that is not installed, but on the path of this process alone
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[3])])),
    }
    local = {"num_cpus": cpus, "num_gpus": gpus, "include_dashboard": False} if address == "local" else {}
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:  # Ray itself would wait for minutes, deaf to Ctrl-C
            socket.create_connection((host, int(port)), timeout=10).close()
        with _environment(quiet if local else {}):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        # lost workers are told by our errors; Ray has no option that keeps its own notices off stdout, where JSON goes
        inside: Any = getattr(getattr(ray, "_private", None), "worker", None)
        if hasattr(inside, "print_to_stdstream"):
            inside.print_to_stdstream = lambda *_args, **_options: None
    except (OSError, RuntimeError, ValueError) as error:
        raise ScaleError(
            f"no Ray at {address!r}: {first_line(error)}; start one with `ray start --head`, give its address, or leave "
            "the address out to start Ray on this machine"
        ) from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _room(cpus: int, gpus: float) -> int:
    """How many workers the nodes hold, were nobody else there."""
    import ray

    room = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            fit = has.get("CPU", 0) / cpus
            room += int(min(fit, has.get("GPU", 0) / gpus) if gpus else fit)
    return room


def LOST() -> tuple[type[Exception], ...]:
    """What Ray raises when a worker, its node, or what it had made is gone."""
    import ray.exceptions as e

    return e.RayActorError, e.WorkerCrashedError, e.NodeDiedError, e.ObjectLostError, e.OutOfMemoryError


def _said(answer: tuple[str, Any]) -> Any:
    """A worker's answer; raises the error that it met."""
    kind, value = answer
    if kind == "error":
        raise value
    return value
