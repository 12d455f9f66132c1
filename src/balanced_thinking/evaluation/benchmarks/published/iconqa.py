"""IconQA (Lu et al. 2021): abstract diagrams; the choices are texts or pictures, or a blank is filled in.

Layouts: the published problems.json with pictures in ``<split>/<type>/<id>/`` beside it, or the parquet files of the
hub, where choices are one text with commas and pictures stand in ``choice_image_0`` and so on. Question text as
lmms-eval, which sets "." behind every question; it names two pictures at most, here all are named. Own score: ``anls``.
"""

from dataclasses import replace
from typing import Any

from balanced_thinking.data.formats import iconqa
from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.prompts import LETTERS
from balanced_thinking.evaluation.benchmarks.published.reading import Published, read_with
from balanced_thinking.evaluation.question import Question
from balanced_thinking.evaluation.rules import anls

_STATEMENT = "Given a set of images and a question, please provide the answer to the question."


def _read(record: Record, options: Options) -> Question:
    told = _of_the_hub(record) if "query_image" in record.fields else record
    example = read_with(iconqa, told, options, f"iconqa/{record.fields.get('ques_type')}")
    listed = "\nOptions:" if example.choices else ""
    text = f"{_STATEMENT}\nQuestion: {example.question}.{listed}"
    return Question(replace(example, question=text))


def _of_the_hub(record: Record) -> Record:
    fields, kind = dict(record.fields), record.fields.get("ques_type")
    pictures = [fields[name] for name in (f"choice_image_{n}" for n in range(5)) if fields.get(name) is not None]
    choices: list[Any] | None = pictures if kind == "choose_img" else None
    listed = [choice.strip() for choice in record.text("choices").split(",")]
    if kind == "choose_txt":
        choices = listed
    if kind == "choose_img" and fields.get("choices") and len(listed) != len(pictures):
        message = f"{len(listed)} choices, but {len(pictures)} pictures of them"
        raise record.place.error(message, field="choices", remedy="take the published problems.json")
    told = {"id": fields.get("question_id"), "image": fields["query_image"], "choices": choices}
    return record.with_fields(fields | told | {"answer": _answer(record, choices), "split": None})


def _answer(record: Record, choices: list[Any] | None) -> Any:
    """The number of the choice, from whatever names it: a number, a letter, its text, or its picture's file."""
    answer = record.fields.get("answer", record.fields.get("answers"))
    answer = answer[0] if isinstance(answer, list | tuple) and answer else answer
    if choices is None or not isinstance(answer, str):
        return answer
    named = answer.removesuffix(".png").removeprefix("choice_")
    if answer in choices:
        right = choices.index(answer)
        other = _place_named(answer)
        if other is not None and other < len(choices) and other != right:
            what = "number" if answer.isdecimal() else "letter"
            message = f"{answer!r} may be the {what} of a choice or its text"
            raise record.place.error(message, field="answer", remedy="take the published problems.json")
        return right
    place = _place_named(named)
    return named if place is None else place


def _place_named(name: str) -> int | None:
    """The place that a number or a lone letter gives."""
    if name.isdecimal():
        return int(name)
    return LETTERS.index(name.upper()) if len(name) == 1 and name.upper() in LETTERS else None


BENCHMARK = Published(
    "IconQA, three types of question (test 21,489)",
    ("lmms-lab-encoder/ICON-QA", None),
    {"test": "test", "val": "val"},
    ("problems.json", "iconqa_data/problems.json", "data/{split}-*.parquet", "{split}-*.parquet", "{split}.jsonl"),
    _read,
    {"anls": anls},
    split_of=iconqa.split_of,
)
