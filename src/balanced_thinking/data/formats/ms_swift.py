"""ms-swift's messages, where trace and answer may be assistant messages of their own, one after the other.

Assistant messages in a row are joined into one response. ``loss`` and ``loss_scale`` of messages are left out: what
counts how much is the schedule's business. What it leaves out: messages without either (``trl``).
"""

from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import chat, response_of, retell
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "messages", "objects")
_WEIGHTS = ("loss", "loss_scale")


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    turns = record.fields.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    if any(turn.get(name) is not None for turn in turns for name in _WEIGHTS):
        return "its messages have loss or loss_scale"
    roles = [turn.get("role") for turn in turns]
    return "its response is several messages" if roles[-2:] == ["assistant", "assistant"] else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        DataError: any fault.
    """
    turns = chat(record, "messages", role="role", content="content")
    told: list[dict[str, Any]] = []
    for number, turn in enumerate(turns, start=1):
        if turn["role"] != "assistant":
            told.append(turn)
            continue
        said = response_of(turns[:number], record, "messages")
        if told and told[-1]["role"] == "assistant":
            turn = told[-1] | turn
            said = told.pop()["content"] + said
        told.append(turn | {"content": said})
    weighted = any(turn.get(name) is not None for turn in record.fields["messages"] for name in _WEIGHTS)
    notes["loss and loss_scale of messages were left out"] += weighted
    told_fields = {"messages": told, "objects": record.fields.get("objects")}
    return retell(record, told_fields, options, notes=notes, names={})
