"""VLAA-Thinking (UCSC-VLAA): question and picture beside a response in tags.

    {"id": .., "image": "a.jpg", "question": "Q?", "answer": "<think>..</think><answer>..</answer>"}

The raw form has the response as ``ds_answer``, whose answer stands behind ``**Answer:**``; where ``gt`` gives the right
answer, that is taken, and a response that ends with another one is counted.
"""

import re

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.response import answer_text, clean_answer
from balanced_thinking.data.formats.retell import no_answer, own_answer, retell, tagged
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "question", "ds_answer", "gt")
_ANSWER = re.compile(r"\*\*\s*(?:final\s+)?answer\s*(?::\s*)?\*\*\s*:?", re.IGNORECASE)


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    if not isinstance(record.fields.get("question"), str):
        return None
    field = next((name for name in ("answer", "ds_answer") if _has_trace(record.fields.get(name))), None)
    return f"it has a question, and {field} holds the trace" if field else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no trace or no answer.
        DataError: any other fault.
    """
    fields = record.fields
    field = "ds_answer" if _has_trace(fields.get("ds_answer")) and not _has_trace(fields.get("answer")) else "answer"
    told = {"prompt": fields.get("question"), "completion": fields.get(field), "answer": None}
    names = {"prompt": "question", "completion": field, "answer": field}
    if field == "ds_answer":
        told["completion"] = _from_raw(record, notes)
        options = own_answer(options, "vlaa-thinking (raw)")
    return retell(record, told, options, notes=notes, names=names)


def _has_trace(value: object) -> bool:
    return isinstance(value, str) and "</think>" in value


def _from_raw(record: Record, notes: Notes) -> str:
    think, _, rest = str(record.fields["ds_answer"]).partition("</think>")
    behind = _ANSWER.split(rest)
    written = clean_answer(behind[-1]) if len(behind) > 1 else ""
    given = record.fields.get("gt")
    given = None if given is None else answer_text(given, record.place, field="gt")
    if given is None and not written:
        raise no_answer(record, "ds_answer", "text behind **Answer:**, and gt is empty")
    answer = given if given is not None else written
    differs = given is not None and written.casefold().rstrip(".") != answer.strip().casefold().rstrip(".")
    notes["the raw response ends with another answer than gt, which was taken"] += differs
    return tagged(think.removeprefix("<think>"), answer, record, "ds_answer")
