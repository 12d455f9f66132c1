"""A recipe tried for two real steps on a CPU: its settings, its data, its template, on the twin of its model.

What a twin cannot show is named: memory, speed, the real tokenizer and what the model knows. What it leaves out: the
training itself (``training.run``).
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.data.formats.folders import is_here
from balanced_thinking.demo.presets import PRESETS
from balanced_thinking.demo.presets.families import family_of
from balanced_thinking.demo.presets.twins import build_twin
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS
from balanced_thinking.runinfo import build_once, cache_dir, content_hash

STEPS, ROWS, COMPLETION = 2, 16, 16
LONGEST = 100_000  # a twin's tokens are bytes
# What a CPU has not got, or a trial must not do; the rest of a recipe stays as it is.
_CHANGES: dict[str, Any] = {
    "max_steps": STEPS,
    "gradient_accumulation_steps": 1,
    "use_cpu": True,
    "save_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "push_to_hub": False,
    "use_vllm": False,
}
_OPTIMIZERS_OF_GPUS = ("8bit", "4bit", "paged", "fused", "apex")


def dry_run(
    arguments: Sequence[str], parse: Callable[[Sequence[str]], tuple[Any, ...]], run: Callable[..., Path]
) -> list[str]:
    """Try a recipe, and say what was tried and what was changed for it.

    Args:
        arguments: The user's command line.
        parse: Makes the dataclasses of a verb from one; the first is ``DataArguments``, the last ``ModelConfig``.
        run: The verb's own ``run_sft`` or ``run_grpo``.

    Raises:
        ConfigError: a model of no family that has a twin.
    """
    parsed = parse(arguments)
    data, model = parsed[0], parsed[-1]
    if not model.model_name_or_path:
        raise ConfigError("no model given; name one with --model_name_or_path (a preset, a folder or a hub id)")
    preset = PRESETS.get(model.model_name_or_path)
    family = preset.family if preset is not None else family_of(model.model_name_or_path)
    changed = {name: value for name, value in _CHANGES.items() if _differs(parsed, name, value)}
    changed |= _of_the_machine(parsed) | _of_the_data(data)
    with tempfile.TemporaryDirectory() as folder:
        replaced = changed | {"model_name_or_path": str(make_twin(family)), "output_dir": f"{folder}/dry-run"}
        run(*parse([*arguments, *_as_options(replaced)]))
    said = ", ".join(f"{name} {' '.join(_texts(value))}" for name, value in changed.items())
    notes = ["your data are not on this machine and were NOT tried"] if "dataset" in changed else []
    if "max_length" in changed:
        limit = parsed[-2].max_length
        notes.append(
            f"max_length {limit} was NOT tried: the real run counts the model's own tokens before its first step"
        )
    return [
        f"{STEPS} steps went through on the twin of {family} ({model.model_name_or_path} was not loaded)",
        f"changed for the trial: {said}",
        *notes,
        "not tried: memory, speed, the model's own tokenizer and template, several devices",
    ]


def _as_options(fields: Mapping[str, Any]) -> list[str]:
    """Fields as options; behind the user's own they win."""
    return [part for name, value in fields.items() for part in (f"--{name}", *_texts(value))]


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def make_twin(family: str) -> Path:
    """The twin's folder, built on first use."""
    presets = Path(__file__).with_name("presets")
    sources = [presets / name for name in ("twins.py", "tokenizer.py", f"families/{family}.py")]
    key = content_hash({"family": family, "sources": [source.read_text(encoding="utf-8") for source in sources]})

    def build(folder: Path) -> None:
        build_twin(family, folder)

    return build_once(cache_dir() / "twins" / f"{family}-{key}", build)


def _differs(parsed: tuple[Any, ...], name: str, value: Any) -> bool:
    return any(hasattr(instance, name) and getattr(instance, name) != value for instance in parsed)


def _of_the_machine(parsed: tuple[Any, ...]) -> dict[str, Any]:
    """Quantisation, attention kernels, optimizers and lengths that belong to a GPU or to the real model."""
    model, config = parsed[-1], parsed[-2]
    changed: dict[str, Any] = {}
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(model, name):
            changed[name] = False
    if model.attn_implementation and "flash" in model.attn_implementation:
        changed["attn_implementation"] = "sdpa"
    if any(part in str(getattr(config.optim, "value", config.optim)) for part in _OPTIMIZERS_OF_GPUS):
        changed["optim"] = "adamw_torch"
    if getattr(config, "max_completion_length", None):
        changed["max_completion_length"] = COMPLETION
        changed["per_device_train_batch_size"] = config.num_generations
    else:
        changed["per_device_train_batch_size"] = min(config.per_device_train_batch_size, 2)
        if config.max_length is not None:
            changed["max_length"] = LONGEST
    return changed


def _of_the_data(data: Any) -> dict[str, Any]:
    """The first rows of the user's files; a data set that is not on this machine is replaced by the embedded one."""
    here = [name for name in data.names if name in BENCHMARKS or is_here(name)]
    changed: dict[str, Any] = {"limit": ROWS} if data.limit is None or data.limit > ROWS else {}
    if len(here) < len(data.dataset):
        changed["dataset"] = ["icons"]
        if data.dataset_fractions:
            changed["dataset_fractions"] = [1.0]
    if data.eval_fraction:
        changed["eval_fraction"] = 0.0
    if data.eval_dataset and data.eval_dataset not in BENCHMARKS and not is_here(data.eval_dataset):
        changed["eval_dataset"] = "icons"
    return changed
