"""AI2D (Kembhavi et al. 2016): diagrams of school science, four choices.

Layout: the hub's (parquet, or JSON lines with the same columns): question, options, answer as a number from 0, image.
"""

from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.scienceqa import letter_of
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, missing, question, texts
from balanced_thinking.evaluation.question import Question


def _read(record: Record, options: Options) -> Question:
    fields = record.fields
    choices = texts(record, "options")
    letter = letter_of(fields.get("answer"), choices, record)
    if fields.get("image") is None:
        raise missing(record, "image")
    return question(
        record, options, "ai2d", text=fields.get("question"), answer=letter, choices=choices, images=[fields["image"]]
    )


BENCHMARK = Published(
    "AI2D, diagrams with four choices (test 3,088)",
    ("lmms-lab-encoder/ai2d", None),
    {"test": "test"},
    ("data/{split}-*.parquet", "{split}-*.parquet", "{split}.jsonl", "{split}.json"),
    _read,
    sizes={"test": 3088},
)
