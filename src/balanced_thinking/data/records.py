"""Data sets in and out: any known format into examples, examples into TRL's prompt/completion form.

What it leaves out: how each format looks (``formats``), how a question is worded (``prompts``).
"""

import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, parse_segments
from balanced_thinking.data.example import AnswerKind, Example, Ids
from balanced_thinking.data.formats import FORMATS, Format, choose_format, every_field, sniffed
from balanced_thinking.data.formats.folders import read_records
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.retell import renamed
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.formats.unread import note_fields, overlooked_pictures
from balanced_thinking.data.images import plain_picture
from balanced_thinking.data.prompts import build_completion, build_prompt
from balanced_thinking.errors import ConfigError, DataError, SegmentError
from balanced_thinking.runinfo import writing

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["AnswerKind", "Example", "load_examples", "to_dataset", "to_trl_row"]
logger = logging.getLogger(__name__)

_CHUNK = 500
_UNSHOWN = ("video", "videos", "audio", "audios")
_KEY_BYTES = 1 << 16
_LOOKED_AT = 100  # records in which a column that is named must occur, and one whose form is known
NUMBERED = "the id occurred before and was numbered"


def load_examples(
    path: str | Path,
    format: str | None = None,
    image_root: str | Path | None = None,
    *,
    answer_from: str | None = None,
    on_missing: str = "error",
    columns: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    segments: Sequence[SegmentSpec] | str | None = THINK_ANSWER,
) -> Iterator[Example]:
    """Examples of a data file in any known format.

    Every record gives one example or one error that names file and record; what the options leave out is counted and
    logged as a warning when the iteration ends.

    Args:
        path: A file (JSON lines, JSON, parquet, CSV, TSV), a folder in one of the usual layouts, LLaMA-Factory's
            ``dataset_info.json:name``, or a hub id (``formats.folders`` lists them all).
        format: A name in ``formats.FORMATS``; None: that of the first record that any knows, logged with the reason.
        image_root: Folder in which relative picture paths are looked for first; then beside the data file, then in
            ``<split>/<id>/`` of both.
        answer_from: Where a response holds its answer: ``tag`` (in ``<answer>..</answer>``, the default), ``boxed``
            (in the last ``\\boxed{..}``), ``after_think`` (all that follows ``</think>``), or ``field`` (the record's
            own field ``answer``; also taken where a record has no response at all).
        on_missing: For records without a reasoning trace: ``error``; ``train`` (``think=None``, the answer alone);
            ``skip``, which also leaves out records whose response has no closed trace or no answer.
        columns: Our names to the file's, for renamed columns, such as ``{"completion": "response"}``.
        allow_outside: Whether picture paths may lead out of the data's folder and ``image_root``.
        segments: What responses consist of, as specs or a name such as ``llava-cot``. With others than think and answer
            each response stays as it is (``Example.response``), and its last segment is the answer.

    Returns:
        An iterator of ``Example``. An id that occurs again within its source gets ``#2``, ``#3``, ... appended.
        ``kind`` is the record's own, else ``choice`` where there are choices, ``number`` for a decimal number, else
        ``text``.

    Raises:
        DataError: an unknown or empty file, a broken record, a picture that is missing, unreadable or outside; at the
            end, that no record has a picture although a field that is not read holds some.
        SegmentError: a response without trace or answer (a ``DataError`` too).
        ConfigError: an unknown option.

    Example:
        >>> examples = list(load_examples("train.jsonl"))  # doctest: +SKIP
    """
    root = None if image_root is None else Path(image_root)
    options = Options(root, answer_from, on_missing, columns or {}, allow_outside, parse_segments(segments))
    return examples_of(Path(path), format, options)


def examples_of(path: Path, format: str | None, options: Options, *, limit: int | None = None) -> Iterator[Example]:
    """``load_examples`` with its options in one, and of no more than the first ``limit`` examples."""
    name, reason, records = open_records(path, format, options)
    logger.info("%s: format %s, since %s", path, name, reason)
    return _examples(records, FORMATS[name], options, path, limit=limit)


def open_records(path: Path, format: str | None, options: Options) -> tuple[str, str, Iterator[Record]]:
    """The format of a file, why it is that one, and the file's records with our names for its columns.

    Raises:
        DataError: the file cannot be read, holds no records, or is in no known format.
        ConfigError: an unknown format or column.
    """
    records = read_records(path)
    head = _head(records, options.columns, lambda record: format is not None or sniffed(record) is not None)
    if not head:
        raise DataError("the file holds no records", file=path, remedy="give at least one")
    whole = [record for record in head if record.fault is None]
    try:
        if not whole:
            raise DataError("no record can be read", file=path)
        _check_columns(options.columns, whole)
        renamed_whole = [_renamed(record, options.columns) for record in whole]
        first = next((record for record in renamed_whole if sniffed(record)), renamed_whole[0])
        name, reason = choose_format(format, first)
    except DataError:
        if head[0].fault is not None:
            raise head[0].fault from None
        raise
    reason = f"{reason}, and {first.remark}" if first.remark else reason
    return name, reason, (_renamed(record, options.columns) for record in chain(head, records))


