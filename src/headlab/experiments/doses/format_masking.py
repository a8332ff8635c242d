"""Does keeping odd heads from attending to format tokens repair the bug, and how much of it is needed?

1. Eligible pairs and the layer as in ``parity``.
2. At every query, the weight of format keys is scaled by 1 − strength and the row restored to its sum: strength 0 to 1,
   in the even, the odd and random halves of the layer.
3. The same with as many other keys.  A prompt has few tokens outside the format: where too few are left, both are done
   for the frame alone, what stands before and after the question.
4. The strength by which half of the pairs are repaired; at full strength greedy text, the gain over other keys, and the
   rank of the odd heads among matched halves.
"""

from __future__ import annotations

from collections.abc import Sequence

from headlab.prompts import EncodedPair
from headlab.trials.dose_repair import Words, repair_by_dose
from headlab.trials.doses import Arm


def masked(pairs: Sequence[EncodedPair], keys: tuple[str, ...]) -> Arm:
    """These keys scaled down."""
    return Arm("format", "format masked", "mask", keys)


EXPERIMENT = repair_by_dose(
    "format-masking",
    "Does keeping odd heads from attending to format tokens repair the bug?",
    masked,
    dose="strength",
    options={"strength": 1.0, "doses": [0.0, 0.25, 0.5, 0.75, 0.9, 1.0], "random_halves": 8},
    words=Words(
        standard="weight of format keys scaled down at every query of the prompt and of the shared start",
        published=(
            "odd heads, format keys masked at every query and generated token, free decoding, any mention of the right "
            "number counted; the published code could not run"
        ),
        title="how strongly format keys are masked",
        x_title="strength of the mask",
        null="Odd heads with format keys masked",
    ),
    misleads=(
        "A masked row gives its weight to every other key in proportion, mostly to where the head rests, not to the numbers. "
        "Masking all format keys also takes away what tells one template from another, so a repair says that the heads read "
        "the format, not that format and numbers compete for attention. A mask just under full strength leaves a little "
        "weight that the row's sum scales up again: look at the curve before reading one strength as a threshold."
    ),
)
