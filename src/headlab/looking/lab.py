"""A loaded model that reads, speaks and shows its tokens: the engine's Lab with what one does first."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Unpack

from headlab.engine import model as engine
from headlab.engine.decode import generate
from headlab.interventions import World
from headlab.looking import texts
from headlab.looking.given import pair_of_text
from headlab.trials import loading

if TYPE_CHECKING:
    from headlab.trials.loading import ModelLike, Opening


class Lab(engine.Lab):
    """A model made ready for trial.  Made by :func:`headlab.load`; what it holds stands at :class:`headlab.engine.model.Lab`."""

    def read(self, text: str) -> texts.Text:
        """Let the model read a text (:func:`headlab.read`): tokens, logits, every site by name."""
        return texts.read(self, text)

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text as the model reads it (:func:`headlab.tokens`)."""
        return texts.tokens(self, text)

    def generate(self, text: str, tokens: int = 20, world: World | None = None) -> str:
        """What the model says after a text, greedily: at most ``tokens`` tokens; in a world, under its interventions.

        Many prompts under many worlds: :func:`headlab.generate`.  Raises PromptError for a text without tokens,
        InterventionError for a write that takes something from another prompt.
        """
        made = generate(
            self, [pair_of_text(self, text)], [world or World("unedited")], start="prompt", max_new_tokens=tokens
        )
        return str(made["text"][0])


def load(model: ModelLike, **opening: Unpack[Opening]) -> Lab:
    """A model ready for trial, which reads and speaks: a shipped organism's name, a local folder, a hub id, or a Hugging Face
    model in memory (then with ``tokenizer``).  Options and errors: :func:`headlab.trials.loading.load`.

    Raises ModelError with one clear sentence.
    """
    found = loading.load(model, **opening)
    return found if isinstance(found, Lab) else Lab(**{f.name: getattr(found, f.name) for f in fields(found)})
