"""IconQA, as published (problems.json, pictures in ``<split>/<type>/<id>/``): three types of question, no traces.

    choose_txt      choices are texts
    choose_img      choices are pictures, which follow the question's picture; called "The first image.", ..
    fill_in_blank   the answer is text or a number

A record's split is its field ``split``, or stands in ``pid_splits.json`` beside it, or is the folder with its pictures.
There is nothing to learn reasoning from: read it for evaluation, or with ``on_missing="train"``.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import own_answer, retell
from balanced_thinking.data.formats.scienceqa import letter_of
from balanced_thinking.data.formats.source import KEPT, Record
from balanced_thinking.errors import DataError

FIELDS: tuple[str, ...] = (*KEPT, "question", "ques_type")
TYPES = ("choose_img", "choose_txt", "fill_in_blank")
SPLITS = ("train", "val", "test")
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
    split = split_of(record, options.image_root)
    folder = "/".join(str(part) for part in (split, kind, fields.get("id")) if part is not None)
    told["images"] = [f"{folder}/{name}" if isinstance(name, str) and "/" not in name else name for name in pictures]
    names = {"prompt": "question", "completion": "answer", "images": "image"}
    return retell(record, told, own_answer(options, "iconqa"), notes=notes, names=names)


def split_of(record: Record, root: Path | None = None) -> Any:
    """The split of a record: as it says, else as ``pid_splits.json`` beside its file, else as its pictures' folder.

    Raises:
        DataError: ``pid_splits.json`` cannot be read.
    """
    if record.fields.get("split") is not None or record.fields.get("id") is None:
        return record.fields.get("split")
    kind, number = str(record.fields.get("ques_type")), str(record.fields["id"])
    file = record.folder / "pid_splits.json"
    listed = _listed_splits(file, file.stat().st_mtime_ns) if file.is_file() else {}
    if (kind, number) in listed:
        return listed[kind, number]
    homes = [home / below for home in (root, record.folder) if home is not None for below in ("", "images", "iconqa")]
    places = ((split, home / split / kind / number) for split in SPLITS for home in homes)
    return next((split for split, place in places if os.path.isdir(place)), None)  # noqa: PTH112  any text may be an id


@lru_cache(maxsize=8)
def _listed_splits(file: Path, _changed: int) -> dict[tuple[str, str], str]:
    """``{"choose_txt_train": ["7", ..], ..}`` as {(type, id): split}, read anew when the file has changed.

    Its minitrain, trainval and so on are parts of the three splits.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        named = {tuple(name.rpartition("_")[::2]): ids for name, ids in told.items()}
        return {(kind, str(number)): split for (kind, split), ids in named.items() if split in SPLITS for number in ids}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        remedy = "get it anew, or take it away: splits are then found by the folders of the pictures"
        raise DataError(f"not IconQA's list of splits ({error})", file=file, remedy=remedy) from error


def _choice_pictures(choices: Any, record: Record) -> list[Any]:
    if not isinstance(choices, list) or not 1 < len(choices) <= len(_ORDINALS):
        message = f"must be a list of 2 to {len(_ORDINALS)} pictures"
        hub = (
            "this is the hub's form, which only the benchmark iconqa reads; " if "query_image" in record.fields else ""
        )
        remedy = f"{hub}take the published problems.json, or leave the row out"
        raise record.place.error(message, field="choices", remedy=remedy)
    return list(choices)
