"""Where records come from: a file, a folder in one of the usual layouts, a LLaMA-Factory table of data sets, a hub id.

    a.jsonl, .json, .parquet, .csv, .tsv      the file
    a folder written by save_to_disk          its rows
    a folder with dataset_info.json           LLaMA-Factory's table; ``dataset_info.json:name`` picks one of several
    a folder with metadata.csv or .jsonl      pictures with a table (``file_name``), as ``datasets`` names it
    a folder of files, or with such in data/  the only one; the shards of the only split; parquets of the same columns
    a folder of folders with data             the only one
    folder:split                              one of several splits, files or folders in it
    owner/name                                a data set of the Hugging Face hub, streamed (``owner/name:split``,
                                              ``owner/name:config:split``)

What it leaves out: single files (``source``), what LLaMA-Factory's entries say (``llama_factory``).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from balanced_thinking.data.formats.llama_factory import INFO, is_table, read_entry
from balanced_thinking.data.formats.source import BATCH, KNOWN, READERS, Record, numbered, read_file, unreadable
from balanced_thinking.errors import DataError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SAVED = (INFO, "dataset_dict.json")
# What the hub, save_to_disk, ScienceQA and IconQA keep beside the data.
_ASIDE = (*_SAVED, "state.json", "dataset_infos.json", "pid_splits.json", "captions.json")
_SHARD = re.compile(r"\d{4}|(?P<split>.*?)[-_.]?(?:\d+-of-(?P<count>\d+)|\d{5,})(?:-[0-9a-f]{16})?")
# A file that is called so is a part of a set that must not be mixed with the other parts.
_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|training|test|testing|testmini|val|valid|validation|dev|eval|evaluation)(?![a-z])",
    re.IGNORECASE,
)
_TOLD = 5


def read_records(path: Path) -> Iterator[Record]:
    """All records of ``path``, in order, one at a time; those that cannot be read carry their fault.

    Raises:
        DataError: nothing there that can be read, or a folder of several splits, and none is named.
        ConfigError: a table of several data sets, and none is named.
    """
    text = str(path)
    if f"{INFO}:" in text:
        file, _, name = text.rpartition(":")
        return read_entry(Path(file), name, read_records)
    if path.is_dir():
        return _folder(path, None)
    if path.name == INFO and is_table(path):
        return read_entry(path, None, read_records)
    folder, mark, split = text.rpartition(":")
    if mark and not path.exists() and Path(folder).is_dir():
        return _folder(Path(folder), split)
    if not path.exists() and path.suffix.lower() not in READERS and _HUB_ID.fullmatch(text):
        return _hub(text)
    return read_file(path)


def is_here(name: str) -> bool:
    """Whether what ``read_records`` is to read lies on this machine: a path, or one with a split or an entry's name."""
    place, mark, _ = name.rpartition(":")
    return Path(name).exists() or (bool(mark) and Path(place).exists())


def _folder(path: Path, split: str | None) -> Iterator[Record]:
    if is_table(path / INFO):
        return read_entry(path / INFO, split, read_records)
    table = next((path / name for name in _METADATA if (path / name).is_file()), None)
    if split is None and any((path / name).exists() for name in _SAVED):
        return _saved_dataset(path)
    if split is None and table is not None:
        return read_file(table)
    parts = _parts(path)
    if split is not None and split not in parts and (path / split).is_dir():
        return _folder(path / split, None)
    if not parts:
        raise DataError("the folder holds no data set", file=path, remedy=f"known are {KNOWN}")
    names = [f"{path}:{name}" for name in islice(parts, _TOLD)]
    more = f" and {len(parts) - _TOLD} more" if len(parts) > _TOLD else ""
    if split is not None and split not in parts:
        remedy = f"there are {', '.join(names)}{more}"
        raise DataError(f"the folder has no part {split!r}", file=path, remedy=remedy)
    if split is not None or len(parts) == 1:
        name = next(iter(parts)) if split is None else split
        check_whole(parts[name])
        return _in_order(parts[name])
    if _belong_together(parts):
        for part in parts.values():
            check_whole(part)
        files = [file for part in parts.values() for file in part]
        remark = f"its {len(files)} files, which have the same columns, are read as one set"
        return (replace(record, remark=remark) for record in _in_order(files))
    mixture = "" if _has_split(parts) else ", or several as a mixture (dataset: [.., ..])"
    remedy = f"give one of {', '.join(names)}{more}{mixture}"
    raise DataError(f"the folder holds {len(parts)} splits or data sets", file=path, remedy=remedy)


