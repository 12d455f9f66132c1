"""A comparison on paper: the stages that it takes.

A stage is one process that trains or evaluates and leaves a folder that tells whether it is done. A stage that several
arms need (the SFT before GRPO) stands in the plan once. What it leaves out: running them (``run``) and what came of it
(``statistics``, ``report``). Torch-free.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.evaluation.benchmarks import file_name

BLANK = " (blank images)"
# What GRPO takes over from the SFT recipe unless its own recipe says otherwise: how data become prompts.
_INHERITED = ("system_prompt", "image_root", "columns", "allow_outside", "dataset_format")


@dataclass(frozen=True)
class Stage:
    """One process.

    Attributes:
        kind: The verb that runs it: ``sft``, ``grpo`` or ``evaluate``.
        model: What all arms start from.
        arm: Its name.
        seed: Its seed; 0 for ``base``.
        folder: The run folder; where an evaluation of ``base`` leaves its predictions.
        start: The run folder it starts from or evaluates, which must be finished first; None: the model itself.
        recipe: Fields of ``balanced sft`` or ``grpo``; empty for an evaluation.
        benchmark: What is evaluated; "" for a training.
        blank_images: Whether pictures are replaced.
    """

    kind: str
    model: str
    arm: str
    seed: int
    folder: Path
    start: Path | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    benchmark: str = ""
    blank_images: bool = False

    @property
    def trains(self) -> bool:
        """Whether it makes a model."""
        return self.kind != "evaluate"

    @property
    def label(self) -> str:
        """A few words for a progress bar."""
        seed = "" if self.arm == "base" else f" seed {self.seed}"
        return f"{self.arm}{seed}: {self.kind if self.trains else self.questions}"

    @property
    def file_name(self) -> str:
        """The stem of the files of an evaluation."""
        return file_name(self.benchmark)

    @property
    def questions(self) -> str:
        """What an evaluation asks, as results name it."""
        return self.file_name + (BLANK if self.blank_images else "")

    @property
    def output(self) -> Path:
        """Where an evaluation writes ``predictions`` and ``metrics``."""
        return self.folder / "blank-images" if self.blank_images else self.folder


def plan_stages(comparison: Comparison, output: Path) -> list[Stage]:
    """All stages, each once, seed by seed, so that after each seed every arm is complete."""
    stages: dict[tuple[Path, str, str, bool], Stage] = {}
    for model in comparison.models:
        for seed in comparison.seeds:
            for arm in comparison.arms:
                for stage in _stages_of(comparison, output, model=model, arm=arm, seed=seed):
                    stages.setdefault((stage.folder, stage.kind, stage.benchmark, stage.blank_images), stage)
    return list(stages.values())


def training_stages(comparison: Comparison, output: Path, *, model: str, arm: str, seed: int) -> list[Stage]:
    """What makes the model of an arm, in order: nothing, SFT, or SFT and GRPO."""
    spec = ARMS[arm]
    if spec.recipe is None:
        return []
    if spec.after is not None:
        before = training_stages(comparison, output, model=model, arm=spec.after, seed=seed)
        inherited = {key: comparison.recipe[key] for key in _INHERITED if key in comparison.recipe}
        kind, recipe, start = "grpo", {**inherited, **comparison.grpo}, before[-1].folder
    else:
        before, kind, recipe, start = [], "sft", {**comparison.recipe, **spec.recipe}, None
    folder = run_folder(output, model, arm, seed)
    recipe = {**recipe, "seed": seed, "output_dir": str(folder)}
    return [*before, Stage(kind=kind, model=model, arm=arm, seed=seed, folder=folder, start=start, recipe=recipe)]


def run_folder(output: Path, model: str, arm: str, seed: int) -> Path:
    """Where an arm leaves its model, or ``base`` its predictions."""
    place = Path(output) / Path(model).name / arm.replace(":", "-")
    return place if ARMS[arm].recipe is None else place / f"seed-{seed}"


def _stages_of(comparison: Comparison, output: Path, *, model: str, arm: str, seed: int) -> list[Stage]:
    stages = training_stages(comparison, output, model=model, arm=arm, seed=seed)
    folder = run_folder(output, model, arm, seed)
    evaluations = [
        Stage(
            kind="evaluate",
            model=model,
            arm=arm,
            seed=seed if stages else 0,
            folder=folder,
            start=folder if stages else None,
            benchmark=benchmark,
            blank_images=blank,
        )
        for benchmark in comparison.benchmarks
        for blank in ((False, True) if comparison.blank_images else (False,))
    ]
    return [*stages, *evaluations]
