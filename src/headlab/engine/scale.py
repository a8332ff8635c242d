"""Where the shards of a sweep run: here, or in Ray workers on this machine or a cluster.  The only file that names Ray.

A plan is the same wherever it runs, and so is the table.  Each worker holds a replica of the driver's model, which must
prove itself as the driver's did and have its fingerprint, its software and its number of threads; so a shard's rows
are the same bits in any worker, and any number of workers makes the same table (on one kind of processor).

Importing this loads neither torch nor Ray.
"""

from __future__ import annotations

import io
import os
import pickle
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlab.engine.model import Lab
    from headlab.engine.plan import Shard
    from headlab.engine.run import Engine, Job, Made
    from headlab.engine.work import Worker

ENGINES = {"here": "in this process", "ray": "in Ray workers, on this machine or on a cluster"}
"""The engines that :func:`pick` knows by name."""

ADDRESS = "--ray-address"
"""What the command line calls the address of a cluster."""

LOST_AT_MOST = 3
PATIENCE = 60.0
"""Seconds until a sweep that no worker has begun says so."""

POLL = 0.5
"""Seconds between looks at what the workers have done."""

STEPS = ("can_skip", "can_resume", "can_reuse", "can_add", "can_narrow")
SOFTWARE = ("headlab", "torch", "transformers", "numpy")


class ScaleError(ValueError):
    """An engine that cannot be used as asked: what was given, what was expected, what to do."""


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
        raise ScaleError(f"no engine {engine!r}; expected one of {', '.join(ENGINES)}")
    if engine == "here":
        if workers is not None or address is not None:
            raise ScaleError(f"--workers and {ADDRESS} go with --engine ray; without it sweeps run in this process")
        return Choice(None, {"engine": "here", "workers": 1})
    chosen = Ray(2 if workers is None else workers, address=address)
    return Choice(chosen, {"engine": "ray", "workers": chosen.workers})


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
            raise ScaleError("--engine ray needs the extra: pip install 'headlab[ray]'")
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

                    raise EngineError(f"Ray gave up: {_first_line(error)}") from error
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
        device, gpus = _place(lab, self.device, self.gpus_per_worker)
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
                f"smaller --memory. Ray says: {_first_line(error)}"
            ) from error


@dataclass(eq=False)
class Hand:
    """A worker as the driver sees it.  ``at``: what it is at; ``shard``: the one it runs (None: it is made ready)."""

    actor: Any
    at: Any = None
    shard: Shard | None = None
    block: tuple[int, ...] | None = None
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
        self.shard, self.block, self.at = shard, shard.block, self.actor.run.remote(number)

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


class Queue:
    """Shards to do.  A worker goes on in its block, whose captured activations it has, or begins one that no other
    worker is at; else it helps another.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.blocks: dict[tuple[int, ...], deque[Shard]] = {}
        for shard in shards:
            self.blocks.setdefault(shard.block, deque()).append(shard)

    def __bool__(self) -> bool:
        return bool(self.blocks)

    def put_back(self, shard: Shard) -> None:
        self.blocks.setdefault(shard.block, deque()).appendleft(shard)

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
        "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[2])])),
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
            f"no Ray at {address!r}: {_first_line(error)}; start one with `ray start --head`, give its address, or leave "
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


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _said(answer: tuple[str, Any]) -> Any:
    """A worker's answer; raises the error that it met."""
    kind, value = answer
    if kind == "error":
        raise value
    return value


# -- replicas ---------------------------------------------------------------------------------------------------


def _place(lab: Lab, device: str | None, gpus: int | float | None) -> tuple[str, float]:
    """Device and number of GPUs of each replica.  Raises ScaleError where rows of two kinds of device would mix."""
    kind = lab.device.type
    device = device or kind
    if device.split(":")[0] != kind:
        raise ScaleError(
            f"workers on {device} for a model on {lab.device}: the numbers of two kinds of device would stand in one "
            f"table; load the model with device={device.split(':')[0]!r} in this process too"
        )
    if gpus is None:
        gpus = len({p.device for p in lab.model.parameters()}) if kind == "cuda" else 0
    return device, float(gpus)


