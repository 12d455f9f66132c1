"""One row of a training set in TRL's form, brought into one shape, and its faults.

The trainer, the collator and the data check all read rows through ``read_row``, so that a row means the
same everywhere and every fault has the same one line. Accepted is what TRL accepts: ``messages``, or ``prompt`` and
``completion`` (as messages or as plain strings), with ``image``, ``images`` or neither. What it leaves out: pictures
themselves (``images``), whole data sets (``datacheck``), chat templates and tokens (``collate``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balanced_thinking.core.segments import SegmentSpec, scan_segments
from balanced_thinking.errors import DataError, SegmentError

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row comes from, for error messages."""

    record: str
    file: str | Path | None = None

    def error(self, message: str, *, field: str | None = None, remedy: str | None = None) -> DataError:
        """A ``DataError`` that names this place."""
        return DataError(message, file=self.file, record=self.record, field=field, remedy=remedy)


@dataclass(frozen=True, slots=True)
class Row:
    """A training row in one shape.

    Attributes:
        id: From the column ``id``, else ``row N`` with N counted from 0.
        messages: The context and, last, the assistant turn that is the response; every ``content`` is a list of
            ``{"type": "text", "text": ..}`` and ``{"type": "image"}``. None for rows of plain strings.
        text: (prompt, completion) of a row of plain strings, else None.
        images: One picture per ``{"type": "image"}`` part, in their order, as given: path, encoded bytes,
            ``{"bytes", "path"}`` or PIL image. Plain strings carry the model's own image tokens, which only a
            processor can count.
        response: Text of the last assistant turn, or the completion.
    """

    id: str
    messages: list[dict[str, Any]] | None
    text: tuple[str, str] | None
    images: list[Any]
    response: str


def read_row(row: Mapping[str, Any], *, index: int | None = None, file: str | Path | None = None) -> Row:
    """``row`` in one shape.

    Args:
        row: Columns of one row. Columns that are None count as absent, as do None keys inside messages, with which
            ``datasets`` fills up structs.
        index: Its number in the data set, from 0; names the row if it has no ``id``.
        file: Where the data set comes from, for messages.

    Raises:
        DataError: no usable text columns, a wrong type, an unknown role or part, turns after the last assistant turn,
            a picture in the response, or placeholders and pictures that differ in number.

    Example:
        >>> read_row({"prompt": "2+2=", "completion": "4"}, index=0)
        Row(id='row 0', messages=None, text=('2+2=', '4'), images=[], response='4')
    """
    if not isinstance(row, Mapping):
        raise Place(f"row {index}", file).error(f"a row must map columns to values, not {_kind(row)}")
    place = Place(row_id(row, index), file)
    images = read_images(row, place)
    prompt, completion = row.get("prompt"), row.get("completion")
    if row.get("messages") is not None:
        return _conversation(row["messages"], images, place, "messages")
    if prompt is None or completion is None:
        raise _no_text(row, place)
    if isinstance(prompt, str) and isinstance(completion, str):
        if not completion.strip():
            raise place.error("the completion is empty", field="completion", remedy="give it, or leave the row out")
        return Row(place.record, None, (prompt, completion), images, completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        text, chat = ("prompt", "completion") if isinstance(prompt, str) else ("completion", "prompt")
        message = f"{text} is plain text but {chat} is not"
        raise place.error(message, field=text, remedy="give both as text or both as lists of messages")
    for name, value in (("prompt", prompt), ("completion", completion)):
        _check_list(value, place, name)
    return _conversation([*prompt, *completion], images, place, "completion")


def row_id(row: Mapping[str, Any], index: int | None) -> str:
    """The row's ``id`` as text, else ``row N``."""
    if row.get("id") is not None:
        return str(row["id"])
    return "row" if index is None else f"row {index}"


def read_images(row: Mapping[str, Any], place: Place) -> list[Any]:
    """The pictures of a row, from ``image`` or ``images``; an empty list for a row without.

    Raises:
        DataError: both columns are filled, or a picture is None.
    """
    filled = [name for name in ("image", "images") if row.get(name) is not None]
    if not filled:
        return []
    if len(filled) == 2:
        raise place.error("the row has both image and images", field="image", remedy="keep one of the two columns")
    value = row[filled[0]]
    images = list(value) if isinstance(value, list | tuple) else [value]
    for number, image in enumerate(images):
        if image is None:
            name = f"{filled[0]}[{number}]" if len(images) > 1 else filled[0]
            raise place.error("the picture is missing (null)", field=name, remedy="give it, or leave the row out")
    return images


def normalise_messages(
    messages: Any, images: Sequence[Any], *, place: Place, field: str, marked: bool = False
) -> tuple[list[dict[str, Any]], list[Any]]:
    """Messages whose contents are lists of parts, and one picture per image part.

    The only user turn, if its content is a string, gets one placeholder per picture before its text, as TRL's own
    helper does, unless the messages hold placeholders already. Among several user turns TRL takes the first, which
    would be a guess. With ``marked`` the texts say by marks which turn shows what, and the caller moves the pictures
    there. Pictures given inside a part (``{"type": "image", "image": ..}``) take their own places.

    Raises:
        DataError: a wrong type, an unknown role or part, placeholders and pictures that differ in number, or several
            user turns and nothing that says which of them shows the pictures.
    """
    _check_list(messages, place, field)
    turns = [_turn(message, place, f"{field}[{number}]") for number, message in enumerate(messages)]
    if images and not any(part["type"] == "image" for turn in turns for part in turn["content"]):
        asking = sum(turn["role"] == "user" for turn in turns)
        if asking > 1 and not marked:
            message = f"nothing says which of {asking} user turns shows the {counted(len(images), 'picture')}"
            remedy = 'put {"type": "image"} parts into it (in data files <image> marks in its text will do)'
            raise place.error(message, field=field, remedy=remedy)
        for message, turn in zip(messages, turns, strict=True):
            if turn["role"] == "user" and isinstance(message["content"], str):
                turn["content"] = [*({"type": "image"} for _ in images), *turn["content"]]
                break
    marks = [part for turn in turns for part in turn["content"] if part["type"] == "image"]
    empty = sum("image" not in part for part in marks)
    if empty != len(images):
        message = f"{counted(empty, 'image placeholder')} but {counted(len(images), 'picture')}"
        raise place.error(message, field=field, remedy="give one placeholder per picture")
    waiting = iter(images)
    pictures = [part.pop("image") if "image" in part else next(waiting) for part in marks]
    return turns, pictures


def check_response(row: Row, segments: Sequence[SegmentSpec], *, on_malformed: str) -> SegmentError | None:
    """The first fault of the row's segments, or None; with ``on_malformed="keep"`` no fault counts."""
    if on_malformed == "keep":
        return None
    fault = scan_segments(row.response, segments).fault
    if fault is None:
        return None
    located = fault.at(record=row.id)
    assert isinstance(located, SegmentError)
    return located


def _conversation(messages: Any, images: Sequence[Any], place: Place, field: str) -> Row:
    turns, pictures = normalise_messages(messages, images, place=place, field=field)
    roles = [turn["role"] for turn in turns]
    if "assistant" not in roles:
        raise place.error("no assistant turn, so nothing to train", field=field, remedy="add the response")
    if roles[-1] != "assistant":
        message = f"the last turn is of role {roles[-1]}, not assistant"
        raise place.error(message, field=field, remedy="drop the turns after the last assistant turn")
    last = turns[-1]
    if any(part["type"] == "image" for part in last["content"]):
        raise place.error("the response holds a picture", field=field, remedy="only text can be trained")
    response = "".join(part["text"] for part in last["content"])
    if not response.strip() and not last.get("tool_calls"):
        raise place.error("the response is empty", field=field, remedy="give it, or leave the row out")
    return Row(place.record, turns, None, pictures, response)


def _turn(message: Any, place: Place, field: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise place.error(f"a message must be an object, not {_kind(message)}", field=field)
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise place.error(f"unknown role {role!r}", field=field, remedy=f"use one of {', '.join(ROLES)}")
    extra = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
    if content is None and not extra.get("tool_calls"):
        raise place.error("the message has no content", field=field, remedy="give text or a list of parts")
    if isinstance(content, str):
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}]
    elif content is None:
        parts = []
    elif isinstance(content, list | tuple):
        parts = [_part(part, place, f"{field}.content[{number}]") for number, part in enumerate(content)]
    else:
        raise place.error(f"content must be text or a list of parts, not {_kind(content)}", field=field)
    return {"role": role, "content": parts, **extra}


