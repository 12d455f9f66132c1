"""The recipe by which the embedded models are pre-trained: it learns to see, to find, then to answer at once.

A tower that speaks in words (``align``) comes first and rests while the text model learns facts about pictures, one
skill after the other, then direct questions and dense captions; a few name-free questions are about several hundred
further icons. No trace is shown. Each response counts by the mean over its own tokens (``loss="scale"`` with constant
weights), so that a direct answer weighs as much as a caption.
What it leaves out: the models (``tiny``), where the base is kept (``presets``).
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from balanced_thinking.data.example import Example
from balanced_thinking.data.records import to_trl_row
from balanced_thinking.evaluation.benchmarks import icons_pretraining as icons
from balanced_thinking.runinfo import build_once

SOURCES: dict[str, Callable[..., Example]] = {
    "where": partial(icons.fact_example, facts=icons.where),
    "names": partial(icons.fact_example, facts=icons.names),
    "counts": partial(icons.fact_example, facts=icons.counts),
    "comparisons": partial(icons.fact_example, facts=icons.comparisons),
    "facts": icons.fact_example,
    "letters": icons.letter_example,
    "caption": icons.caption_example,
    "direct": icons.direct_example,
    "direct-any": partial(icons.direct_example, named=False),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps, rows a step, optimizer (``Muon`` or ``AdamW``), and the mixture: from which share of the run on, which
    source how often.

    The tower is trained for ``align_steps`` before, and rests in all steps after.
    """

    align_steps: int
    steps: int
    rows: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    stages: tuple[tuple[float, dict[str, float]], ...]
    optimizer: str = "Muon"


RECIPE = Recipe(
    align_steps=400,
    steps=3200,
    rows=32,
    learning_rate=3e-3,
    warmup_steps=30,
    weight_decay=0.05,
    stages=(
        (0.0, {"where": 1, "names": 1, "counts": 1}),
        (0.075, {"where": 0.5, "names": 0.5, "facts": 1, "counts": 1, "comparisons": 1, "letters": 0.5, "direct": 5}),
        (0.25, {"facts": 0.5, "counts": 1, "comparisons": 1, "letters": 0.5, "direct": 6, "direct-any": 1}),
        (0.5, {"counts": 0.5, "comparisons": 0.5, "direct": 7, "direct-any": 2}),
        (0.9, {"caption": 2, "direct": 6, "direct-any": 2}),
    ),
)


def make_base(
    name: str,
    build: Callable[[Path], None],
    folder: Path,
    *,
    recipe: Recipe,
    origin: str,
    work: Path,
    limit: int | None = None,
    progress: bool = True,
) -> None:
    """The pre-trained base in ``folder``; ``work`` keeps checkpoints, so that a stopped build goes on.

    Args:
        name: The preset's, for its card.
        build: Writes the model before pre-training.
        folder: Where the base goes.
        recipe: How it is trained.
        origin: What it is made of and knows, for its card.
        work: What a stopped build goes on from; removed at the end.
        limit: Questions of each benchmark on the card.
        progress: Shows bars.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    from balanced_thinking.demo.presets.card import measure, write_card

    untrained = build_once(work / "untrained", build)
    run = pretrain(untrained, work / "run", recipe=recipe, progress=progress)
    model = AutoModelForImageTextToText.from_pretrained(run)
    write_card(
        run,
        name,
        type(model).__name__,
        measure(run, work / "evaluation", limit=limit),
        millions=model.num_parameters() / 1e6,
        vocabulary=len(AutoTokenizer.from_pretrained(run)),
        origin=origin,
        align_steps=recipe.align_steps,
        steps=recipe.steps,
        rows=recipe.rows,
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        seconds=json.loads((run / "clock.json").read_text(encoding="utf-8"))["cpu_seconds"],
    )
    for file in ("README.md", *(item.name for item in untrained.iterdir())):
        shutil.copyfile(run / file, folder / file)
    shutil.rmtree(work)


def pretrain(untrained: Path, folder: Path, *, recipe: Recipe = RECIPE, seed: int = 0, progress: bool = True) -> Path:
    """Pre-train the model in ``untrained``; stopped and started again with the same ``folder``, it goes on.

    Returns:
        ``folder``, with the trained model in bfloat16 and the processor at its top, and checkpoints while it runs.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from balanced_thinking.demo.presets.align import align
    from balanced_thinking.models.checkpoints import last_checkpoint

    aligned = build_once(
        folder.with_name("aligned"), partial(align, untrained, steps=recipe.align_steps, seed=seed, progress=progress)
    )
    trainer = make_trainer(aligned, make_config(folder, recipe, seed), recipe, seed, progress=progress)
    checkpoint, _ = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trained = AutoModelForImageTextToText.from_pretrained(untrained, dtype=torch.bfloat16)
    trained.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
    trained.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    for done in folder.glob("checkpoint-*"):
        shutil.rmtree(done)
    return folder


