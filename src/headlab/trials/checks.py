"""Controls of trials on prompt pairs, by the sweep they are read off."""

from __future__ import annotations

from collections.abc import Callable

from headlab.claims import Control
from headlab.trials.pairs import no_op_control, patch_all_control
from headlab.trials.sweeps import Seen

Check = Callable[[Seen], Control]


def no_op(sweep: str, where: str = "") -> Check:
    """A patch by nothing, the no-op world and the unedited run agree; ``where`` stands before the words."""

    def check(seen: Seen) -> Control:
        found = no_op_control(seen[sweep], seen.scope.lab)
        return found.model_copy(update={"words": f"at {where}: {found.words}"}) if where else found

    return check


def patch_all(sweep: str, label: str = "every head of the layer") -> Check:
    """Patching everything repairs."""
    return lambda seen: patch_all_control(seen[sweep], seen.scope.seed, label)
