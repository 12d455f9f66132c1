"""Values of a JSON file, one at a time: the elements of a list, or the records of an object by name.

Each is read by Python's own parser, as a line of JSON lines is, so that both mean the same (NaN, half characters,
depth), and what it cannot read of a value is that value's own fault: the values behind it are read. In memory are one
value and the block that it lies in. What it leaves out: what a value must be (``source``).
"""

import codecs
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from json import JSONDecodeError
from pathlib import Path
from typing import IO, Any

from balanced_thinking.errors import DataError

_BLOCK = 1 << 18
# So near to the end of what was read a number or word may go on.
_CUT = 16
_SPACE = re.compile(r"[ \t\n\r]*")
# A string, the beginning of one, or a bracket.
_PART = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
_UNDECODED = re.compile("[\udc80-\udcff]")
_DECODER = json.JSONDecoder()
DEEP = "lists or objects are nested too deeply"
SHALLOWER = "take the inner levels out, or leave the record out"


def read_values(path: Path) -> Iterator[Any]:
    """The values in order; instead of one that cannot be read, its fault.

    Raises:
        DataError: the file is neither a list nor an object of records, or is no JSON from some point on.
        OSError: it cannot be read at all.
    """
    with path.open("rb") as file:
        text = _Text(file)
        try:
            for value in _values(text, path):
                yield value.at(file=path) if isinstance(value, DataError) else value
        except JSONDecodeError as error:
            line = text.line + text.text.count("\n", 0, error.pos)
            message = f"not JSON ({error.msg}, line {line})"
            raise DataError(message, file=path, remedy="write the file again; it may be cut off") from error


def not_utf8(text: str) -> str | None:
    """What is wrong with a text that was decoded with ``surrogateescape`` and holds bytes that are not UTF-8."""
    found = _UNDECODED.search(text)
    return f"not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x})" if found else None


def _values(text: "_Text", path: Path) -> Iterator[Any]:
    opening = text.next()
    if not opening:
        return
    if opening not in "[{":
        value = text.value()
        if isinstance(value, DataError):
            raise value.at(file=path)
        message = f"the file holds {type(value).__name__}, not a list of records"
        raise DataError(message, file=path, remedy="give a list of records")
    named, more = opening == "{", text.take(opening) and text.next() not in ("]", "}")
    pairs = _pairs(text, named=named) if more else iter(())
    # Of an object the first two show whether it is one of records, or a record itself.
    first = list(islice(pairs, 2 if named else 0))
    if not all(isinstance(value, dict | DataError) for _, value in first):
        remedy = "give a list of records, or one record a line"
        raise DataError("the file holds an object, not a list of records", file=path, remedy=remedy)
    for name, value in chain(first, pairs):
        yield {"id": name, **value} if named and isinstance(value, dict) else value
    text.take("}" if named else "]")
    if text.next():
        raise JSONDecodeError("Extra data", text.text, text.at)


def _pairs(text: "_Text", *, named: bool) -> Iterator[tuple[Any, Any]]:
    """Each value with its name, up to the bracket behind the last."""
    more = True
    while more:
        name = text.value() if named else None
        if named and (text.take(":") and not isinstance(name, str | DataError)):
            raise JSONDecodeError("Expecting a name in quotes", text.text, text.at)
        yield name, text.value()
        more = text.next() not in ("]", "}") and text.take(",")


class _Text:
    """The text of a file from where it was read to, as far as it was needed.

    Attributes:
        text: What is in memory of it.
        at: The place in it up to which it was read.
        line: The line in which it begins.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.text, self.at, self.line = "", 0, 1
        self._file, self._ended, self._is_utf8 = file, False, True
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def next(self) -> str:
        """The next character that is no white space, "" at the end; it is not taken."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or self._ended:
                return self.text[self.at : self.at + 1]
            self._more()

    def take(self, mark: str) -> bool:
        """True, behind the mark, which must come next."""
        if self.next() != mark:
            raise JSONDecodeError(f"Expecting '{mark}' delimiter", self.text, self.at)
        self.at += 1
        return True

    def value(self) -> Any:
        """The next value, or its fault."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except JSONDecodeError as error:
                goes_on = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _CUT
                if self._ended or not goes_on:
                    raise
            except RecursionError:
                self._skip()
                return DataError(DEEP, remedy=SHALLOWER)
            except ValueError as error:  # a number of thousands of digits
                self._skip()
                return DataError(f"not JSON ({error})", remedy="mend the record, or leave it out")
            else:
                if self._ended or end < len(self.text) - _CUT:
                    start, self.at = self.at, end
                    fault = None if self._is_utf8 else not_utf8(self.text[start:end])
                    return DataError(fault, remedy="save the file as UTF-8") if fault else value
            self._more()

    def _skip(self) -> None:
        """Go behind a list or object without reading it."""
        if self.next() not in "[{":
            raise JSONDecodeError("Unreadable value", self.text, self.at)
        depth = 0
        while True:
            part = _PART.search(self.text, self.at)
            if part is None or part[0] == '"':
                if self._ended:
                    raise JSONDecodeError("Unterminated value", self.text, self.at)
                self.at = part.start() if part else len(self.text)
                self._more()
                continue
            self.at = part.end()
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(part[0], 0)
            if not depth:
                return

    def _more(self) -> None:
        """Read on, as much again as is in memory, so that a long value is not begun too often."""
        self.line += self.text.count("\n", 0, self.at)
        rest = self.text[self.at :]
        block = self._file.read(max(_BLOCK, len(rest)))
        self._ended = not block
        self.text, self.at = rest + self._decoded(block), 0

    def _decoded(self, block: bytes) -> str:
        state = self._decoder.getstate()
        try:
            return self._decoder.decode(block, self._ended)
        except UnicodeDecodeError:
            self._is_utf8 = False
            self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
            self._decoder.setstate(state)
            return self._decoder.decode(block, self._ended)
