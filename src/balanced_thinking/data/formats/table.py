"""A plain table: one column each for picture, question, reasoning and answer, in CSV, TSV, JSON or parquet.

The columns are called ``image`` (or ``images``, ``file_name``), ``question``, ``reasoning``, ``answer`` and, if there
are any, ``choices``; ``columns`` says what they are called in the file instead. Several pictures or choices in one cell
are a JSON list or parted by ``|``.
"""

import json
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.response import answer_text
from balanced_thinking.data.formats.retell import own_answer, retell, tagged
from balanced_thinking.data.formats.source import KEPT, Record
from balanced_thinking.data.formats.unread import columns_option, trace_field
from balanced_thinking.errors import SegmentError

FIELDS: tuple[str, ...] = (*KEPT, "file_name", "question", "reasoning")


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    return "it has the columns question and answer" if {"question", "answer"} <= record.fields.keys() else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no reasoning.
        DataError: any other fault.
    """
    fields, place = record.fields, record.place
    filled = [name for name in ("images", "image", "file_name") if fields.get(name)]
    if len(filled) > 1:
        message = f"the row has both {filled[0]} and {filled[1]}"
        raise place.error(message, field=filled[1], remedy="keep one of the two columns")
    answer = answer_text(fields.get("answer"), place)
    told: dict[str, Any] = {
        "prompt": fields.get("question"),
        "completion": tagged(record.text("reasoning"), answer, record, "reasoning", answer_field="answer"),
        "answer": None,
        "image": None,
        "images": _several(fields[filled[0]], record, filled[0]) if filled else None,
        "choices": _several(fields["choices"], record, "choices") if fields.get("choices") else None,
    }
    names = {"prompt": "question", "completion": "reasoning", "images": filled[0] if filled else "image"}
    try:
        return retell(record, told, own_answer(options, "table"), notes=notes, names=names)
    except SegmentError as error:
        meant = trace_field(record, FIELDS) if error.kind == "no-think" else None
        if meant is None:
            raise
        remedy = f"did you mean the column {meant}? {columns_option(options, 'reasoning', meant)}; else {error.remedy}"
        where: dict[str, Any] = {"file": error.file, "record": error.record, "remedy": remedy}
        raise SegmentError(error.message, kind=error.kind, **where) from error


def _several(value: Any, record: Record, field: str) -> Any:
    if not isinstance(value, str):
        return value if isinstance(value, list) else [value]
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            remedy = 'write it as JSON does, ["dog", "cat"] (json.dumps), or parted by |'
            raise record.place.error(f"not a JSON list ({error})", field=field, remedy=remedy) from error
    return [part.strip() for part in value.split("|")]