def _part(part: Any, place: Place, field: str) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        remedy = 'write {"type": "text", "text": ..} or {"type": "image"}'
        raise place.error(f"a part must be an object, not {_kind(part)}", field=field, remedy=remedy)
    if part.get("type") == "text":
        if not isinstance(part.get("text"), str):
            raise place.error(f"a text part holds {_kind(part.get('text'))}, not text", field=field)
        return {"type": "text", "text": part["text"]}
    if part.get("type") == "image_url":  # as OpenAI's clients write it
        value = part.get("image_url")
        part = {"type": "image", "url": value.get("url") if isinstance(value, Mapping) else value}
        if not part["url"]:
            raise place.error("the part has no url", field=field, remedy='write {"image_url": {"url": ..}}')
    if part.get("type") == "image":
        given = [part[key] for key in ("image", "path", "url") if part.get(key) is not None]
        return {"type": "image", "image": given[0]} if given else {"type": "image"}
    remedy = "only parts of type text, image and image_url can be used"
    raise place.error(f"unknown part type {part.get('type')!r}", field=field, remedy=remedy)


def _check_list(value: Any, place: Place, field: str) -> None:
    if not isinstance(value, list | tuple):
        raise place.error(f"must be a list of messages, not {_kind(value)}", field=field)
    if not value:
        raise place.error("the list of messages is empty", field=field, remedy="give it, or leave the row out")


def _no_text(row: Mapping[str, Any], place: Place) -> DataError:
    filled = [str(name) for name, value in row.items() if value is not None]
    for name, other in (("prompt", "completion"), ("completion", "prompt")):
        if name in filled:
            return place.error(f"the row has {name} but no {other}", field=other, remedy=f"add {other}")
    if "text" in filled:
        remedy = "split it into prompt and completion, or give messages"
        return place.error("a text column does not say where the response begins", field="text", remedy=remedy)
    columns = ", ".join(filled) or "none"
    return place.error(
        f"no text to train on (filled columns: {columns})", remedy="give messages, or prompt + completion"
    )


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def counted(number: int, what: str) -> str:
    """``no pictures``, ``1 picture``, ``2 pictures``."""
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
