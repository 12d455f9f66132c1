"""Where a run takes its rows from: a benchmark's split, or any file or folder that can be read.

What it leaves out: formats (``data.records``), the checks before the first step (``data.datacheck``).
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from accelerate import PartialState

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec
from balanced_thinking.data.formats.folders import is_here
from balanced_thinking.data.formats.options import Options
from balanced_thinking.data.formats.response import answer_alone
from balanced_thinking.data.formats.source import READERS
from balanced_thinking.data.records import (
    NUMBERED,
    DatasetWriter,
    Example,
    Ids,
    examples_of,
    is_held_out,
    to_trl_row,
)
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.runinfo import writing
from balanced_thinking.training.origins import Origins
from balanced_thinking.training.sft_config import decoded

logger = logging.getLogger(__name__)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_text(value: Any) -> bool:
    return isinstance(value, str | None)


def _is_path(value: Any) -> bool:
    return isinstance(value, str | PathLike | None)


def _is_set(value: Any) -> bool:
    return isinstance(value, str | PathLike | Mapping)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(item is not None and fits(item) for item in value)


_TYPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (_list_of(_is_set), "names, files or folders"),
    "dataset_fractions": (lambda value: value is None or _list_of(_is_number)(value), "numbers"),
    **dict.fromkeys(("image_root", "eval_dataset"), (_is_path, "a name or path")),
    **dict.fromkeys(("dataset_format", "answer_from", "system_prompt"), (_is_text, "text")),
    "on_missing": (lambda value: isinstance(value, str), "text"),
    **dict.fromkeys(("limit", "max_pixels"), (_is_count, "a whole number")),
    **dict.fromkeys(("allow_outside", "without_think", "pan_and_scan"), (_is_switch, "true or false")),
    "eval_fraction": (_is_number, "a number"),
}


# What an entry of ``dataset`` may say for its data set alone; and where it is, as TRL's entries say it.
_OF_ONE = ("dataset_format", "image_root", "answer_from", "on_missing", "columns", "allow_outside", "limit")
_WHERE = ("path", "name", "split")


@dataclass
class DataArguments:
    """Where a run takes its examples from.

    Attributes:
        dataset: Benchmark names (their train split), files or folders in a known format; several are mixed. Instead of
            a name an entry may be a mapping of ``path`` (and ``name`` and ``split``, as in TRL's mixtures) and of those
            options below that hold for this data set alone, such as ``{"path": .., "answer_from": "boxed"}``.
        dataset_fractions: Share of each data set that is used, evenly spread over it; unset: all of every one.
        dataset_format: Name of the format; unset: found out, and said.
        image_root: Folder to which relative picture paths belong; unset: the data file's.
        answer_from: Where the answer stands when there is no answer tag: tag, boxed, after_think or field.
        on_missing: A row without reasoning: train, skip or error.
        columns: Our names to the file's as JSON, for renamed columns, such as ``{"completion": "response"}``.
        allow_outside: Whether picture paths may lead out of the data's folder.
        limit: Use only the first so many examples of each data set.
        eval_dataset: Data for the evaluation loss, like ``dataset`` (a benchmark's name: its val split).
        eval_fraction: Hold out this share of the pictures, with all their questions, for the evaluation loss.
        without_think: Train on ``<answer>..</answer>`` alone (the arm ``answer-only``).
        system_prompt: Put before every prompt; the same in training and evaluation.
        max_pixels: Larger pictures are shrunk to so many pixels (Qwen's families); kept in the model's processor.
        pan_and_scan: Show wide and tall pictures in further crops (Gemma 3); kept in the model's processor.
    """

    dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Benchmark names, files or folders (or JSON of a path and its own options); several are mixed."
        },
    )
    dataset_fractions: list[float] | None = field(
        default=None, metadata={"help": "Share of each data set that is used; unset: all of every one."}
    )
    dataset_format: str | None = field(default=None, metadata={"help": "Data format; unset: found out."})
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative picture paths."})
    answer_from: str | None = field(default=None, metadata={"help": "tag, boxed, after_think or field."})
    on_missing: str = field(default="error", metadata={"help": "Rows without reasoning: train, skip or error."})
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": 'Our names to the file\'s as JSON: {"completion": "response"}.'}
    )
    allow_outside: bool = field(default=False, metadata={"help": "Allow pictures outside the data's folder."})
    limit: int | None = field(default=None, metadata={"help": "Use only the first so many examples."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Data for the evaluation loss."})
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the pictures held out for evaluation."})
    without_think: bool = field(default=False, metadata={"help": "Train on the answer alone."})
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt of training and evaluation."})
    max_pixels: int | None = field(default=None, metadata={"help": "Shrink larger pictures to so many pixels."})
    pan_and_scan: bool = field(default=False, metadata={"help": "Show wide pictures in further crops (Gemma 3)."})

    def __post_init__(self) -> None:
        self._check_types()
        if self.dataset_fractions is not None:
            if len(self.dataset_fractions) != len(self.dataset):
                raise ConfigError(
                    f"dataset_fractions has {len(self.dataset_fractions)} entries for {len(self.dataset)} data sets"
                )
            if not all(0 < fraction <= 1 for fraction in self.dataset_fractions):
                raise ConfigError(f"dataset_fractions must lie above 0 and at most at 1, not {self.dataset_fractions}")
        if not 0 <= self.eval_fraction < 1:
            raise ConfigError(f"eval_fraction must be at least 0 and below 1, not {self.eval_fraction}")
        if self.eval_fraction and self.eval_dataset:
            raise ConfigError("give eval_dataset or eval_fraction, not both")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, not {self.limit}")

    @property
    def names(self) -> list[str]:
        """What its data sets are called."""
        return [alone.dataset[0] for alone in self.each()]

    def each(self) -> list["DataArguments"]:
        """The same of each data set alone, named by text, with the options of its entry.

        Raises:
            ConfigError: a value of an entry that is of another type.
        """
        entries: list[Any] = self.dataset
        if len(entries) == 1 and isinstance(entries[0], str):
            return [self]
        return [self._alone(entry if isinstance(entry, dict) else {"path": entry}) for entry in entries]

    def _alone(self, entry: Mapping[str, Any]) -> "DataArguments":
        path, name, split = (entry.get(key) for key in _WHERE)
        parts = [path, name, split or "train"] if name else [path, split]
        own = {key: entry[key] for key in _OF_ONE if key in entry}
        try:
            return dataclasses.replace(self, dataset=[":".join(filter(None, parts))], dataset_fractions=None, **own)
        except ConfigError as error:
            raise ConfigError(f"dataset {path}: {error}") from error

    def _check_types(self) -> None:
        """A YAML file hands over whatever it holds, and a program too."""
        if _is_set(self.dataset):
            self.dataset = [self.dataset]  # type: ignore[list-item]
        if _is_number(self.dataset_fractions):
            self.dataset_fractions = [self.dataset_fractions]  # type: ignore[list-item]
        self.columns = decoded("columns", self.columns, dict)
        for name, (fits, what) in _TYPES.items():
            value = getattr(self, name)
            if not fits(value):
                raise ConfigError(f"{name} must be {what}, not {value!r}")
        self.dataset = list(map(_entry, self.dataset))
        self.each()
        try:
            (self.system_prompt or "").encode()
        except UnicodeEncodeError as error:
            raise ConfigError("system_prompt holds half a character (a lone surrogate); write it again") from error


def _entry(given: Any) -> Any:
    """A name, or a plain mapping of what is said of one data set, which the command line hands over as JSON text."""
    if isinstance(given, str) and given.startswith("{"):
        given = decoded("dataset", given, dict)
    if not isinstance(given, Mapping):
        return fspath(given)
    if not all(isinstance(given.get(key), str | PathLike | None) for key in _WHERE) or not given.get("path"):
        raise ConfigError(f"dataset: an entry needs a path, a name or file, not {dict(given)!r}")
    if "fraction" in given:
        raise ConfigError("dataset: fraction is said in dataset_fractions, the share of each data set that is used")
    unknown = next((key for key in given if key not in (*_WHERE, *_OF_ONE)), None)
    if unknown is not None:
        known = ", ".join((*_WHERE, *_OF_ONE))
        raise ConfigError(f"dataset {given['path']}: an entry has no {unknown!r}; it may have {known}")
    return {key: fspath(value) if isinstance(value, PathLike) else value for key, value in given.items()}


def load_data(
    data: DataArguments,
    segments: Sequence[SegmentSpec] = THINK_ANSWER,
    folder: Path | None = None,
    origins: Origins | None = None,
) -> tuple[Any, Any]:
    """Training and evaluation data sets (the second may be None); an id that another row has too is numbered.

    Args:
        data: Where they come from.
        segments: What responses consist of.
        folder: Where their rows are kept, each read and written once, by the first process of each machine; so data of
            any size take little memory. None: in memory.
        origins: Is told which rows come from which data set, in the process that reads them.

    Raises:
        ConfigError: no data set is named.
        DataError: a data set is empty or broken.
    """
    if not data.dataset:
        raise ConfigError("no data set given; name one with --dataset (a benchmark, a file or a folder)")
    origins = Origins() if origins is None else origins
    if folder is None:
        return _read(data, segments, (None, None), origins)
    train, held_out = _files(folder)
    with PartialState().local_main_process_first():
        if not PartialState().is_local_main_process:
            from datasets import Dataset

            return Dataset.from_file(str(train)), Dataset.from_file(str(held_out)) if held_out.is_file() else None
        with writing(folder, "choose another output_dir"):
            folder.mkdir(parents=True, exist_ok=True)
        remove_data(folder)
        return _read(data, segments, (train, held_out), origins)


def check_present(data: DataArguments) -> None:
    """Refuse a name behind which nothing stands, before anything is read; what may be a hub id passes.

    Raises:
        DataError: names it.
    """
    from balanced_thinking.evaluation.benchmarks import BENCHMARKS

    for name in [*data.names, *([data.eval_dataset] if data.eval_dataset else [])]:
        here = name in BENCHMARKS or is_here(name)
        if not here and (name.count("/") != 1 or Path(name).suffix.lower() in READERS):
            raise DataError("no such file", file=name, remedy="check the path")


def remove_data(folder: Path) -> None:
    """Remove what ``load_data`` keeps in ``folder``, each machine its own files and nothing else.

    Raises:
        ConfigError: the folder is not the user's to write in.
    """
    if PartialState().is_local_main_process:
        with writing(folder, "choose another output_dir"):
            for file in _files(folder):
                file.unlink(missing_ok=True)


def _files(folder: Path) -> tuple[Path, Path]:
    """(training, evaluation); machines may share the folder, and none may write into what another reads."""
    state = PartialState()
    machine = state.process_index - state.local_process_index
    train, held_out = (folder / f".balanced-rows-{part}-{machine}.arrow" for part in ("train", "eval"))
    return train, held_out


def _read(
    data: DataArguments, segments: Sequence[SegmentSpec], files: Sequence[Path | None], origins: Origins
) -> tuple[Any, Any]:
    # Not decoded by ``datasets``, which turns fewer pictures upright than ``images.open_image``.
    kept, held_out = (DatasetWriter(file, decoded=False) for file in files)
    ids, on_both_sides, numbered, pictured = Ids(), 0, 0, 0

    def add(example: Example, writer: DatasetWriter) -> None:
        nonlocal numbered, pictured
        row = _row(example, data, segments)
        row["id"] = ids.own(example.id)
        numbered += row["id"] != example.id
        pictured += bool(row["images"])
        origins.add(row)
        writer.add(row)

    for name, examples in _mixture(data, segments):
        for example in examples:
            out = is_held_out(example, data.eval_fraction) if data.eval_fraction else False
            if out is None:
                on_both_sides += 1
            else:
                add(example, held_out if out else kept)
        origins.end(name, kept.count, held_out.count)
    if on_both_sides:
        logger.warning("%d examples show pictures of both parts and were left out of both", on_both_sides)
    if data.eval_fraction and not (kept.count and held_out.count):
        raise DataError(
            f"eval_fraction {data.eval_fraction} leaves {kept.count} examples to train and {held_out.count} to "
            "evaluate on",
            remedy="change eval_fraction, or give eval_dataset",
        )
    if data.eval_dataset:
        for example in read_examples(data.eval_dataset, data, split="val", segments=segments):
            add(example, held_out)
        origins.end(data.eval_dataset, kept.count, held_out.count)
    if numbered:
        logger.warning("in %d rows of all data sets %s", numbered, NUMBERED)
    if pictured < (total := kept.count + held_out.count):
        logger.warning("%d of %d rows have pictures", pictured, total)
    return kept.finish(), held_out.finish() if held_out.count else None


def _mixture(data: DataArguments, segments: Sequence[SegmentSpec]) -> Iterator[tuple[str, Iterator[Example]]]:
    """Each data set's name and the examples that are used of it, one data set after the other."""
    sets = data.each()
    for alone in sets:  # before the first is read, which can take long
        _options(alone, segments)
    for alone, fraction in zip(sets, data.dataset_fractions or [1.0] * len(sets), strict=True):
        name = alone.dataset[0]
        examples = _spread(read_examples(name, alone, split="train", segments=segments, limit=alone.limit), fraction)
        first = next(examples, None)
        if first is None:
            remedy = "give a file with records" if fraction == 1 else f"or a larger fraction than {fraction}"
            raise DataError("the data set holds no example", file=name, remedy=remedy)
        yield name, chain([first], examples)


def _row(example: Example, data: DataArguments, segments: Sequence[SegmentSpec]) -> dict[str, Any]:
    if data.without_think:
        example = _without_trace(example, segments)
    return to_trl_row(example, system_prompt=data.system_prompt)


def _without_trace(example: Example, segments: Sequence[SegmentSpec]) -> Example:
    alone = None if tuple(segments) == THINK_ANSWER else answer_alone(example.answer, segments)
    return dataclasses.replace(example, think=None, response=alone)


def read_examples(
    name: str,
    data: DataArguments,
    *,
    split: str,
    segments: Sequence[SegmentSpec] = THINK_ANSWER,
    limit: int | None = None,
) -> Iterator[Example]:
    """Examples of a benchmark's split, or of a file or folder; no more than the first ``limit``.

    Raises:
        ConfigError: a benchmark, whose responses are think and answer, is to be trained in other segments.
        DataError: a record is at fault, or no record has a picture although a field that is not read holds some.
    """
    from balanced_thinking.evaluation.benchmarks import BENCHMARKS

    if name in BENCHMARKS and not Path(name).exists():
        foreign = tuple(segments) != THINK_ANSWER and not data.without_think
        if foreign and data.on_missing != "train":
            remedy = 'leave scale_segments out, or set on_missing to "train" (the answers alone)'
            raise ConfigError(f"the responses of {name} are think and answer; {remedy}")
        if foreign:
            logger.warning("%s: its responses are think and answer; their answers alone are taken", name)
        examples = islice(BENCHMARKS[name].load(split), limit)
        return (_without_trace(example, segments) if foreign else example for example in examples)
    # The limit is told, not cut off outside, so that the reader comes to its end and says what it left out.
    return examples_of(Path(name), data.dataset_format, _options(data, segments), limit=limit)


def _options(data: DataArguments, segments: Sequence[SegmentSpec]) -> Options:
    root = None if data.image_root is None else Path(data.image_root)
    on_missing = "train" if data.without_think else data.on_missing
    columns: Any = data.columns or {}
    try:
        return Options(root, data.answer_from, on_missing, columns, data.allow_outside, tuple(segments))
    except ConfigError as error:
        raise ConfigError(f"dataset {data.dataset[0]}: {error}" if data.dataset else str(error)) from error


def _spread(examples: Iterable[Example], fraction: float) -> Iterator[Example]:
    """Every example at which ``fraction`` times its number passes a whole number: that share, evenly spread.

    ``fraction`` is the decimal as it is written: as floats 100 * 0.29 and 100 * 0.57 stay below 29 and 57.
    """
    over, under = Fraction(str(fraction)).as_integer_ratio()
    return (example for n, example in enumerate(examples) if (n + 1) * over // under > n * over // under)
