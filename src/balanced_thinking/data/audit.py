"""What is in a data file, and what is wrong with it, record by record in constant memory (``balanced check-data``).

Every record is read as training reads it (``records``), but a fault is counted and the next record is read. Of the good
ones it measures how unequal trace and answer are, which is what the method is about, and finds repeated records and
pictures that training and test share. What it leaves out: pictures' tokens, which only a model's processor can count;
the checks of a training run (``datacheck``).
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.formats import FORMATS, Format
from balanced_thinking.data.formats.options import Notes, Options
from balanced_thinking.data.formats.pictures import given_pictures
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.formats.unread import overlooked_pictures
from balanced_thinking.data.prompts import build_completion, render_question
from balanced_thinking.data.records import open_records, read_example, without_blank
from balanced_thinking.errors import DataError, SegmentError

FIRST = 3  # records named per kind of fault
PARTS = ("question", "think", "answer")
PERCENTILES = (5, 50, 95, 99, 100)
# What a message says, and what such faults are called.
_KINDS = (
    ("no such picture", "picture missing"),
    ("lies outside", "picture outside the folder"),
    ("not on this machine", "picture not on this machine"),
    ("cannot be read", "picture unreadable"),
    ("mark", "marks and pictures differ"),
    (" itself", "tag inside a text"),
)


@dataclass(slots=True)
class Audit:
    """What ``audit`` found.

    Attributes:
        file: What was read.
        format: Name of the format, and ``reason``: why it was taken.
        unit: What lengths count: ``tokens`` or ``characters``.
        records: All records, and ``good``: those that give an example.
        faults: Records at fault by kind.
        first: The first lines of each kind of fault.
        skipped: Records without a trace or answer that were asked to be left out (``on_missing="skip"``), by kind.
        notes: What was changed in reading, and how often.
        with_pictures: Good records that have pictures.
        overlooked: The fault of a data set without any picture whose pictures stand in a field that is not read.
        sources: Good records by source.
        lengths: Of question, think and answer of each good record.
        without_think: Good records without a trace.
        too_long: Records whose text alone is longer than the length asked about.
        repeated: Good records whose question, pictures and response occurred before.
        contradicting: Good records whose question and pictures occurred before with another answer.
        pictures: Different pictures, by their content.
        shared: Of them, those that the other file shows too.
        records_in_other: Records of the other file, and ``unreadable_in_other``: those that could not be compared.
        first_in_other: Why the first of these could not.
    """

    file: str
    format: str
    reason: str
    unit: str = "characters"
    records: int = 0
    good: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    with_pictures: int = 0
    overlooked: DataError | None = None
    sources: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, array] = field(default_factory=lambda: {part: array("L") for part in PARTS})
    without_think: int = 0
    too_long: int = 0
    repeated: int = 0
    contradicting: int = 0
    pictures: int = 0
    shared: int = 0
    records_in_other: int = 0
    unreadable_in_other: int = 0
    first_in_other: str | None = None

    def summary(self) -> dict[str, Any]:
        """Everything in plain numbers, ready for JSON."""
        found = {name: getattr(self, name) for name in self.__slots__ if name != "lengths"}
        lengths = {part: _percentiles(values) for part, values in self.lengths.items()}
        lengths["all"] = _percentiles(array("L", map(sum, zip(*self.lengths.values(), strict=True))))
        total = {part: sum(values) for part, values in self.lengths.items()}
        trained = total["think"] + total["answer"]
        share = total["answer"] / trained if trained else None
        overlooked = None if self.overlooked is None else str(self.overlooked)
        return found | {"overlooked": overlooked, "lengths": lengths, "totals": total, "answer_share": share}


def audit(
    path: Path,
    *,
    format: str | None = None,
    options: Options,
    count: Callable[[str], int] | None = None,
    max_length: int | None = None,
    other: Path | None = None,
    keep: Callable[[Example], None] | None = None,
    left_out: Callable[[str, str, str], None] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Audit:
    """Read every record of a file and count what is wrong and what is there.

    Args:
        path: What ``load_examples`` reads.
        format: A format's name; None finds it out.
        options: How to read; see ``load_examples``.
        count: Tokens of a text; None counts characters.
        max_length: Count the records whose texts are longer.
        other: Another file, such as the test set, whose pictures must not be among these.
        keep: Called with each good example.
        left_out: Called with record, kind and line of each fault.
        advance: Called once a record, for a progress bar.

    Raises:
        DataError: the file cannot be read at all.
        ConfigError: an unknown format or column.
    """
    name, reason, records = open_records(path, format, options)
    others = _pictures_of(other, options) if other is not None else None
    found = Audit(str(path), name, reason, "characters" if count is None else "tokens")
    seen, pictures = _Seen(), set[bytes]()
    for record in without_blank(records, found.notes):
        found.records += 1
        advance()
        try:
            if record.fault is not None:
                raise record.fault
            example = read_example(FORMATS[name], record, options, notes=found.notes)
            _check_response(example, record)
        except DataError as raised:
            error = raised.at(file=record.file, record=record.place.record)
            kind = "broken record" if record.fault is not None else fault_kind(error)
            _count_fault(found, kind, error, skip=options.on_missing == "skip")
            if left_out is not None:
                left_out(record.place.record, kind, str(error))
            continue
        keys = [picture_key(image) for image in example.images]
        pictures.update(keys)
        _count_good(found, example, seen.add(example, keys), count or len, max_length)
        if keep is not None:
            keep(example)
    found.pictures = len(pictures)
    found.overlooked = None if found.with_pictures else overlooked_pictures(found.notes, options, path)
    if others is not None:
        found.shared = len(pictures & others.pictures)
        found.records_in_other, found.unreadable_in_other = others.records, others.unreadable
        found.first_in_other = others.first
    return found


def _check_response(example: Example, record: Record) -> None:
    """Whether the response can be trained; a fault names the record as all others do, with its line."""
    try:
        build_completion(example)
    except DataError as error:
        raise record.place.error(error.message, field=error.field, remedy=error.remedy) from error


def fault_kind(error: DataError) -> str:
    """The name under which a fault is counted."""
    if isinstance(error, SegmentError):
        return error.kind
    return next((kind for part, kind in _KINDS if part in error.message), f"unusable {error.field or 'record'}")


def picture_key(image: Any) -> bytes:
    """A digest of a picture's file or pixels, equal for equal ones wherever they lie."""
    if isinstance(image, str | os.PathLike):
        with Path(image).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()[:16]
    data = image if isinstance(image, bytes) else image.tobytes()
    return hashlib.blake2b(data).digest()[:16]


