"""MathVista (Lu et al. 2024): mathematics in pictures, with choices or a number, decimal or list to be given.

Layouts: the published ``testmini.json`` with ``images/`` beside it, or the hub's parquet. Question text as lmms-eval's
task ``mathvista_testmini_format``: the unit behind the question, lettered choices. Own score: ``mathvista``.
"""

from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.scienceqa import letter_of
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, missing, question, texts
from balanced_thinking.evaluation.question import Question
from balanced_thinking.evaluation.rules import digits_asked_for, mathvista


def _read(record: Record, options: Options) -> Question:
    fields = record.fields
    answer, unit = fields.get("answer"), record.text("unit")
    if answer is None:
        raise record.place.error("has no answer", field="answer", remedy="take testmini; answers of test are withheld")
    choices = texts(record, "choices") if fields.get("choices") else None
    decoded = fields.get("decoded_image")
    picture = decoded if decoded is not None else fields.get("image")
    if picture is None:
        raise missing(record, "image")
    asked, answer = record.text("question"), str(answer)
    if choices:
        if answer not in choices:
            raise record.place.error(f"{answer!r} is none of the choices", field="answer")
        answer = letter_of(choices.index(answer), choices, record)
    facts = {name: fields.get(name) for name in ("answer_type", "precision")}
    if not choices and facts["answer_type"] == "float" and digits_asked_for(facts["precision"]) is None:
        raise record.place.error("must be the number of decimals", field="precision")
    return question(
        record.with_fields(fields | {"id": fields.get("pid", record.number)}),
        options,
        f"mathvista/{fields.get('question_type')}",
        text=f"{asked} (Unit: {unit})" if unit else asked,
        answer=answer,
        choices=choices,
        images=[picture],
        facts=facts,
    )


BENCHMARK = Published(
    "MathVista testmini (1,000)",
    ("AI4Math/MathVista", None),
    {"testmini": "testmini"},
    ("{split}.json", "data/{split}.json", "data/{split}-*.parquet", "{split}-*.parquet", "{split}.jsonl"),
    _read,
    {"mathvista": mathvista},
    sizes={"testmini": 1000},
)
