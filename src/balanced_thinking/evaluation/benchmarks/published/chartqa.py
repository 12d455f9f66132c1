"""ChartQA (Masry et al. 2022): numbers and names read from charts, asked by people or made from captions.

Layouts: the published ``test/test_human.json`` and ``test/test_augmented.json`` with pictures in ``test/png``, or the
hub's parquet. Own score: ``relaxed``, numbers within 5 %.
"""

from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.source import Record
from balanced_thinking.evaluation.benchmarks.published.reading import Published, missing, question
from balanced_thinking.evaluation.question import Question
from balanced_thinking.evaluation.rules import relaxed


def _read(record: Record, options: Options) -> Question:
    fields = record.fields
    picture = f"png/{fields['imgname']}" if "imgname" in fields else fields.get("image")
    answer = fields.get("answer", fields.get("label"))
    if isinstance(answer, list | tuple) and answer:
        answer = answer[0]
    if picture is None or answer is None:
        raise missing(record, "image" if picture is None else "answer")
    part = "human" if _by_people(record) else "augmented"
    text = fields.get("question", fields.get("query"))
    return question(record, options, f"chartqa/{part}", text=text, answer=str(answer), images=[picture])


def _by_people(record: Record) -> bool:
    """By ``type``, else the hub's number (0: by people), else the file's name."""
    fields = record.fields
    if fields.get("human_or_machine") in (0, 1):
        return bool(fields["human_or_machine"] == 0)
    return "human" in str(fields.get("type") or record.file.stem)


BENCHMARK = Published(
    "ChartQA, half asked by people (test 2,500)",
    ("lmms-lab-encoder/ChartQA", None),
    {"test": "test", "val": "val"},
    (
        ("{split}/{split}_augmented.json", "{split}/{split}_human.json"),
        ("*/{split}/{split}_augmented.json", "*/{split}/{split}_human.json"),
        ("{split}_augmented.json", "{split}_human.json"),
        "data/{split}-*.parquet",
        "{split}-*.parquet",
        "{split}.jsonl",
    ),
    _read,
    {"relaxed": relaxed},
)
