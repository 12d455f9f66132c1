"""Where records come from: a file, a folder in one of the usual layouts, a LLaMA-Factory table of data sets, a hub id.

    a.jsonl, .json, .parquet, .csv, .tsv      the file
    a folder written by save_to_disk          its rows
    a folder with dataset_info.json           LLaMA-Factory's table; ``dataset_info.json:name`` picks one of several
    a folder with metadata.csv or .jsonl      pictures with a table (``file_name``), as ``datasets`` names it
    a folder with one readable file           that file; with parquet shards, all of them in order
    owner/name                                a data set of the Hugging Face hub, streamed (``owner/name:split``)

What it leaves out: single files (``source``).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from balanced_thinking.data.formats import every_field
from balanced_thinking.data.formats.options import UNREAD_KEYS
from balanced_thinking.data.formats.source import BATCH, KNOWN, READERS, Record, numbered, read_file, unreadable
from balanced_thinking.errors import ConfigError, DataError

INFO = "dataset_info.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SOURCES = {"file_name", "hf_hub_url", "script_url", "ms_hub_url"}
_SPEAKERS = ("user", "assistant")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}


def read_records(path: Path) -> Iterator[Record]:
    """All records of ``path``, in order, one at a time; those that cannot be read carry their fault.

    Raises:
        DataError: nothing there that can be read.
        ConfigError: a table of several data sets, and none is named.
    """
    text = str(path)
    if f"{INFO}:" in text:
        file, _, name = text.rpartition(":")
        return _llama_factory(Path(file), name)
    if path.is_dir():
        return _folder(path)
    if path.name == INFO and _is_llama_factory(path):
        return _llama_factory(path, None)
    if not path.exists() and path.suffix.lower() not in READERS and _HUB_ID.fullmatch(text):
        return _hub(text)
    return read_file(path)


def _folder(path: Path) -> Iterator[Record]:
    if _is_llama_factory(path / INFO):
        return _llama_factory(path / INFO, None)
    if any((path / name).exists() for name in (INFO, "dataset_dict.json")):
        return _saved_dataset(path)
    table = next((path / name for name in _METADATA if (path / name).is_file()), None)
    if table is not None:
        return read_file(table)
    shards = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    found = sorted(item for item in path.iterdir() if item.suffix.lower() in READERS)
    if len(found) == 1:
        return read_file(found[0])
    splits = {shard.name.split("-")[0] for shard in shards}
    if shards and len(splits) == 1 and len(found) in (0, len(shards)):
        return (record for shard in shards for record in read_file(shard))
    names = ", ".join(item.name for item in (found or shards)[:5])
    remedy = f"name a file in it ({names})" if names else f"known are {KNOWN}"
    raise DataError("the folder holds no data set", file=path, remedy=remedy)


def _saved_dataset(path: Path) -> Iterator[Record]:
    from datasets import DatasetDict, load_from_disk

    inside = [path / name for name in ("dataset_info.json", "dataset_dict.json")]
    if not any(file.exists() for file in inside):
        found = sorted(item.name for item in path.iterdir() if item.suffix.lower() in (".jsonl", ".json", ".parquet"))
        remedy = f"name a file in it ({', '.join(found[:5])})" if found else f"known are {KNOWN}"
        raise DataError("the folder holds no data set", file=path, remedy=remedy)
    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if isinstance(dataset, DatasetDict):
        if len(dataset) != 1:
            remedy = f"give one of {', '.join(str(path / name) for name in dataset)}"
            raise DataError(f"the folder holds {len(dataset)} splits", file=path, remedy=remedy)
        dataset = next(iter(dataset.values()))
    # As it is stored: pictures stay encoded.
    batches = dataset.with_format("arrow").iter(batch_size=BATCH)
    return numbered((row for batch in batches for row in batch.to_pylist()), path)


def _hub(name: str) -> Iterator[Record]:
    """Rows of a hub data set as they come; its pictures are those of the rows."""
    from datasets import load_dataset

    owner_and_name, _, split = name.partition(":")
    try:
        rows = load_dataset(owner_and_name, split=split or "train", streaming=True)
    except Exception as error:  # the hub's clients raise dozens of kinds, all of which mean the same to the user
        reason = " ".join(str(error).split())[:200]
        remedy = "check the name and the network, or download the data set and give its file"
        raise DataError(
            f"no such file, and no such data set of the hub ({reason})", file=name, remedy=remedy
        ) from error
    return numbered(iter(rows), Path(name))


def _is_llama_factory(file: Path) -> bool:
    """``datasets`` calls a file of its own the same; LLaMA-Factory's maps names to files or hub ids."""
    if not file.is_file():
        return False
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    entries = table.values() if isinstance(table, dict) else ()
    return any(isinstance(entry, dict) and _SOURCES & entry.keys() for entry in entries)


