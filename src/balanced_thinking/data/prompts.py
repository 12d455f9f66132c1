"""An example as chat messages: one question text for training, GRPO and evaluation.

No format instruction and no system prompt unless the user gives one, as in Vision-R1 (docs/method.md). What it leaves
out: chat templates, which turn messages into text (``collate``, ``evaluation.generation``).
"""

import re
import string
from collections.abc import Sequence
from typing import Any

from balanced_thinking.core.segments import without_lead
from balanced_thinking.data.example import Example
from balanced_thinking.errors import DataError

LETTERS = string.ascii_uppercase


def render_question(question: str, choices: Sequence[str] | None) -> str:
    """The question, then one line ``A. text`` for each choice.

    A question that already lists all its choices as lettered lines (``A. x``, ``A) x``, ``(A) x``, ``A: x``) is
    returned as it is.

    Raises:
        DataError: more than 26 choices, for which there are no letters.

    Example:
        >>> render_question("Which colour?", ["red", "blue"])
        'Which colour?\\nA. red\\nB. blue'
    """
    if not choices or _lists_choices(question, choices):
        return question
    return f"{question}\n{_lettered(choices)}" if question else _lettered(choices)


def split_choices(text: str, choices: Sequence[str] | None) -> str:
    """The question without the lettered lines that end it: the inverse of ``render_question``.

    Only lines that hold exactly these choices, in order and at the end, are taken off.

    Example:
        >>> split_choices("Which colour?\\nA. red\\nB. blue", ["red", "blue"])
        'Which colour?'
    """
    if not choices:
        return text
    block = _lettered(choices)
    if text == block:
        return ""
    if text.endswith(f"\n{block}"):
        return text[: -len(block) - 1]
    lines = text.rstrip().split("\n")
    tail = lines[-len(choices) :]
    if len(tail) == len(choices) and _choices_found(tail, choices) == len(choices):
        return "\n".join(lines[: -len(choices)]).rstrip()
    return text


def build_prompt(example: Example, *, system_prompt: str | None = None) -> list[dict[str, Any]]:
    """The messages up to the response: an optional system turn, the context, then the pictures and the question."""
    system = [_turn("system", system_prompt)] if system_prompt else []
    context = [_turn(turn.role, turn.text, turn.images) for turn in example.context]
    left = len(example.images) - sum(turn.images for turn in example.context)
    if left < 0:
        message = f"its context shows {len(example.images) - left} pictures, but it has {len(example.images)}"
        raise DataError(message, record=example.id, field="images", remedy="give one picture for each that is shown")
    return [*system, *context, _turn("user", render_question(example.question, example.choices), left)]


def build_completion(example: Example) -> list[dict[str, Any]]:
    """The response ``<think>..</think><answer>..</answer>``, without the first part where there is no trace.

    An example that has a ``response`` of other segments gives that.

    Raises:
        DataError: the trace or the answer holds its own closing tag, the answer its opening tag too, or the answer is
            empty: the response would be malformed.
    """
    if example.response is not None:
        return [_turn("assistant", example.response)]
    for tag, name, text in (
        ("</think>", "think", example.think),
        ("</answer>", "answer", example.answer),
        ("<answer>", "answer", example.answer),
    ):
        if text and tag in text:
            remedy = "take the tag out of the text"
            raise DataError(f"the text holds {tag} itself", record=example.id, field=name, remedy=remedy)
    if not without_lead(example.answer):
        raise DataError(
            "the answer is empty", record=example.id, field="answer", remedy="give it, or leave the row out"
        )
    think = "" if example.think is None else f"<think>{example.think}</think>"
    return [_turn("assistant", f"{think}<answer>{example.answer}</answer>")]


def _turn(role: str, text: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]}


def _lettered(choices: Sequence[str]) -> str:
    if len(choices) > len(LETTERS):
        remedy = f"give at most {len(LETTERS)}"
        raise DataError(f"{len(choices)} choices, but only {len(LETTERS)} letters", field="choices", remedy=remedy)
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _lists_choices(question: str, choices: Sequence[str]) -> bool:
    return _choices_found(question.split("\n"), choices) == len(choices)


def _choices_found(lines: Sequence[str], choices: Sequence[str]) -> int:
    """How many choices, from the first on, stand in ``lines`` as lettered lines in their order."""
    found = 0
    for line in lines:
        if found == len(choices) or found == len(LETTERS):
            break
        pattern = rf"\s*\(?{LETTERS[found]}\s*[).:]+\s*{re.escape(choices[found].strip())}\s*"
        found += re.fullmatch(pattern, line) is not None
    return found
