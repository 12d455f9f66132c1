"""MMMU (Yue et al. 2024): college subjects, up to seven pictures, named in the text as ``<image 1>``.

Layouts: the hub's parquet, one folder a subject or all in one. Pictures stand before the text, which names them. Own
score: ``mmmu``.
"""

import re

from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, listed, question, texts
from balanced_thinking.evaluation.question import Question
from balanced_thinking.evaluation.rules import mmmu

_PICTURE = re.compile(r"<image (\d)>")
_OPEN = ("open", "short-answer")


def _read(record: Record, options: Options) -> Question:
    fields = record.fields
    choices, kind = None, fields.get("question_type")
    if kind == "multiple-choice":
        choices = texts(record, "options", listed(fields.get("options")))
    elif kind not in _OPEN:
        remedy = f"use one of multiple-choice, {', '.join(_OPEN)}"
        raise record.place.error(f"unknown type {kind!r}", field="question_type", remedy=remedy)
    text = record.text("question")
    named = sorted(set(_PICTURE.findall("\n".join([text, *(choices or ())]))))
    pictures = [fields.get(f"image_{number}") for number in named]
    if None in pictures:
        where = f"image_{named[pictures.index(None)]}"
        raise record.place.error("the text names a picture that is not there", field=where)
    right = listed(fields.get("answer"))
    several = isinstance(right, list) and all(isinstance(each, str) for each in right)  # "[0, 5]" is an interval
    answers = [str(each) for each in (right if several else [fields.get("answer")]) if each not in (None, "")]
    if not answers or "?" in answers:
        raise record.place.error("has no answer", field="answer", remedy="take validation; those of test are withheld")
    subject = re.sub(r"^\w+?_(.+)_\d+$", r"\1", str(fields.get("id")))
    return question(
        record,
        options,
        f"mmmu/{subject}",
        text=text,
        answer=answers[0],
        choices=choices,
        images=pictures,
        also=tuple(answers[1:]),
    )


BENCHMARK = Published(
    "MMMU validation, college subjects (900)",
    ("lmms-lab-encoder/MMMU", None),
    {"val": "validation", "dev": "dev"},
    ("*/{split}-*.parquet", "data/{split}-*.parquet", "{split}-*.parquet", "{split}.jsonl"),
    _read,
    {"mmmu": mmmu},
    sizes={"val": 900, "dev": 150},
)
