"""Conversations of ``from`` and ``value``, as LLaVA, Vision-R1, R1-Onevision and VLM-R1 write them.

    {"id": .., "image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nQ?"}, {"from": "gpt", ..}]}

The roles may be human or user, gpt or assistant; the picture a path or a list under ``image`` or ``images``. The
response is in tags, as in Osilly/Vision-R1-cold, or as ``answer_from`` says. What it leaves out: responses in other
markup (``llava_cot``, ``share4o``).
"""

from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import chat, retell
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "conversations")
NAMES = {"messages": "conversations", "completion": "conversations", "prompt": "conversations"}


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    turns = record.fields.get("conversations")
    told = isinstance(turns, list) and turns and isinstance(turns[0], dict) and {"from", "value"} <= turns[0].keys()
    return "it has conversations of from and value" if told else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        DataError: any fault.
    """
    turns = chat(record, "conversations", role="from", content="value")
    pictured = any(record.fields.get(name) for name in ("image", "images"))
    unmarked = pictured and not any("<image>" in str(turn["content"]) for turn in turns)
    notes["pictures without an <image> mark in the text were put in front of it"] += unmarked
    return retell(record, {"messages": turns}, options, notes=notes, names=NAMES)


def last_value(record: Record) -> str:
    """The text of the last turn, or "": for formats that look like this one and differ in their response."""
    turns: Any = record.fields.get("conversations")
    value = turns[-1].get("value") if sniff(record) and isinstance(turns[-1], dict) else None
    return value if isinstance(value, str) else ""
