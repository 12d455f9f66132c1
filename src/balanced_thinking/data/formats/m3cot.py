"""M3CoT (LightChen2333/M3CoT): question, choices, a rationale and the answer's letter in fields of their own.

The rationale is the trace; a context stands before the question. Letters are A, B, .. as in the file.
"""

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.response import answer_text
from balanced_thinking.data.formats.retell import own_answer, retell, tagged
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "question", "context", "rationale")


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    named = isinstance(record.fields.get("choices"), list) and "rationale" in record.fields
    return "it has choices and a rationale" if named and "question" in record.fields else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no rationale.
        DataError: any other fault.
    """
    fields = record.fields
    context, question, rationale = (record.text(name) for name in ("context", "question", "rationale"))
    response = tagged(
        rationale, answer_text(fields.get("answer"), record.place), record, "rationale", answer_field="answer"
    )
    told = {
        "prompt": f"{context}\n{question}" if context and question else question,
        "completion": response,
        "answer": None,
        "kind": "choice",
    }
    names = {"prompt": "question", "completion": "rationale"}
    return retell(record, told, own_answer(options, "m3cot"), notes=notes, names=names)
