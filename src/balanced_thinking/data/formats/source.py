"""Files that hold records: JSON lines, JSON, parquet and data sets saved by ``datasets``.

Every format reads its records from here, one at a time and each with its place, so that a fault names file and line.
What it leaves out: what the fields of a record mean (the formats), pictures (``pictures``).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from balanced_thinking.data.rowcheck import Place
from balanced_thinking.errors import DataError

KNOWN = ".jsonl, .json, .parquet, or a folder written by datasets' save_to_disk"
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in its file.

    Attributes:
        fields: Its columns; those that are None count as absent.
        file: The file, or the folder of a saved data set.
        number: Its number in the file, from 0.
        label: Its place for a reader: ``line 3`` (from 1) in JSON lines, else ``row 2`` (from 0).
    """

    fields: dict[str, Any]
    file: Path
    number: int
    label: str

    @property
    def place(self) -> Place:
        """Where the record is, with its id if it has one."""
        name = self.fields.get("id")
        return Place(self.label if name is None else f"{name} ({self.label})", self.file)

    @property
    def folder(self) -> Path:
        """The folder to which relative picture paths belong."""
        return self.file if self.file.is_dir() else self.file.parent

    def with_fields(self, fields: dict[str, Any]) -> "Record":
        """The same record with other columns."""
        return replace(self, fields=fields)


def read_records(path: Path) -> Iterator[Record]:
    """All records of ``path``, in order.

    Raises:
        DataError: no such file, an unknown kind of file, not UTF-8, broken JSON, or a record that is not an object.
    """
    if path.is_dir():
        return _saved_dataset(path)
    if not path.exists():
        raise DataError("no such file", file=path, remedy="check the path")
    readers = {".jsonl": _lines, ".ndjson": _lines, ".json": _json, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"unknown kind of file {path.suffix!r}", file=path, remedy=f"known are {KNOWN}")
    return readers[path.suffix.lower()](path)


def _lines(path: Path) -> Iterator[Record]:
    number = 0
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                text = _decoded(line, path, f"line {line_number}", first=line_number == 1)
                if not text.strip():
                    continue
                yield _record(_parsed(text, path, line_number), path, number, f"line {line_number}")
                number += 1
    except OSError as error:
        raise _unreadable(path, error) from error


def _json(path: Path) -> Iterator[Record]:
    """A list of records; several objects one a line are read as JSON lines, since such files are often named so."""
    try:
        text = _decoded(path.read_bytes(), path, None, first=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    if text.lstrip()[:1] == "{":
        first_line = text.lstrip().split("\n", 1)[0]
        try:
            json.loads(first_line)
        except ValueError:
            remedy = "give a list of records, or one record a line"
            raise DataError("the file holds an object, not a list of records", file=path, remedy=remedy) from None
        yield from _lines(path)
        return
    try:
        values = json.loads(text) if text.strip() else []
    except ValueError as error:
        remedy = "write the file again; it may be cut off"
        raise DataError(f"not JSON ({error})", file=path, remedy=remedy) from error
    if not isinstance(values, list):
        message = f"the file holds {type(values).__name__}, not a list of records"
        raise DataError(message, file=path, remedy="give a list of records")
    yield from (_record(value, path, number, f"row {number}") for number, value in enumerate(values))


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow.parquet

    def rows() -> Iterator[Any]:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()

    return _numbered(rows(), path)


def _saved_dataset(path: Path) -> Iterator[Record]:
    from datasets import DatasetDict, load_from_disk

    inside = [path / name for name in ("dataset_info.json", "dataset_dict.json")]
    if not any(file.exists() for file in inside):
        found = sorted(item.name for item in path.iterdir() if item.suffix.lower() in (".jsonl", ".json", ".parquet"))
        remedy = f"name a file in it ({', '.join(found[:5])})" if found else f"known are {KNOWN}"
        raise DataError("the folder is not a data set saved by save_to_disk", file=path, remedy=remedy)
    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if isinstance(dataset, DatasetDict):
        if len(dataset) != 1:
            remedy = f"give one of {', '.join(str(path / name) for name in dataset)}"
            raise DataError(f"the folder holds {len(dataset)} splits", file=path, remedy=remedy)
        dataset = next(iter(dataset.values()))
    # As it is stored: pictures stay encoded.
    batches = dataset.with_format("arrow").iter(batch_size=_BATCH)
    return _numbered((row for batch in batches for row in batch.to_pylist()), path)


def _numbered(rows: Iterable[Any], path: Path) -> Iterator[Record]:
    number = 0
    try:
        for number, row in enumerate(rows):
            yield _record(row, path, number, f"row {number}")
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(path, error) from error


def _record(value: Any, path: Path, number: int, label: str) -> Record:
    if not isinstance(value, dict):
        message = f"a record must be an object with named fields, not {type(value).__name__}"
        raise DataError(message, file=path, record=label)
    return Record(value, path, number, label)


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
    except ValueError as error:
        cut = not text.endswith("\n")
        message = "the file ends in the middle of a record" if cut else f"not a line of JSON ({error})"
        remedy = "write the file again" if cut else "mend the line; each record is one line"
        raise DataError(message, file=path, record=f"line {number}", remedy=remedy) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"the file cannot be read ({error})", file=path, remedy="check the file and its permissions")
