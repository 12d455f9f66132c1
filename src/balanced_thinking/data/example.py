"""One example of a reasoning data set: the form into which every format is read.

It stands alone so that ``formats``, ``prompts`` and ``records`` can all build on it without a circle. What it leaves
out: how formats look on disk (``formats``), how an example becomes a prompt (``prompts``).
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

AnswerKind = Literal["choice", "number", "text"]
KINDS: tuple[str, ...] = get_args(AnswerKind)


@dataclass(frozen=True, slots=True)
class Example:
    """A question about pictures, its reasoning trace and its answer.

    Attributes:
        id: Unique within its source.
        source: Data set (and sub-task) it comes from, such as ``icons/count``.
        images: Pictures in the order in which the question names them: paths, encoded bytes or PIL images.
        question: The question without image marks and without its choices.
        choices: The texts to choose from, or None for an open question.
        think: The reasoning trace without tags, or None.
        answer: The answer without tags; for ``kind="choice"`` the letter.
        kind: How answers are compared: ``choice``, ``number`` or ``text``.
    """

    id: str
    source: str
    images: tuple[Any, ...]
    question: str
    choices: tuple[str, ...] | None
    think: str | None
    answer: str
    kind: AnswerKind
