"""Which data set each row of a run comes from, and whether its rows are those of another day.

What it leaves out: reading rows (``dataset``), comparing with an earlier attempt (``attempts``).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any


class Origins:
    """Which data set each row of a run comes from: those of one lie together, and no two rows share an id.

    ``digest`` tells whether rows are those of another day; None in a process that read none.
    """

    def __init__(self) -> None:
        self._ends: list[tuple[str, Sequence[int]]] = []
        self._seen: Any = None

    @property
    def digest(self) -> str | None:
        """SHA-256 (16 digits) of all rows; of a picture in a file its path and size, since bytes would take long."""
        return None if self._seen is None else self._seen.hexdigest()[:16]

    def add(self, row: Mapping[str, Any]) -> None:
        """Say that a row was read."""
        self._seen = hashlib.sha256() if self._seen is None else self._seen
        rest = {key: value for key, value in row.items() if key != "images"}
        self._seen.update(json.dumps(rest, sort_keys=True, default=str).encode())
        for picture in row["images"]:
            self._seen.update(_trace(picture))

    def end(self, name: str, *counts: int) -> None:
        """Say that ``name`` ends at these numbers of rows to train and to evaluate on."""
        self._ends.append((name, counts))

    def of(self, record: str | int | None, *sets: Any) -> str | None:
        """The name of the data set that holds a record; None where it is not known."""
        for number, rows in enumerate(sets):
            ids = [] if rows is None or record is None else list(rows["id"])
            if record in ids:
                at = ids.index(record)
                return next((name for name, counts in self._ends if at < counts[number]), None)
        return None


def _trace(picture: Any) -> bytes:
    """What tells a picture from another one without reading a file."""
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path") or ""
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).digest()
    file = picture if isinstance(picture, str | PathLike) else getattr(picture, "filename", "")
    if file:
        place = Path(file)
        return f"{place} {place.stat().st_size if place.is_file() else None}".encode()
    return f"{picture.mode} {picture.size}".encode() + hashlib.sha256(picture.tobytes()).digest()