def without_blank(records: Iterable[Record], notes: Notes) -> Iterator[Record]:
    """The records in whose columns anything stands; the others are counted."""
    for record in records:
        if record.blank:
            notes["nothing stands in any column, and they were passed over"] += 1
        else:
            yield record


def read_example(reader: Format, record: Record, options: Options, *, notes: Notes) -> Example:
    """What ``reader`` makes of a record; a fault calls its field as the file does.

    Raises:
        DataError: any fault.
    """
    example = None
    try:
        shown = next((name for name in _UNSHOWN if record.fields.get(name)), None)
        if shown is not None:
            remedy = "leave the row out, or take the column away if the question can do without"
            raise record.place.error("only pictures can be shown to the model", field=shown, remedy=remedy)
        example = reader.read(record, options, notes=notes)
    except DataError as error:
        raise renamed(error, options.columns) from error
    finally:
        pictured = example is not None and bool(example.images)
        note_fields(record, reader.FIELDS, options, notes=notes, pictured=pictured)
    return example


def _head(records: Iterator[Record], columns: Mapping[str, str], known: Callable[[Record], bool]) -> list[Record]:
    """The records up to the first whose form is known, and on to where each of ``columns`` was met; of those that can
    be read a hundred at most."""
    taken, missing, whole, found = [], set(columns.values()), 0, False
    for record in records:
        taken.append(record)
        missing -= record.fields.keys()
        whole += record.fault is None
        found = found or (record.fault is None and known(_renamed(record, columns)))
        if (found and not missing) or whole == _LOOKED_AT:
            break
    return taken


def _check_columns(columns: Mapping[str, str], whole: Sequence[Record]) -> None:
    known = every_field()
    for ours, theirs in columns.items():
        if ours not in known:
            raise ConfigError(f"columns: no format has a field {ours!r}; the fields are {', '.join(known)}")
        if not any(theirs in record.fields for record in whole):
            where = f"in the first {len(whole)} records" if len(whole) > 1 else "there"
            remedy = f"its columns are {', '.join(map(str, whole[0].fields))}"
            raise whole[0].place.error(f"columns names {theirs!r}, which is not {where}", field=theirs, remedy=remedy)


def _examples(
    records: Iterable[Record], reader: Format, options: Options, path: Path, *, limit: int | None
) -> Iterator[Example]:
    notes, skipped, ids, given = Notes(), Counter[str](), defaultdict[str, Ids](Ids), 0
    try:
        for record in without_blank(records, notes):
            if record.fault is not None:
                raise record.fault
            try:
                example = read_example(reader, record, options, notes=notes)
            except SegmentError as error:
                if options.on_missing != "skip":
                    raise
                skipped[error.kind] += 1
                continue
            given += 1
            yield _with_own_id(example, ids[example.source], notes)
            if given == limit:
                break
    finally:
        _report(path, skipped, notes)
    if not given and not skipped:
        raise DataError("nothing stands in any record", file=path, remedy="give at least one")
    if not given:
        remedy = "set answer_from or on_missing to suit the data"
        raise DataError(f"no record is left: all {skipped.total()} were skipped", file=path, remedy=remedy)
    logger.info("%s: %d of %d records have pictures", path, notes.pictured, given)
    overlooked = overlooked_pictures(notes, options, path)
    if overlooked is not None:
        raise overlooked


def _renamed(record: Record, columns: Mapping[str, str]) -> Record:
    if not columns:
        return record
    taken = set(columns.values())
    fields = {name: value for name, value in record.fields.items() if name not in taken}
    return record.with_fields(fields | {ours: record.fields.get(theirs) for ours, theirs in columns.items()})


def _with_own_id(example: Example, ids: Ids, notes: Notes) -> Example:
    name = ids.own(example.id)
    notes[NUMBERED] += name != example.id
    return example if name == example.id else replace(example, id=name)


def _report(path: Path, skipped: Counter[str], notes: Notes) -> None:
    if skipped:
        reasons = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())
        logger.warning("%s: %d records skipped (%s)", path, skipped.total(), reasons)
    for note, count in notes.items():
        if count:
            logger.warning("%s: in %d records %s", path, count, note)


def is_held_out(example: Example, fraction: float, *, salt: bytes = b"") -> bool | None:
    """Whether an example belongs to the part of its data set that is held out by picture.

    About ``fraction`` of the pictures are held out, each by itself, whatever else the data set holds and in whatever
    order; of examples without pictures the questions. None: some of its pictures are held out and some are not, so that
    it may stand on neither side. Another ``salt`` draws anew: with the same one, what a second split holds out was all
    taken by the first.
    """
    keys = [_picture_key(image) for image in example.images] or [example.question.encode()]
    sides = {int(hashlib.sha256(salt + key).hexdigest()[:8], 16) / 16**8 < fraction for key in keys}
    return sides.pop() if len(sides) == 1 else None


