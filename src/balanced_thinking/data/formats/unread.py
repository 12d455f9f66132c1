"""Fields that a record has and its format does not read: counted, and named where they seem to be meant.

Published data sets carry much that nobody needs to read (ids, categories, sizes), so a field is passed over in silence
unless its name is almost one that is read, or it looks like pictures. What it leaves out: keys of messages (``trl``).
"""

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from balanced_thinking.data.formats.options import SYSTEM, Notes, Options
from balanced_thinking.data.formats.response import LIKE_THINK, plain_name
from balanced_thinking.data.formats.source import Record
from balanced_thinking.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_HEADS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
# No other field is lost where one of these has another name, and many are near them (idx, source_id).
_ASIDE = ("id", "source", "split", "kind")
_PICTURES = ("image", "images", "file_name", "path")
_CALLED = frozenset(
    f"{name}{more}{many}"
    for name in ("picture", "pic", "img", "photo", "image")
    for more in ("", "_path", "_file", "_url")
    for many in ("", "s")
)
_NEAR = 0.8
_LOOKED_AT = 3


def near_field(name: str, known: tuple[str, ...], fields: Mapping[str, Any]) -> str | None:
    """The known field that ``name`` almost spells; None where it is one itself, or the record has that field too."""
    if name in known:
        return None
    return next((near for near in _close(name, known) if not _filled(fields.get(near))), None)


@lru_cache(maxsize=1024)
def _close(name: str, known: tuple[str, ...]) -> list[str]:
    targets = [field for field in known if field not in _ASIDE]
    return difflib.get_close_matches(name.lower(), targets, n=2, cutoff=_NEAR)


def note_fields(record: Record, known: tuple[str, ...], options: Options, *, notes: Notes, pictured: bool) -> None:
    """Count a record with pictures, and the fields that its format does not read, as far as they are worth a word.

    Args:
        record: The record, with our names for its columns.
        known: The fields that its format reads.
        options: How it is read, for a remedy that can be pasted.
        notes: Where they are counted.
        pictured: Whether an example with pictures was read from it.
    """
    notes.pictured += pictured
    pictured = pictured or any(name in known and _filled(record.fields.get(name)) for name in _PICTURES)
    for name, value in record.fields.items():
        if name in known or not _filled(value):
            continue
        notes[SYSTEM] += name == "system" and isinstance(value, str)
        if trace_field(record, known) == name:
            notes[
                f"the field {name} is not read; did you mean reasoning? {columns_option(options, 'reasoning', name)}"
            ] += 1
            continue
        shows, near = looks_like_pictures(value), near_field(name, known, record.fields)
        if name.lower() in _CALLED and isinstance(value, str) and not shows:
            shows = _is_file(value, record, options)
        if near in _PICTURES or near is None:
            called = (near or name.lower() in _CALLED) and not isinstance(value, int | float)
            near = (near or "image") if not pictured and (shows or called) else None
        if near:
            notes[f"the field {name} is not read; did you mean {near}? {columns_option(options, near, name)}"] += 1
        elif shows:
            notes[f"the field {name}, which looks like pictures, is not read"] += 1
        if not pictured:
            notes.unread_pictures[name] += 1 if shows and not _is_remote(value) else -1


def trace_field(record: Record, known: tuple[str, ...]) -> str | None:
    """The field that seems to hold the trace of a record whose format reads one by its name, and finds none."""
    if "reasoning" not in known or _filled(record.fields.get("reasoning")):
        return None
    texts = {name: value for name, value in record.fields.items() if name not in known and isinstance(value, str)}
    return next((name for name, text in texts.items() if text.strip() and plain_name(name) in LIKE_THINK), None)


def overlooked_pictures(notes: Notes, options: Options, path: Path) -> DataError | None:
    """The fault of a data set without any picture, of which a field that is not read plainly holds pictures."""
    name, surplus = max(notes.unread_pictures.items(), key=lambda pair: pair[1], default=("", 0))
    if notes.pictured or surplus <= 0:
        return None
    message = "no record has a picture, but this field, which is not read, holds pictures"
    remedy = f"name it with {columns_option(options, 'image', name)} (in Python columns=)"
    remedy += ", or take it out of the data if the questions can do without"
    return DataError(message, file=path, field=name, remedy=remedy)


def columns_option(options: Options, ours: str, theirs: str) -> str:
    """What the user can add to have the field ``theirs`` read as ``ours``."""
    return f"--columns '{json.dumps({**options.columns, ours: theirs}, ensure_ascii=False)}'"


def _filled(value: Any) -> bool:
    """Whether something is there; an array has no truth of its own."""
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def looks_like_pictures(value: Any) -> bool:
    """Whether a value is a picture, names one by its suffix, or is a list of such."""
    if isinstance(value, str):
        return value.rstrip().lower().endswith(SUFFIXES) or value.startswith("data:image/")
    if isinstance(value, bytes):
        return value.startswith(_HEADS)
    if isinstance(value, Mapping):
        return any(looks_like_pictures(value[key]) for key in ("bytes", "path") if value.get(key))
    if isinstance(value, list | tuple):
        return bool(value) and all(map(looks_like_pictures, value[:_LOOKED_AT]))
    return hasattr(value, "tobytes") and hasattr(value, "mode")


def _is_remote(value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) else value
    return isinstance(first, str) and first.startswith(("http://", "https://"))


def _is_file(path: str, record: Record, options: Options) -> bool:
    homes = [record.folder, *([options.image_root] if options.image_root else [])]
    try:
        return any((home / path).is_file() for home in homes)
    except (OSError, ValueError):  # a text that can be no path
        return False
