"""The organisms' tokenizer: lossless on any text, one token per number part, offline.

Byte-level BPE without merges and with ``ignore_merges``: a pre-token found whole in the vocabulary is one
token, anything else falls back to its bytes.  Text is cut by Llama 3's pattern, so numbers, words and
punctuation part as they do there: "9.11" is ``9 . 11``, and a space before a number stands alone.

Vocabulary: 256 bytes, the numbers 10 … 99 (0 … 9 are bytes), every word and mark of the decimals formats, and
the special tokens of Llama 3's chat headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headlab.tasks.decimals import FORMATS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, EOT, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|pad|>"
HEADER_START, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"
SPECIAL = (BOS, EOS, HEADER_START, HEADER_END, EOT, PAD)
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MAX_LENGTH = 512


def build_tokenizer(words: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer, the same on every call: its vocabulary follows the decimals formats, or is ``words`` (in byte-level
    letters, ``Ġ`` for a space) beside the bytes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    cut = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    if words is None:
        tokens += [str(n) for n in range(10, 100)]
        words = sorted(_format_words(cut) - set(tokens))
    tokens += words
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    backend.pre_tokenizer = cut
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=_MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _format_words(cut) -> set[str]:
    """Every pre-token of every decimals format, without its numbers, in byte-level letters."""
    words = set()
    for fmt in FORMATS.values():
        for wording in fmt.wordings:
            text = "".join(part.format(a="1.1", b="1.1", word=wording) for _, part in fmt.parts)
            for special in SPECIAL:
                text = text.replace(special, "\0")
            for piece in text.split("\0"):
                words |= {word for word, _ in cut.pre_tokenize_str(piece) if not word.isdigit()}
    return words
