"""IconQA (Lu et al. 2021): abstract diagrams; the choices are texts or pictures, or a blank is filled in.

Layouts: the published problems.json with pictures in ``<split>/<type>/<id>/`` beside it, or parquet files in the form
of the hub, where choices are one text with commas, the right one is its text, and pictures stand in ``choice_image_0``
and so on; the hub's own have two such columns at most, so its questions with more pictures are errors. Question text as
lmms-eval, which sets "." behind every question; it names two pictures at most, here all are named. Own score: ``anls``.
"""

from dataclasses import replace
from typing import Any

from balanced_thinking.data.example import Example
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
    return Question(replace(example, question=text), _further(record, example))


def _further(record: Record, example: Example) -> tuple[str, ...]:
    """Of a blank the hub's other right answers."""
    given = record.fields.get("answers")
    if example.choices or not isinstance(given, list | tuple):
        return ()
    texts = [str(each).strip() for each in given if each is not None]
    return tuple(dict.fromkeys(text for text in texts if text and text != example.answer))


def _of_the_hub(record: Record) -> Record:
    fields, kind = dict(record.fields), record.fields.get("ques_type")
    pictures = [fields[name] for name in (f"choice_image_{n}" for n in range(5)) if fields.get(name) is not None]
    choices: list[Any] | None = pictures if kind == "choose_img" else None
    listed = [choice.strip() for choice in record.text("choices").split(",")]
    if kind == "choose_txt":
        choices = listed
    if kind == "choose_img" and fields.get("choices") and len(listed) != len(pictures):
        message = f"{len(listed)} choices, but {len(pictures)} pictures of them"
        remedy = "the hub's form keeps two at most; take the published problems.json"
        raise record.place.error(message, field="choices", remedy=remedy)
    told = {"id": fields.get("question_id"), "image": fields["query_image"], "choices": choices}
    return record.with_fields(fields | told | {"answer": _answer(record, choices), "split": None})


def _answer(record: Record, choices: list[Any] | None) -> Any:
    """The number of the choice: of the one with this text, as the hub names it ("2" of "3,2,1"), else as a number, a
    letter or a picture's file gives it."""
    answer = record.fields.get("answer")
    answer = record.fields.get("answers") if answer is None else answer
    answer = answer[0] if isinstance(answer, list | tuple) and answer else answer
    if choices is None or not isinstance(answer, str):
        return answer
    if answer.strip() in choices:
        return choices.index(answer.strip())
    named = answer.removesuffix(".png").removeprefix("choice_")
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
    sizes={"test": 21_489, "val": 21_488},
)
