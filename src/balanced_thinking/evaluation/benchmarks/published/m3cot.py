"""M3CoT (Chen et al. 2024): questions that take several steps in several modes, with choices.

Layouts: the published ``test.jsonl`` with pictures, or the hub's parquet. It has no task in lmms-eval; the question
text is the context, the question and lettered choices.
"""

from balanced_thinking.data.formats import m3cot
from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, read_with
from balanced_thinking.evaluation.question import Question


def _read(record: Record, options: Options) -> Question:
    return Question(read_with(m3cot, record, options, "m3cot"))


BENCHMARK = Published(
    "M3CoT (test 2,318)",
    ("LightChen2333/M3CoT", None),
    {"test": "test", "val": "validation", "train": "train"},
    ("{split}.jsonl", "data/{split}-*.parquet", "{split}-*.parquet", "{split}.json"),
    _read,
)
