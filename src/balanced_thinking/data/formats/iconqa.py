"""IconQA, as published (problems.json, pictures in ``<split>/<type>/<id>/``): three types of question, no traces.

    choose_txt      choices are texts
    choose_img      choices are pictures, which follow the question's picture; called "The first image.", ..
    fill_in_blank   the answer is text or a number

There is nothing to learn reasoning from: read it for evaluation, or with ``on_missing="train"``.
"""

from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import own_answer, retell
from balanced_thinking.data.formats.scienceqa import letter_of
from balanced_thinking.data.formats.source import KEPT, Record

FIELDS: tuple[str, ...] = (*KEPT, "question", "ques_type")
TYPES = ("choose_img", "choose_txt", "fill_in_blank")
_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    kind = record.fields.get("ques_type")
    return f"its question is of type {kind}" if kind in TYPES else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        SegmentError: always, unless rows without a trace are asked for.
        DataError: any other fault.
    """
    fields, place = record.fields, record.place
    kind, choices = fields.get("ques_type"), fields.get("choices")
    if kind not in TYPES:
        raise place.error(f"unknown type {kind!r}", field="ques_type", remedy=f"use one of {', '.join(TYPES)}")
    pictures = [fields.get("image") or "image.png"]
    if kind == "choose_img":
        pictures += _choice_pictures(choices, record)
        choices = [f"The {_ORDINALS[number]} image." for number in range(len(choices or ()))]
    told: dict[str, Any] = {"prompt": fields.get("question"), "image": None}
    if kind == "fill_in_blank":
        told |= {"answer": fields.get("answer"), "choices": None}
    else:
        told |= {"answer": letter_of(fields.get("answer"), choices, record), "choices": choices, "kind": "choice"}
    folder = "/".join(str(part) for part in (fields.get("split"), kind, fields.get("id")) if part is not None)
    told["images"] = [f"{folder}/{name}" if isinstance(name, str) and "/" not in name else name for name in pictures]
    names = {"prompt": "question", "completion": "answer", "images": "image"}
    return retell(record, told, own_answer(options, "iconqa"), notes=notes, names=names)


def _choice_pictures(choices: Any, record: Record) -> list[Any]:
    if not isinstance(choices, list) or not 1 < len(choices) <= len(_ORDINALS):
        message = f"must be a list of 2 to {len(_ORDINALS)} pictures"
        raise record.place.error(message, field="choices")
    return list(choices)
