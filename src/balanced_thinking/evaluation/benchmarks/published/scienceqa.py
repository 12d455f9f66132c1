"""ScienceQA (Lu et al. 2022): school questions with choices; ``scienceqa-img`` keeps those with a picture.

Layouts: the published problems.json with pictures in ``<split>/<id>/image.png`` beside it, or the parquet files of the
hub. Question text as lmms-eval: ``Context: {hint}``, the question, lettered choices.
"""

from balanced_thinking.data.formats import scienceqa
from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, read_with
from balanced_thinking.evaluation.question import Question

_SPLITS = {"test": "test", "val": "validation", "train": "train"}
_HUB = "lmms-lab-encoder/ScienceQA"


def _read(record: Record, options: Options) -> Question:
    return Question(read_with(scienceqa, record, options, "scienceqa"))


def _with_picture(record: Record, options: Options) -> Question | None:
    return _read(record, options) if record.fields.get("image") else None


def _files(config: str) -> tuple[str, ...]:
    shards = (f"{config}/{{split}}-*.parquet", "data/{split}-*.parquet", "{split}-*.parquet")
    return ("problems.json", "data/scienceqa/problems.json", *shards, "{split}.jsonl", "{split}.json")


ALL = Published(
    "ScienceQA, all questions (test 4,241)",
    (_HUB, "ScienceQA-FULL"),
    _SPLITS,
    _files("ScienceQA-FULL"),
    _read,
    sizes={"test": 4241, "val": 4241, "train": 12_726},
)
WITH_PICTURE = Published(
    "ScienceQA, questions with a picture (test 2,017)",
    (_HUB, "ScienceQA-IMG"),
    _SPLITS,
    _files("ScienceQA-IMG"),
    _with_picture,
    sizes={"test": 2017, "val": 2097, "train": 6218},
)
