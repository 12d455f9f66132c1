"""The model card of a run folder: what was trained, on what, how, and how to load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from balanced_thinking.runinfo import write_text

_SHOWN = (
    "loss", "scale_preset", "scale_shape", "scale_start", "scale_end", "scale_tags", "scale_reduction",
    "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "optim", "bf16", "seed", "use_peft", "grpo_preset", "reward_funcs",
    "loss_type", "num_generations", "max_completion_length", "temperature", "beta", "epsilon", "epsilon_high",
)  # fmt: skip


def write_card(folder: Path, run: dict[str, Any], history: Sequence[dict[str, Any]]) -> None:
    """Write ``README.md`` from what ``run.json`` holds and the last logged figures."""
    config = run["config"]
    front = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "base_model": config.get("model_name_or_path"),
        "tags": ["balanced-thinking", "trl", config["method"], *(["scale"] if config.get("loss") == "scale" else [])],
    }
    last: dict[str, Any] = next((entry for entry in reversed(history) if "loss" in entry), {})
    entries = [each if isinstance(each, str) else each["path"] for each in config.get("dataset") or []]
    datasets = ", ".join(f"`{name}`" for name in entries)
    rows = [f"| {name} | {config[name]} |" for name in _SHOWN if config.get(name) not in (None, "")]
    figures = [f"| {name} | {value:.4g} |" for name, value in last.items() if isinstance(value, int | float)]
    stage = run.get("stage", {})
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {folder.name}",
        "",
        f"Fine-tuned from `{config.get('model_name_or_path')}` on {datasets} with balanced-thinking: "
        + _method(config),
        "",
        "```python",
        "from transformers import AutoModelForImageTextToText, AutoProcessor",
        "",
        f'model = AutoModelForImageTextToText.from_pretrained("{folder}")',
        f'processor = AutoProcessor.from_pretrained("{folder}")',
        "```",
        "",
        f"{stage.get('steps')} steps, {stage.get('tokens')} tokens, {stage.get('seconds', 0):.0f} seconds on "
        f"{run.get('device')} with {run.get('threads')} threads.",
        "",
        "| setting | value |",
        "|---|---|",
        *rows,
        "",
        "| last logged figure | value |",
        "|---|---|",
        *figures,
        "",
        "Everything else is in `run.json` and `metrics.jsonl`.",
        "",
    ]
    write_text(folder / "README.md", "\n".join(lines))


def _method(config: dict[str, Any]) -> str:
    if config["method"] == "grpo":
        rewards = ", ".join(config["reward_funcs"])
        return f"GRPO (Shao et al. 2024, arXiv:2402.03300) by TRL's GRPOTrainer; rewards: {rewards}."
    if config.get("loss") == "scale":
        return (
            "SCALe-SFT, in which think and answer each have a length-independent loss and the weight moves from the "
            "first to the second (Perek et al. 2026, arXiv:2603.18656)."
        )
    return "plain supervised fine-tuning, the mean over all response tokens."