def _picture_key(image: Any) -> bytes:
    """The same for a picture wherever it lies, as a file or in the data: its size and its first bytes.

    Nothing is decoded. So a PIL image that was opened from a file is that file, and any other one, of which only pixels
    are left, is the same as one of the same pixels, but not as a file or bytes that encode them.
    """
    image = plain_picture(image)
    if isinstance(image, bytes):
        return len(image).to_bytes(8) + image[:_KEY_BYTES]
    if hasattr(image, "tobytes"):
        path = Path(getattr(image, "filename", None) or "")
        if not path.is_file():
            return f"{image.mode} {image.size} ".encode() + image.tobytes()
    else:
        path = Path(image)
    with path.open("rb") as file:
        return path.stat().st_size.to_bytes(8) + file.read(_KEY_BYTES)


def to_trl_row(example: Example, *, system_prompt: str | None = None) -> dict[str, Any]:
    """An example as a row in TRL's prompt/completion form, with id, source, answer, kind and choices beside it.

    Pictures are passed on as they are (paths as text); ``load_examples`` reads such rows back.

    Raises:
        DataError: a trace or answer that would make the response malformed.
    """
    return {
        "id": example.id,
        "source": example.source,
        "prompt": build_prompt(example, system_prompt=system_prompt),
        "completion": build_completion(example),
        "images": [fspath(image) if isinstance(image, PathLike) else image for image in example.images],
        "answer": example.answer,
        "kind": example.kind,
        "choices": None if example.choices is None else list(example.choices),
    }


def to_dataset(examples: Iterable[Example]) -> "Dataset":
    """Examples as a ``datasets.Dataset`` that ``ScaleSFTTrainer`` and TRL's ``SFTTrainer`` take.

    Pictures become a list of ``datasets.Image``: a path stays a path and encoded bytes stay as they are until a row is
    read, when they are decoded; only PIL images without a file are encoded (PNG).

    Args:
        examples: Any number of examples, read once.

    Returns:
        A data set with the columns id, source, prompt, completion, images, answer, kind, choices.

    Raises:
        DataError: no examples at all, or one whose response would be malformed.
    """
    writer = DatasetWriter()
    for example in examples:
        writer.add(to_trl_row(example))
    if not writer.count:
        raise DataError("there are no examples to make a data set of", remedy="give at least one")
    return writer.finish()


class DatasetWriter:
    """Rows of ``to_trl_row`` become a data set, one after the other.

    Args:
        file: An Arrow file in which the rows lie, so that a data set of any size takes the memory of a few hundred
            rows; None: in memory.
        decoded: Whether rows show their pictures as PIL images, as TRL takes them, or as they are stored.

    Attributes:
        count: Rows added so far.
    """

    def __init__(self, file: Path | None = None, *, decoded: bool = True) -> None:
        self.count, self._file, self._rows = 0, file, []  # type: int, Path | None, list[dict[str, Any]]
        self._features = _features(decoded)
        self._parts: list[Dataset] = []
        self._stream: Any = None

    def add(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self.count += 1
        self._rows.append(row)
        if len(self._rows) == _CHUNK:
            self._flush()

    def finish(self) -> "Dataset":
        """The data set; at least one row must have been added."""
        from datasets import Dataset, concatenate_datasets

        assert self.count, "a data set needs a row"
        self._flush()
        if self._file is None:
            return concatenate_datasets(self._parts)
        with writing(self._file, "choose another output_dir"):
            self._stream.close()
        return Dataset.from_file(str(self._file))

    def _flush(self) -> None:
        if not self._rows:
            return
        from datasets import Dataset

        try:
            part = Dataset.from_list(self._rows, features=self._features)
        except UnicodeEncodeError as error:
            raise _half_character(self._rows) from error
        self._rows = []
        if self._file is None:
            self._parts.append(part)
            return
        with writing(self._file, "choose another output_dir"):
            if self._stream is None:
                import pyarrow

                self._stream = pyarrow.ipc.new_stream(str(self._file), part.data.schema)
            self._stream.write_table(part.data.table)


def _half_character(rows: Iterable[Mapping[str, Any]]) -> DataError:
    """The fault of the first row that cannot be written."""
    for row in rows:
        try:
            json.dumps(row, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            break
    message, remedy = "the text holds half a character (a lone surrogate)", "mend the text, or leave the row out"
    return DataError(message, record=row["id"], remedy=remedy)


def _features(decoded: bool) -> "Features":
    from datasets import Features, Image, List, Value

    text = Value("string")
    messages = List({"role": text, "content": List({"type": text, "text": text})})
    columns: Mapping[str, Any] = {
        "id": text,
        "source": text,
        "prompt": messages,
        "completion": messages,
        "images": List(Image(decode=decoded)),
        "answer": text,
        "kind": text,
        "choices": List(text),
    }
    return Features(columns)
