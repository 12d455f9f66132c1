"""``balanced compare``: arms x seeds x models x benchmarks from one YAML, with statistics and a report."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any


def run(argv: Sequence[str]) -> int:
    """Run a comparison; stopped and started again, or with more seeds, it goes on."""
    from pathlib import Path

    from balanced_thinking.cli.parsing import OneLineParser, read_yaml

    parser = OneLineParser(prog="balanced compare", description=__doc__)
    parser.add_argument("comparison", help="YAML file: name, models, arms, seeds, benchmarks, recipe, grpo, ...")
    add_options(parser, output_dir=None)
    options = parser.parse_all(argv)
    output = Path(options.output_dir or Path("runs") / Path(options.comparison).stem)
    return compare(read_yaml(options.comparison), options, source=options.comparison, output=output)


def add_options(parser: argparse.ArgumentParser, *, output_dir: str | None) -> None:
    """What may stand on the command line instead of in the YAML."""
    parser.add_argument("--output_dir", default=output_dir, help="folder of the comparison; unset: runs/<YAML's name>")
    parser.add_argument("--seeds", type=int, nargs="+", help="one run of every arm each; more may be added later")
    parser.add_argument("--arms", nargs="+", help="arms to compare")
    parser.add_argument("--limit", type=int, help="questions per benchmark")
    parser.add_argument("--max_steps", type=int, help="optimizer steps of each SFT")
    parser.add_argument("--jobs", type=int, help="stages that run at once; 1 when seconds are to be compared")
    parser.add_argument("--blank_images", action="store_true", help="also evaluate with grey pictures")
    parser.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="try each kind of stage shortly and print plan and times"
    )


def compare(values: Mapping[str, Any], options: argparse.Namespace, *, source: str, output: Any) -> int:
    """Check, run and report the comparison that ``values`` and the command line describe."""
    import dataclasses
    import time

    from balanced_thinking.compare.comparison import read_comparison
    from balanced_thinking.compare.report import print_table, write_report
    from balanced_thinking.compare.run import missing, run_comparison, with_earlier
    from balanced_thinking.demo.presets import resolve

    comparison = read_comparison(values, source=source)
    changes = {name: getattr(options, name) for name in ("seeds", "arms", "limit", "jobs")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.blank_images:
        changes["blank_images"] = True
    if options.max_steps is not None:
        changes["recipe"] = {**comparison.recipe, "max_steps": options.max_steps}
    comparison = dataclasses.replace(comparison, **changes)
    check_recipes(comparison, source=source)
    if options.dry_run:
        return _dry_run(comparison, output)

    start = time.perf_counter()
    rows = run_comparison(comparison, output, resolve=resolve)
    report = write_report(with_earlier(comparison, output), rows, output)
    print_table(rows)
    print(f"Report with plots and examples: {report}   ({(time.perf_counter() - start) / 60:.1f} minutes)")
    return 1 if missing(comparison, output) else 0


def check_recipes(comparison: Any, *, source: str) -> None:
    """Refuse what a stage would refuse, before anything is written: fields, values, rewards, models, benchmarks.

    Raises:
        ConfigError: names the field, and the nearest that exists.
        CheckpointError: a model folder that is none.
    """
    from pathlib import Path

    from trl import ModelConfig

    from balanced_thinking.cli.grpo import parse as parse_grpo
    from balanced_thinking.cli.parsing import check_keys
    from balanced_thinking.cli.sft import parse as parse_sft
    from balanced_thinking.compare.comparison import check_benchmarks
    from balanced_thinking.compare.plan import plan_stages
    from balanced_thinking.demo.presets import check_model_name
    from balanced_thinking.errors import ConfigError
    from balanced_thinking.training.dataset import DataArguments, check_present
    from balanced_thinking.training.grpo import GRPOArguments, StrictGRPOConfig
    from balanced_thinking.training.rewards import load_rewards
    from balanced_thinking.training.sft_config import ScaleSFTConfig

    check_benchmarks(comparison)
    for model in comparison.models:
        check_model_name(model)
    _check_launch(comparison.launch)
    types = {
        "recipe": (DataArguments, ScaleSFTConfig, ModelConfig),
        "grpo": (DataArguments, GRPOArguments, StrictGRPOConfig, ModelConfig),
    }
    for name, fields in types.items():
        remedy = f"see balanced {'sft' if name == 'recipe' else name} --help"
        check_keys(getattr(comparison, name), fields, source=f"{source}, {name}", remedy=remedy)
    tried = {stage.arm: stage for stage in plan_stages(comparison, Path("unused")) if stage.trains}
    for arm, stage in tried.items():
        try:
            if stage.kind == "sft":
                data, *_ = parse_sft(dict(stage.recipe))
            else:
                data, grpo, config, _ = parse_grpo(dict(stage.recipe))
                load_rewards(grpo.reward_funcs, max_completion_length=config.max_completion_length)
            _check_datasets([*data.names, *([data.eval_dataset] if data.eval_dataset else [])])
            check_present(data)
        except ConfigError as error:
            raise ConfigError(f"{source}, arm {arm}: {error}") from error


def _check_launch(arguments: Sequence[str]) -> None:
    """Refuse what `accelerate launch` would refuse.

    Raises:
        ConfigError: its own message.
    """
    from typing import NoReturn

    from accelerate.commands.launch import launch_command_parser

    from balanced_thinking.errors import ConfigError

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"comparison: launch: {message} (see accelerate launch --help)")

    parser = launch_command_parser()
    parser.error = refuse
    known, unknown = parser.parse_known_args([*arguments, "script"])
    if unknown or known.training_script != "script":
        refuse(f"unknown argument {(unknown or [known.training_script])[0]}")


def _check_datasets(names: Sequence[str]) -> None:
    """Refuse a data set that is neither a benchmark nor a path nor the form of a hub id.

    Raises:
        ConfigError: names the nearest benchmark.
    """
    from balanced_thinking.compare.comparison import nearest
    from balanced_thinking.data.formats.folders import is_here
    from balanced_thinking.errors import ConfigError
    from balanced_thinking.evaluation.benchmarks import BENCHMARKS

    for name in names:
        if name not in BENCHMARKS and not is_here(name) and name.count("/") != 1:
            raise ConfigError(f"no benchmark and no data file is called {name!r}; {nearest(name, BENCHMARKS)}")


def _dry_run(comparison: Any, output: Any) -> int:
    """The plan with the seconds of each stage, and the hours of all."""
    from rich.console import Console
    from rich.table import Table

    from balanced_thinking.compare.probe import estimate
    from balanced_thinking.demo.presets import resolve

    console = Console()
    models = {model: str(resolve(model)) for model in comparison.models}
    found = estimate(comparison, output, models, lambda line: console.print(line, highlight=False))
    table = Table(title=f"{comparison.name}: {len(found)} stages to run", title_justify="left")
    for name in ("stage", "model", "about, minutes"):
        table.add_column(name, justify="left" if name != "about, minutes" else "right")
    for stage, seconds in found:
        table.add_row(stage.label, stage.model, f"{seconds / 60:.1f}")
    console.print(table)
    trained = sum(seconds for stage, seconds in found if stage.trains)
    evaluated = sum(seconds for stage, seconds in found if not stage.trains)
    beside = evaluated if comparison.with_grpo else evaluated + trained
    total = (trained if comparison.with_grpo else 0.0) + beside / comparison.jobs
    console.print(f"about {total / 3600:.1f} hours with {comparison.jobs} jobs; an upper estimate, from short probes")
    return 0
