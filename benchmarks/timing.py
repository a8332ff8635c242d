"""Clocks and gauges: CPU and wall seconds, peak memory, and the rate of a plain matrix product."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def settle(device: str) -> None:
    """Wait until the device has nothing left to do."""
    if device != "cpu":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """(what the work returned, CPU seconds of this process, wall seconds).

    The collector runs before the work and not during it, so that no method pays for another's rubbish.
    """
    gc.collect()
    gc.disable()
    try:
        settle(device)
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        settle(device)
        return found, time.process_time() - cpu, time.perf_counter() - wall
    finally:
        gc.enable()


def _status(field: str) -> int | None:
    """A size in bytes from the kernel's account of this process, None where there is none."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


def peak_growth(work: Callable[[], Any], device: str) -> int | None:
    """Bytes by which memory in use grew at its highest while the work ran; None where the system does not tell.

    CPU: peak resident memory over the memory resident before.  CUDA: peak allocated over allocated before.
    """
    gc.collect()
    if device != "cpu":
        settle(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        settle(device)
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError, AttributeError):  # freed memory goes back, so that it is counted when it is used again
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        CLEAR.write_text("5")
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    peak = _status("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


def gemm_rate(products: Sequence[Sequence[int]], device: str, dtype: str, seconds: float = 1.0) -> tuple[float, float]:
    """Floating point operations a second, by CPU seconds and by wall seconds, of products (rows, inner, outer) one
    after another, each with weights of its own."""
    kind = getattr(torch, dtype)
    inputs = {(m, k): torch.randn(m, k, device=device, dtype=kind) for m, k, _ in products}
    weights = [torch.randn(n, k, device=device, dtype=kind) for _, k, n in products]

    def work(times: int) -> None:
        for _ in range(times):
            for (m, k, _), weight in zip(products, weights, strict=True):
                torch.nn.functional.linear(inputs[m, k], weight)

    with torch.inference_mode():
        once = timed(lambda: work(1), device)[2]
        times = max(1, int(seconds / max(once, 1e-6)))
        _, cpu, wall = timed(lambda: work(times), device)
    flops = 2.0 * times * sum(m * k * n for m, k, n in products)
    return flops / max(cpu, 1e-9), flops / wall
