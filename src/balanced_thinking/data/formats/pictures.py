r"""Pictures that records name: where they are, and whether they can be read.

A relative path is tried in ``image_root``, then beside the data file, then in folders ``images`` and ``iconqa`` of
both and in ``<split>/<id>/`` of both (as ScienceQA and IconQA are unpacked). Paths that lead out of those folders are
refused unless asked for: a data set from elsewhere must not read any file of the machine into a training run. A path
that Windows wrote (``pics\a.png``) is read with ``/``; a long text that begins as the base64 of a picture does is one.
What it leaves out: decoding (``rowcheck``).
"""

# Text instead of pathlib, since these lines run once a picture.
# ruff: noqa: PTH100, PTH110, PTH113, PTH117, PTH118, PTH120

import os
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from balanced_thinking.data.formats.options import Notes
from balanced_thinking.data.formats.source import Record
from balanced_thinking.data.images import plain_picture, read_header, shortened
from balanced_thinking.data.rowcheck import normalise_messages, read_images
from balanced_thinking.errors import DataError

# How base64 of PNG, JPEG, GIF and WebP begins; no path is like that and so long, and base64 throughout.
_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
_SHORTEST, _LONGEST_PATH = 64, 4096
_QWENS_LARGEST_RATIO = 200


def resolve_picture(
    value: Any, record: Record, *, image_root: Path | None, allow_outside: bool, notes: Notes | None = None
) -> Any:
    """The picture as a full path, as encoded bytes, or as it was given; its header has been read.

    Args:
        value: The picture as the record gives it.
        record: The record, for its place.
        image_root: Where relative paths are tried first.
        allow_outside: Whether a path may lead out of the folder of the data.
        notes: Counts paths that could only be found with ``/`` for ``\\``, and pictures that may surprise.

    Raises:
        DataError: no such picture, a path outside the data folder, or a picture that cannot be read.
    """
    try:
        value = _of_base64(plain_picture(value))
    except DataError as error:
        raise error.at(file=record.file, record=record.place.record) from error
    if isinstance(value, str | os.PathLike):
        value = _find_either(os.fspath(value), record, image_root, allow_outside, notes)
    try:
        header = read_header(value, record=record.place.record)
    except DataError as error:
        raise error.at(file=record.file) from error
    if notes is not None:
        notes["a picture has an alpha channel; what is transparent is shown on white"] += header.transparent
        notes["a picture is over 200 times as long as wide, which Qwen's models refuse"] += too_long(header.size)
    return value


def too_long(size: tuple[int, int]) -> bool:
    """Whether one side is more than 200 times the other."""
    return max(size) > _QWENS_LARGEST_RATIO * min(size)


def given_pictures(record: Record, *, image_root: Path | None, allow_outside: bool) -> list[Any]:
    """The pictures that a record names in its fields or in parts of its messages, whatever else it lacks.

    Raises:
        DataError: as ``resolve_picture``, or pictures and their places differ in number.
    """
    fields, place = record.fields, record.place
    given = read_images(fields, place) or [fields[name] for name in ("file_name",) if fields.get(name)]
    for field in ("messages", "prompt"):
        if isinstance(fields.get(field), list):
            _, given = normalise_messages(fields[field], given, place=place, field=field, marked=True)
    return [resolve_picture(each, record, image_root=image_root, allow_outside=allow_outside) for each in given]


def _find_either(path: str, record: Record, image_root: Path | None, allow_outside: bool, notes: Notes | None) -> str:
    """The file of a path as it stands, else with ``/`` for ``\\``; the fault is that of the path as it stands."""
    try:
        return _find(path, record, image_root, allow_outside)
    except DataError:
        if "\\" not in path:
            raise
        try:
            found = _find(path.replace("\\", "/"), record, image_root, allow_outside)
        except DataError:
            found = None
        if found is None:
            raise
    if notes is not None:
        notes["a picture was found only with / for the \\ in its path"] += 1
    return found


def _find(path: str, record: Record, image_root: Path | None, allow_outside: bool) -> str:
    path = _of_url(path)
    if "://" in path:
        remedy = "download the pictures and give their paths"
        message = f"the picture {shortened(path)} is not on this machine"
        raise record.place.error(message, field="images", remedy=remedy)
    folder = _absolute(record.folder)
    homes = [folder] if image_root is None else [_absolute(image_root), folder]
    # Not for paths that go up: one folder deeper, they would stay inside.
    below = ("",) if os.path.normpath(path).startswith("..") else ("", "images", "iconqa")
    places = [os.path.join(home, name) for name in below for home in homes]
    if record.fields.get("id") is not None:
        split = str(record.fields.get("split") or record.file.stem)
        own = os.path.join(split, str(record.fields["id"]))
        places += [os.path.join(home, name, own) for name in below[:2] for home in homes]
    tried = [os.path.normpath(os.path.join(place, path)) for place in places]
    inside = [name for name in tried if allow_outside or any(_is_within(name, home) for home in homes)]
    if not inside:
        if os.path.isabs(path) and not os.path.exists(path):
            remedy = "name pictures relative to the data file, or give image_root, the folder of relative paths"
            message = f"no such picture: {shortened(path)} (a full path, perhaps of another machine)"
            raise record.place.error(message, field="images", remedy=remedy)
        remedy = "move the picture, or set allow_outside if you trust the file"
        message = f"the picture {shortened(path)} lies outside the folder of the data"
        raise record.place.error(message, field="images", remedy=remedy)
    for name in inside:
        if os.path.isfile(name):
            return name
    unpacked = [os.path.join(home, name) + os.sep for home in homes for name in ("images", "iconqa")]
    looked = dict.fromkeys(os.path.dirname(name) for name in inside if not name.startswith(tuple(unpacked)))
    folders = ", ".join(map(shortened, looked or [os.path.dirname(inside[0])]))
    remedy = "give image_root, the folder of the pictures"
    message = f"no such picture: {shortened(path)} (looked in {folders})"
    raise record.place.error(message, field="images", remedy=remedy)


def _of_base64(value: Any) -> Any:
    """The bytes of a picture that is given as base64 text, as VLMEvalKit's tables do; anything else as it is."""
    if not isinstance(value, str) or len(value) < _SHORTEST or not value.lstrip().startswith(_BASE64):
        return value
    try:
        return b64decode("".join(value.split()), validate=True)
    except ValueError as error:
        if len(value) <= _LONGEST_PATH:
            return value
        remedy = "write it again; it may be cut off"
        raise DataError(f"the picture {shortened(value)} is not base64", field="images", remedy=remedy) from error


def _of_url(path: str) -> str:
    """The path of a file on this machine that is given as ``file:///a.png``; anything else as it is."""
    host, _, rest = path.removeprefix("file://").partition("/")
    return f"/{unquote(rest)}" if path.startswith("file://") and host in ("", "localhost") else path


def _is_within(name: str, home: str) -> bool:
    """Compared as written: links inside the folder were put there by the user, and hub caches consist of them."""
    return name.startswith(home.rstrip(os.sep) + os.sep)


def _absolute(path: Path) -> str:
    """Without following links, see above."""
    return os.path.abspath(path)
