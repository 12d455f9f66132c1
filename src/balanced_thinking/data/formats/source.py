"""Files that hold records: JSON lines, JSON, parquet, CSV and TSV.

Every format reads its records from here, one at a time and each with its place, so that a fault names file and line.
What it leaves out: folders and hub ids (``folders``), what the fields of a record mean (the formats), pictures.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import ijson

from balanced_thinking.data.formats.cells import SEPARATORS, read_rows, separator_of
from balanced_thinking.data.rowcheck import Place
from balanced_thinking.errors import DataError

KNOWN = ".jsonl, .json, .parquet, .csv, .tsv, or a folder"
# What every format reads of a record: its name, where its pictures lie, what its answer is.
KEPT = ("id", "source", "split", "image", "images", "answer", "kind", "choices")
BATCH = 64
_BLOCK = 1 << 16
_BACKSLASH = ord("\\")
_ESCAPE = len(rb"\ud83d")
_LOW = rb"[c-fC-F][0-9a-fA-F]{2}"
_HIGH = rb"[89abAB][0-9a-fA-F]{2}"
# The first escape of a character that takes two with no second behind it, or the second with no first before it.
# Whether these are escapes at all, or text behind an escaped backslash, is looked at one by one (_is_half).
_HALF = re.compile(
    rb"\\u[dD](?:%b(?!\\u[dD][c-fC-F])|%b(?<![^\\]\\u[dD]%b\\u[dD]...))" % (_HIGH, _LOW, _HIGH), re.DOTALL
)
_FIRST = re.compile(rb"\\u[dD]" + _HIGH)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in its file.

    Attributes:
        fields: Its columns; those that are None count as absent.
        file: The file, or the folder of a saved data set.
        number: Its number in the file, from 0.
        label: Its place for a reader: ``line 3`` (from 1) in JSON lines and tables, else ``row 2`` (from 0).
        fault: Why it cannot be read at all; its fields are empty then, and the records behind it can still be read.
        remark: What its file is read as where that is not the usual; said with the reason of the format.
    """

    fields: dict[str, Any]
    file: Path
    number: int
    label: str
    fault: DataError | None = None
    remark: str | None = None

    @property
    def place(self) -> Place:
        """Where the record is, with its id if it has one."""
        name = self.fields.get("id")
        return Place(self.label if name is None else f"{name} ({self.label})", self.file)

    @property
    def folder(self) -> Path:
        """The folder to which relative picture paths belong."""
        return self.file if self.file.is_dir() else self.file.parent

    def text(self, name: str) -> str:
        """The text in a field, without outer white space; "" where it is absent.

        Raises:
            DataError: something else is there.
        """
        value = self.fields.get(name)
        if not isinstance(value, str | None):
            raise self.place.error(f"must be text, not {type(value).__name__}", field=name)
        return (value or "").strip()

    def with_fields(self, fields: dict[str, Any]) -> "Record":
        """The same record with other columns."""
        return replace(self, fields=fields)


def read_file(path: Path) -> Iterator[Record]:
    """All records of a file, in order, one at a time; those that cannot be read carry their fault.

    Raises:
        DataError: no such file, an unknown kind of file, or one that is broken as a whole.
    """
    if not path.exists():
        raise DataError("no such file", file=path, remedy="check the path")
    if path.suffix.lower() not in READERS:
        raise DataError(f"unknown kind of file {path.suffix!r}", file=path, remedy=f"known are {KNOWN}")
    return READERS[path.suffix.lower()](path)


def _lines(path: Path) -> Iterator[Record]:
    number = 0
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                label = f"line {line_number}"
                try:
                    text = _decoded(line, path, label, first=line_number == 1)
                    if not text.strip():
                        continue
                    yield _record(_parsed(text, path, line_number), path, number, label)
                except DataError as error:
                    yield Record({}, path, number, label, error)
                number += 1
    except OSError as error:
        raise unreadable(path, error) from error


def _json(path: Path) -> Iterator[Record]:
    """A list of records, or an object of records by id.

    Several objects one a line are read as JSON lines, since such files are often named so.
    """
    try:
        head = _first_line_of_objects(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if head and _is_object(head):
        yield from _lines(path)
        return
    number = 0
    for number, value in enumerate(_values(path)):
        yield _record(value, path, number, f"row {number}")


def _first_line_of_objects(path: Path) -> bytes:
    """The first line that is not blank if it opens an object; an array's may be as long as the file."""
    with path.open("rb") as file:
        while start := file.read(1):
            if start == b"{":
                return start + file.readline()
            if start not in b"\xef\xbb\xbf \t\r\n":
                break
    return b""


def _is_object(line: bytes) -> bool:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except ValueError:
        return False
    return not all(isinstance(inner, dict) for inner in value.values()) or not value


def _values(path: Path) -> Iterator[Any]:
    """The values of a JSON file, read piece by piece; what that parser refuses, the plain one reads or explains."""
    given = 0
    try:
        with path.open("rb") as file:
            # The quick parser writes "?" for half a character and says nothing; the slow one keeps it to be refused.
            parser = ijson.get_backend("python") if _holds_half_characters(file) else ijson
            file.seek(0)
            file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)
            for value in _streamed(file, parser):
                yield value
                given += 1
        return
    except (ijson.JSONError, UnicodeDecodeError):
        pass
    except OSError as error:
        raise unreadable(path, error) from error
    yield from islice(_whole(path), given, None)


