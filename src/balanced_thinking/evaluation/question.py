"""A question of a benchmark: the example, further answers that count, and what the benchmark's own rules need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from balanced_thinking.data.example import Example


@dataclass(frozen=True, slots=True)
class Question:
    """An example to be answered.

    Attributes:
        example: Question, pictures, choices and the right answer.
        also: Other answers that count as right.
        facts: What the benchmark's own rules need beside that, such as how many decimals are asked for.
    """

    example: Example
    also: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


# The score in [0, 1] of the answer taken from a response (None: there is none).
Rule = Callable[[str | None, Question], float]
