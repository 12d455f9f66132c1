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
    picture = f"png/{fields['imgname']}" if fields.get("imgname") else fields.get("image")
    answer = fields["label"] if fields.get("answer") is None and "label" in fields else fields.get("answer")
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if picture is None or answer is None:
        raise missing(record, "image" if picture is None else "answer")
    if not isinstance(answer, str | int | float):
        raise record.place.error("must be a text or a number", field="answer" if "answer" in fields else "label")
    text = fields.get("question", fields.get("query"))
    return question(record, options, f"chartqa{_part(record)}", text=text, answer=str(answer), images=[picture])


def _part(record: Record) -> str:
    """By ``type``, else the hub's number (0: by people), else the file's name; none where nothing tells."""
    number, told = str(record.fields.get("human_or_machine")), str(record.fields.get("type") or record.file.stem)
    if number in ("0", "1"):
        told = "human" if number == "0" else "augmented"
    return next((f"/{part}" for part in ("human", "augmented") if part in told), "")


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
    sizes={"test": 2500},
)