def make_trainer(aligned: Path, config: Any, recipe: Recipe, seed: int, *, progress: bool = False) -> Any:
    """The project's own trainer on the rows of the recipe."""
    from transformers import AutoModelForImageTextToText, AutoProcessor, PrinterCallback, get_scheduler

    from balanced_thinking.demo.presets.align import sight_parameters
    from balanced_thinking.demo.presets.muon import MuonWithAdamW
    from balanced_thinking.training.callbacks import Clock, Console, MetricsFile
    from balanced_thinking.training.sft import ScaleSFTTrainer

    folder = Path(config.output_dir)
    # Written-out attention is a quarter quicker than the fused kernel at this width on a CPU.
    model = AutoModelForImageTextToText.from_pretrained(aligned, attn_implementation={"text_config": "eager"})
    # At this learning rate the tower would lose its words within a hundred steps, and the text model its sight.
    for parameter in sight_parameters(model):
        parameter.requires_grad_(False)
    make = MuonWithAdamW if recipe.optimizer == "Muon" else _adamw
    optimizer = make(model, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_scheduler(
        "warmup_stable_decay",
        optimizer,
        recipe.warmup_steps,
        recipe.steps,
        scheduler_specific_kwargs={"num_decay_steps": int(0.4 * recipe.steps), "decay_type": "linear"},
    )
    trainer = ScaleSFTTrainer(
        model,
        config,
        train_dataset=make_dataset(recipe, seed),
        processing_class=AutoProcessor.from_pretrained(aligned),
        callbacks=[MetricsFile(folder), Clock(folder), *([Console("pre-training")] if progress else [])],
        optimizers=(optimizer, schedule),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adamw(model: Any, *, lr: float, weight_decay: float) -> Any:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay)


def make_dataset(recipe: Recipe, seed: int) -> Any:
    """The rows of the whole run in order, each made when it is read, so a resumed run skips without making them."""
    from datasets import Dataset

    def rows(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = [to_trl_row(make_row(number, recipe, seed)) for number in batch["number"]]
        return {key: [row[key] for row in made] for key in made[0]}

    return Dataset.from_dict({"number": list(range(recipe.steps * recipe.rows))}).with_transform(rows)


def make_row(number: int, recipe: Recipe, seed: int) -> Example:
    """The example at one place of the run: its source drawn from the mixture of its stage."""
    share = number / (recipe.steps * recipe.rows)
    mixture = [sources for start, sources in recipe.stages if share >= start][-1]
    source = random.Random(f"{seed}/{number}").choices(list(mixture), list(mixture.values()))[0]
    return SOURCES[source](number, seed=seed)


def make_config(folder: Path, recipe: Recipe, seed: int) -> Any:
    """The recipe as settings of the trainer."""
    from balanced_thinking.training.sft_config import ScaleSFTConfig

    return ScaleSFTConfig(
        output_dir=str(folder),
        loss="scale",
        scale_shape="constant",
        scale_start={"think": 1.0, "answer": 1.0},
        scale_on_malformed="keep",
        scale_check="lazy",
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.rows,
        train_sampling_strategy="sequential",
        max_length=None,
        seed=seed,
        logging_steps=20,
        save_steps=100,
        save_total_limit=1,
        dataloader_num_workers=1,
        report_to="none",
        disable_tqdm=True,
    )
