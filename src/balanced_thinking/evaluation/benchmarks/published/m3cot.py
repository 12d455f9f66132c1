"""M3CoT (Chen et al. 2024): questions that take several steps in several modes, with choices.

Layouts: the published ``test.jsonl`` with pictures (``dev.jsonl`` for val), in a field ``image`` or, as its own writer
leaves them, ``image_path``; or the hub's parquet. It has no task in lmms-eval; the question text is the context, the
question and lettered choices. Own score: ``m3cot``.
"""

from balanced_thinking.data.formats import m3cot
from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, missing, read_with
from balanced_thinking.evaluation.question import Question
from balanced_thinking.evaluation.rules import m3cot as score


def _read(record: Record, options: Options) -> Question:
    picture = record.fields.get("image") or record.fields.get("image_path")
    if not picture:  # each of its questions is about one
        raise missing(record, "image")
    told = record.with_fields({**record.fields, "image": picture, "image_path": None})
    return Question(read_with(m3cot, told, options, "m3cot"))


BENCHMARK = Published(
    "M3CoT (test 2,318)",
    ("LightChen2333/M3CoT", None),
    {"test": "test", "val": "validation", "train": "train"},
    (
        "{dev}.jsonl",
        "{split}.jsonl",
        "data/{dev}.jsonl",
        "data/{split}.jsonl",
        "data/{split}-*.parquet",
        "{split}-*.parquet",
        "{split}.json",
    ),
    _read,
    {"m3cot": score},
    sizes={"test": 2318},
)
