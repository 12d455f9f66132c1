"""A-OKVQA (Schwenk et al. 2022): questions that take knowledge of the world, with four choices or answered directly.

Layouts: the published ``aokvqa_v1p0_val.json`` with COCO's pictures in ``val2017/`` beside it, or the hub's parquet.
It has no task in lmms-eval; the question text is the question, and for ``a-okvqa`` lettered choices. ``a-okvqa-direct``
has no choices, counts each human answer as right, and has the own score ``vqa``.
"""

from collections import Counter
from typing import Any

from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.scienceqa import letter_of
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, listed, missing, question, texts
from balanced_thinking.evaluation.question import Question
from balanced_thinking.evaluation.rules import vqa

_SPLITS = {"val": "validation", "train": "train"}
_HUB = ("HuggingFaceM4/A-OKVQA", None)
_FILES = ("aokvqa_v1p0_{ours}.json", "data/{split}-*.parquet", "{split}-*.parquet", "{split}.jsonl")


def _choices(record: Record, options: Options) -> Question:
    choices = texts(record, "choices")
    letter = letter_of(record.fields.get("correct_choice_idx"), choices, record, field="correct_choice_idx")
    return _asked(record, options, "a-okvqa", answer=letter, choices=choices)


def _direct(record: Record, options: Options) -> Question | None:
    """None for the questions that the data set itself marks as too hard to be answered directly."""
    if record.fields.get("difficult_direct_answer") is True:
        return None
    humans = texts(record, "direct_answers", listed(record.fields.get("direct_answers")))
    ranked = [answer for answer, _ in Counter(humans).most_common() if answer.strip()]
    if not ranked:
        raise missing(record, "direct_answers")
    facts = {"direct_answers": humans}
    return _asked(record, options, "a-okvqa-direct", answer=ranked[0], also=tuple(ranked[1:]), facts=facts)


def _asked(record: Record, options: Options, source: str, **parts: Any) -> Question:
    fields = record.fields
    picture = fields.get("image")
    if picture is None and str(fields.get("image_id")).isdecimal():
        picture = f"{fields.get('split') or 'val'}2017/{int(fields['image_id']):012d}.jpg"
    if picture is None:
        raise missing(record, "image")
    named = record.with_fields(fields | {"id": fields.get("question_id", record.number)})
    return question(named, options, source, text=fields.get("question"), images=[picture], **parts)


CHOICES = Published(
    "A-OKVQA, four choices (val 1,145)", _HUB, _SPLITS, _FILES, _choices, sizes={"val": 1145, "train": 17_056}
)
DIRECT = Published(
    "A-OKVQA, answered directly (val 1,145 less those marked as too hard for that)",
    _HUB,
    _SPLITS,
    _FILES,
    _direct,
    {"vqa": vqa},
)
