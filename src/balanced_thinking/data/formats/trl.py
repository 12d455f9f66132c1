"""TRL's own form: ``messages``, or ``prompt`` and ``completion`` (messages or plain text), with ``image(s)``.

It is also the form in which this project writes its data (``records.to_trl_row``). Rows without a response (a prompt
and the field ``answer``) are read for evaluation. Of a conversation the last response is the one that is trained or
asked for; the turns before it are context. What it leaves out: responses in other markup (the other formats).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from balanced_thinking.core.answers import answers_match
from balanced_thinking.core.segments import THINK_ANSWER
from balanced_thinking.data.example import Example, Turn
from balanced_thinking.data.formats.options import SYSTEM, UNREAD_KEYS, UNREAD_SIZES, Notes, Options
from balanced_thinking.data.formats.pictures import resolve_picture
from balanced_thinking.data.formats.response import (
    answer_alone,
    answer_text,
    has_answer_tag,
    near_tags,
    split_response,
    split_segments,
    typed_answer,
)
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.prompts import LETTERS, split_choices
from balanced_thinking.data.rowcheck import Place, counted, normalise_messages, read_images
from balanced_thinking.errors import SegmentError

FIELDS: tuple[str, ...] = (
    "id",
    "source",
    "split",
    "messages",
    "prompt",
    "completion",
    "image",
    "images",
    "answer",
    "kind",
    "choices",
    "objects",
)
_PLACEHOLDERS = ("<ref-object>", "<bbox>")
_MARK = "<image>"
_MARKS_LINE = re.compile(rf"^(?:{_MARK})+\n", re.MULTILINE)
# A response may begin inside its trace, the opening tag being part of the prompt.
_OUTSIDE = re.compile(r"<answer>.*?</answer>|<think>.*?</think>|\A(?:(?!<think>).)*?</think>", re.DOTALL)


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    messages, prompt = record.fields.get("messages"), record.fields.get("prompt")
    if isinstance(messages, list) and messages and isinstance(messages[0], dict) and "role" in messages[0]:
        return "it has messages with roles"
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], dict)):
        return "it has prompt and " + ("completion" if record.fields.get("completion") is not None else "no completion")
    return None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: the response lacks its trace or its answer.
        DataError: any other fault.
    """
    fields, place = record.fields, record.place
    field = "messages" if fields.get("messages") is not None else "prompt"
    messages = _messages(fields, place)
    _count_unread(messages, notes)
    _refuse_placeholders(messages, fields.get("objects"), place)
    placed = any(_is_picture(part) for turn in messages if isinstance(turn, Mapping) for part in _parts(turn))
    marked = any(_MARK in str(turn.get("content")) for turn in messages if isinstance(turn, Mapping))
    pictures = read_images(fields, place)
    turns, images = normalise_messages(messages, pictures, place=place, field=field, marked=marked)
    response = turns.pop() if turns[-1]["role"] == "assistant" else None
    if response is None and field == "prompt" and fields.get("completion") is not None:
        raise place.error("the completion does not end with an assistant turn", field="completion")
    choices = _choices(fields.get("choices"), place)
    *context, asked = _asked(turns, len(images), place=place, notes=notes, placed=placed)
    own = options.segments != THINK_ANSWER
    think, said, whole = _response_parts(fields, response, options, place)
    if response is not None and own and whole is None:
        notes["the response is of other segments, and its answer alone was taken"] += 1
    if response is not None and not own:
        _count_left_out(_text_of(response), think, options.answer_from or "tag", notes)
    given = None if said is not None and fields.get("answer") is None else answer_text(fields.get("answer"), place)
    by_field = given is not None and (said is None or options.answer_from == "field")
    taken, other = (given, said) if by_field else (said, given)
    assert taken is not None
    answer, kind = typed_answer(taken, fields.get("kind"), choices=choices, place=place)
    if other is not None and not answers_match(other, answer, kind=kind, choices=choices):
        pair = ("answer in the response", "column answer")
        notes["the {} differs from the {}, which was taken".format(*pair if by_field else pair[::-1])] += 1
    seen = Notes()  # of this record, whatever number of its pictures
    found = [
        resolve_picture(image, record, image_root=options.image_root, allow_outside=options.allow_outside, notes=seen)
        for image in images
    ]
    notes.update({note: min(count, 1) for note, count in seen.items()})
    name = str(fields["id"]) if fields.get("id") is not None else f"{record.file.stem}-{record.number}"
    source = str(fields["source"]) if fields.get("source") is not None else record.file.stem
    question = split_choices(asked.text, choices)
    if own and whole is None:
        whole = answer_alone(answer, options.segments)
    return Example(name, source, tuple(found), question, choices, think, answer, kind, tuple(context), whole)


