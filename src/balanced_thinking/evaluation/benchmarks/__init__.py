"""The embedded benchmarks, by name: one literal table, each entry generated on first use and cached.

To add one: a module beside this one with a ``load(split)``, and an entry in ``BENCHMARKS``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from balanced_thinking.data.example import Example
from balanced_thinking.evaluation.benchmarks.icons import load_split


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: its name, one line about it, the generation cap for all arms, and its examples by split."""

    name: str
    description: str
    max_new_tokens: int
    load: Callable[..., Sequence[Example]]


BENCHMARKS: dict[str, Benchmark] = {
    "icons": Benchmark(
        "icons",
        "3 x 3 icon grids: count, compare, locate, odd-one-out, category (train 20,000, val 2,000, test 4,000)",
        160,
        partial(load_split, "icons"),
    ),
    "icons-unseen": Benchmark(
        "icons-unseen",
        "the same grids with icons never trained on and questions that need no name (val 1,000, test 4,000)",
        160,
        partial(load_split, "icons-unseen"),
    ),
}
