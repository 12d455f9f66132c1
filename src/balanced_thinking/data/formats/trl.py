"""TRL's own form: ``messages``, or ``prompt`` and ``completion`` (messages or plain text), with ``image(s)``.

It is also the form in which this project writes its data (``records.to_trl_row``). Rows without a response (a prompt
and the field ``answer``) are read for evaluation. What it leaves out: several questions in one row, which an example
cannot hold; the trainer takes such data sets directly.
"""

import re
from collections.abc import Sequence
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.pictures import resolve_picture
from balanced_thinking.data.formats.response import answer_text, split_response, typed_answer
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
)
_MARK = "<image>"
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
    turns, images = normalise_messages(_messages(fields, place), read_images(fields, place), place=place, field=field)
    response = turns.pop() if turns[-1]["role"] == "assistant" else None
    if response is None and field == "prompt" and fields.get("completion") is not None:
        raise place.error("the completion does not end with an assistant turn", field="completion")
    choices = _choices(fields.get("choices"), place)
    question = _question(turns, len(images), place, notes)
    think, answer = _think_and_answer(fields, response, options, place)
    if response is not None and (options.answer_from or "tag") == "tag":
        outside = _OUTSIDE.sub("", "".join(part["text"] for part in response["content"]))
        notes["text of the response outside its tags was left out"] += bool(outside.strip())
    answer, kind = typed_answer(answer, fields.get("kind"), choices=choices, place=place)
    if response is not None and fields.get("answer") is not None:
        given, _ = typed_answer(answer_text(fields["answer"], place), kind, choices=choices, place=place)
        notes["the column answer differs from the answer in the response, which was taken"] += given != answer
    pictures = [
        resolve_picture(image, record, image_root=options.image_root, allow_outside=options.allow_outside)
        for image in images
    ]
    name = str(fields["id"]) if fields.get("id") is not None else f"{record.file.stem}-{record.number}"
    source = str(fields["source"]) if fields.get("source") is not None else record.file.stem
    return Example(name, source, tuple(pictures), split_choices(question, choices), choices, think, answer, kind)


def _messages(fields: dict[str, Any], place: Place) -> list[Any]:
    if fields.get("messages") is not None:
        messages = fields["messages"]
        if not isinstance(messages, list):
            raise place.error(f"must be a list of messages, not {type(messages).__name__}", field="messages")
        return messages
    if fields.get("prompt") is None:
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


def _question(turns: Sequence[dict[str, Any]], pictures: int, place: Place, notes: Notes) -> str:
    asked = [turn for turn in turns if turn["role"] != "system"]
    if [turn["role"] for turn in asked] != ["user"]:
        roles = ", ".join(turn["role"] for turn in turns) or "none"
        remedy = "leave the row out, or train on the data set directly"
        raise place.error(f"one question is needed, but the turns before the response are: {roles}", remedy=remedy)
    notes["a system turn was left out (set a system prompt for the whole run instead)"] += len(turns) > 1
    parts = asked[0]["content"]
    kinds = [part["type"] for part in parts]
    notes["pictures behind or between text were moved to the front"] += kinds != sorted(kinds, key="image text".index)
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    marks = text.count(_MARK)
    if marks and marks != pictures:
        message = f"{counted(marks, _MARK + ' mark')} in the text but {counted(pictures, 'picture')}"
        raise place.error(message, field="images", remedy="give one picture per mark")
    if marks:
        text = text.replace(f"{_MARK}\n", "").replace(_MARK, "").strip()
    if not text.strip():
        raise place.error("the question is empty", field="prompt", remedy="give it, or leave the row out")
    return text


def _think_and_answer(
    fields: dict[str, Any], response: dict[str, Any] | None, options: Options, place: Place
) -> tuple[str | None, str]:
    think, answer = None, None
    if response is not None:
        field = "messages" if fields.get("messages") is not None else "completion"
        if any(part["type"] == "image" for part in response["content"]):
            raise place.error("the response holds a picture", field=field, remedy="only text can be trained")
        text = "".join(part["text"] for part in response["content"])
        think, answer = split_response(text, options.answer_from or "tag", place=place, field=field)
    if think is None and options.on_missing != "train":
        remedy = 'set on_missing to "train" (the answer alone) or "skip"'
        where: dict[str, Any] = {"file": place.file, "record": place.record, "remedy": remedy}
        raise SegmentError("the row has no reasoning trace", kind="no-think", **where)
    return think, answer_text(fields.get("answer"), place) if answer is None else answer


def _choices(value: Any, place: Place) -> tuple[str, ...] | None:
    if value is None or (isinstance(value, list) and not value):
        return None
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise place.error("choices must be a list of texts", field="choices")
    if len(value) > len(LETTERS):
        raise place.error(f"{len(value)} choices, but only {len(LETTERS)} letters", field="choices")
    return tuple(str(item) for item in value)