def _messages(fields: dict[str, Any], place: Place) -> list[Any]:
    if fields.get("messages") is not None:
        messages = fields["messages"]
        if not isinstance(messages, list):
            raise place.error(f"must be a list of messages, not {type(messages).__name__}", field="messages")
        return messages
    if fields.get("prompt") is None:
        if "prompt" in fields:
            raise place.error("is empty", field="prompt", remedy="fill it, or leave the row out")
        columns = ", ".join(name for name, value in fields.items() if value is not None) or "none"
        remedy = "give messages, or prompt and completion; columns renames columns"
        raise place.error(f"no prompt (filled columns: {columns})", field="prompt", remedy=remedy)
    if fields.get("completion") is None and fields.get("answer") is None:
        remedy = "give the response, or the field answer for evaluation"
        raise place.error("neither completion nor answer", field="completion", remedy=remedy)
    messages = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        value = fields.get(name)
        if not isinstance(value, str | list | None):
            raise place.error(f"must be text or a list of messages, not {type(value).__name__}", field=name)
        messages += [{"role": role, "content": value}] if isinstance(value, str) else value or []
    return messages


def _asked(turns: Sequence[dict[str, Any]], pictures: int, *, place: Place, notes: Notes, placed: bool) -> list[Turn]:
    """The turns before the response without system turns; the last is the question.

    ``placed``: the record itself says by parts where its pictures stand; a mark in a text then only repeats one.
    """
    said = [turn for turn in turns if turn["role"] != "system"]
    if [turn["role"] for turn in said] != [("user", "assistant")[n % 2] for n in range(len(said) | 1)]:
        roles = ", ".join(turn["role"] for turn in turns) or "none"
        remedy = "user and assistant must take turns, the user first and last; mend the row, or leave it out"
        raise place.error(f"the turns before the response are: {roles}", remedy=remedy)
    notes[SYSTEM] += len(turns) > len(said)
    notes["responses before the last are context and are not trained"] += len(said) > 1
    shown = [sum(map(_is_picture, turn["content"])) for turn in turns if turn["role"] == "system"]
    if any(shown):
        raise place.error("a system turn holds a picture", field="messages", remedy="only the user can show pictures")
    marked = [_text_of(turn).count(_MARK) for turn in said]
    marks = sum(marked)
    if marks != pictures and not placed and any(_MARK in _text_of(turn) for turn in turns if turn["role"] == "system"):
        remedy = "only the user can show pictures"
        raise place.error(f"a system turn holds an {_MARK} mark", field="messages", remedy=remedy)
    parts = [sum(map(_is_picture, turn["content"])) for turn in said]
    if marks and (marks != pictures or (placed and marked != parts)):
        message = f"{counted(marks, _MARK + ' mark')} in the text but {counted(pictures, 'picture')}"
        raise place.error(message, field="images", remedy="give one picture per mark")
    notes["pictures behind or between text were moved to the front"] += any(map(_shows_late, said))
    asked = [_turn(turn, by_marks=marks > 0, place=place) for turn in said]
    if not all(turn.text.strip() or turn.images for turn in asked[:-1]):
        raise place.error(
            "a turn before the question is empty", field="messages", remedy="mend the row, or leave it out"
        )
    if not asked[-1].text.strip():
        raise place.error("the question is empty", field="prompt", remedy="give it, or leave the row out")
    return asked


def _turn(turn: dict[str, Any], *, by_marks: bool, place: Place) -> Turn:
    text = _text_of(turn)
    shown = text.count(_MARK) if by_marks else sum(map(_is_picture, turn["content"]))
    if shown and turn["role"] == "assistant":
        raise place.error("a response holds a picture", field="messages", remedy="only the user can show pictures")
    if shown and by_marks:
        # Marks that fill a line take it with them; elsewhere a line break belongs to the text.
        text = _MARKS_LINE.sub("", text).replace(_MARK, "").strip()
    return Turn(turn["role"], text, shown)


