"""Does moving attention from format tokens to the numbers, in the odd heads, repair the bug?

1. Eligible pairs and the layer as in ``parity``.
2. At every query, a share of what lies on format tokens is moved to the numbers: none to all, in the even, the odd and
   random halves of the layer.
3. The same share moved to as many other keys (neutral ones) instead.  A prompt has few tokens outside format and
   numbers: where too few are left, both are done from the frame alone, what stands before and after the question.
4. The claimed dose: greedy text, the gain over neutral keys, and the rank of the odd heads among matched halves.
"""

from __future__ import annotations

from collections.abc import Sequence

from headlab.prompts import EncodedPair
from headlab.trials.dose_repair import Words, repair_by_dose
from headlab.trials.doses import Arm, roles_of


def moved(pairs: Sequence[EncodedPair], source: tuple[str, ...]) -> Arm:
    """Weight of these keys moved to the numbers."""
    return Arm("numbers", "to the numbers", "redistribute", roles_of(pairs, "numeric"), source)


EXPERIMENT = repair_by_dose(
    "bandwidth-repair",
    "Does moving attention from format tokens to the numbers, in the odd heads, repair the bug?",
    moved,
    dose="share",
    options={"share": 0.5, "doses": [0.0, 0.25, 0.5, 0.75, 1.0], "random_halves": 8},
    words=Words(
        standard="format attention moved to the numbers at every query of the prompt and of the shared start",
        published=(
            "odd heads, half of the format attention moved to the numbers at every query and generated token, free decoding, "
            "any mention of the right number counted; the published code adds the mass of all queries, divided by their "
            "number, to each row alike and could not run, so each row's own mass is moved"
        ),
        title="the share of format attention moved to the numbers",
        x_title="share of format attention moved",
        null="Odd heads attending to numbers instead of format",
    ),
    misleads=(
        "What is taken from the format may matter more than what the numbers are given: only the gain over neutral keys "
        "speaks for the numbers. Where that comparison is made from the frame alone, it is about less attention than the "
        "claim is. Weight reaches the numbers in proportion to what lies there already, so a head that ignores one of them "
        "goes on ignoring it, and a row with no weight on them stays as it is."
    ),
)
