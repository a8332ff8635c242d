"""Word problems: GSM8K, GSM8K-Aug and a generator in a closed vocabulary; one rule that reads the answer."""

from headlab.tasks.word_problems.generator import in_test, word_problems
from headlab.tasks.word_problems.gsm8k import read_gsm8k, read_gsm8k_aug
from headlab.tasks.word_problems.problems import (
    Problem,
    ProblemSet,
    answer_text,
    chain_hash,
    cot,
    grade_problem,
    parse_answer,
)
from headlab.tasks.word_problems.words import EOS, build_word_tokenizer, encode_words, vocabulary, word_ids

__all__ = [
    "EOS",
    "Problem",
    "ProblemSet",
    "answer_text",
    "build_word_tokenizer",
    "chain_hash",
    "cot",
    "encode_words",
    "grade_problem",
    "in_test",
    "parse_answer",
    "read_gsm8k",
    "read_gsm8k_aug",
    "vocabulary",
    "word_ids",
    "word_problems",
]
