"""What a run folder says of how its model was trained, where an evaluation must ask alike.

Of a checkpoint or adapter inside a run folder it is what the run folder says. What it leaves out: how a run is
described (``training.run``). Torch-free.
"""

import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from balanced_thinking.core.segments import SegmentSpec, parse_segments
from balanced_thinking.errors import ConfigError


def trained_segments(model: str | PathLike | tuple[Any, Any]) -> tuple[SegmentSpec, ...]:
    """What a run folder's model was trained to write, by its ``run.json``; else think and answer.

    Raises:
        ConfigError: ``run.json`` names segments that cannot be.
    """
    place, config = _run_of(model)
    try:
        return parse_segments(config.get("scale_segments"))
    except ConfigError as error:
        raise ConfigError(f"{place}: scale_segments: {error}") from error


def prompting(
    model: str | PathLike | tuple[Any, Any],
    system_prompt: str | None,
    chat_template_kwargs: Mapping[str, Any] | None,
    *,
    say: Callable[[str], None],
) -> tuple[str | None, dict[str, Any]]:
    """System prompt and options of the chat template: as given, where not given as a run folder's model was trained.

    What is empty is off. ``say`` is told with one line what the run folder adds.
    """
    place, config = _run_of(model)
    if system_prompt is None and isinstance(told := config.get("system_prompt"), str) and told:
        say(f"system_prompt {told!r}, with which the model was trained ({place}); give an empty one to leave it out")
        system_prompt = told
    if chat_template_kwargs is None and isinstance(kwargs := config.get("chat_template_kwargs"), dict) and kwargs:
        text = json.dumps(kwargs, ensure_ascii=False)
        say(f"chat_template_kwargs {text}, with which the model was trained ({place}); give {{}} to leave them out")
        chat_template_kwargs = kwargs
    return system_prompt or None, dict(chat_template_kwargs or {})


def _run_of(model: str | PathLike | tuple[Any, Any]) -> tuple[Path | None, dict[str, Any]]:
    """The ``run.json`` that tells of a model, and the settings in it; (None, {}) where there is none."""
    if isinstance(model, tuple):
        return None, {}
    folder = Path(model).absolute()
    inside = re.fullmatch(r"checkpoint-\d+|adapter", folder.name) is not None
    for place in (folder, folder.parent) if inside else (folder,):
        try:
            config = json.loads((place / "run.json").read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if isinstance(config, dict):
            return place / "run.json", config
    return None, {}
