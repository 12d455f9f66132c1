"""Visual-CoT (viscot_363k.json): a conversation that asks for a region first and for the answer then.

    human: <image>\\nQ? Please provide the bounding box coordinate of the region ..   gpt: [x0, y0, x1, y1]
    human: <image>                                                                    gpt: the answer

The first picture is the whole one and is kept; the second, its crop as ``path###[box]``, is left out. The box is the
trace, since there is no prose.
"""

import re

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats import sharegpt
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import chat, own_answer, response_of, retell, tagged
from balanced_thinking.data.formats.source import Record

FIELDS = (*sharegpt.FIELDS, "question_id", "dataset")
_ASKS_BOX = re.compile(r"\s*Please provide the bounding box.*", re.DOTALL)


def sniff(record: Record) -> str | None:
    """Why the record is of this form, or None."""
    images = record.fields.get("image")
    crop = isinstance(images, list) and len(images) == 2 and "###[" in str(images[1])
    return "its second picture is a crop (path###[box])" if crop and sharegpt.sniff(record) else None


def read(record: Record, options: Options, *, notes: Notes) -> Example:
    """One record as an example.

    Raises:
        DataError: not four turns, or any other fault.
    """
    turns = chat(record, "conversations", role="from", content="value")
    if [turn["role"] for turn in turns] != ["user", "assistant"] * 2:
        remedy = "leave the row out"
        raise record.place.error(f"four turns are needed, not {len(turns)}", field="conversations", remedy=remedy)
    box, answer = (response_of(turns[:count], record, "conversations") for count in (2, 4))
    question = turns[0]["content"]
    if not isinstance(question, str):
        raise record.place.error("the question is not text", field="conversations[0].value")
    images = record.fields.get("image")
    if not isinstance(images, list) or len(images) != 2:
        raise record.place.error("two pictures are needed, the whole one and its crop", field="image")
    notes["the crop of the region was left out"] += 1
    asked = _ASKS_BOX.sub("", question).replace("<image>", "").strip()
    told = {
        "id": record.fields.get("question_id"),
        "source": record.fields.get("dataset"),
        "prompt": asked,
        "completion": tagged(f"The region is {box.strip()}.", answer, record, "conversations"),
        "image": images[0],
    }
    names = {"prompt": "conversations", "completion": "conversations"}
    return retell(record, told, own_answer(options, "visual-cot"), notes=notes, names=names)
