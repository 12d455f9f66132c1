"""Files that hold records: JSON lines, JSON, parquet, CSV and TSV.

Every format reads its records from here, one at a time and each with its place, so that a fault names file and line.
What it leaves out: folders and hub ids (``folders``), what the fields of a record mean (the formats), pictures.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from balanced_thinking.data.formats.cells import called, read_rows, separator_of
from balanced_thinking.data.formats.jsontext import DEEP, SHALLOWER, read_values
from balanced_thinking.data.rowcheck import Place
from balanced_thinking.errors import DataError

KNOWN = ".jsonl, .json, .parquet, .csv, .tsv, or a folder"
# What every format reads of a record: its name, where its pictures lie, what its answer is.
KEPT = ("id", "source", "split", "image", "images", "answer", "kind", "choices")
BATCH = 64
_BLANK = b"\xef\xbb\xbf \t\r\n"
# A line may be as long as the file; so much of it tells what it is.
_LINE = 1 << 24
_FIRST_VALUE = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*[^\s{]', re.DOTALL)


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

    @property
    def blank(self) -> bool:
        """Whether it has columns, and nothing stands in any: tables often end with such lines."""
        return bool(self.fields) and all(value is None or value == "" for value in self.fields.values())

    def text(self, name: str) -> str:
        """The text in a field, without outer white space; "" where it is absent.

        Raises:
            DataError: something else is there.
        """
        value = self.fields.get(name)
        if not isinstance(value, str | None):
            remedy = "write it as text, or name another column with columns"
            raise self.place.error(f"must be text, not {type(value).__name__}", field=name, remedy=remedy)
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
                if not line.strip(_BLANK):
                    continue
                label = f"line {line_number}"
                try:
                    yield _record(_parsed(line, path, line_number), path, number, label)
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
        if _is_lines(path):
            yield from _lines(path)
            return
        for number, value in enumerate(read_values(path)):
            label = f"row {number}"
            if isinstance(value, DataError):
                yield Record({}, path, number, label, value.at(record=label))
            else:
                yield _record(value, path, number, label)
    except OSError as error:
        raise unreadable(path, error) from error


def _is_lines(path: Path) -> bool:
    """Whether the first line that is not blank is an object, and not one of records by id.

    Where it cannot be read, its first value tells, and that the next line, if there is one, opens an object too.
    """
    with path.open("rb") as file:
        while (start := file.read(1)) and start in _BLANK:
            pass
        if start != b"{":
            return False
        first = start + file.readline(_LINE)
        following = file.readline(_LINE).lstrip() if first.endswith(b"\n") else b""
    try:
        value = json.loads(first if len(first) <= _LINE else b"")
    except (ValueError, RecursionError):
        return _FIRST_VALUE.match(first) is not None and following[:1] in (b"", b"{")
    return not all(isinstance(inner, dict) for inner in value.values()) or not value


def _table(path: Path) -> Iterator[Record]:
    """CSV and TSV with a header; empty cells count as absent."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            separator, before = separator_of(file, usual)
            remark = f"its cells are parted by {called(separator)}" if separator != usual else None
            for number, (line, row) in enumerate(read_rows(file, separator, path, before=before)):
                if isinstance(row, DataError):
                    yield Record({}, path, number, f"line {line}", row)
                    continue
                record = _record({name: cell or None for name, cell in row.items()}, path, number, f"line {line}")
                yield replace(record, remark=remark)
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
    fault = _unusable(value)
    if fault is not None:
        return Record({}, path, number, label, fault.at(file=path, record=label))
    return Record(value, path, number, label)


def _unusable(value: Any) -> DataError | None:
    """Why no tool could pass a record on: no named fields, half characters, or lists in lists without end."""
    if not isinstance(value, dict):
        message = f"a record must be an object with named fields, not {type(value).__name__}"
        return DataError(message, remedy='write {"name": value, ..}, or leave it out')
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return DataError("the text holds half a character (a lone surrogate)", remedy="save the file again")
    except RecursionError:
        return DataError(DEEP, remedy=SHALLOWER)
    return None


def _parsed(line: bytes, path: Path, number: int) -> Any:
    label = f"line {number}"
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        message = f"not UTF-8 (byte 0x{line[error.start]:02x})"
        raise DataError(message, file=path, record=label, remedy="save the file as UTF-8") from error
    except RecursionError as error:
        raise DataError(DEEP, file=path, record=label, remedy=SHALLOWER) from error
    except ValueError as error:
        cut = not line.endswith(b"\n")
        message = "the file ends in the middle of a record" if cut else f"not a line of JSON ({error})"
        remedy = "write the file again" if cut else "mend the line; each record is one line"
        raise DataError(message, file=path, record=label, remedy=remedy) from error


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
