"""The embedded benchmarks, by name: one literal table, each entry generated on first use and cached.

To add one: a module beside this one with a ``load(split)``, and an entry in ``BENCHMARKS``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks import easy_vqa
from balanced_thinking.evaluation.benchmarks.icons import SPLITS, load_split


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: its name, one line about it, the generation cap for all arms, its splits, and their examples."""

    name: str
    description: str
    max_new_tokens: int
    splits: tuple[str, ...]
    load: Callable[..., Sequence[Example]]


BENCHMARKS: dict[str, Benchmark] = {
    "icons": Benchmark(
        "icons",
        "3 x 3 icon grids: count, compare, locate, odd-one-out, category (train 20,000, val 2,000, test 4,000)",
        160,
        tuple(SPLITS["icons"]),
        partial(load_split, "icons"),
    ),
    "icons-unseen": Benchmark(
        "icons-unseen",
        "the same grids with icons never trained on and questions that need no name (val 1,000, test 4,000)",
        160,
        tuple(SPLITS["icons-unseen"]),
        partial(load_split, "icons-unseen"),
    ),
    "icons-answered": Benchmark(
        "icons-answered",
        "icons with traces that end with the answer: the same questions, for training with that switch on",
        170,
        tuple(SPLITS["icons"]),
        partial(load_split, "icons", end_with_answer=True),
    ),
    "icons-long": Benchmark(
        "icons-long",
        "icons with traces of 320 to 620 tokens, 440 on average (train 20,000, val 1,000, test 2,000)",
        750,
        tuple(SPLITS["icons-long"]),
        partial(load_split, "icons-long"),
    ),
    "easy-vqa": Benchmark(
        "easy-vqa",
        "the published easy-VQA: one coloured shape, 13 answers (train 36,631, val 1,944, test 9,673)",
        128,
        easy_vqa.SPLITS,
        easy_vqa.load,
    ),
    "easy-vqa-captions": Benchmark(
        "easy-vqa-captions",
        "one description of each easy-VQA picture, no trace: for a base that has not seen such pictures (train 3,500)",
        32,
        ("train", "val"),
        easy_vqa.load_captions,
    ),
}


def file_name(benchmark: str | PathLike) -> str:
    """The stem of the files of an evaluation: ``icons``, ``icons-val`` for ``icons:val``, or a data file's own stem."""
    asked, _, split = fspath(benchmark).partition(":")
    if asked in BENCHMARKS:
        return asked if split in ("", "test") else f"{asked}-{split}"
    path = Path(benchmark).resolve()
    return re.sub(r"[^\w.-]+", "-", path.name if path.is_dir() else path.stem)
