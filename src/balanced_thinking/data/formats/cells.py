"""Rows of CSV and TSV: which character parts the cells, and where each row begins.

A row that cannot be parsed is a fault of its own, and the rows behind it are read. What it leaves out: records
(``source``), what columns mean (the formats).
"""

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from balanced_thinking.data.formats.jsontext import not_utf8
from balanced_thinking.errors import DataError

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_QUOTED = re.compile(r'"[^"]*"')
# Excel writes it as a line of its own before the header.
_TOLD = re.compile(r'"?sep=([^"\w \r\n])"?\s*', re.IGNORECASE)


def separator_of(file: IO[str], usual: str) -> tuple[str, int]:
    """What parts the cells, and how many lines stand before the header; ``file`` is left there.

    It is what a line ``sep=;`` before the header says, else the usual character, or where the header has none of it,
    the one that it has instead.
    """
    first = file.readline()
    told = _TOLD.fullmatch(first)
    if told:
        return told[1], 1
    file.seek(0)
    header = _QUOTED.sub("", first)
    found = max(_SEPARATORS, key=lambda each: (each in header and each == usual, header.count(each)))
    return (found if found in header else usual), 0


def called(separator: str) -> str:
    """A separator in words."""
    return _SEPARATORS.get(separator, repr(separator))


def read_rows(
    file: IO[str], separator: str, path: Path, *, before: int = 0
) -> Iterator[tuple[int, Mapping[str, str] | DataError]]:
    """Each row as (the line in which it begins, its cells by column), or its fault instead of them.

    Args:
        file: Opened with ``errors="surrogateescape"``, so that a byte that is not UTF-8 is a fault of its row.
        separator: What parts the cells.
        path: The file, for faults.
        before: Lines of it that were read already.

    Raises:
        DataError: the header cannot be used.
    """
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(file, delimiter=separator, strict=True)
    header = _header(rows, path, before + 1)
    while True:
        start = before + rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, _not_a_row(error, start, before + rows.line_num, path)
            continue
        if not cells:
            continue
        fault = not_utf8("".join(cells))
        if fault:
            yield start, DataError(fault, file=path, record=f"line {start}", remedy="save the file as UTF-8")
            continue
        if len(cells) == len(header):
            yield start, dict(zip(header, cells, strict=True))
            continue
        message = f"the row has not as many cells as the header ({len(header)}): it has {len(cells)}"
        remedy = f"put text with {called(separator)} in quotes"
        yield start, DataError(message, file=path, record=f"line {start}", remedy=remedy)


def _header(rows: Iterator[list[str]], path: Path, line: int) -> list[str]:
    try:
        header = next(filter(None, rows), [])
    except csv.Error as error:
        raise _not_a_row(error, line, line, path) from error
    fault = not_utf8("".join(header))
    if fault:
        raise DataError(fault, file=path, record=f"line {line}", remedy="save the file as UTF-8")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the header names {twice!r} twice", file=path, remedy="rename one of the columns")
    return header


def _not_a_row(error: csv.Error, start: int, end: int, path: Path) -> DataError:
    """A quote that is never closed takes all that follows with it, so how far it reached is said."""
    reached = f", read to line {end}" if end > start else ""
    remedy = "close each quote that opens a cell; quotes inside a quoted cell are doubled"
    return DataError(f"not a row of a table ({error}{reached})", file=path, record=f"line {start}", remedy=remedy)
