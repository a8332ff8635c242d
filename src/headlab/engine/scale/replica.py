"""A copy of the driver's model in a worker: what it is made from, and what it must prove to be."""

from __future__ import annotations

import io
import os
import pickle
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headlab.engine.model import Lab
    from headlab.engine.plan import Shard
    from headlab.engine.run import Job
    from headlab.engine.work import Worker


SOFTWARE = ("headlab", "torch", "transformers", "numpy")


class ScaleError(ValueError):
    """An engine that cannot be used as asked: what was given, what was expected, what to do."""


def first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def place_of(lab: Lab, device: str | None, gpus: int | float | None) -> tuple[str, float]:
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

    from headlab.engine.model import ABILITIES, fingerprint

    return {
        "fingerprint": fingerprint(lab.model),
        "steps": {name: getattr(lab, name) for name in ABILITIES},
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
            if self.lab is None or self.seed != seed[0]:
                made: Any = ray.get(seed[1])
                self.lab = self.worker = None  # the last replica goes before the next one comes
                self.seed = seed[0]
                self.lab, self.threads = replica(made), made["threads"]
            self.worker = job.worker(self.lab)
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
            f"the model in memory ({name}) cannot be sent to workers: {first_line(error)}; save it with save_pretrained "
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
