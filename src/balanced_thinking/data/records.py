"""Data sets in and out: any known format into examples, examples into TRL's prompt/completion form.

What it leaves out: how each format looks (``formats``), how a question is worded (``prompts``).
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from balanced_thinking.data.example import AnswerKind, Example
from balanced_thinking.data.prompts import build_completion, build_prompt
from balanced_thinking.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["AnswerKind", "Example", "to_dataset", "to_trl_row"]
_CHUNK = 2_000


def to_trl_row(example: Example) -> dict[str, Any]:
    """An example as a row in TRL's prompt/completion form, with id, source, answer, kind and choices beside it.

    Pictures are passed on as they are (paths as text); ``load_examples`` reads such rows back.

    Raises:
        DataError: a trace or answer that would make the response malformed.
    """
    return {
        "id": example.id,
        "source": example.source,
        "prompt": build_prompt(example),
        "completion": build_completion(example),
        "images": [fspath(image) if isinstance(image, PathLike) else image for image in example.images],
        "answer": example.answer,
        "kind": example.kind,
        "choices": None if example.choices is None else list(example.choices),
    }


def to_dataset(examples: Iterable[Example]) -> "Dataset":
    """Examples as a ``datasets.Dataset`` that ``ScaleSFTTrainer`` and TRL's ``SFTTrainer`` take.

    Pictures become a list of ``datasets.Image``: a path stays a path and encoded bytes stay as they are until a row is
    read, when they are decoded; only PIL images without a file are encoded (PNG).

    Args:
        examples: Any number of examples, read once.

    Returns:
        A data set with the columns id, source, prompt, completion, images, answer, kind, choices.

    Raises:
        DataError: no examples at all, or one whose response would be malformed.
    """
    from datasets import Dataset, concatenate_datasets

    rows = (to_trl_row(example) for example in examples)
    features, parts = _features(), []
    while chunk := list(islice(rows, _CHUNK)):
        parts.append(Dataset.from_list(chunk, features=features))
    if not parts:
        raise DataError("there are no examples to make a data set of", remedy="give at least one")
    return concatenate_datasets(parts)


def _features() -> "Features":
    from datasets import Features, Image, List, Value

    text = Value("string")
    messages = List({"role": text, "content": List({"type": text, "text": text})})
    columns: Mapping[str, Any] = {
        "id": text,
        "source": text,
        "prompt": messages,
        "completion": messages,
        "images": List(Image()),
        "answer": text,
        "kind": text,
        "choices": List(text),
    }
    return Features(columns)