def _count_unread(messages: Sequence[Any], notes: Notes) -> None:
    turns = [turn for turn in messages if isinstance(turn, Mapping)]
    for key in UNREAD_KEYS:
        notes[f"{key} of a message was left out"] += any(turn.get(key) for turn in turns)
    parts = [part for turn in turns for part in _parts(turn) if _is_picture(part)]
    sized = any(part.get(name) is not None for part in parts for name in UNREAD_SIZES)
    sized |= any(isinstance(url := part.get("image_url"), Mapping) and url.get("detail") for part in parts)
    notes["a size inside an image part was left out (set max_pixels for the whole run instead)"] += sized


def _count_left_out(response: str, think: str | None, answer_from: str, notes: Notes) -> None:
    if answer_from == "tag" or (answer_from == "after_think" and has_answer_tag(response)):
        notes["text of the response outside its tags was left out"] += bool(_OUTSIDE.sub("", response).strip())
    if answer_from == "tag":
        foreign = think is None and near_tags(response) is not None
        notes["the trace stands in tags of another name, such as <thinking>, and was left out"] += foreign


def _refuse_placeholders(messages: Sequence[Any], objects: Any, place: Place) -> None:
    """ms-swift fills in names and boxes of ``objects`` as each model writes them; as they stand they mean nothing."""
    if not objects:
        return
    texts = [str(turn.get("content")) for turn in messages if isinstance(turn, Mapping)]
    mark = next((mark for mark in _PLACEHOLDERS if any(mark in text for text in texts)), None)
    if mark is not None:
        remedy = "write names and boxes into the texts, as your model writes them, and take objects out"
        raise place.error(
            f"{mark} stands for a part of objects, which is not filled in", field="objects", remedy=remedy
        )


def _is_picture(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url")


def _parts(turn: Mapping[str, Any]) -> Sequence[Any]:
    content = turn.get("content")
    return content if isinstance(content, list) else ()


def _shows_late(turn: dict[str, Any]) -> bool:
    """Whether a picture stands behind text."""
    kinds = [part["type"] for part in turn["content"]]
    text = re.sub(rf"\A(\s*{_MARK})+", "", _text_of(turn))
    return kinds != sorted(kinds, key="image text".index) or _MARK in text


def _text_of(turn: dict[str, Any]) -> str:
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")


def _response_parts(
    fields: dict[str, Any], response: dict[str, Any] | None, options: Options, place: Place
) -> tuple[str | None, str | None, str | None]:
    """(trace, answer in the response, the response where it stays as it is); each None where there is none."""
    think, said, whole = None, None, None
    if response is not None:
        field = "messages" if fields.get("messages") is not None else "completion"
        if any(part["type"] == "image" for part in response["content"]):
            raise place.error("the response holds a picture", field=field, remedy="only text can be trained")
        text = _text_of(response)
        if options.segments == THINK_ANSWER:
            think, said = split_response(text, options.answer_from or "tag", place=place, field=field)
        else:
            think, said, whole = _own_parts(text, options, place, field)
    if think is None and whole is None and options.on_missing != "train":
        near = near_tags(_text_of(response)) if response is not None and options.segments == THINK_ANSWER else None
        remedy = near or 'set on_missing to "train" (the answer alone) or "skip"'
        where: dict[str, Any] = {"file": place.file, "record": place.record, "remedy": remedy}
        raise SegmentError("the row has no reasoning trace", kind="no-think", **where)
    return think, said, whole


def _own_parts(text: str, options: Options, place: Place, field: str) -> tuple[str | None, str | None, str | None]:
    """As ``_response_parts``, of a response of other segments than think and answer.

    One that does not consist of them gives no more than an answer, where that can be had otherwise: from its field, or,
    where no trace is asked for, from think and answer.
    """
    needed = options.on_missing != "train"
    try:
        think, said = split_segments(text, options.segments, place=place, field=field, trace_needed=needed)
    except SegmentError:
        if options.answer_from == "field":
            return None, None, None
        if needed or options.segments[-1].open in text or THINK_ANSWER[-1].open not in text:
            raise
        return None, split_response(text, "tag", place=place, field=field)[1], None
    return think, said, text


def _choices(value: Any, place: Place) -> tuple[str, ...] | None:
    if value is None or (isinstance(value, list) and not value):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise place.error("choices must be a list of texts", field="choices")
    if len(value) > len(LETTERS):
        raise place.error(f"{len(value)} choices, but only {len(LETTERS)} letters", field="choices")
    return tuple(str(item) for item in value)
