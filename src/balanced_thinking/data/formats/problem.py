"""``problem`` and ``answer`` beside pictures (geometry3k, EasyR1, Vision-R1-rl), or Video-R1's ``solution``.

    {"images": [..], "problem": "<image>Find x.", "answer": "3"}
    {"problem": .., "options": ["A. ..", ..], "process": "<think>..</think>", "solution": "<answer>D</answer>"}

Without ``process`` there is no trace: such data are for GRPO and evaluation.
"""

import re

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import retell
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "problem", "options", "process", "solution", "path")
_LETTERED = re.compile(r"\s*\(?[A-Za-z]\s*[).:]\s*")


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
    told = {"prompt": fields.get("problem")}
    if fields.get("solution") is not None:
        told["completion"] = f"{fields.get('process') or ''}{fields['solution']}"
    if isinstance(fields.get("options"), list) and fields["options"]:
        told["choices"] = [_LETTERED.sub("", str(option), count=1) for option in fields["options"]]
    if fields.get("path") is not None:
        told["image"] = fields["path"]
    names = {"prompt": "problem", "completion": "solution", "choices": "options", "image": "path"}
    return retell(record, told, options, notes=notes, names=names)
