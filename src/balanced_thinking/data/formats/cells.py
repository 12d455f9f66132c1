"""Rows of CSV and TSV: which character parts the cells, and where each row begins.

A row that cannot be parsed is a fault of its own, and the rows behind it are read. What it leaves out: records
(``source``), what columns mean (the formats).
"""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from balanced_thinking.errors import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_QUOTED = re.compile(r'"[^"]*"')


def separator_of(file: IO[str], usual: str) -> str:
    """What parts the cells: the usual character, or where the header has none of it, the one that it has instead."""
    header = _QUOTED.sub("", file.readline())
    file.seek(0)
    found = max(SEPARATORS, key=lambda each: (each in header and each == usual, header.count(each)))
    return found if found in header else usual


def read_rows(file: IO[str], separator: str, path: Path) -> Iterator[tuple[int, dict[str, str] | DataError]]:
    """Each row as (the line in which it begins, its cells by column), or its fault instead of them.

    Raises:
        DataError: the header cannot be used.
    """
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(file, delimiter=separator, strict=True)
    header = _header(rows, path)
    while True:
        start = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, _not_a_row(error, start, rows.line_num, path)
            continue
        if not cells:
            continue
        if len(cells) == len(header):
            yield start, dict(zip(header, cells, strict=True))
            continue
        message = f"the row has not as many cells as the header ({len(header)}): it has {len(cells)}"
        remedy = f"put text with {SEPARATORS[separator]} in quotes"
        yield start, DataError(message, file=path, record=f"line {start}", remedy=remedy)


def _header(rows: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(filter(None, rows), [])
    except csv.Error as error:
        raise _not_a_row(error, 1, 1, path) from error
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the header names {twice!r} twice", file=path, remedy="rename one of the columns")
    return header


def _not_a_row(error: csv.Error, start: int, end: int, path: Path) -> DataError:
    """A quote that is never closed takes all that follows with it, so how far it reached is said."""
    reached = f", read to line {end}" if end > start else ""
    remedy = "close each quote that opens a cell; quotes inside a quoted cell are doubled"
    return DataError(f"not a row of a table ({error}{reached})", file=path, record=f"line {start}", remedy=remedy)
