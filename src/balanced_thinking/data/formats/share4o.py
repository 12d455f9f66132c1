"""Share4oReasoning/sft_data (LLaVA-Reasoner): a conversation whose response ends with ``### Answer: X``.

All before the last ``### Answer:`` is the trace. Responses without that heading (direct answers) are of the form
``sharegpt``: read them with ``answer_from="after_think"`` and ``on_missing="train"``.
"""

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats import sharegpt
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import chat, no_answer, own_answer, response_of, retell, tagged
from balanced_thinking.data.formats.source import Record

FIELDS = sharegpt.FIELDS
_ANSWER = "### Answer:"


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    return f"its response has the heading {_ANSWER!r}" if _ANSWER in sharegpt.last_value(record) else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no answer.
        DataError: any other fault.
    """
    turns = chat(record, "conversations", role="from", content="value")
    think, mark, answer = response_of(turns, record, "conversations").rpartition(_ANSWER)
    if not mark or not answer.strip():
        raise no_answer(record, "conversations", f"text behind {_ANSWER!r}")
    turns[-1]["content"] = tagged(think, answer, record, "conversations")
    return retell(record, {"messages": turns}, own_answer(options, "share4o"), notes=notes, names=sharegpt.NAMES)