def proof_of(lab: Lab) -> dict[str, Any]:
    """What a replica of this model must prove to be, as the model is now."""
    import torch

    from headlab.engine.model import fingerprint

    return {
        "fingerprint": fingerprint(lab.model),
        "steps": {name: getattr(lab, name) for name in STEPS},
        "slots": [slot.proved for slot in lab.slots],
        "software": software(),
        "driver_threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
    }


def seed_of(lab: Lab, device: str) -> dict[str, Any]:
    """What a replica of this model is made from.  Raises ScaleError or EngineError where it cannot be copied."""
    loaded = lab.info.get("loaded")
    if loaded is not None:
        loaded = dict(loaded)
        for name in ("model", "adapter"):  # workers start in other folders
            if loaded.get(name) and (path := Path(str(loaded[name])).expanduser()).exists():
                loaded[name] = str(path.resolve())
        if loaded.get("device_map") is None:
            loaded["device"] = device
    elif getattr(lab.model, "hf_device_map", None):
        raise ScaleError(
            f"{lab.name} is in memory and spread over several devices, so it cannot be copied to workers; load it by "
            "name (headlab.load(..., device_map=...)), or sweep in this process"
        )
    return {
        "loaded": loaded,
        "module": pack(lab.model, lab.name) if loaded is None else None,
        "tokenizer": lab.tokenizer,
        "name": lab.name,
        "device": device,
    }


def software() -> dict[str, str]:
    """The versions that numbers hang on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class Replica:
    """What runs inside a worker: a replica of the model, and the job that it is at."""

    def __init__(self) -> None:
        self.one = threading.Lock()
        self.lab: Lab | None = None
        self.seed = -1
        self.worker: Worker | None = None
        self.shards: tuple[Shard, ...] = ()
        self.threads = 1
        self.rows = 0

    def prepare(self, seed: tuple[int, Any], job: Job) -> tuple[str, Any]:
        """Make the replica of this seed, unless it is there, and take up a job; answers with the process's id."""
        import ray

        def ready() -> int:
            from headlab.engine.work import Worker

            if self.lab is None or self.seed != seed[0]:
                made: Any = ray.get(seed[1])
                self.lab = self.worker = None  # the last replica goes before the next one comes
                self.seed = seed[0]
                self.lab, self.threads = replica(made), made["threads"]
            self.worker = Worker(
                self.lab,
                job.pairs,
                job.worlds,
                job.plan,
                tokens=job.tokens,
                readouts=job.readouts,
                material=job.material,
            )
            self.shards = job.plan.shards
            return os.getpid()

        with self.one:  # a sweep may end, and the next begin, while this worker still loads its replica
            return _tried(ready)

    def run(self, number: int) -> tuple[str, Any]:
        """The numbers of a shard's rows, and how many batches were cut for memory."""

        def ran() -> tuple[Any, int]:
            import torch

            assert self.worker is not None
            torch.set_num_threads(self.threads)
            self.rows = 0
            return self.worker.run(self.shards[number], self._count), self.worker.halvings

        return _tried(ran)

    def _count(self, rows: int) -> None:
        self.rows = rows

    def done(self) -> int:
        """Rows of the shard at work that are done."""
        return self.rows


def _tried(call: Callable[[], Any]) -> tuple[str, Any]:
    """``("made", value)``, or ``("error", exception)`` with the worker's traceback as its note."""
    try:
        return "made", call()
    except Exception as error:
        from headlab.engine.passes import EngineError

        error.add_note(f"in a worker:\n{traceback.format_exc()}")
        error.__cause__ = error.__context__ = error.__traceback__ = None
        try:
            pickle.loads(pickle.dumps(error))
            return "error", error
        except Exception:  # an exception that does not survive the way to the driver
            return "error", EngineError(f"{type(error).__name__} in a worker: {error}")


