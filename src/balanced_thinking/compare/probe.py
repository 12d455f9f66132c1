"""How long a comparison would take: each kind of stage tried for a few steps or questions, then scaled up.

    seconds of a training   = start-up + steps * seconds a step
    seconds of an evaluation = start-up + questions * seconds a question

The probe's model has hardly been trained and writes up to the cap, so evaluations and GRPO come out too long rather
than too short. What it leaves out: stages of several arms that run beside each other slow each other.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from balanced_thinking.compare.comparison import ARMS, Comparison
from balanced_thinking.compare.plan import Stage, training_stages
from balanced_thinking.compare.run import missing, run_stage
from balanced_thinking.evaluation.benchmarks import ask
from balanced_thinking.runinfo import read_jsonl

STEPS, QUESTIONS = {"sft": 5, "grpo": 3}, 32


def estimate(
    comparison: Comparison, output: Path, models: Mapping[str, str], say: Callable[[str], None] = print
) -> list[tuple[Stage, float]]:
    """(stage, seconds it will take) for every stage that is not complete.

    Raises:
        ConfigError: a probe failed; names the stage and the end of its log.
    """
    waiting = missing(comparison, output)
    with tempfile.TemporaryDirectory() as folder:
        probes = _Probes(comparison, Path(folder), models, say)
        return [(stage, probes.seconds(stage)) for stage in waiting]


class _Probes:
    """Each kind of stage is tried once per model; what it costs is kept."""

    def __init__(
        self, comparison: Comparison, folder: Path, models: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self.comparison, self.folder, self.models, self.say = comparison, folder, models, say
        self.training: dict[Path, tuple[float, float, float]] = {}
        self.evaluation: dict[Path, tuple[float, float]] = {}
        self.sizes: dict[str, int] = {}

    def seconds(self, stage: Stage) -> float:
        if stage.trains:
            start_up, step, epoch_share = self._train(stage)
            return start_up + step * _steps(stage, epoch_share)
        start_up, question = self._evaluate(stage)
        return start_up + question * self._questions(stage.benchmark)

    def _train(self, stage: Stage) -> tuple[float, float, float]:
        """(start-up seconds, seconds a step, share of an epoch that a step is) of a kind of training."""
        folder = self._folder(stage)
        if folder not in self.training:
            short: dict[str, Any] = {"max_steps": STEPS[stage.kind], "logging_steps": 1, "save_strategy": "no"}
            recipe = {**stage.recipe, **short, "output_dir": str(folder)}
            start = self._trained(stage) if stage.kind == "grpo" else None
            took = self._run(dataclasses.replace(stage, folder=folder, start=start, recipe=recipe))
            rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
            # The first step warms caches up and counts as start-up.
            step = (rows[-1]["seconds"] - rows[0]["seconds"]) / (len(rows) - 1)
            share = rows[-1]["epoch"] / rows[-1]["step"]
            self.training[folder] = (max(0.0, took - step * len(rows)), step, share)
        return self.training[folder]

    def _trained(self, stage: Stage) -> Path:
        """The folder of the probe of the SFT from which a stage starts, made if need be."""
        sft = training_stages(self.comparison, self.folder, model=stage.model, arm=stage.arm, seed=stage.seed)[0]
        self._train(sft)
        return self._folder(sft)

    def _evaluate(self, stage: Stage) -> tuple[float, float]:
        """(start-up seconds, seconds a question) of a benchmark, for arms that think or answer at once."""
        folder = self._folder(stage)
        if folder not in self.evaluation:
            start = None if stage.start is None else self._trained(stage)
            took = []
            for count in (1, QUESTIONS):
                part = dataclasses.replace(stage, folder=folder / str(count), start=start, blank_images=False)
                took.append(self._run(part, limit=count))
            self.evaluation[folder] = (took[0], max(0.0, took[1] - took[0]) / (QUESTIONS - 1))
        return self.evaluation[folder]

    def _questions(self, benchmark: str) -> int:
        if benchmark not in self.sizes:
            self.sizes[benchmark] = sum(1 for _ in ask(benchmark, self.comparison.reading).load())
        return min(self.sizes[benchmark], self.comparison.limit or self.sizes[benchmark])

    def _folder(self, stage: Stage) -> Path:
        """One folder for all stages that cost the same: by model, kind, benchmark, and whether the arm thinks."""
        thinks = "think" if ARMS[stage.arm].thinks else "answer"
        trained = "base" if stage.start is None and not stage.trains else "trained"
        place = stage.file_name if stage.benchmark else "run"
        return self.folder / Path(stage.model).name / f"{stage.kind}-{thinks}-{trained}" / place

    def _run(self, stage: Stage, *, limit: int | None = None) -> float:
        self.say(f"probe: {stage.kind} {stage.questions if stage.benchmark else ''}".rstrip())
        comparison = dataclasses.replace(self.comparison, limit=limit) if limit else self.comparison
        begin = time.perf_counter()
        run_stage(stage, comparison, self.models[stage.model])
        return time.perf_counter() - begin


def _steps(stage: Stage, epoch_share: float) -> float:
    steps: Any = stage.recipe.get("max_steps", -1)
    return steps if steps > 0 else float(stage.recipe.get("num_train_epochs", 3)) / epoch_share