def _parts(path: Path) -> dict[str, list[Path]]:
    """The files of a folder, or of its folder data, by split; else its folders that hold data."""
    for home in (path, path / "data"):
        found = sorted(home.glob("[!.]*"))
        files = [
            file for file in found if file.suffix.lower() in READERS and file.name not in _ASIDE and file.is_file()
        ]
        parts: dict[tuple[str, str], list[Path]] = {}
        for file in files:
            shard = _SHARD.fullmatch(file.stem)
            parts.setdefault((shard["split"] or home.name if shard else file.stem, file.suffix), []).append(file)
        if parts:
            names = [name for name, _ in parts]
            return {name + suffix * (names.count(name) > 1): parts[name, suffix] for name, suffix in parts}
    inside = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
    return {item.name: [item] for item in inside if _holds_data(item)}


def _holds_data(folder: Path) -> bool:
    return any(item.suffix.lower() in READERS or item.name in _SAVED for item in folder.iterdir())


def named_splits(stem: str) -> list[str]:
    """The names of splits in a file's name: "train" in ``train-00000-of-00001``."""
    return [found.lower() for found in _SPLIT.findall(stem)]


def _has_split(names: Iterable[str]) -> bool:
    return any(map(named_splits, names))


def _belong_together(parts: Mapping[str, Sequence[Path]]) -> bool:
    """Whether these are parquet files of the same columns, and none is called a split."""
    import pyarrow.parquet

    files = [file for part in parts.values() for file in part]
    if _has_split(parts) or any(file.suffix.lower() != ".parquet" for file in files):
        return False
    try:
        columns = {frozenset(pyarrow.parquet.read_schema(file).names) for file in files}
    except (OSError, ValueError):  # the reading says which and why
        return False
    return len(columns) == 1


def _in_order(files: Sequence[Path]) -> Iterator[Record]:
    return (record for file in files for record in (_folder(file, None) if file.is_dir() else read_file(file)))


def check_whole(files: Sequence[Path]) -> None:
    """Refuse a split of which a shard is missing.

    Raises:
        DataError: says how many there are.
    """
    shard = _SHARD.fullmatch(files[0].stem)
    if shard and len(files) < int(shard["count"] or 0):
        message = f"only {len(files)} of {int(shard['count'])} shards of {shard['split']} are there"
        raise DataError(message, file=files[0].parent, remedy="download the others, or name the files to be read")


def _saved_dataset(path: Path) -> Iterator[Record]:
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if isinstance(dataset, DatasetDict):
        if len(dataset) != 1:
            remedy = f"give one of {', '.join(f'{path}:{name}' for name in dataset)}"
            raise DataError(f"the folder holds {len(dataset)} splits", file=path, remedy=remedy)
        dataset = next(iter(dataset.values()))
    # As it is stored: pictures stay encoded.
    batches = dataset.with_format("arrow").iter(batch_size=BATCH)
    return numbered((row for batch in batches for row in batch.to_pylist()), path)


def _hub(name: str) -> Iterator[Record]:
    owner_and_name, *more = name.split(":")
    config, split = (more[0] if len(more) == 2 else None, more[-1] if more else "train")
    fault = "no such file, and no such data set of the hub"
    remedy = (
        "check the name (owner/name:split or owner/name:config:split) and the network, or download the data set and"
    )
    rows = stream_hub(owner_and_name, config, split, fault=fault, remedy=f"{remedy} give its file")
    return numbered(rows, Path(name))


def stream_hub(name: str, config: str | None, split: str, *, fault: str, remedy: str) -> Iterator[dict[str, Any]]:
    """Rows of a hub data set as they are stored there: decoded, pictures of a whole set would take gigabytes.

    Raises:
        DataError: ``fault`` with the hub's reason, at the first row or at a later one, and ``remedy``.
    """
    from datasets import load_dataset

    try:
        rows = load_dataset(name, config, split=split, streaming=True)
        stored = iter(rows.decode(False) if getattr(rows, "features", None) else rows)
        while (row := next(stored, None)) is not None:
            yield _fetched(row)
    except Exception as error:  # the hub's clients raise dozens of kinds, all of which mean the same to the user
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{fault} ({reason})", file=name, remedy=remedy) from error


def _fetched(value: Any) -> Any:
    """A row with the bytes of those files that lie on the hub beside it."""
    if isinstance(value, list):
        return [_fetched(item) for item in value]
    if not isinstance(value, dict):
        return value
    path = value.get("path")
    if value.keys() == {"bytes", "path"} and value["bytes"] is None and isinstance(path, str) and "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            return {"bytes": file.read(), "path": path}
    return {name: _fetched(item) for name, item in value.items()}
