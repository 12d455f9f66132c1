"""Mulberry-260k (HuanjinYao/Mulberry-SFT, mulberry_sft.json): messages whose response is headed by ``###``.

    ### Image Description: .. ### Rationales: .. ### Let's think step by step. ### Step 1: .. ### The final answer is: B

All before the last ``### The final answer is:`` is the trace, headings included; what follows is the answer.
"""

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import chat, no_answer, own_answer, response_of, retell, tagged
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "messages")
_ANSWER = "### The final answer is:"
_HEADS = ("### Image Description:", "### Rationales:", "### Let's think step by step", _ANSWER)


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    turns = record.fields.get("messages")
    last = turns[-1].get("content") if isinstance(turns, list) and turns and isinstance(turns[-1], dict) else None
    found = next((head for head in _HEADS if isinstance(last, str) and head in last), None)
    return f"its response has the heading {found!r}" if found else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: no final answer.
        DataError: any other fault.
    """
    turns = chat(record, "messages", role="role", content="content")
    think, mark, answer = response_of(turns, record, "messages").rpartition(_ANSWER)
    if not mark or not answer.strip():
        raise no_answer(record, "messages", f"text behind {_ANSWER!r}")
    turns[-1]["content"] = tagged(think, answer.strip().removesuffix("."), record, "messages")
    return retell(record, {"messages": turns}, own_answer(options, "mulberry"), notes=notes, names={})
