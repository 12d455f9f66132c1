"""``balanced grpo``: reinforcement learning by a recipe, from any SFT folder or model."""

from collections.abc import Mapping, Sequence
from typing import Any


def run(argv: Sequence[str]) -> int:
    """Train; exit code 0 when the run folder is complete."""
    from balanced_thinking.cli.parsing import check_named, split_dry_run
    from balanced_thinking.demo.presets import resolve
    from balanced_thinking.training.run import run_grpo

    dry, argv = split_dry_run(argv)
    if dry:
        from balanced_thinking.demo.dry_run import dry_run

        print("\n".join(dry_run(argv, parse, run_grpo)))
        return 0
    data, grpo, config, model = parse(argv)
    check_named(config, model, models="an SFT folder, a preset or a hub id")
    model.model_name_or_path = str(resolve(model.model_name_or_path))
    folder = run_grpo(data, grpo, config, model)
    print(f"{folder} is complete: the model, run.json, metrics.jsonl and README.md")
    return 0


def parse(recipe: Sequence[str] | Mapping[str, Any]) -> tuple[Any, ...]:
    """``DataArguments``, ``GRPOArguments``, ``StrictGRPOConfig``, ``ModelConfig``; what a preset sets stands below."""
    from trl import ModelConfig

    from balanced_thinking.cli.parsing import parse_training
    from balanced_thinking.training.dataset import DataArguments
    from balanced_thinking.training.grpo import GRPOArguments, StrictGRPOConfig, preset_fields

    types = (DataArguments, GRPOArguments, StrictGRPOConfig, ModelConfig)
    return parse_training(types, recipe, prog="balanced grpo", presets=preset_fields, preset_field="grpo_preset")
