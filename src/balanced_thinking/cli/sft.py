"""``balanced sft``: train by a recipe."""

from collections.abc import Mapping, Sequence
from typing import Any


def run(argv: Sequence[str]) -> int:
    """Train; exit code 0 when the run folder is complete."""
    from balanced_thinking.cli.parsing import check_named, split_dry_run
    from balanced_thinking.demo.presets import resolve
    from balanced_thinking.training.run import run_sft

    dry, argv = split_dry_run(argv)
    if dry:
        from balanced_thinking.demo.dry_run import dry_run

        print("\n".join(dry_run(argv, parse, run_sft)))
        return 0
    data, config, model = parse(argv)
    check_named(config, model, models="a preset, a folder or a hub id")
    model.model_name_or_path = str(resolve(model.model_name_or_path))
    folder = run_sft(data, config, model)
    print(f"{folder} is complete: the model, run.json, metrics.jsonl and README.md")
    return 0


def parse(recipe: Sequence[str] | Mapping[str, Any]) -> tuple[Any, ...]:
    """``DataArguments``, ``ScaleSFTConfig`` and ``ModelConfig`` of a command line, or of a mapping of fields."""
    from trl import ModelConfig

    from balanced_thinking.cli.parsing import parse_training
    from balanced_thinking.training.dataset import DataArguments
    from balanced_thinking.training.sft_config import ScaleSFTConfig

    types = (DataArguments, ScaleSFTConfig, ModelConfig)
    # TRL's limit of 1,024 tokens is there to cut rows. Here rows are never cut, so it would only refuse most photos.
    return parse_training(types, recipe, prog="balanced sft", defaults={"max_length": None})