def replica(seed: Mapping[str, Any]) -> Lab:
    """A proved replica of the driver's model.  Raises EngineError when it is another model, or ran other software."""
    import torch

    from headlab.engine.model import open_model
    from headlab.engine.passes import EngineError
    from headlab.engine.selfcheck import prove

    if (mine := software()) != seed["software"]:
        told = ", ".join(
            f"{n} {v} (driver: {seed['software'][n]})" for n, v in mine.items() if v != seed["software"][n]
        )
        raise EngineError(f"a worker has other software than the driver: {told}; install the same versions everywhere")
    torch.set_num_threads(seed["driver_threads"])  # sums of weights, too, depend on it
    torch.set_float32_matmul_precision(seed["precision"])
    if seed["loaded"] is None:
        lab = open_model(unpack(*seed["module"]).to(seed["device"]), tokenizer=seed["tokenizer"])
    else:
        lab = open_model(**{**seed["loaded"], "tokenizer": seed["tokenizer"]})
    lab.name = seed["name"]
    if lab.fingerprint != seed["fingerprint"]:
        raise EngineError(
            f"the replica of {lab.name} in a worker has other weights than the driver's model (fingerprint "
            f"{lab.fingerprint[:12]}, not {seed['fingerprint'][:12]}): the model changed in memory or on disk after it "
            "was loaded, or the worker's node reads another copy; load it again, and see that every node reads the same"
        )
    prove(lab)
    missing = [name for name, needed in seed["steps"].items() if needed and not getattr(lab, name)]
    slots = [slot.proved for slot in lab.slots]
    if missing or slots != seed["slots"]:
        raise EngineError(
            f"the replica of {lab.name} in a worker did not prove what the driver's model did "
            f"({', '.join(missing) or 'how attention is computed'}); use workers of the same kind of device"
        )
    for name, needed in seed["steps"].items():  # and what the driver leaves out, its workers leave out
        setattr(lab, name, needed)
    return lab


def pack(module: Any, name: str) -> tuple[bytes, list[tuple[Any, ...]]]:
    """A module as bytes, and its tensors apart as arrays on the CPU, which the object store shares without a copy.

    Raises EngineError when it cannot be sent to another process.
    """
    import ray.cloudpickle as cloudpickle
    import torch

    from headlab.engine.passes import EngineError

    tensors: list[tuple[Any, ...]] = []
    weights = {p.data_ptr() for p in module.parameters()}

    class Packer(cloudpickle.CloudPickler):
        def persistent_id(self, obj: Any) -> int | None:
            if type(obj) is not torch.Tensor:
                return None
            flat = obj.detach().cpu().contiguous().reshape(-1)
            kept = obj.data_ptr() in weights
            tensors.append((flat.view(torch.uint8).numpy(), obj.dtype, tuple(obj.shape), kept))
            return len(tensors) - 1

    stream = io.BytesIO()
    try:
        Packer(stream, protocol=5).dump(module)
    except (TypeError, AttributeError, pickle.PicklingError, RuntimeError) as error:
        raise EngineError(
            f"the model in memory ({name}) cannot be sent to workers: {_first_line(error)}; save it with save_pretrained "
            "and load it from the folder"
        ) from error
    return stream.getvalue(), tensors


def unpack(data: bytes, tensors: Sequence[tuple[Any, ...]]) -> Any:
    """The module again.  Weights read the store's memory, where nobody may write; whatever else it keeps is its own."""
    import torch

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, pid: int) -> Any:
            array, dtype, shape, kept = tensors[pid]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that nobody may write
                made = torch.from_numpy(array).view(dtype).reshape(shape)
            return made if kept else made.clone()

    return Unpacker(io.BytesIO(data)).load()
