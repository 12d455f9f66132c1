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

from balanced_thinking.compare.plan import ARMS, Comparison, Stage, plan_stages
from balanced_thinking.compare.run import is_done, run_stage
from balanced_thinking.data.records import load_examples
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS
from balanced_thinking.runinfo import read_jsonl

STEPS, QUESTIONS = {"sft": 5, "grpo": 3}, 32


def estimate(
    comparison: Comparison, output: Path, models: Mapping[str, str], say: Callable[[str], None] = print
) -> list[tuple[Stage, float]]:
    """(stage, seconds it will take) for every stage that is not complete.

    Raises:
        ConfigError: a probe failed; names the stage and the end of its log.
    """
    waiting = [stage for stage in plan_stages(comparison, output) if not is_done(stage)]
    with tempfile.TemporaryDirectory() as folder:
        probes = _Probes(comparison, Path(folder), models, say)
        return [(stage, probes.seconds(stage)) for stage in waiting]


class _Probes:
    """Each kind of stage is tried once per model; what it costs is kept."""

    def __init__(
        self, comparison: Comparison, folder: Path, models: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self.comparison, self.folder, self.models, self.say = comparison, folder, models, say
        self.training: dict[tuple[str, str], tuple[float, float, float]] = {}
        self.evaluation: dict[tuple[str, str, bool], tuple[float, float]] = {}
        self.sizes: dict[str, int] = {}

    def seconds(self, stage: Stage) -> float:
        if stage.trains:
            start_up, step, epoch_share = self._train(stage)
            return start_up + step * _steps(stage, epoch_share)
        start_up, question = self._evaluate(stage)
        return start_up + question * self._questions(stage.benchmark)

    def _train(self, stage: Stage) -> tuple[float, float, float]:
        """(start-up seconds, seconds a step, share of an epoch that a step is) of a kind of training."""
        key = (stage.model, stage.kind)
        if key in self.training:
            return self.training[key]
        folder = self._folder(stage)
        short = {"max_steps": STEPS[stage.kind], "logging_steps": 1, "save_strategy": "no", "output_dir": str(folder)}
        start = None
        if stage.kind == "grpo":
            sft = next(s for s in plan_stages(self.comparison, self.folder) if s.kind == "sft")
            self._train(dataclasses.replace(sft, model=stage.model))
            start = self.folder / Path(stage.model).name / "sft"
        took = self._run(dataclasses.replace(stage, folder=folder, start=start, recipe={**stage.recipe, **short}))
        times = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row and "train_runtime" in row]
        if len(times) < 2:
            raise ConfigError(f"{stage.label}: the probe logged no steps; see {folder}")
        # The first step warms caches up and counts as start-up.
        step = (times[-1]["train_runtime"] - times[0]["train_runtime"]) / (len(times) - 1)
        self.training[key] = (max(0.0, took - step * len(times)), step, times[-1]["epoch"] / times[-1]["step"])
        return self.training[key]

    def _evaluate(self, stage: Stage) -> tuple[float, float]:
        """(start-up seconds, seconds a question) of a benchmark, for arms that think or answer at once."""
        thinks = ARMS[stage.arm].thinks
        key = (stage.model, stage.benchmark, thinks)
        if key not in self.evaluation:
            start = None
            if stage.start is not None:
                sft = next(s for s in plan_stages(self.comparison, self.folder) if s.kind == "sft")
                self._train(dataclasses.replace(sft, model=stage.model))
                start = self.folder / Path(stage.model).name / "sft"
            folder = self._folder(stage) / f"{stage.file_name}-{thinks}"
            took = [
                self._run(
                    dataclasses.replace(stage, folder=folder / str(count), start=start, blank_images=False),
                    limit=count,
                )
                for count in (1, QUESTIONS)
            ]
            question = max(0.0, took[1] - took[0]) / (QUESTIONS - 1)
            self.evaluation[key] = (took[0], question)
        return self.evaluation[key]

    def _questions(self, benchmark: str) -> int:
        if benchmark not in self.sizes:
            name, _, split = benchmark.partition(":")
            known = name in BENCHMARKS
            found = BENCHMARKS[name].load(split or "test") if known else load_examples(benchmark, on_missing="train")
            self.sizes[benchmark] = sum(1 for _ in found)
        return min(self.sizes[benchmark], self.comparison.limit or self.sizes[benchmark])

    def _folder(self, stage: Stage) -> Path:
        return self.folder / Path(stage.model).name / stage.kind

    def _run(self, stage: Stage, *, limit: int | None = None) -> float:
        self.say(f"probe: {stage.kind} {stage.questions if stage.benchmark else ''}".rstrip())
        comparison = dataclasses.replace(self.comparison, limit=limit) if limit else self.comparison
        begin = time.perf_counter()
        run_stage(stage, comparison, self.models[stage.model])
        return time.perf_counter() - begin


def _steps(stage: Stage, epoch_share: float) -> float:
    steps: Any = stage.recipe.get("max_steps", -1)
    return steps if steps > 0 else float(stage.recipe.get("num_train_epochs", 3)) / epoch_share
