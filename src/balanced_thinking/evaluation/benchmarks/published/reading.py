"""How the files of a published benchmark become questions: which files, which split, one record after the other.

What it leaves out: what a record means (a module each), how answers are scored (``answers``, ``rules``).
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from balanced_thinking.core.answers import parse_number
from balanced_thinking.data.example import AnswerKind, Example, Ids
from balanced_thinking.data.formats.folders import check_whole, named_splits, stream_hub
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.pictures import resolve_picture
from balanced_thinking.data.formats.source import Record, numbered, read_file
from balanced_thinking.errors import DataError, EvaluationError
from balanced_thinking.evaluation.question import Question, Rule

CAP = 1024  # room for a trace; the stock tasks of lmms-eval allow 16 to 128 tokens, which cut one
# For the readers of ``data.formats``: a benchmark needs no trace.
READ = Options(None, None, "train", {}, False)
_TRACES = ("lecture", "solution", "rationale")
# Other names of the same split, where a benchmark has no split of that name itself.
_ALIKE = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}


def _named_split(record: Record, _: Path | None) -> Any:
    return record.fields.get("split")


@dataclass(frozen=True, slots=True)
class Published:
    """A benchmark whose data the user has, or the hub.

    Attributes:
        description: One line.
        hub: Hub id, and the configuration there.
        splits: Our names of the splits to those of the files; the first is the default.
        files: Patterns of file names under the user's folder, tried in order; ``{split}`` is
            replaced by the files' name of the split, ``{ours}`` by ours, ``{dev}`` by ours but "dev" for val. Of a
            tuple of patterns each must be met.
        read: A record as a question; None for a record that is not part of the benchmark.
        rules: The benchmark's own scores, by name; exact match is always computed.
        max_new_tokens: Generation cap, the same for all arms.
        split_of: The split of a record, by their names or ours, given where its pictures may be; None where only its
            file can tell.
        sizes: Questions of a whole split, as published.
    """

    description: str
    hub: tuple[str, str | None]
    splits: Mapping[str, str]
    files: tuple[str | tuple[str, ...], ...]
    read: Callable[[Record, Options], Question | None]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    max_new_tokens: int = CAP
    split_of: Callable[[Record, Path | None], Any] = _named_split
    sizes: Mapping[str, int] = field(default_factory=dict)

    def questions(self, split: str, source: str | None, options: Options = READ) -> Iterator[Question]:
        """The questions of a split from a folder or file of the user's, or from the hub.

        Raises:
            EvaluationError: no such split or folder.
            DataError: a file or record that cannot be read.
        """
        split = split or next(iter(self.splits))
        if split not in self.splits:
            raise EvaluationError(f"there is no split {split!r}; take one of {', '.join(self.splits)}")
        records = self._of_the_hub(split) if source is None else self._of_the_user(split, Path(source))
        if source is not None and options.image_root is None and Path(source).is_dir():
            options = replace(options, image_root=Path(source))  # data/test.jsonl may name pictures from the top
        ids, misnamed = Ids(), None if source is None else self._misnamed(split, Path(source))
        for record in records:
            if record.fault is not None:
                raise record.fault
            belongs = self._belongs(record, split, options.image_root)
            if belongs is None and misnamed:
                raise EvaluationError(misnamed)
            if belongs is False:
                continue
            question = self.read(record, options)
            if question is not None:
                yield _numbered(question, ids)

    def _belongs(self, record: Record, split: str, root: Path | None) -> bool | None:
        """Whether a record is of this split; None for one that names none and is of the split of its file."""
        own = self.split_of(record, root)
        if own is None or own == "":
            return None
        named = self._canonical(own) if isinstance(own, str) else None
        if named not in {*_ALIKE.values(), *self.splits}:
            known = ", ".join({**dict.fromkeys(self.splits), **dict.fromkeys(("train", "val", "test"))})
            raise record.place.error(f"{own!r} is no split", field="split", remedy=f"known are {known}")
        return named == split

    def _canonical(self, name: str) -> str:
        """Our name of a split, by ours, theirs, or one that means the same."""
        low = name.strip().lower()
        theirs = {value: key for key, value in self.splits.items()}
        return low if low in self.splits else theirs.get(low) or _ALIKE.get(low, low)

    def _of_the_user(self, split: str, folder: Path) -> Iterator[Record]:
        if not folder.exists():
            raise EvaluationError(f"{folder} does not exist; give the folder with the benchmark's files")
        for file in [folder] if folder.is_file() else self._found(split, folder):
            empty = True
            for record in read_file(file):
                empty = False
                yield record
            if empty:
                raise DataError("the file holds no records", file=file, remedy="get it anew")

    def _found(self, split: str, folder: Path) -> Sequence[Path]:
        looked_for: list[str] = []
        for entry in self.files:
            parts = (entry,) if isinstance(entry, str) else entry
            names = {"split": self.splits[split], "ours": split, "dev": "dev" if split == "val" else split}
            patterns = [part.format(**names) for part in parts]
            looked_for += patterns
            found = {pattern: sorted(folder.glob(pattern)) for pattern in patterns}
            if any(found.values()):
                lacking = next((pattern for pattern, files in found.items() if not files), None)
                if lacking is not None:
                    raise EvaluationError(f"{folder} holds a part of the benchmark only; {lacking} is missing")
                chosen = [file for files in found.values() for file in files]
                for home in dict.fromkeys(file.parent for file in chosen):
                    check_whole([file for file in chosen if file.parent == home])
                return chosen
        raise EvaluationError(f"{folder} holds none of the benchmark's files; looked for {', '.join(looked_for)}")

    def _misnamed(self, split: str, file: Path) -> str | None:
        """The fault of a file that is called like other splits only, which its records may know better."""
        names = [] if file.is_dir() else [name for name in named_splits(file.stem) if not name.startswith("eval")]
        called = [self._canonical(name) for name in names]
        if not called or split in called:
            return None
        other = next((name for name in called if name in self.splits), None)
        ask = f"ask for :{other}" if other else "rename it if it is not"
        return f"{file} is called {called[0]}, and {split} is asked for; {ask}"

    def _of_the_hub(self, split: str) -> Iterator[Record]:
        name, config = self.hub
        remedy = "download it and give its folder as NAME=FOLDER"
        rows = stream_hub(name, config, self.splits[split], fault="cannot be had from the hub", remedy=remedy)
        return numbered(rows, Path(name))


def question(
    record: Record,
    options: Options,
    source: str,
    *,
    text: Any,
    answer: str,
    choices: Sequence[str] | None = None,
    images: Sequence[Any] = (),
    also: tuple[str, ...] = (),
    facts: Mapping[str, Any] | None = None,
) -> Question:
    """A question from the parts of a record; pictures are looked for as in training data.

    Its kind is ``choice`` where there are choices, ``number`` where all right answers are numbers, else ``text``.

    Raises:
        DataError: no text, no answer, or a picture that is missing or unreadable.
    """
    if not isinstance(text, str) or not text.strip():
        raise record.place.error("is missing or empty, or no text", field="question")
    if not answer.strip():
        raise record.place.error("is empty", field="answer")
    pictures = tuple(
        resolve_picture(image, record, image_root=options.image_root, allow_outside=options.allow_outside)
        for image in images
    )
    name = str(record.fields.get("id", record.number))
    known = tuple(choices) if choices else None
    numbers = all(parse_number(right) is not None for right in (answer, *also))
    kind: AnswerKind = "choice" if known else "number" if numbers else "text"
    return Question(Example(name, source, pictures, text.strip(), known, None, answer, kind), also, facts or {})


def texts(record: Record, field_name: str, value: Any = None) -> list[str]:
    """A list of texts in a field (or ``value`` instead of what stands there).

    Raises:
        DataError: something else is there.
    """
    found = record.fields.get(field_name) if value is None else value
    if not isinstance(found, list | tuple) or not found or not all(isinstance(item, str) for item in found):
        raise record.place.error("must be a list of texts", field=field_name)
    return list(found)


def listed(value: Any) -> Any:
    """A list that is written as text, as MMMU's options are; anything else as it is."""
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: brackets without end
            return value
    return value


def read_with(reader: Any, record: Record, options: Options, source: str) -> Example:
    """What a reader of ``data.formats`` makes of a record without its trace, which no question needs."""
    bare = record.with_fields(record.fields | {name: None for name in _TRACES if name in record.fields})
    return replace(reader.read(bare, options, notes=Notes()), source=source)


def missing(record: Record, field_name: str) -> DataError:
    """The fault of a field that must be there."""
    return record.place.error("is missing", field=field_name)


def _numbered(asked: Question, ids: Ids) -> Question:
    name = ids.own(asked.example.id)
    return asked if name == asked.example.id else replace(asked, example=replace(asked.example, id=name))
