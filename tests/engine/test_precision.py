"""Laws 1, 2 and 7 in every precision: what the tolerance of each dtype is measured on."""

from __future__ import annotations

from functools import cache

import pytest
import tiny
import torch
from laws import precision

from headlab.engine.selfcheck import TOLERANCE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def measured(family: str, dtype: torch.dtype) -> dict[int, float]:
    """By law, the largest difference (:func:`laws.precision`)."""
    return precision(tiny.proved(tiny.hf_model(family).to(dtype)))


DAILY = {("llama", torch.float32), ("llama", torch.bfloat16), ("gemma2", torch.float16)}
ALL = [
    pytest.param(f, d, marks=() if (f, d) in DAILY else pytest.mark.accept, id=f"{f}-{str(d).removeprefix('torch.')}")
    for f in tiny.FAMILIES
    for d in DTYPES
]


@pytest.mark.parametrize(("family", "dtype"), ALL)
def test_the_tolerance_of_a_dtype_holds(family: str, dtype: torch.dtype) -> None:
    found = measured(family, dtype)
    assert max(found.values()) <= TOLERANCE[dtype], found
    if dtype is not torch.float32:
        assert max(found.values()) > 1e-6, "a 16-bit model that rounds nothing was not run in 16 bits"
