"""What a training step costs: SCALe and our rollouts against plain SFT and stock TRL, paired in one run.

Arms, each one optimizer step (forward, backward, clipping, AdamW) of the same model on the same rows, collated before:

    scale        ours with loss="scale"
    token_mean   ours with loss="token_mean"
    trl          stock SFTTrainer, settings made equal: precision, no activation checkpointing

and of a GRPO step (completions, rewards, forward, backward, AdamW), both in our trainer:

    auto         our rollouts
    trl          TRL's rollouts

and of the steps of one pass over the same rows, in two orders:

    grouped      rows of like length share a batch (train_sampling_strategy="group_by_length")
    random       the default

Left out: collation of SFT, several devices, accumulation.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from balanced_thinking.compare import timing
from balanced_thinking.errors import ConfigError
from balanced_thinking.models.modeling import load_processor

# Largest acceptable median of scale / token_mean in wall seconds.
GOALS: Mapping[tuple[str, str], float] = {("sft", "token_mean"): 1.02}
FIRST: Mapping[str, str] = {"sft": "scale", "grpo": "auto", "order": "grouped"}
ORDER_STEPS = 32


@dataclass(frozen=True, kw_only=True)
class StepBenchOptions:
    """The model, batch and length of ``bench_step``.

    Attributes:
        kind: ``sft``, ``grpo`` or ``order``.
        model: Folder or hub id.
        dataset: Benchmark name or data file; its first rows are used.
        rows: Rows of a step; of GRPO, completions.
        num_generations: GRPO: completions of a group.
        max_completion_length: GRPO: their cap in tokens.
        pairs: Timed rounds.
        warmup: Rounds before them that do not count.
        threads: Threads of torch; None leaves torch's own choice.
        bf16: Autocast; None leaves the trainer's own choice, which the other arms then share.
        seed: Seed of the order of the arms.
    """

    kind: str = "sft"
    model: str
    dataset: str = "icons"
    rows: int = 16
    num_generations: int = 8
    max_completion_length: int = 160
    pairs: int = 21
    warmup: int = 2
    threads: int | None = None
    bf16: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "pairs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kind == "grpo" and self.rows % self.num_generations:
            raise ConfigError(f"rows must be a multiple of {self.num_generations}, got {self.rows}")


def bench_step(options: StepBenchOptions, *, progress: bool = True) -> dict[str, Any]:
    """Compare the arms and return what was measured, ready for JSON: ``options``, ``machine``, ``arms``, ``ratios``."""
    import statistics

    load_before = timing.load_average()
    with timing.threads(options.threads), tempfile.TemporaryDirectory() as folder, timing.bar(progress) as bar:
        steps = _make_steps(options, Path(folder))
        task = bar.add_task(f"bench {options.kind}", total=(options.warmup + options.pairs) * len(steps))
        seconds = timing.rounds(
            steps, pairs=options.pairs, warmup=options.warmup, seed=options.seed, advance=lambda: bar.advance(task)
        )
        machine = timing.machine(load_before)
    arms = {
        arm: dict(zip(("wall_s", "cpu_s"), map(statistics.median, zip(*found, strict=True)), strict=True))
        for arm, found in seconds.items()
    }
    first = FIRST[options.kind]
    ratios = {
        arm: timing.ratios(seconds[first], found, goal=GOALS.get((options.kind, arm)))
        for arm, found in seconds.items()
        if arm != first
    }
    return {"options": asdict(options), "machine": machine, "arms": arms, "ratios": ratios}


def format_step_table(result: Mapping[str, Any]) -> str:
    """The result of ``bench_step`` as text."""
    from rich.console import Console
    from rich.table import Table

    options = result["options"]
    first = FIRST[options["kind"]]
    what = f"{ORDER_STEPS} SFT steps" if options["kind"] == "order" else f"one {options['kind'].upper()} step"
    table = Table(title=what, title_justify="left")
    for column in ("arm", "wall s", "CPU s", f"{first} / arm, wall", "wins", f"{first} / arm, CPU", "goal"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for arm, values in result["arms"].items():
        cells = timing.ratio_cells(result["ratios"].get(arm))
        table.add_row(arm, f"{values['wall_s']:.3f}", f"{values['cpu_s']:.3f}", *cells)
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(f"{options['rows']} rows of {options['dataset']}, {options['pairs']} rounds in random order")
        console.print(timing.machine_line(result["machine"]))
        console.print(table)
    return captured.get().rstrip()


def _make_steps(options: StepBenchOptions, folder: Path) -> dict[str, Callable[[], Any]]:
    from itertools import islice

    from balanced_thinking.data.records import to_dataset
    from balanced_thinking.training.dataset import DataArguments, read_examples

    data, groups = DataArguments(dataset=[options.dataset]), options.num_generations if options.kind == "grpo" else 1
    count = options.rows * ORDER_STEPS if options.kind == "order" else options.rows // groups
    rows = to_dataset(islice(read_examples(options.dataset, data, split="train"), count))
    if options.kind == "order":
        orders = {"grouped": "group_by_length", "random": "random"}
        trainers = {arm: _ours("scale", options, rows, folder / arm, order=order) for arm, order in orders.items()}
        return {arm: _steps(trainer, list(trainer.get_train_dataloader())) for arm, trainer in trainers.items()}
    if options.kind == "grpo":
        trainers = {arm: _grpo(arm, options, rows, folder / arm) for arm in ("auto", "trl")}
    else:
        makers = {"scale": _ours, "token_mean": _ours, "trl": _stock}
        trainers = {arm: make(arm, options, rows, folder / arm) for arm, make in makers.items()}
    copies = [rows[i] for i in range(len(rows)) for _ in range(groups)]
    return {arm: _steps(trainer, [trainer.data_collator(copies)]) for arm, trainer in trainers.items()}


def _ours(arm: str, options: StepBenchOptions, rows: Any, folder: Path, *, order: str = "random") -> Any:
    from balanced_thinking.training.sft import ScaleSFTTrainer
    from balanced_thinking.training.sft_config import ScaleSFTConfig

    config = ScaleSFTConfig(str(folder), loss=arm, train_sampling_strategy=order, **_settings(options))
    return ScaleSFTTrainer(options.model, config, train_dataset=rows)


def _stock(arm: str, options: StepBenchOptions, rows: Any, folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    from balanced_thinking.training.sft_config import ScaleSFTConfig

    chosen = ScaleSFTConfig(str(folder), **_settings(options))
    config = SFTConfig(
        str(folder),
        **{**_settings(options), "bf16": chosen.bf16},
        use_cpu=chosen.use_cpu,
        activation_checkpointing=False,
    )
    model = AutoModelForImageTextToText.from_pretrained(options.model)
    columns = rows.select_columns(["prompt", "completion", "images"])
    return SFTTrainer(model, config, train_dataset=columns, processing_class=load_processor(options.model))


def _grpo(arm: str, options: StepBenchOptions, rows: Any, folder: Path) -> Any:
    from balanced_thinking.training.grpo import StrictGRPOConfig, StrictGRPOTrainer
    from balanced_thinking.training.rewards import load_rewards

    config = StrictGRPOConfig(
        str(folder),
        num_generations=options.num_generations,
        max_completion_length=options.max_completion_length,
        **{name: value for name, value in _settings(options).items() if name != "max_length"},
    )
    rewards = load_rewards(["accuracy", "format"], max_completion_length=config.max_completion_length)
    return StrictGRPOTrainer(
        options.model,
        rewards,
        config,
        rollouts=arm,
        train_dataset=rows.remove_columns("completion"),
        processing_class=load_processor(options.model, padding_side="left", truncation_side="left"),
    )


def _settings(options: StepBenchOptions) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": options.rows,
        "max_steps": 1000,
        "learning_rate": 1e-5,
        "bf16": options.bf16,
        "max_length": None,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
    }


def _steps(trainer: Any, batches: list[Any]) -> Callable[[], Any]:
    """An optimizer step of a trainer for each batch, as its own loop does it, on the same batches each time."""
    trainer.create_optimizer()
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped = model
    trainer.optimizer, trainer.state.max_steps = optimizer, trainer.args.max_steps
    trainer.current_gradient_accumulation_steps = 1

    def steps() -> None:
        for batch in batches:
            found, items = trainer.get_batch_samples(iter([copy.copy(batch)]), 1, trainer.args.device)
            model.train()
            trainer.training_step(model, found[0], items)
            trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
            optimizer.step()
            model.zero_grad()

    return steps
