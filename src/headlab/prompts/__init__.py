"""Prompts, pairs of prompts, and what their tokens are.

A :class:`Pair` is the unit of analysis: a *clean* prompt, a *corrupted* prompt, the right answer and the wrong
one.  :func:`encode` turns it into token ids, finds which tokens play which role (from character spans, never from
substring matching), appends the start that both answers share ("9." of 9.8 and 9.11) and names the two tokens at
which they part: that is where the logit difference is read.

:func:`align` says which clean position lends its activation to which corrupted position.  No torch here.
"""

from .data import Pair, Prompt, PromptError, Span, prompts_of, spacing
from .encoding import Alignment, Encoded, EncodedPair, align, each, encode, encode_prompt, remarks, token_ids
from .rows import COLUMNS, MOST_PAIRS, OPTIONAL_COLUMNS
from .sets import PromptSet

__all__ = [
    "COLUMNS",
    "MOST_PAIRS",
    "OPTIONAL_COLUMNS",
    "Alignment",
    "Encoded",
    "EncodedPair",
    "Pair",
    "Prompt",
    "PromptError",
    "PromptSet",
    "Span",
    "align",
    "each",
    "encode",
    "encode_prompt",
    "prompts_of",
    "remarks",
    "spacing",
    "token_ids",
]
