"""What ``run.json`` says of the attempts before: the same run or another one, from the same data and weights.

What it leaves out: checkpoints (``models.checkpoints``) and the training itself (``training.run``).
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from accelerate import PartialState
from trl import ModelConfig

from balanced_thinking.errors import CheckpointError, ConfigError
from balanced_thinking.models.checkpoints import checkpoint_fault, last_checkpoint
from balanced_thinking.runinfo import weights_digest
from balanced_thinking.training.callbacks import CLOCK_FILE, METRICS_FILE
from balanced_thinking.training.dataset import DataArguments
from balanced_thinking.training.origins import Origins

RUN_FILE = "run.json"
# Fields that say where and how a run is shown, not what it computes; they may change between attempts.
_FREE = {
    "output_dir", "logging_dir", "report_to", "run_name", "disable_tqdm", "save_total_limit", "save_steps",
    "push_to_hub", "hub_token", "hub_model_id", "resume_from_checkpoint", "scale_new_total_steps", "log_level",
    "dataloader_num_workers", "logging_steps", "scale_check", "scale_check_limit", "project", "trackio_space_id",
}  # fmt: skip
# What a setting is in a run whose version did not know it, where that is not false or empty.
_BEFORE = {"scale_tags": "own"}
# What a run writes at the top of its folder. Where no run.json is, such a file is the user's own.
_WRITTEN = (
    "README.md", "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*",
    "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "training_args.bin",
    "*processor_config.json", METRICS_FILE, CLOCK_FILE, "adapter", "checkpoint-*",
)  # fmt: skip
# What else lies there: of attempts that failed, comparisons, evaluations and logs.
_BESIDE = (RUN_FILE, "start-*", ".start-*", ".balanced-rows-*", "stage.json", "recipe.yaml", "*.log", "predictions",
           "metrics", "runs")  # fmt: skip
_INPUTS = {"rows": "the rows of its data", "weights": "the weights of the model that it starts from"}


def settings_of(data: DataArguments, config: Any, model: ModelConfig, extra: Mapping[str, Any]) -> dict[str, Any]:
    """All settings as JSON values; the number of processes is one, since it makes the batch."""
    settings = {**dataclasses.asdict(data), **config.to_dict(), **dataclasses.asdict(model), **extra}
    return json.loads(json.dumps({**settings, "processes": config.world_size}, default=str))


def fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must be equal in all attempts."""
    return {key: value for key, value in settings.items() if key not in _FREE}


def known_run(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of an earlier attempt; empty where there is none, or one that left nothing to go on from.

    Raises:
        ConfigError: the folder holds a run with other settings, checkpoints of an unknown one, or files of the user's
            that a run would replace.
        CheckpointError: ``run.json`` is no JSON.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        found, _ = last_checkpoint(folder)
        if found is not None:
            raise ConfigError(f"{folder} holds checkpoints of an unknown run ({found.name}); choose another output_dir")
        _refuse_foreign(folder)
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON; {_remedy(folder, settings)}") from error
    if not isinstance(known, dict) or not isinstance(known.get("config"), dict):
        raise ConfigError(f"{file} is not that of a run, which would replace it; choose another output_dir")
    before, now = fixed(known["config"]), fixed(settings)
    # A setting that the version which began the run did not know is off in it, and the processes were not written.
    unknown = {key: value for key, value in now.items() if key not in before}
    quiet = ("processes", *_BEFORE)
    before |= {key: _BEFORE.get(key, value) for key, value in unknown.items() if not value or key in quiet}
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if not changed:
        return known
    if not known.get("finished") and not any(folder.glob("checkpoint-*")):
        if PartialState().is_main_process:
            (folder / CLOCK_FILE).unlink(missing_ok=True)
            print(f"{folder} holds a run with other settings that left no checkpoint; this one takes its place")
        return {}
    key = changed[0]
    raise ConfigError(
        f"{folder} holds a run with other settings ({', '.join(changed[:5])}; {key}: {before.get(key)!r} there, "
        f"{now.get(key)!r} now); {_remedy(folder, settings)}"
    )


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that is no run's and holds what one would replace; other files beside a run do no harm."""
    found = sorted(entry.name for entry in folder.iterdir() if _is(entry, _WRITTEN)) if folder.is_dir() else []
    if found:
        raise ConfigError(
            f"{folder} is no run folder, but holds {found[0]}, which the run would replace; choose another output_dir"
        )


def _is(entry: Path, patterns: Iterable[str]) -> bool:
    return any(fnmatch(entry.name, pattern) for pattern in patterns)


def _remedy(folder: Path, settings: Mapping[str, Any]) -> str:
    """What to do about a folder that is taken; to remove it only where nothing but runs would go."""
    start = Path(str(settings.get("model_name_or_path"))).resolve()
    only_runs = all(_is(entry, (*_WRITTEN, *_BESIDE)) for entry in folder.iterdir())
    safe = only_runs and folder.resolve() not in (start, *start.parents)
    return "choose another output_dir" + (", or remove the folder" if safe else "")


def inputs_of(origins: Origins, name: str) -> dict[str, str | None]:
    """Digests of the rows that were read and of the weights in a local start folder; None where they are not known."""
    main = PartialState().is_main_process
    return {"rows": origins.digest, "weights": weights_digest(name) if main and Path(name).is_dir() else None}


def refuse_other_inputs(folder: Path, known: Mapping[str, Any], inputs: Mapping[str, str | None]) -> None:
    """Refuse to go on with other data or another start under the same names.

    Raises:
        ConfigError: a digest differs from that in ``run.json``; one that is not known there passes.
    """
    before = known.get("inputs") or {}
    for key, what in _INPUTS.items():
        if before.get(key) and inputs.get(key) and before[key] != inputs[key]:
            remedy = _remedy(folder, known.get("config") or {})
            raise ConfigError(
                f"{folder} holds a run that cannot go on: {what} changed since it began; put them back, or {remedy}"
            )


def resume_point(folder: Path, asked: str | bool | None) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and one line for each newer one that is passed over.

    Args:
        folder: Of the run.
        asked: ``resume_from_checkpoint``: a checkpoint, or true for the newest valid one, which must exist then; else
            the newest valid one if there is any.

    Raises:
        CheckpointError: what was asked for is not there or not valid.
    """
    word = str(asked or "").lower()
    if word in ("", "false", "none", "true"):
        found, passed_over = last_checkpoint(folder)
        if found is None and word == "true":
            raise CheckpointError("; ".join([f"{folder} holds no valid checkpoint to resume from", *passed_over]))
        return found, passed_over
    place = Path(str(asked))
    fault = checkpoint_fault(place)
    if fault is not None:
        raise CheckpointError(f"{place} cannot be resumed from: {fault}; give another checkpoint, or leave it out")
    return place, []