def _holds_half_characters(file: IO[bytes]) -> bool:
    """Whether a string escapes a lone surrogate (``\\ud800``), found block by block."""
    text, at = b"", 0
    while block := file.read(_BLOCK):
        text += block
        # What stands nearer to the end may go on in the next block.
        end = max(at, len(text) - 2 * _ESCAPE)
        if any(_is_half(text, found.start()) for found in _HALF.finditer(text, at) if found.start() < end):
            return True
        keep = max(0, end - 2 * _ESCAPE)
        while keep and text[keep - 1] == _BACKSLASH:
            keep -= 1
        text, at = text[keep:], end - keep
    return any(_is_half(text, found.start()) for found in _HALF.finditer(text, at))


def _is_half(text: bytes, at: int) -> bool:
    """Whether what looks like half a character is one: no pair's second, and no text behind an escaped backslash."""
    before = max(0, at - _ESCAPE)
    second = not _FIRST.match(text, at)
    paired = second and _FIRST.fullmatch(text, before, at) and _is_escape(text, before)
    return _is_escape(text, at) and not paired


def _is_escape(text: bytes, at: int) -> bool:
    """Whether the backslash there begins an escape, rather than end one of a backslash."""
    start = at
    while start and text[start - 1] == _BACKSLASH:
        start -= 1
    return (at - start) % 2 == 0


def _streamed(file: IO[bytes], parser: Any) -> Iterator[Any]:
    start = file.tell()
    first = next((event for _, event, _ in parser.parse(file)), None)
    file.seek(start)
    if first == "start_array":
        yield from parser.items(file, "item", use_float=True)
    elif first != "start_map":
        raise ijson.JSONError("neither a list nor an object")
    else:
        if not all(event == "start_map" for event in _kinds_of_values(file, parser)):
            raise ijson.JSONError("not an object of records")
        file.seek(start)
        for name, value in parser.kvitems(file, "", use_float=True):
            yield {"id": name, **value}


class _Pairs(dict):
    """An object that also keeps keys that occur twice, as the quick parser does."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _kinds_of_values(file: IO[bytes], parser: Any) -> Iterator[str]:
    """How the value of each key of the outermost object begins."""
    waits = False
    for prefix, event, _ in parser.parse(file):
        if waits:
            yield event
        waits = event == "map_key" and prefix == ""


def _whole(path: Path) -> Iterator[Any]:
    text = _decoded(path.read_bytes(), path, None, first=True)
    try:
        values = json.loads(text, object_pairs_hook=_Pairs) if text.strip() else []
    except (ValueError, RecursionError) as error:
        remedy = "write the file again; it may be cut off"
        raise DataError(f"not JSON ({error})", file=path, remedy=remedy) from error
    if isinstance(values, _Pairs):
        if not all(isinstance(value, dict) for _, value in values.pairs):
            remedy = "give a list of records, or one record a line"
            raise DataError("the file holds an object, not a list of records", file=path, remedy=remedy)
        values = [{"id": name, **value} for name, value in values.pairs]
    if not isinstance(values, list):
        message = f"the file holds {type(values).__name__}, not a list of records"
        raise DataError(message, file=path, remedy="give a list of records")
    yield from values


def _table(path: Path) -> Iterator[Record]:
    """CSV and TSV with a header; empty cells count as absent."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = separator_of(file, usual)
            remark = f"its cells are parted by {SEPARATORS[separator]}" if separator != usual else None
            for number, (line, row) in enumerate(read_rows(file, separator, path)):
                if isinstance(row, DataError):
                    yield Record({}, path, number, f"line {line}", row)
                    continue
                record = _record({name: cell or None for name, cell in row.items()}, path, number, f"line {line}")
                yield replace(record, remark=remark)
    except UnicodeDecodeError as error:
        remedy = "save the file as UTF-8"
        raise DataError(f"not UTF-8 (byte 0x{error.object[error.start]:02x})", file=path, remedy=remedy) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet

    def rows() -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()

    return numbered(rows(), path)


def numbered(rows: Iterable[Any], path: Path) -> Iterator[Record]:
    number = 0
    try:
        for number, row in enumerate(rows):
            yield _record(row, path, number, f"row {number}")
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise unreadable(path, error) from error


def _record(value: Any, path: Path, number: int, label: str) -> Record:
    if not isinstance(value, dict):
        message = f"a record must be an object with named fields, not {type(value).__name__}"
        return Record({}, path, number, label, DataError(message, file=path, record=label))
    fault = _unusable(value)
    if fault is not None:
        return Record({}, path, number, label, DataError(fault, file=path, record=label))
    return Record(value, path, number, label)


def _unusable(value: Any) -> str | None:
    """Why no tool could pass a record on: half characters, or lists in lists without end."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return "the text holds half a character (a lone surrogate); save the file again"
    except RecursionError:
        return "lists or objects are nested too deeply"
    return None


def _decoded(data: bytes, path: Path, label: str | None, *, first: bool) -> str:
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        lines_before = data.count(b"\n", 0, error.start)
        where = label or f"line {lines_before + 1}"
        message = f"not UTF-8 (byte 0x{data[error.start]:02x})"
        raise DataError(message, file=path, record=where, remedy="save the file as UTF-8") from error


def _parsed(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        message = "lists or objects are nested too deeply"
        raise DataError(message, file=path, record=f"line {number}") from error
    except ValueError as error:
        cut = not text.endswith("\n")
        message = "the file ends in the middle of a record" if cut else f"not a line of JSON ({error})"
        remedy = "write the file again" if cut else "mend the line; each record is one line"
        raise DataError(message, file=path, record=f"line {number}", remedy=remedy) from error


def unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"the file cannot be read ({error})", file=path, remedy="check the file and its permissions")


READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _table,
    ".tsv": _table,
}