def _llama_factory(file: Path, name: str | None) -> Iterator[Record]:
    if not file.is_file():
        raise DataError("no such file", file=file, remedy="check the path")
    table = _read_info(file)
    if name is None and len(table) > 1:
        raise ConfigError(f"{file} names {len(table)} data sets; give one, such as {file}:{next(iter(table))}")
    name = name or next(iter(table))
    if name not in table:
        raise ConfigError(f"{file} names no data set {name!r}; there are {', '.join(table)}")
    entry: Mapping[str, Any] = table[name]
    _check_entry(entry, name, file)
    place = file.parent / entry["file_name"] if "file_name" in entry else Path(entry["hf_hub_url"])
    for record in read_records(place):
        if record.fault is not None:
            yield record
            continue
        try:
            yield replace(record, fields=_told(record, entry))
        except DataError as error:
            yield replace(record, fields={}, fault=error)


def _read_info(file: Path) -> dict[str, Any]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", file=file, remedy="mend the file") from error
    if not isinstance(table, dict) or not table:
        raise DataError("not a table of data sets", file=file, remedy="give an object of names and entries")
    return table


def _check_entry(entry: Any, name: str, file: Path) -> None:
    """Refuse an entry that names no data of this machine or the hub, or whose parts are of other types."""
    if not isinstance(entry, dict):
        raise DataError(f"must be an object, not {type(entry).__name__}", file=file, record=name)
    where = next((key for key in ("file_name", "hf_hub_url") if key in entry), None)
    if where is None:
        remedy = "give file_name or hf_hub_url; scripts are not run"
        raise DataError("the entry says not where the data are", file=file, record=name, remedy=remedy)
    if not isinstance(entry[where], str) or Path(entry[where]).name == INFO:
        raise DataError("must be the name of a data file or data set", file=file, record=name, field=where)
    for part in ("columns", "tags"):
        if not isinstance(entry.get(part) or {}, dict):
            raise DataError("must be an object of names", file=file, record=name, field=part)


def _told(record: Record, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The record's columns under the names that LLaMA-Factory's entry explains."""
    columns, fields = entry.get("columns") or {}, record.fields
    kept: dict[str, Any] = {
        name: fields[name] for name in ("id", "source", "split", "answer", "choices", "kind") if name in fields
    }
    kept |= {name: fields.get(columns.get(name, name)) for name in ("images", "videos", "audios")}
    if fields.get("image") and not kept["images"] and "images" not in columns:
        remedy = f'add "images": "image" to its columns in {INFO}'
        raise record.place.error("the entry names no column of pictures, but here is one", field="image", remedy=remedy)
    # What the entry does not speak of stays, under names that mean nothing to a reader, to be told if it is worth it.
    kept |= {name: fields[name] for name in fields if name not in every_field() and name not in columns.values()}
    if entry.get("formatting", "alpaca") == "sharegpt":
        return kept | {"messages": _turns(record, entry)}
    asked, more, response = (fields.get(columns.get(part, default)) for part, default in _ALPACA.items())
    question = f"{asked}\n{more}" if more else asked
    before = _history(record, columns.get("history", "history"))
    prompt = [*before, {"role": "user", "content": question}] if before else question
    return kept | {"prompt": prompt, "completion": response}


def _history(record: Record, field: str) -> list[dict[str, Any]]:
    """Earlier pairs of instruction and response as turns."""
    pairs = record.fields.get(field) or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        remedy = "give [[instruction, response], ...]"
        raise record.place.error("must be a list of pairs", field=field, remedy=remedy)
    return [{"role": role, "content": text} for pair in pairs for role, text in zip(_SPEAKERS, pair, strict=True)]


def _turns(record: Record, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    field = (entry.get("columns") or {}).get("messages", "conversations")
    tags = _TAGS | (entry.get("tags") or {})
    roles = {tags[f"{role}_tag"]: role for role in ("user", "assistant", "system")}
    turns = record.fields.get(field)
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise record.place.error("must be a list of turns", field=field, remedy=f"see columns and tags in {INFO}")
    spoken = [turn.get(tags["role_tag"]) for turn in turns]
    wrong = next((role for role in spoken if not isinstance(role, str) or role not in roles), "")
    if wrong != "":
        remedy = f"{INFO} names {', '.join(map(repr, roles))}"
        raise record.place.error(f"unknown role {wrong!r}", field=field, remedy=remedy)
    system = record.fields.get((entry.get("columns") or {}).get("system", "system"))
    told = [
        {
            "role": roles[turn[tags["role_tag"]]],
            "content": turn.get(tags["content_tag"]),
            **{key: turn[key] for key in UNREAD_KEYS if turn.get(key)},
        }
        for turn in turns
    ]
    return [{"role": "system", "content": system}, *told] if system else told
