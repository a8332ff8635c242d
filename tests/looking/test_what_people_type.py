"""What people really type gets one line that says what to write instead, and never another kind of error.

Looked for over every name of the contents page: a text, a path or a single thing where a list is expected; the thing before it
is encoded; heads by name, by number, alone; a misspelt site, write, score, readout, projection; arguments in the other
order; a model by name where a loaded one is expected; a comma left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import tiny
from test_looking import PAIRS, TEXT

import headlab
from headlab import Head, Heads, Intervention, KVHeads, Pair, Prompt, PromptSet, World, encode
from headlab.engine.model import ModelError
from headlab.looking import effect

pytestmark = pytest.mark.skipif(
    os.environ.get("HEADLAB_TYPECHECK") == "all", reason="where every type is checked, that check speaks first"
)
LAB = tiny.lab("llama")
PAIR = PAIRS[0]
CODED = encode(PAIR, LAB.tokenizer)
ONE = Intervention(Heads.of(1, [3]))
WORLD = World("one", (ONE,))

TYPED: dict[str, tuple[Callable[[], object], str]] = {
    "capture of a text in a list": (lambda: headlab.capture(LAB, ["text"], [(1, "z")]), "number 0 is 'text'; headlab.read"),
    "capture of a text": (lambda: headlab.capture(LAB, "text", [(1, "z")]), "given 'text' alone; headlab.read"),
    "capture of one prompt": (lambda: headlab.capture(LAB, CODED.clean, [(1, "z")]), "a list of Encoded"),
    "capture of pairs": (lambda: headlab.capture(LAB, [CODED], [(1, "z")]), r"tokenizer\).clean"),
    "capture of a PromptSet": (lambda: headlab.capture(LAB, PAIRS, [(1, "z")]), "number 0 is Pair"),
    "a misspelt site": (lambda: headlab.capture(LAB, [CODED.clean], [(1, "patern")]), "did you mean pattern"),
    "layer and site swapped": (lambda: headlab.capture(LAB, [CODED.clean], [("z", 1)]), r"\(layer, site\)"),
    "one place": (lambda: headlab.capture(LAB, [CODED.clean], (1, "z")), r"\[\(1, 'z'\)\], given"),
    "no such layer": (lambda: headlab.capture(LAB, [CODED.clean], [(9, "z")]), "layer 9"),
    "a model's name": (lambda: headlab.capture("gpt2", [CODED.clean], [(1, "z")]), r"headlab.load\("),
    "sweep of a name": (lambda: headlab.sweep("gpt2", [CODED], [WORLD]), r"headlab.load\("),
    "sweep of pairs not encoded": (lambda: headlab.sweep(LAB, PAIRS, [WORLD]), r"for pair in pairs\]"),
    "sweep of one pair": (lambda: headlab.sweep(LAB, CODED, [WORLD]), "alone"),
    "sweep of one world": (lambda: headlab.sweep(LAB, [CODED], WORLD), "a list of worlds"),
    "sweep of interventions": (lambda: headlab.sweep(LAB, [CODED], [ONE]), "a list of worlds"),
    "generate of a text": (lambda: headlab.generate(LAB, "Once", [WORLD]), "a list of EncodedPair"),
    "read with a name": (lambda: headlab.read("gpt2", TEXT), r"headlab.load\("),
    "read of a list": (lambda: headlab.read(LAB, [TEXT]), "expected a text"),
    "read of a pair": (lambda: headlab.read(LAB, PAIR), "expected a text"),
    "tokens of nothing": (lambda: headlab.tokens(LAB, ""), "expected a text"),
    "a misspelt site of a text": (lambda: headlab.read(LAB, TEXT)["reside", 0], "did you mean resid"),
    "a text's site and layer swapped": (lambda: headlab.read(LAB, TEXT)[0, "z"], r"text\[site, layer\]"),
    "a text's site alone": (lambda: headlab.read(LAB, TEXT)["z"], r"text\[site, layer\]"),
    "a comma left out": (lambda: World("x", ONE), "needs its comma"),
    "a world of names": (lambda: World("x", ("L1H3",)), "needs its comma"),
    "heads by name": (lambda: Intervention("L1H3"), "Heads.parse"),
    "a head alone": (lambda: Intervention(Head(1, 3)), "Heads.parse"),
    "a misspelt site of an intervention": (lambda: Intervention(Heads.of(1, [3]), "reside"), "did you mean resid"),
    "a misspelt write": (lambda: Intervention(Heads.of(1, [3]), "z", "ablate"), "expected one of"),
    "a write near one": (lambda: Intervention(Heads.of(1, [3]), "z", "resampled"), "did you mean resample"),
    "W_O": (lambda: LAB.weight("W_O", 1), "did you mean 'o'"),
    "weight with its arguments swapped": (lambda: LAB.weight(1, "o"), "expected one of q, k, v, o"),
    "bias of b_Q": (lambda: LAB.bias("b_Q", 1), "did you mean 'q'"),
    "projections in a list": (lambda: LAB.weight(["q", "k"], 1), "expected one of q, k, v, o"),
    "Heads of a name": (lambda: Heads("L1H3"), "Heads.parse"),
    "Heads of pairs of numbers": (lambda: Heads([(1, 3)]), r"Head\(1, 3\)"),
    "Heads.parse of a list": (lambda: Heads.parse(["L1H3"]), "reads names"),
    "Head of a name": (lambda: Head("L1H3", 0), "Head.parse"),
    "Head.parse of a number": (lambda: Head.parse(3), "not a head"),
    "encode of a text": (lambda: encode("text", LAB.tokenizer), "takes a pair"),
    "encode of all pairs": (lambda: encode(PAIRS, LAB.tokenizer), "for p in pairs"),
    "encode with the lab": (lambda: encode(PAIR, LAB), "lab.tokenizer"),
    "a Pair of texts": (lambda: Pair("a", "one", "two", "x", "y"), r"Prompt\('…'\)"),
    "a Prompt of tokens": (lambda: Prompt([1, 2]), "is a text"),
    "PromptSet of a file": (lambda: PromptSet("pairs.csv"), "from_file"),
    "PromptSet of rows": (lambda: PromptSet(({"clean": "a"},)), "from_rows"),
    "heatmap of a file that is not there": (lambda: headlab.heatmap(LAB, "pairs.csv"), "no such prompt file"),
    "heatmap of rows": (lambda: headlab.heatmap(LAB, [{"clean": "a"}]), "row 1: .*'answer'"),
    "heatmap of a text": (lambda: headlab.heatmap(LAB, "a text"), "from_file"),
    "heatmap of a row alone": (lambda: headlab.heatmap(LAB, {"clean": "a"}), "number 0"),
    "a head as papers write it": (lambda: headlab.show_attention(LAB, TEXT, "1.3"), "write 'L1H3'"),
    "a head in small letters": (lambda: Heads.parse("l1h3"), "write 'L1H3'"),
    "three numbers": (lambda: headlab.show_attention(LAB, TEXT, "1.3.2"), "a name like 'L10H4'"),
    "four numbers": (lambda: headlab.show_attention(LAB, TEXT, (1, 3, 2, 0)), "not a head"),
    "heatmap of nothing": (lambda: headlab.heatmap(LAB, None), "expected pairs"),
    "heatmap of a score": (lambda: headlab.heatmap(LAB, PAIRS, "atribution"), "did you mean attribution"),
    "a misspelt readout": (lambda: headlab.heatmap(LAB, PAIRS, readout="margins"), "no readout 'margins'"),
    "effect of a number": (lambda: effect(LAB, PAIRS, 3), "heads by name"),
    "effect of no head": (lambda: effect(LAB, PAIRS, []), "no heads"),
    "a misspelt score": (lambda: headlab.head_scores(LAB, "inductoin"), "did you mean induction"),
    "a thinking score": (lambda: headlab.head_scores(LAB, "composite", PAIRS), "expected one of"),
    "a score of pairs on a text": (lambda: headlab.head_scores(LAB, "probe", TEXT), "give pairs"),
    "attention of a number": (lambda: headlab.show_attention(LAB, TEXT, 3), "heads by name"),
    "attention of a layer": (lambda: headlab.show_attention(LAB, TEXT, "L3"), "not a head"),
    "paths to a layer": (lambda: headlab.paths(LAB, PAIRS, "L2"), "not a head"),
    "paths to the first layer": (lambda: headlab.paths(LAB, PAIRS, "L0H1"), "nothing can arrive"),
    "paths to resid": (lambda: headlab.paths(LAB, PAIRS, "L2H1", "resid"), "ends at q, k, v, z"),
    "steer with one amount twice": (lambda: headlab.steer(LAB, PAIRS, 1, (1, 1)), "different numbers"),
    "steer with a number": (lambda: headlab.steer(LAB, PAIRS, 1, 2.0), "different numbers"),
    "steer behind the last layer": (lambda: headlab.steer(LAB, PAIRS, 7), "layer 7"),
    "steer on one pair": (lambda: headlab.steer(LAB, [PAIR], 1), "two clusters"),
    "probe with a label too few": (lambda: headlab.probe(LAB, PAIRS, labels=["a", "b"]), "a label for each of 6"),
    "probe with one class": (lambda: headlab.probe(LAB, PAIRS, labels=["a"] * 6), "two classes"),
    "the lens behind the text": (lambda: headlab.logit_lens(LAB, TEXT, at=99), "token 99"),
    "direct effects of a text": (lambda: headlab.direct_effects(LAB, TEXT), "expected pairs"),
}  # fmt: skip


@pytest.mark.parametrize("what", TYPED)
def test_one_line_says_what_to_write(what: str) -> None:
    call, said = TYPED[what]
    with pytest.raises((ValueError, KeyError, ModelError), match=said) as found:
        call()
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_what_can_only_mean_one_thing_is_taken() -> None:
    """A head alone, numbers of a table's row, one index, one pair: no guess is made, so nothing is refused."""
    assert Heads(Head(1, 3)) == Heads.of(1, 3) == Heads([Head(1.0, 3.0)]) and KVHeads(1, 0) == KVHeads(1, (0,))  # type: ignore[arg-type]
    assert str(Head(1.0, 3.0)) == "L1H3"  # type: ignore[arg-type]
    assert len(effect(LAB, PAIR, Head(1, 3)).table) == 1


def test_a_layer_is_taken_as_a_table_gives_it() -> None:
    (place,) = headlab.capture(LAB, [CODED.clean], [(np.int64(1), "z")])  # type: ignore[list-item]
    assert place == (1, "z") and type(place[0]) is int
    one, other = (headlab.steer(LAB, PAIRS, at, (0, 1)) for at in (1, np.int64(1)))  # type: ignore[arg-type]
    assert one.table.equals(other.table) and one.terms == other.terms and one.ranked == other.ranked
