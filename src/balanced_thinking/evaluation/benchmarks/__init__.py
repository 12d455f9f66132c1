"""Benchmarks by name: the embedded ones, generated on first use and cached, and the published ones (``published``).

To add an embedded one: a module beside this one with a ``load(split)``, and an entry in ``BENCHMARKS``.
"""

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats.folders import is_here
from balanced_thinking.data.formats.options import Options
from balanced_thinking.errors import EvaluationError
from balanced_thinking.evaluation.benchmarks import easy_vqa
from balanced_thinking.evaluation.benchmarks.icons import SPLITS, load_split
from balanced_thinking.evaluation.benchmarks.published import PUBLISHED
from balanced_thinking.evaluation.benchmarks.published.reading import READ
from balanced_thinking.evaluation.question import Question, Rule


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: its name, one line about it, the generation cap for all arms, its splits, and their examples.

    ``question_only`` is the share of its test that needs no picture: the commonest training answer to the question
    (``icons.shortcut_baselines``); None where it was not computed.
    """

    name: str
    description: str
    max_new_tokens: int
    splits: tuple[str, ...]
    load: Callable[..., Sequence[Example]]
    question_only: float | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "icons": Benchmark(
        "icons",
        "3 x 3 icon grids: count, compare, locate, odd-one-out, category (train 20,000, val 2,000, test 4,000)",
        160,
        tuple(SPLITS["icons"]),
        partial(load_split, "icons"),
        question_only=0.2,
    ),
    "icons-unseen": Benchmark(
        "icons-unseen",
        "the same grids with icons never trained on and questions that need no name (val 1,000, test 4,000)",
        160,
        tuple(SPLITS["icons-unseen"]),
        partial(load_split, "icons-unseen"),
        question_only=0.251,
    ),
    "icons-answered": Benchmark(
        "icons-answered",
        "icons with traces that end with the answer: the same questions, for training with that switch on",
        170,
        tuple(SPLITS["icons"]),
        partial(load_split, "icons", end_with_answer=True),
        question_only=0.2,
    ),
    "icons-long": Benchmark(
        "icons-long",
        "icons with traces of 320 to 620 tokens, 440 on average (train 20,000, val 1,000, test 2,000)",
        750,
        tuple(SPLITS["icons-long"]),
        partial(load_split, "icons-long"),
        question_only=0.19,
    ),
    "easy-vqa": Benchmark(
        "easy-vqa",
        "the published easy-VQA: one coloured shape, 13 answers (train 36,631, val 1,944, test 9,673)",
        128,
        easy_vqa.SPLITS,
        easy_vqa.load,
        question_only=0.67,
    ),
    "easy-vqa-captions": Benchmark(
        "easy-vqa-captions",
        "one description of each easy-VQA picture, no trace: for a base that has not seen such pictures (train 3,500)",
        32,
        ("train", "val"),
        easy_vqa.load_captions,
    ),
}


DATA_FILE_CAP = 1024
_OF_PUBLISHED = ("image_root", "allow_outside")  # the options of reading that published benchmarks take


@dataclass(frozen=True, slots=True)
class Asked:
    """A benchmark as it is named on a command line: name for files, generation cap, own scores, its questions, and how
    many there are of it as published (None: not known)."""

    name: str
    max_new_tokens: int
    rules: Mapping[str, Rule]
    load: Callable[[], Iterable[Question]]
    size: int | None = None


def ask(benchmark: str | PathLike, reading: Mapping[str, Any] | None = None) -> Asked:
    """What a name means: ``icons``, ``icons:val``, ``scienceqa-img=/data/ScienceQA``, or a readable data file.

    ``reading`` are options of ``load_examples``, for data files; a published benchmark takes ``image_root`` and
    ``allow_outside`` of them.

    Raises:
        EvaluationError: no such benchmark, split or file.
    """
    text = fspath(benchmark)
    known, split, source = _parts(text)
    if known in BENCHMARKS:
        own = BENCHMARKS[known]
        chosen = split or "test"
        if chosen not in own.splits:
            raise EvaluationError(f"{known} has no split {chosen!r}; {_nearest(chosen, own.splits)}")
        return Asked(file_name(text), own.max_new_tokens, {}, lambda: (Question(each) for each in own.load(chosen)))
    if known in PUBLISHED:
        theirs = PUBLISHED[known]
        if split and split not in theirs.splits:
            raise EvaluationError(f"{known} has no split {split!r}; {_nearest(split, theirs.splits)}")
        if source is not None and not (source and Path(source).exists()):
            raise EvaluationError(f"{known}: {source!r} does not exist; give the folder with the benchmark's files")
        options, size = _options(reading or {}), theirs.sizes.get(split or next(iter(theirs.splits)))
        questions = partial(theirs.questions, split, source, options)
        return Asked(file_name(text), theirs.max_new_tokens, theirs.rules, questions, size)
    if not is_here(text):
        names = [*BENCHMARKS, *PUBLISHED]
        raise EvaluationError(f"no benchmark and no data file is called {text!r}; {_nearest(text, names)}")
    return Asked(file_name(text), DATA_FILE_CAP, {}, partial(_of_a_file, Path(text).resolve(), reading or {}))


def open_first(benchmark: str | PathLike, reading: Mapping[str, Any] | None = None) -> Asked:
    """As ``ask``; of what lies on this machine the first question is read, before hours of another benchmark.

    Raises:
        EvaluationError: as ``ask``.
        DataError: what is wrong with the first question.
    """
    asked, text = ask(benchmark, reading), fspath(benchmark)
    known, _, source = _parts(text)
    if source is not None if known else is_here(text):
        with _unreported():
            next(iter(asked.load()), None)
    return asked


@contextmanager
def _unreported() -> Iterator[None]:
    """Without what a reader that is left tells of all that it has read, which is one record here."""
    reader = logging.getLogger("balanced_thinking.data.records")
    reader.disabled = True
    try:
        yield
    finally:
        reader.disabled = False


def check_reading(benchmarks: Sequence[str | PathLike], reading: Mapping[str, Any]) -> None:
    """Refuse options of reading that none of the benchmarks takes.

    Raises:
        EvaluationError: names the option.
    """
    known = [_parts(fspath(benchmark))[0] for benchmark in benchmarks]
    takers = {
        name: any(not each or (each in PUBLISHED and name in _OF_PUBLISHED) for each in known) for name in reading
    }
    for name, taken in takers.items():
        if reading[name] and name != "segments" and not taken:
            what = "data files and published benchmarks" if name in _OF_PUBLISHED else "data files"
            option = "dataset_format" if name == "format" else name
            raise EvaluationError(f"{option} is for {what}, and none is asked for; leave it out")


def file_name(benchmark: str | PathLike) -> str:
    """The stem of the files of an evaluation: ``icons``, ``icons-val`` for ``icons:val``, or a data file's own stem."""
    known, split, _ = _parts(fspath(benchmark))
    if known:
        default = "test" if known in BENCHMARKS else next(iter(PUBLISHED[known].splits))
        return known if split in ("", default) else f"{known}-{split}"
    path = Path(benchmark).resolve()
    return re.sub(r"[^\w.-]+", "-", path.name if path.is_dir() or ":" in path.name else path.stem)


def _parts(text: str) -> tuple[str, str, str | None]:
    """(name, split, source) of a known benchmark; ("", "", None) for anything else."""
    named, mark, source = text.partition("=")
    name, _, split = named.partition(":")
    if name in BENCHMARKS and not mark:
        return name, split, None
    return (name, split, source if mark else None) if name in PUBLISHED else ("", "", None)


def _options(reading: Mapping[str, Any]) -> Options:
    root = reading.get("image_root")
    return replace(READ, image_root=Path(root) if root else None, allow_outside=bool(reading.get("allow_outside")))


def _of_a_file(path: Path, reading: Mapping[str, Any]) -> Iterable[Question]:
    from balanced_thinking.data.records import load_examples

    return (Question(example) for example in load_examples(path, **{"on_missing": "train", **reading}))


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}? (there are {', '.join(known)})" if near else f"there are {', '.join(known)}"
