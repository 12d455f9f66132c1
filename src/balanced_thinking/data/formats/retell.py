"""A record of another data set told in TRL's form, which ``trl`` then reads: most formats are no more than that.

So pictures, marks, tags, choices and missing parts mean the same in every format, and have the same faults. A fault
names the field as it is called in the file. What it leaves out: what the fields of a data set mean (its own module).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats import trl
from balanced_thinking.data.formats.options import UNREAD_KEYS, Notes, Options
from balanced_thinking.data.formats.source import KEPT, Record
from balanced_thinking.errors import ConfigError, DataError, SegmentError

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def retell(
    record: Record, told: Mapping[str, Any], options: Options, *, notes: Notes, names: Mapping[str, str]
) -> Example:
    """The example of a record whose TRL fields are ``told``; those of ``KEPT`` that are not told stay as they are.

    Args:
        record: The record as it stands in its file.
        told: Fields in TRL's form, such as ``messages``, or ``prompt`` and ``completion``.
        options: What the user asked for.
        notes: Counts what was changed or left out.
        names: TRL's names to the file's, for faults.

    Raises:
        DataError: as ``trl.read``.
    """
    fields = {name: value for name, value in record.fields.items() if name in KEPT}
    try:
        return trl.read(record.with_fields(fields | dict(told)), options, notes=notes)
    except DataError as error:
        pictures = {"images": "image"} if record.fields.get("image") is not None else {}
        raise renamed(error, pictures | dict(names)) from error


def own_answer(options: Options, format_name: str) -> Options:
    """The options for a format that knows itself where its answer is, which it has put into tags.

    Raises:
        ConfigError: the user asked for another place.
    """
    if options.answer_from not in (None, "tag"):
        remedy = "leave answer_from out, or of several data sets give it in the entries of those that need it"
        raise ConfigError(f"data format {format_name} says itself where its answer is; {remedy}")
    return replace(options, answer_from="tag")


def tagged(think: str | None, answer: str, record: Record, field: str, *, answer_field: str | None = None) -> str:
    """A response in our tags; without a trace the answer alone.

    The trace stands in ``field``, and so does the answer if ``answer_field`` names no other.

    Raises:
        DataError: trace or answer hold a tag themselves, so that the response would be cut there.
    """
    for text, where in ((think or "", field), (answer, answer_field or field)):
        inside = next((tag for tag in _TAGS if tag in text), None)
        if inside is not None:
            raise record.place.error(
                f"the text holds {inside} itself", field=where, remedy="take the tag out of the text"
            )
    trace = f"<think>{think.strip()}</think>" if think and think.strip() else ""
    return f"{trace}<answer>{answer.strip()}</answer>"


def chat(record: Record, field: str, *, role: str, content: str) -> list[dict[str, Any]]:
    """The turns in ``field`` with TRL's names, whatever they are called there.

    Raises:
        DataError: not a list of turns, or a role that nobody uses.
    """
    turns = record.fields.get(field)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        remedy = f'write [{{"{role}": "user", "{content}": ..}}, ..], or leave the row out'
        raise record.place.error("must be a list of turns", field=field, remedy=remedy)
    found = []
    for number, turn in enumerate(turns):
        who = turn.get(role)
        if not isinstance(who, str) or who not in ROLES:
            where = f"{field}[{number}].{role}"
            raise record.place.error(f"unknown role {who!r}", field=where, remedy=f"use one of {', '.join(ROLES)}")
        unread = {key: turn[key] for key in UNREAD_KEYS if turn.get(key)}
        found.append({"role": ROLES[who], "content": turn.get(content), **unread})
    return found


def response_of(turns: Sequence[Mapping[str, Any]], record: Record, field: str) -> str:
    """The text of the last turn, which must be the assistant's.

    Raises:
        DataError: it is not, or holds something else than text or parts of text.
    """
    last = turns[-1] if turns else {"role": "none", "content": None}
    if last["role"] != "assistant":
        remedy = "the last turn must be the response, as text"
        raise record.place.error(f"the last turn is of role {last['role']}", field=field, remedy=remedy)
    said = last["content"]
    if isinstance(said, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in said):
        texts = [part.get("text") for part in said]
        said = "".join(texts) if all(isinstance(text, str) for text in texts) else said
    if not isinstance(said, str):
        kind = "null" if said is None else "a list of other things" if isinstance(said, list) else type(said).__name__
        remedy = "give it as text or as parts of type text, or leave the row out"
        raise record.place.error(f"the response is {kind}, not text", field=field, remedy=remedy)
    return said


def no_answer(record: Record, field: str, what: str) -> SegmentError:
    """The fault of a response without its answer: skipped and counted with ``on_missing="skip"``."""
    where: dict[str, Any] = {"file": record.file, "record": record.place.record, "field": field}
    return SegmentError(f"the response has no {what}", kind="no-answer", remedy="leave the row out", **where)


def renamed(error: DataError, names: Mapping[str, str]) -> DataError:
    """The same error with the field called as it is in the file."""
    head = (error.field or "").split("[")[0].split(".")[0]
    if head not in names:
        return error
    field = names[head] + (error.field or "")[len(head) :]
    where: dict[str, Any] = {"file": error.file, "record": error.record, "field": field, "remedy": error.remedy}
    if isinstance(error, SegmentError):
        return SegmentError(error.message, kind=error.kind, **where)
    return DataError(error.message, **where)