class _Seen:
    """Which questions and responses occurred, as digests."""

    def __init__(self) -> None:
        self.asked: dict[bytes, bytes] = {}
        self.whole: set[bytes] = set()

    def add(self, example: Example, pictures: list[bytes]) -> tuple[bool, bool]:
        """(repeated, contradicting)"""
        said = [f"{turn.role}{turn.images}{turn.text}".encode() for turn in example.context]
        question = _digest(render_question(example.question, example.choices).encode(), *said, b"", *pictures)
        response = example.response if example.response is not None else example.think or ""
        whole = _digest(question, response.encode(), example.answer.encode())
        answer = _digest(example.answer.strip().casefold().encode())
        repeated = whole in self.whole
        self.whole.add(whole)
        return repeated, self.asked.setdefault(question, answer) != answer


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).digest()


def _count_fault(found: Audit, kind: str, error: DataError, *, skip: bool) -> None:
    if skip and isinstance(error, SegmentError):
        found.skipped[kind] += 1
        return
    found.faults[kind] += 1
    lines = found.first.setdefault(kind, [])
    if len(lines) < FIRST:
        lines.append(str(error))


def _count_good(
    found: Audit, example: Example, met: tuple[bool, bool], count: Callable[[str], int], max_length: int | None
) -> None:
    asked = "\n".join([*(turn.text for turn in example.context), render_question(example.question, example.choices)])
    texts = (asked, example.think or "", example.answer)
    lengths = [count(text) for text in texts]
    for part, length in zip(PARTS, lengths, strict=True):
        found.lengths[part].append(length)
    found.good += 1
    found.with_pictures += bool(example.images)
    found.sources[example.source] += 1
    found.without_think += example.think is None
    found.too_long += max_length is not None and sum(lengths) > max_length
    found.repeated += met[0]
    found.contradicting += met[1]


@dataclass(slots=True)
class _Other:
    """The pictures of another file as digests, and what of it could not be read."""

    pictures: set[bytes] = field(default_factory=set)
    records: int = 0
    unreadable: int = 0
    first: str | None = None

    def fail(self, error: DataError, count: int) -> None:
        self.unreadable, self.first = count, self.first or str(error)


def _pictures_of(path: Path, options: Options) -> _Other:
    lenient = replace(options, on_missing="train", answer_from=None, columns={})
    try:
        name, _, records = open_records(path, None, replace(lenient, columns=options.columns))
    except DataError:
        name, _, records = open_records(path, None, lenient)
    other, notes = _Other(), Notes()
    for record in records:
        other.records += 1
        try:
            pictures = _shown_by(record, FORMATS[name], lenient, notes)
            other.pictures.update(map(picture_key, pictures))
        except DataError as error:
            other.fail(error.at(file=record.file, record=record.place.record), other.unreadable + 1)
    overlooked = overlooked_pictures(notes, lenient, path)
    if overlooked is not None:
        other.fail(overlooked, other.records)
    return other


def _shown_by(record: Record, reader: Format, options: Options, notes: Notes) -> Sequence[Any]:
    """The pictures of a record, which needs no answer for that."""
    if record.fault is not None:
        raise record.fault
    try:
        return read_example(reader, record, options, notes=notes).images
    except DataError as error:
        with suppress(DataError):
            given = given_pictures(record, image_root=options.image_root, allow_outside=options.allow_outside)
            if given:
                notes.pictured += 1
                return given
        raise error


def _percentiles(values: array) -> Mapping[str, int]:
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {f"p{share}" if share < 100 else "max": ordered[round(share / 100 * last)] for share in PERCENTILES}
