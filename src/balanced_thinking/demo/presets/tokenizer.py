"""Byte-level BPE tokenizers of the embedded models: trained on the project's own templates, or a token a byte.

Everything a program of ours writes comes out as about one token a word; any other text still round-trips, in bytes.
The four tags are single added tokens with ``special=False``, so that decoding with ``skip_special_tokens=True`` keeps
them. Special tokens and chat templates belong to the families (``families``).
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def train_vocabulary(texts: Iterable[str], *, size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of at most ``size`` tokens; the same for the same texts."""
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _words()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    trained.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    return trained.get_vocab(), merges


def bytes_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of a token a byte."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {piece: number for number, piece in enumerate(sorted(ByteLevel.alphabet()))}, []


def fast_tokenizer(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    special: Sequence[str],
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    **named: str,
) -> Any:
    """A tokenizer over a vocabulary with special tokens and the tags; ``named`` ones become attributes."""
    from tokenizers import Tokenizer, decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = _words()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    if bos is not None:
        ids = [(bos, backend.token_to_id(bos))]
        backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids)
    extra = {"extra_special_tokens": named} if named else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=pad, bos_token=bos, **extra)
    add_tags(tokenizer)
    return tokenizer


def add_tags(tokenizer: Any) -> None:
    """The tags as tokens of their own, which decoding keeps; padding on the left, as for generation."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.padding_side = "left"


def padded_size(tokenizer: Any) -> int:
    """The vocabulary, padded to a multiple of 64."""
    return -(-len(tokenizer) // 64) * 64


def special_ids(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary and ends of text as a text configuration names them."""
    return {
        "vocab_size": padded_size(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def message_parts(image: str) -> str:
    """The part of a chat template that writes one message's text, and ``image`` for each of its pictures."""
    return (
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
    )


def _words() -> Any:
    """Qwen2's splitting of text into words, digits and marks."""
    from transformers import Qwen2Tokenizer

    return Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
