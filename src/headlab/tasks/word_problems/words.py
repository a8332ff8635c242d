"""The closed vocabulary of the generated problems: a fast encoder, and the Hugging Face tokenizer that agrees with it.

One word, number or mark is one token; ``<<`` and ``>>`` are one each.  Anything else is an error, in both: there is
no unknown token that a model could be shown by mistake.  The tokens pad, bot and eot of a CODI model are not here:
CODI appends them to the embedding as V, V+1, V+2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from headlab.prompts import PromptError
from headlab.tasks.word_problems.generator import BOXES, ENDS, ITEMS, LATER, NAMES, SENTENCES, START
from headlab.tasks.word_problems.problems import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EOS = "<eos>"
MARKS = (".", "?", ":", "+", "-", "*", "/", "=", "<<", ">>")
SPACE = r"[ \t\r\n]+"
PATTERN = rf"{EOS}|<<|>>|[0-9]+|[A-Za-z]+|[^ \t\r\n]"
_PIECES = re.compile(PATTERN)
_MAX_LENGTH = 512


@cache
def _words() -> tuple[str, ...]:
    """Every word of every template, in order of first appearance."""
    texts = [START, BOXES, *(t for each in SENTENCES.values() for t in each), LATER, *ENDS, answer_text("")]
    found = dict.fromkeys(w for t in texts for w in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", t)))
    return (*NAMES, *ITEMS, *found)


def vocabulary(values: int = 20) -> list[str]:
    """The tokens in the order of their ids: the end mark, marks, words, then the numbers 0 … ``values``.

    A wider range only appends: ids of a smaller vocabulary keep their meaning.
    """
    return [EOS, *MARKS, *_words(), *map(str, range(values + 1))]


def word_ids(values: int = 20) -> dict[str, int]:
    """Token → id, for :func:`encode_words`."""
    return {token: i for i, token in enumerate(vocabulary(values))}


def encode_words(text: str, ids: Mapping[str, int]) -> list[int]:
    """The ids of a text, equal to those of :func:`build_word_tokenizer` and many times faster.

    ``ids``: from :func:`word_ids`.  Raises PromptError naming the first word that is not in the vocabulary.
    """
    try:
        return [ids[piece] for piece in _PIECES.findall(text)]
    except KeyError as error:
        raise PromptError(
            f"{error.args[0]!r} is not in the vocabulary of {len(ids)} words, in {text!r}; only generated problems of a "
            "range that is not wider can be encoded"
        ) from None


def build_word_tokenizer(values: int = 20) -> PreTrainedTokenizerFast:
    """The tokenizer of the vocabulary; ``save_pretrained`` and ``AutoTokenizer`` keep it as it is.

    It adds nothing to a text.  Decoded tokens are parted by spaces ("The answer is : 12"), so numbers can be read.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(word_ids(values), unk_token="<none>"))  # not a token: unknown words raise
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPACE), "removed"), pre_tokenizers.Split(Regex(PATTERN), "isolated")]
    )
    backend.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        model_max_length=_MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
