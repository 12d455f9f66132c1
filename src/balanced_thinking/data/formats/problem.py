"""``problem`` and ``answer`` beside pictures (geometry3k, EasyR1, Vision-R1-rl), or Video-R1's ``solution``.

    {"images": [..], "problem": "<image>Find x.", "answer": "3"}
    {"problem": .., "options": ["A. ..", ..], "process": "<think>..</think>", "solution": "<answer>D</answer>"}

Without ``process`` there is no trace: such data are for GRPO and evaluation.
"""

import re
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import retell
from balanced_thinking.data.formats.source import KEPT, Record
from balanced_thinking.data.prompts import LETTERS

FIELDS: tuple[str, ...] = (*KEPT, "problem", "options", "process", "solution", "path")
_LETTERED = r"\s*\(?{}\s*[).:]\s*"


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    if not isinstance(record.fields.get("problem"), str):
        return None
    found = next((name for name in ("answer", "solution") if record.fields.get(name) is not None), None)
    return f"it has problem and {found}" if found else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no trace, unless rows without one are asked for.
        DataError: any other fault.
    """
    fields = record.fields
    told: dict[str, Any] = {"prompt": fields.get("problem")}
    if fields.get("solution") is not None:
        told["completion"] = record.text("process") + record.text("solution")
    if fields.get("options"):
        told["choices"] = _choices(fields["options"], record)
    if fields.get("path") is not None:
        told["image"] = fields["path"]
    names = {"prompt": "problem", "completion": "solution", "choices": "options", "image": "path"}
    return retell(record, told, options, notes=notes, names=names)


def _choices(options: Any, record: Record) -> list[str]:
    """The texts of options; their letters are taken off where all carry them in order."""
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise record.place.error("must be a list of texts", field="options")
    marks = [re.match(_LETTERED.format(letter), option) for letter, option in zip(LETTERS, options, strict=False)]
    if len(marks) < len(options) or not all(marks):
        return options
    return [option[mark.end() :] for option, mark in zip(options, marks, strict=True) if mark]
