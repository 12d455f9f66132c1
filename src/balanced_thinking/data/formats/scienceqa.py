"""ScienceQA, as published (problems.json with pictures in ``<split>/<id>/image.png``) and as parquet.

The trace is the lecture and the solution; the answer, an index in the file, becomes its letter. A hint stands before
the question as ``Context: ..``, as in lmms-eval.
"""

from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import own_answer, retell, tagged
from balanced_thinking.data.formats.source import KEPT, Record
from balanced_thinking.data.prompts import LETTERS

FIELDS: tuple[str, ...] = (*KEPT, "question", "hint", "lecture", "solution")


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    fields = record.fields
    told = {"question", "choices", "answer", "lecture", "solution"} <= fields.keys()
    return "it has choices, a lecture and a solution" if told else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: neither lecture nor solution.
        DataError: any other fault.
    """
    fields = record.fields
    hint, question, *trace = (record.text(name) for name in ("hint", "question", "lecture", "solution"))
    letter = letter_of(fields.get("answer"), fields.get("choices"), record)
    told = {
        "prompt": f"Context: {hint}\n{question}" if hint else question,
        "completion": tagged(
            "\n\n".join(part for part in trace if part), letter, record, "solution", answer_field="answer"
        ),
        "image": fields.get("image") or None,
        "answer": None,
        "kind": "choice",
    }
    names = {"prompt": "question", "completion": "solution"}
    return retell(record, told, own_answer(options, "scienceqa"), notes=notes, names=names)


def letter_of(index: Any, choices: Any, record: Record, *, field: str = "answer") -> str:
    """The letter of a choice given by its number from 0, which stands in ``field``.

    Raises:
        DataError: no such choice.
    """
    if not isinstance(choices, list) or not choices:
        raise record.place.error("must be a list of texts", field="choices")
    number = int(index) if isinstance(index, str) and index.isdecimal() else index
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(choices):
        remedy = f"give a number from 0 to {len(choices) - 1}"
        message = "is missing" if index is None else f"no choice has the number {index!r}"
        raise record.place.error(message, field=field, remedy=remedy)
    if number >= len(LETTERS):
        raise record.place.error(f"{len(choices)} choices, but only {len(LETTERS)} letters", field="choices")
    return LETTERS[number]
