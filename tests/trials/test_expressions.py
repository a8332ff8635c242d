"""Statistics as text.  Expected readings are written out by hand."""

from __future__ import annotations

import pytest

from headlab.trials.expressions import ExpressionError, Term, parse


def test_a_sum_of_terms_is_read_with_signs_cells_and_readouts() -> None:
    read = parse("rank:drop:both/mean@loss - drop:movers - drop:backup")
    assert read.rank and not read.family and not read.bottom
    assert read.top == (
        Term("drop", "both", ("mean",), "loss", "", 1),
        Term("drop", "movers", (), "", "", -1),
        Term("drop", "backup", (), "", "", -1),
    )


def test_a_ratio_a_family_and_a_correlation() -> None:
    read = parse("mean:lost:c - lost:m / lost:whole + lost:rest")
    assert (read.family, len(read.top), len(read.bottom)) == ("mean", 2, 2)
    assert parse("spearman:one/zero:induction").top[0] == Term("spearman", "one", ("zero",), "", "induction", 1)
    assert parse("- drop:a + drop:b").top[0].sign == -1


@pytest.mark.parametrize("text", ["drop:a", "rank:least:lost:a/mean@margin - lost:b", "value:a / value:b"])
def test_what_is_read_is_written_back(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop", "cannot read 'drop'"),
        ("dorp:a", "no statistic 'dorp'"),
        ("drop:A", "cannot read"),
        ("drop:a-drop:b", "cannot read"),
        ("drop:a / drop:b / drop:c", "divides 2 times"),
        ("drop:a - rank:drop:b", "comes first"),
        ("spearman:one", "names a score"),
        ("drop:one:induction", "only spearman"),
        ("drop:a, drop:b", "cannot read"),
        ("", "cannot read"),
        ("drop:" + "a" * 500, "at most 400"),
    ],
)
def test_what_means_nothing_is_refused_by_the_part_that_does(text: str, said: str) -> None:
    with pytest.raises(ExpressionError, match=said):
        parse(text)
