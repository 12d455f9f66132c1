"""The clean copy of ``balanced check-data --fix``: good records, held-out ones, and what was left out and why.

Pictures that lie at or below its folder are named relative to it, so that the folder can be carried to another machine
as a whole; others keep their full path. What it leaves out: which records are good (``data.audit``).
"""

import json
import os
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from balanced_thinking.data.audit import picture_key
from balanced_thinking.data.example import Example
from balanced_thinking.data.records import is_held_out, to_trl_row
from balanced_thinking.errors import ConfigError
from balanced_thinking.runinfo import writing

# Not the split of training (``eval_fraction``), which would find all that it holds out taken away already.
_SALT = b"held out"
_REMEDY = "choose another place for --fix"


class CleanCopy:
    """Files that get their names when all of them are whole; as a context manager it removes them otherwise.

    Args:
        target: The .jsonl file of the good records; the others are named after it.
        hold_out: The share of pictures whose records go to a test file.

    Raises:
        ConfigError: one of the files is there already, or cannot be written.
    """

    def __init__(self, target: Path, hold_out: float | None) -> None:
        self._target, self._hold_out = target, hold_out
        names = ["", ".left_out", *([".test"] if hold_out else [])]
        self._files = [target.with_name(f"{target.stem}{name}.jsonl") for name in names]
        there = next((file for file in self._files if file.exists()), None)
        if there is not None:
            raise ConfigError(f"{there} is there already; choose another name for --fix")
        self._home = Path(os.path.abspath(target.parent))  # noqa: PTH100  as pictures are found: no links are followed
        self._parts = [file.with_name(f"{file.name}.part") for file in self._files]
        self._counts = [0] * len(names)
        self._inside, self._outside = 0, set[str]()
        self._stack = ExitStack()

    def __enter__(self) -> "CleanCopy":
        try:
            self._opened = [self._stack.enter_context(_open(part)) for part in self._parts]
        except ConfigError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for part in self._parts:
            if part.is_file():
                part.unlink()

    def keep(self, example: Example) -> None:
        """Write a good record to its side."""
        held_out = is_held_out(example, self._hold_out, salt=_SALT) if self._hold_out else False
        if held_out is None:
            self.leave_out(
                example.id, "pictures of both parts", f"record {example.id}: it shows pictures of both parts"
            )
            return
        row = to_trl_row(example)
        row["images"] = [self._name(image) for image in row["images"]]
        self._write(2 if held_out else 0, row)

    def leave_out(self, record: str, kind: str, line: str) -> None:
        """Write down why a record is in neither file."""
        self._write(1, {"record": record, "kind": kind, "fault": line})

    def finish(self) -> None:
        """Give the files their names.

        Raises:
            ConfigError: all good records fell on one side of the split.
        """
        kept, _, *held_out = self._counts
        if held_out and kept + held_out[0] and not (kept and held_out[0]):
            sides = f"leaves {kept:,} records in the copy and {held_out[0]:,} in the test file"
            raise ConfigError(f"--hold_out {self._hold_out} {sides}; pictures are too few for it, choose another share")
        self._stack.close()
        for part, file in zip(self._parts, self._files, strict=True):
            part.replace(file)

    def line(self) -> str:
        """Where the files are, and where they can be read from."""
        copy, left_out, *test = self._files
        held_out = f"; held out by picture: {test[0]} ({self._counts[2]:,})" if test else ""
        told = f"clean copy: {copy} ({self._counts[0]:,}){held_out}; left out: {left_out} ({self._counts[1]:,})"
        if self._outside:
            home = _common(self._outside)
            root = f"image_root {home}" if home else "allow_outside"
            told += f"\npictures that lie outside its folder are named by their full paths; read it with {root}"
        elif self._inside:
            told += f"\nits pictures are named relative to it, so {self._home} can be copied elsewhere as a whole"
        return told

    def _write(self, number: int, row: dict[str, Any]) -> None:
        self._counts[number] += 1
        self._opened[number].write(json.dumps(row, ensure_ascii=False) + "\n")

    def _name(self, image: Any) -> str:
        """How the copy names a picture; encoded bytes and pixels become a file named after what they show."""
        if not isinstance(image, str):
            folder = self._home / f"{self._target.stem}.pictures"
            with writing(folder, _REMEDY):
                image = str(_as_file(image, folder))
        if Path(image).is_relative_to(self._home):
            self._inside += 1
            return Path(image).relative_to(self._home).as_posix()
        self._outside.add(str(Path(image).parent))
        return image


def _as_file(image: Any, folder: Path) -> Path:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    if isinstance(image, bytes):
        with Image.open(BytesIO(image)) as opened:
            suffix = (opened.format or "png").lower()
        file = folder / f"{picture_key(image).hex()}.{suffix}"
        file.write_bytes(image)
    else:
        file = folder / f"{picture_key(image).hex()}.png"
        image.save(file)
    return file


def _common(folders: set[str]) -> str | None:
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on several drives
        return None


def _open(file: Path) -> IO[str]:
    with writing(file, _REMEDY):
        return file.open("w", encoding="utf-8")
