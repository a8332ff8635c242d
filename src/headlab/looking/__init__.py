"""Looking at a model before a claim is made: tokens, patterns, grids of heads, lens, direct effects.

What one sees here is a hunch.  :meth:`Look.claim` makes a document of it, which is tried on other prompts.
"""

from headlab.looking.grids import effect, head_scores, heatmap
from headlab.looking.lens import direct_effects, logit_lens
from headlab.looking.look import Look
from headlab.looking.probing import probe
from headlab.looking.routes import paths
from headlab.looking.steering import steer
from headlab.looking.texts import Text, read, show_attention, tokens
from headlab.looking.written import ov_circuit

__all__ = [
    "Look",
    "Text",
    "direct_effects",
    "effect",
    "head_scores",
    "heatmap",
    "logit_lens",
    "ov_circuit",
    "paths",
    "probe",
    "read",
    "show_attention",
    "steer",
    "tokens",
]
