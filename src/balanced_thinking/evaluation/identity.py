"""What tells one evaluation from another: model, questions with their pictures, and what turns them into prompts.

Everything is told by content, so that folders may be moved. What it leaves out: the settings of an evaluation
(``evaluate``) and how identities are compared (``ledger``). Torch-free.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from balanced_thinking.core.segments import SegmentSpec, as_setting
from balanced_thinking.data.images import open_file, open_image, plain_picture, read_header
from balanced_thinking.data.templates import tokenizer_of
from balanced_thinking.evaluation.question import Question
from balanced_thinking.runinfo import content_hash, weights_digest

Model = str | PathLike | tuple[Any, Any]

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "chat_template.json")


def asked_identity(questions: Sequence[Question], segments: Sequence[SegmentSpec]) -> dict[str, Any]:
    """Questions, their pictures and the segments of an answer, as far as they tell one evaluation from another."""
    texts = [_told(asked) for asked in questions]
    pictures = pictures_identity((asked.example.id, asked.example.images) for asked in questions)
    return {"questions": content_hash(texts), "pictures": pictures, "segments": as_setting(segments)}


def _told(asked: Question) -> list[Any]:
    """A question without its pictures, with what its own scores go by; one without context or such facts is told as
    it was before there were any."""
    e = asked.example
    facts = [dict(asked.facts)] if asked.facts else []
    return [
        e.id, e.question, e.choices, e.answer, e.kind, len(e.images), *asked.also, *map(astuple, e.context), *facts,
    ]  # fmt: skip


def pictures_identity(pictures: Iterable[tuple[str, Sequence[Any]]]) -> str | None:
    """A fingerprint of the pictures of (record, pictures): of encoded ones all bytes, be they in a file or in memory,
    of others (PIL) all pixels; None where there are none.

    Raises:
        DataError: a picture is missing or cannot be read.
    """
    files: dict[str, str] = {}  # one picture may serve many questions
    digests = [_digest(image, record, files) for record, images in pictures for image in images]
    return content_hash(digests) if digests else None


def _digest(image: Any, record: str, files: dict[str, str]) -> str:
    value = plain_picture(image)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest() + _shown(value, record)
    if not isinstance(value, str | PathLike):
        upright = open_image(value, record=record)
        return hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).hexdigest()
    path = fspath(value)
    if path not in files:
        with open_file(path, record=record) as file:
            files[path] = hashlib.sha256(file.read()).hexdigest() + _shown(path, record)
    return files[path]


def _shown(image: Any, record: str) -> str:
    """How the bytes become pixels where earlier versions made others of them: transparent ones were black."""
    header = read_header(image, record=record)
    return " on white" * header.transparent + " scaled" * header.sixteen_bits


def model_identity(model: Model) -> str:
    """What tells one model from another: the weights' fingerprint, or a hub id.

    Of a folder all bytes of its weight files are read, of a loaded model a sample of each parameter; so a folder that
    was moved is the same model, and one that was trained on is another.
    """
    if isinstance(model, tuple):
        digest = hashlib.sha256()
        for name, parameter in model[0].named_parameters():
            flat = parameter.detach().reshape(-1)
            sample = flat[:: max(1, len(flat) // 256)].float().cpu().numpy()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.tobytes())
        return f"weights {digest.hexdigest()[:16]}"
    found = weights_digest(Path(model))
    return fspath(model) if found is None else f"weights {found}"


def rendering_identity(model: Model) -> str | None:
    """A fingerprint of what turns a question into the model's input: chat template and saved processor settings.

    No model is loaded for it; None for a hub id.
    """
    if isinstance(model, tuple):
        pictures = getattr(model[1], "image_processor", None)
        told = {"pictures": json.loads(pictures.to_json_string())} if pictures is not None else {}
        return content_hash({**told, "template": model[1].chat_template or tokenizer_of(model[1]).chat_template})
    folder = Path(model)
    if not folder.is_dir():
        return None
    settings: dict[str, Any] = {name: _settings(folder / name) for name in _PROCESSOR_FILES}
    settings["tokenizer"] = _settings(folder / "tokenizer_config.json").get("chat_template")
    templates = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in folder.glob("*.jinja")}
    return content_hash({**settings, **templates})


def _settings(path: Path) -> dict[str, Any]:
    """A file of settings without the version that wrote it; a file that cannot be read is its loader's to report."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    given = settings if isinstance(settings, dict) else {}
    return {key: value for key, value in given.items() if key != "transformers_version"}
