"""Where a run takes its rows from: a benchmark's split, or any file or folder that can be read.

What it leaves out: formats (``data.records``), the checks before the first step (``data.datacheck``).
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.data.records import Example, is_held_out, load_examples, to_dataset
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.training.sft_config import decoded

logger = logging.getLogger(__name__)


@dataclass
class DataArguments:
    """Where a run takes its examples from.

    Attributes:
        dataset: Benchmark names (their train split), files or folders in a known format; several are mixed.
        dataset_fractions: Share of each data set that is used, evenly spread over it; unset: all of every one.
        dataset_format: Name of the format; unset: found out, and said.
        image_root: Folder to which relative picture paths belong; unset: the data file's.
        answer_from: Where the answer stands when there is no answer tag: tag, boxed, after_think or field.
        on_missing: A row without reasoning: train, skip or error.
        columns: Our names to the file's as JSON, for renamed columns, such as ``{"completion": "response"}``.
        allow_outside: Whether picture paths may lead out of the data's folder.
        limit: Use only the first so many examples of each data set.
        eval_dataset: Data for the evaluation loss, like ``dataset`` (a benchmark's name: its val split).
        eval_fraction: Hold out this share of the pictures, with all their questions, for the evaluation loss.
        without_think: Train on ``<answer>..</answer>`` alone (the arm ``answer-only``).
        system_prompt: Put before every prompt; the same in training and evaluation.
        max_pixels: Larger pictures are shrunk to so many pixels (Qwen's families); kept in the model's processor.
    """

    dataset: list[str] = field(
        default_factory=list, metadata={"help": "Benchmark names, files or folders to train on; several are mixed."}
    )
    dataset_fractions: list[float] | None = field(
        default=None, metadata={"help": "Share of each data set that is used; unset: all of every one."}
    )
    dataset_format: str | None = field(default=None, metadata={"help": "Data format; unset: found out."})
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative picture paths."})
    answer_from: str | None = field(default=None, metadata={"help": "tag, boxed, after_think or field."})
    on_missing: str = field(default="error", metadata={"help": "Rows without reasoning: train, skip or error."})
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": 'Our names to the file\'s as JSON: {"completion": "response"}.'}
    )
    allow_outside: bool = field(default=False, metadata={"help": "Allow pictures outside the data's folder."})
    limit: int | None = field(default=None, metadata={"help": "Use only the first so many examples."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Data for the evaluation loss."})
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the pictures held out for evaluation."})
    without_think: bool = field(default=False, metadata={"help": "Train on the answer alone."})
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt of training and evaluation."})
    max_pixels: int | None = field(default=None, metadata={"help": "Shrink larger pictures to so many pixels."})

    def __post_init__(self) -> None:
        self.dataset = [self.dataset] if isinstance(self.dataset, str) else list(self.dataset)
        self.columns = decoded("columns", self.columns, dict)
        if isinstance(self.dataset_fractions, int | float):
            self.dataset_fractions = [float(self.dataset_fractions)]
        if self.dataset_fractions is not None:
            if len(self.dataset_fractions) != len(self.dataset):
                raise ConfigError(
                    f"dataset_fractions has {len(self.dataset_fractions)} entries for {len(self.dataset)} data sets"
                )
            if not all(0 < fraction <= 1 for fraction in self.dataset_fractions):
                raise ConfigError(f"dataset_fractions must lie above 0 and at most at 1, not {self.dataset_fractions}")
        if not 0 <= self.eval_fraction < 1:
            raise ConfigError(f"eval_fraction must be at least 0 and below 1, not {self.eval_fraction}")
        if self.eval_fraction and self.eval_dataset:
            raise ConfigError("give eval_dataset or eval_fraction, not both")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, not {self.limit}")


def load_data(data: DataArguments) -> tuple[Any, Any]:
    """Training and evaluation data sets (the second may be None)."""
    if not data.dataset:
        raise ConfigError("no data set given; name one with --dataset (a benchmark, a file or a folder)")
    examples: list[Example] = []
    for name, fraction in zip(data.dataset, data.dataset_fractions or [1.0] * len(data.dataset), strict=True):
        found = list(_spread(_limited(read_examples(name, data, split="train"), data.limit), fraction))
        if not found:
            remedy = "give a file with records" if fraction == 1 else f"or a larger fraction than {fraction}"
            raise DataError("the data set holds no example", file=name, remedy=remedy)
        examples += found
    held_out: Sequence[Example] = []
    if data.eval_dataset:
        held_out = list(read_examples(data.eval_dataset, data, split="val"))
    elif data.eval_fraction:
        examples, held_out = split_by_picture(examples, data.eval_fraction)
    return _dataset(examples, data), _dataset(held_out, data) if held_out else None


def read_examples(name: str, data: DataArguments, *, split: str) -> Iterator[Example]:
    """Examples of a benchmark's split, or of a file or folder."""
    from balanced_thinking.evaluation.benchmarks import BENCHMARKS

    if name in BENCHMARKS and not Path(name).exists():
        return iter(BENCHMARKS[name].load(split))
    return load_examples(
        name,
        data.dataset_format,
        data.image_root,
        answer_from=data.answer_from,
        on_missing="train" if data.without_think else data.on_missing,
        columns=data.columns,  # type: ignore[arg-type]
        allow_outside=data.allow_outside,
    )


def split_by_picture(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(kept, held out): about ``fraction`` of the pictures go to the second, with all questions about them alone.

    The choice depends on the picture alone, so it stays the same when examples are added or reordered.
    """
    sides = [is_held_out(example, fraction) for example in examples]
    parts = tuple([e for e, side in zip(examples, sides, strict=True) if side is wanted] for wanted in (False, True))
    if None in sides:
        logger.warning("%d examples show pictures of both parts and were left out of both", sides.count(None))
    if not parts[0] or not parts[1]:
        raise DataError(
            f"eval_fraction {fraction} leaves {len(parts[0])} examples to train and {len(parts[1])} to evaluate on",
            remedy="change eval_fraction, or give eval_dataset",
        )
    return parts[0], parts[1]


def _dataset(examples: Sequence[Example], data: DataArguments) -> Any:
    if data.without_think:
        examples = [dataclasses.replace(example, think=None) for example in examples]
    dataset = to_dataset(examples)
    if data.system_prompt:
        system = {"role": "system", "content": [{"type": "text", "text": data.system_prompt}]}
        dataset = dataset.map(lambda row: {"prompt": [system, *row["prompt"]]})
    return dataset


def _limited(examples: Iterable[Example], limit: int | None) -> Iterator[Example]:
    for number, example in enumerate(examples):
        if limit is not None and number >= limit:
            return
        yield example


def _spread(examples: Iterable[Example], fraction: float) -> Iterator[Example]:
    """Every example at which ``fraction`` times its number passes a whole number: that share, evenly spread."""
    return (example for n, example in enumerate(examples) if int((n + 1) * fraction) > int(n * fraction))
