"""One example of a reasoning data set: the form into which every format is read.

It stands alone so that ``formats``, ``prompts`` and ``records`` can all build on it without a circle. What it leaves
out: how formats look on disk (``formats``), how an example becomes a prompt (``prompts``).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

AnswerKind = Literal["choice", "number", "text"]
KINDS: tuple[str, ...] = get_args(AnswerKind)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation before the question.

    Attributes:
        role: ``user`` or ``assistant``.
        text: What was said, without image marks.
        images: How many of the example's pictures it shows, before its text.
    """

    role: Literal["user", "assistant"]
    text: str
    images: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """A question about pictures, its reasoning trace and its answer.

    Attributes:
        id: Unique within its source.
        source: Data set (and sub-task) it comes from, such as ``icons/count``.
        images: Pictures in the order in which they are shown: paths, encoded bytes or PIL images. The first belong to
            the turns of ``context``, the others to the question.
        question: The question without image marks and without its choices.
        choices: The texts to choose from, or None for an open question.
        think: The reasoning trace without tags, or None.
        answer: The answer without tags; for ``kind="choice"`` the letter.
        kind: How answers are compared: ``choice``, ``number`` or ``text``.
        context: The turns before the question.
        response: The whole response where its segments are others than think and answer, else None; ``think`` and
            ``answer`` are then what stands in the segments before the last, and in the last.
    """

    id: str
    source: str
    images: tuple[Any, ...]
    question: str
    choices: tuple[str, ...] | None
    think: str | None
    answer: str
    kind: AnswerKind
    context: tuple[Turn, ...] = ()
    response: str | None = None


class Ids:
    """Gives every id once: one that comes again gets ``#2``, ``#3``, ... appended, at the same cost each time."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def own(self, name: str) -> str:
        """``name``, or the first numbered form of it that was not given yet."""
        number = self._last.get(name, 0) + 1
        while (given := name if number == 1 else f"{name}#{number}") in self._last:
            number += 1
        self._last[name], self._last[given] = number, 1 if given != name else number
        return given
