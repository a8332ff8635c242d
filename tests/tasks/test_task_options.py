"""Options of tasks that published claims ask for: prompts that contradict, examples that mislead, another language."""

from __future__ import annotations

import re
from pathlib import Path

from headlab.tasks import TASKS, capitals

SAMPLE = 60


def test_capitals_that_the_prompt_contradicts(shared: Path) -> None:
    """The city that is told is the answer, the true capital the wrong one, and the other way round where it is told."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "data" / "tokenizers" / "gpt2")
    for pair in TASKS["capitals"].pairs(SAMPLE, seed=0, tokenizer=tokenizer, wording="conflict"):
        country = pair.clean.text.rsplit(" of ", 1)[1].removesuffix(" is")
        assert pair.wrong.strip() == capitals.CAPITALS[country] and pair.answer.strip() != pair.wrong.strip()
        assert f" is {pair.answer.strip()}." in pair.clean.text and f" is {pair.wrong.strip()}." in pair.corrupted.text


def test_examples_that_mislead_and_agreement_in_spanish(shared: Path) -> None:
    """Corrupted examples are followed by no successor of theirs; Spanish verbs go with the article of the subject."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "data" / "tokenizers" / "llama-3")
    for pair in TASKS["successor"].pairs(SAMPLE, seed=0, tokenizer=tokenizer, corruption="examples", kind="numbers"):
        right, wrong = (re.findall(r"(\d+) is followed by (\d+)", p.text) for p in (pair.clean, pair.corrupted))
        assert all(int(b) == int(a) + 1 for a, b in right) and all(int(b) != int(a) + 1 for a, b in wrong)
        assert pair.answer != pair.wrong and pair.clean.text.split()[-4] == pair.corrupted.text.split()[-4]
    made = list(TASKS["agreement"].pairs(SAMPLE, seed=0, tokenizer=tokenizer, language="both"))
    spanish = [p for p in made if dict(p.labels)["language"] == "es"]
    assert 0 < len(spanish) < len(made)
    for pair in spanish:
        assert pair.answer.strip() == ("son" if pair.clean.text.startswith("Los") else "es")
        assert pair.corrupted.text.split()[0] != pair.clean.text.split()[0]
