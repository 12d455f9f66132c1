"""The data formats that ``load_examples`` reads: one module each, and one line in ``FORMATS``.

A format says why a record is its own (``sniff``) and turns a record into an example (``read``). Order matters: the
first whose ``sniff`` gives a reason is taken, so the most particular stand first.
"""

import json
from functools import cache
from types import MappingProxyType
from typing import Protocol

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats import (
    iconqa,
    llava_cot,
    m3cot,
    ms_swift,
    mulberry,
    problem,
    scienceqa,
    share4o,
    sharegpt,
    table,
    trl,
    visual_cot,
    vlaa_thinking,
)
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.formats.unread import near_field
from balanced_thinking.errors import ConfigError


class Format(Protocol):
    """What a module in this folder offers to be a format."""

    FIELDS: tuple[str, ...]

    def sniff(self, record: Record) -> str | None:
        """Why the record is of this format, or None."""

    def read(self, record: Record, options: Options, *, notes: Notes) -> Example:
        """The record as an example; ``notes`` counts what was changed or left out."""


FORMATS: MappingProxyType[str, Format] = MappingProxyType(
    {
        "llava-cot": llava_cot,
        "share4o": share4o,
        "visual-cot": visual_cot,
        "mulberry": mulberry,
        "ms-swift": ms_swift,
        "sharegpt": sharegpt,
        "trl": trl,
        "vlaa-thinking": vlaa_thinking,
        "scienceqa": scienceqa,
        "iconqa": iconqa,
        "m3cot": m3cot,
        "problem": problem,
        "table": table,
    }
)


def choose_format(name: str | None, record: Record) -> tuple[str, str]:
    """(name, reason) of the format to read ``record`` with.

    Raises:
        ConfigError: no format of that name.
        DataError: no format recognises the record.
    """
    if name is not None:
        if name not in FORMATS:
            raise ConfigError(f"data format {name!r} is unknown; choose one of {', '.join(FORMATS)}")
        return name, "it was asked for"
    if found := sniffed(record):
        return found
    columns = ", ".join(map(str, record.fields)) or "none"
    remedy = f"{_near_columns(record)}{_table_columns(record)} (--columns, in Python columns=); other "
    remedy += f"formats (--dataset_format, in Python format=): {', '.join(name for name in FORMATS if name != 'table')}"
    raise record.place.error(f"no known format has such records (columns: {columns})", remedy=remedy)


def sniffed(record: Record) -> tuple[str, str] | None:
    """(name, reason) of the first format that takes the record for its own; None where none does."""
    reasons = ((name, candidate.sniff(record)) for name, candidate in FORMATS.items())
    return next(((name, reason) for name, reason in reasons if reason), None)


def _table_columns(record: Record) -> str:
    """What a table lacks; most who come with columns of their own have one."""
    there = [name for name in ("question", "answer") if name in record.fields]
    if len(there) == 1:
        lacking = "answer" if there == ["question"] else "question"
        return f"a table needs {lacking} too: say which column it is"
    return "a table has the columns image, question, reasoning and answer: say which of yours they are"


def _near_columns(record: Record) -> str:
    """The question whether columns with almost our names are meant."""
    near = {name: found for name in record.fields if (found := near_field(name, every_field(), record.fields))}
    if not near:
        return ""
    told = " and ".join(f"{ours} by {theirs}" for theirs, ours in near.items())
    return f"did you mean {told}? --columns '{json.dumps({ours: theirs for theirs, ours in near.items()})}'; "


@cache
def every_field() -> tuple[str, ...]:
    """The fields that any format reads."""
    return tuple(dict.fromkeys(name for reader in FORMATS.values() for name in reader.FIELDS))
