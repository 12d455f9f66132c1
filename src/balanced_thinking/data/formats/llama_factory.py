"""LLaMA-Factory's ``dataset_info.json``: names of data sets, where each lies and what its columns and tags are called.

A record is told under the names that other formats read: conversations both as ShareGPT and as TRL write them, so that
a response in any markup finds its format; rows of instructions as prompt and completion. Sources: LLaMA-Factory's
``data/parser.py`` (keys and defaults), ``converter.py`` and ``loader.py``. What it leaves out: scripts, pairs of
preferences, tools; what else an entry asks for and nobody here does is said once.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from balanced_thinking.data.formats import every_field
from balanced_thinking.data.formats.options import UNREAD_KEYS
from balanced_thinking.data.formats.source import Record
from balanced_thinking.errors import ConfigError, DataError

INFO = "dataset_info.json"
_SOURCES = {"file_name", "hf_hub_url", "script_url", "ms_hub_url"}
_SPEAKERS = ("user", "assistant")
_CHATS = ("sharegpt", "openai")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
_SHOWN = ("images", "videos", "audios")
_COLUMNS = {*_ALPACA, "history", "messages", "system", *_SHOWN}
# Of places and layouts that were not taken nothing is lost; turns of tools are refused by their role.
_NO_LOSS = {*_SOURCES, "om_hub_url", "cloud_file_name", "formatting", "columns", "tags"}
_NO_LOSS_TAGS = {*_TAGS, "observation_tag", "function_tag"}


def is_table(file: Path) -> bool:
    """``datasets`` calls a file of its own the same; LLaMA-Factory's maps names to files or hub ids."""
    if not file.is_file():
        return False
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    entries = table.values() if isinstance(table, dict) else ()
    return any(isinstance(entry, dict) and _SOURCES & entry.keys() for entry in entries)


def read_entry(file: Path, name: str | None, read: Callable[[Path], Iterator[Record]]) -> Iterator[Record]:
    """The records of one entry, told under names that formats read.

    Args:
        file: LLaMA-Factory's table.
        name: The entry; None: its only one.
        read: Reads the records of the file or data set that the entry names.

    Raises:
        DataError: no table, or an entry that cannot be used.
        ConfigError: an unknown name, or none where there are several.
    """
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
    remark = _not_done(entry)
    for record in read(_place(entry, name, file)):
        if record.fault is not None:
            yield record
            continue
        said = " and ".join(part for part in (record.remark, remark) if part) or None
        try:
            yield replace(record, fields=_told(record, entry), remark=said)
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
    own = isinstance(entry[where], str) and is_table(file.parent / entry[where] / INFO)
    if not isinstance(entry[where], str) or Path(entry[where]).name == INFO or own:
        raise DataError("must be the name of a data file or data set", file=file, record=name, field=where)
    for part in ("columns", "tags"):
        if not isinstance(entry.get(part) or {}, dict):
            raise DataError("must be an object of names", file=file, record=name, field=part)
    if entry.get("formatting", "alpaca") not in ("alpaca", *_CHATS):
        message, remedy = f"unknown layout {entry['formatting']!r}", f"known are alpaca, {', '.join(_CHATS)}"
        raise DataError(message, file=file, record=name, field="formatting", remedy=remedy)
    if entry.get("ranking"):
        remedy = "name a data set of single responses"
        raise DataError(
            "pairs of preferences are not trained here", file=file, record=name, field="ranking", remedy=remedy
        )


def _place(entry: Mapping[str, Any], name: str, file: Path) -> Path:
    if "file_name" in entry:
        return file.parent / entry["file_name"]
    more = [entry["subset"], entry.get("split") or "train"] if entry.get("subset") else [entry.get("split")]
    if not all(isinstance(part, str | None) for part in more):
        raise DataError("subset and split must be names", file=file, record=name)
    return Path(":".join([entry["hf_hub_url"], *filter(None, more)]))


def _not_done(entry: Mapping[str, Any]) -> str | None:
    """What an entry asks for that is not done, in words."""
    done = _NO_LOSS if "file_name" in entry else {*_NO_LOSS, "subset", "split"}
    lost = [key for key, value in entry.items() if value and key not in done and (key, value) != ("split", "train")]
    for part, known in (("columns", _COLUMNS), ("tags", _NO_LOSS_TAGS)):
        lost += [f"{part}.{key}" for key, value in (entry.get(part) or {}).items() if value and key not in known]
    if not lost:
        return None
    all_rows = " (all rows are read; limit and dataset_fractions take fewer)" if "num_samples" in lost else ""
    return f"what its entry in {INFO} says under {', '.join(lost)} is not done{all_rows}"


def _told(record: Record, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The record's columns under the names that LLaMA-Factory's entry explains."""
    columns, fields = entry.get("columns") or {}, record.fields
    kept: dict[str, Any] = {
        name: fields[name] for name in ("id", "source", "split", "answer", "choices", "kind") if name in fields
    }
    kept |= {name: fields.get(columns.get(name, name)) for name in _SHOWN}
    if fields.get("image") and not kept["images"] and "images" not in columns:
        remedy = f'add "images": "image" to its columns in {INFO}'
        raise record.place.error("the entry names no column of pictures, but here is one", field="image", remedy=remedy)
    if isinstance(kept["images"], str):  # formats whose records have one picture know it by this name
        kept["image"] = kept.pop("images")
    # What the entry does not speak of stays, under names that mean nothing to a reader, to be told if it is worth it.
    spoken_of = {*every_field(), *columns.values(), "system", "history"}
    kept |= {name: fields[name] for name in fields if name not in spoken_of}
    system = fields.get(columns.get("system", "system"))
    first = [{"role": "system", "content": system}] if system else []
    if entry.get("formatting", "alpaca") in _CHATS:
        turns = [*first, *_turns(record, entry)]
        return kept | {"messages": turns, "conversations": list(map(_as_sharegpt, turns))}
    asked, more, response = (fields.get(columns.get(part, default)) for part, default in _ALPACA.items())
    question = f"{asked}\n{more}" if more else asked
    before = [*first, *_history(record, columns.get("history", "history"))]
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
    return [
        {
            "role": roles[turn[tags["role_tag"]]],
            "content": turn.get(tags["content_tag"]),
            **{key: turn[key] for key in UNREAD_KEYS if turn.get(key)},
        }
        for turn in turns
    ]


def _as_sharegpt(turn: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in turn.items() if key not in ("role", "content")}
    return {"from": turn["role"], "value": turn["content"], **rest}
