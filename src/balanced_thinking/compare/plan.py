"""A comparison on paper: which arms, seeds, models and benchmarks, and the stages that these take.

A comparison is one YAML mapping; a stage is one process that trains or evaluates and leaves a folder that tells whether
it is done. What it leaves out: running them (``run``) and what came of it (``statistics``, ``report``). Torch-free.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.core.schedule import PRESETS
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS

BLANK = " (blank images)"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train: what it is in words, and the recipe fields that make it; ``recipe=None`` trains nothing."""

    description: str
    recipe: Mapping[str, Any] | None
    thinks: bool = True


_HALF = {"think": 0.5, "answer": 0.5}
ARMS: dict[str, Arm] = {
    "base": Arm("the model before any of our training", None, thinks=False),
    "answer-only": Arm("SFT on the answer alone", {"loss": "token_mean", "without_think": True}, thinks=False),
    "sft": Arm("plain SFT: the mean over all response tokens", {"loss": "token_mean"}),
    "scale": Arm("SCALe-SFT: segment means, cosine from think to answer", {"loss": "scale"}),
    **{f"scale:{name}": Arm(f"SCALe-SFT, preset {name}", {"loss": "scale", "scale_preset": name}) for name in PRESETS},
    "static": Arm(
        "segment means, 0.5 and 0.5 throughout",
        {"loss": "scale", "scale_shape": "constant", "scale_start": _HALF, "scale_end": _HALF},
    ),
    "linear": Arm("complementary ends, straight line", {"loss": "scale", "scale_shape": "linear"}),
    "reversed": Arm(
        "cosine from answer to think",
        {
            "loss": "scale",
            "scale_start": PRESETS["complementary"]["end"],
            "scale_end": PRESETS["complementary"]["start"],
        },
    ),
    "step": Arm(
        "0.5 and 0.5 for the first half, then the answer alone",
        {
            "loss": "scale",
            "scale_shape": "step",
            "scale_start": _HALF,
            "scale_end": {"think": 0.0, "answer": 1.0},
        },
    ),
    "dft": Arm("plain SFT with TRL's dft loss", {"loss": "token_mean", "loss_type": "dft"}),
}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Attributes:
        name: Title of the report.
        models: Presets, folders or hub ids.
        arms: Names in ``ARMS``; ``sft`` is what differences are taken to.
        seeds: One run of every trained arm each.
        benchmarks: Benchmark names or data files.
        recipe: Fields of ``balanced sft`` that all arms share (data, steps, batch, learning rate, ...).
        limit: Questions per benchmark; None for all.
        max_new_tokens: Generation cap of all arms; None for the benchmark's own.
        blank_images: Also evaluate with grey pictures, which shows whether a model looks.
        jobs: Stages that run at once; 1 when their seconds are to be compared.
        threads: Threads of each stage; None shares the cores among the jobs.
    """

    name: str
    models: tuple[str, ...]
    arms: tuple[str, ...]
    benchmarks: tuple[str, ...]
    recipe: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    max_new_tokens: int | None = None
    blank_images: bool = False
    jobs: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("models", "arms", "benchmarks", "seeds"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or isinstance(values, str) or not values:
                raise ConfigError(f"comparison: {name} must be a list with at least one entry, not {values!r}")
            if len(set(values)) != len(values):
                raise ConfigError(f"comparison: {name} names something twice: {', '.join(map(str, values))}")
            object.__setattr__(self, name, tuple(values))
        for arm in self.arms:
            if arm not in ARMS:
                raise ConfigError(f"comparison: arm {arm!r} is unknown; {_nearest(arm, ARMS)}")
        for benchmark in self.benchmarks:
            if benchmark not in BENCHMARKS and not Path(benchmark).exists():
                raise ConfigError(
                    f"comparison: {benchmark!r} is neither a benchmark nor a file; {_nearest(benchmark, BENCHMARKS)}"
                )
        for name in ("limit", "max_new_tokens", "jobs", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"comparison: {name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(self.recipe, Mapping) or "dataset" not in self.recipe:
            raise ConfigError("comparison: recipe must be a mapping with at least a dataset")


def read_comparison(values: Mapping[str, Any], *, source: str) -> Comparison:
    """A comparison from a YAML mapping.

    Raises:
        ConfigError: an unknown or missing key, or a value that does not fit; names the source and the nearest key.
    """
    fields = {item.name: item for item in dataclasses.fields(Comparison)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{source}: unknown key {key!r}; {_nearest(str(key), fields)}")
    for name, item in fields.items():
        if item.default is dataclasses.MISSING and name not in values:
            raise ConfigError(f"{source}: {name} is missing")
    return Comparison(**values)


@dataclass(frozen=True)
class Stage:
    """One process.

    Attributes:
        kind: ``train`` or ``evaluate``.
        model: What all arms start from.
        arm: Its name.
        seed: Its seed; 0 for ``base``.
        folder: The run folder; where an evaluation of ``base`` leaves its predictions.
        needs: Run folders that must be finished first.
        recipe: Fields of ``balanced sft``; empty for an evaluation.
        benchmark: What is evaluated; "" for a training.
        blank_images: Whether pictures are replaced.
    """

    kind: str
    model: str
    arm: str
    seed: int
    folder: Path
    needs: tuple[Path, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    benchmark: str = ""
    blank_images: bool = False

    @property
    def label(self) -> str:
        """A few words for a progress bar."""
        seed = "" if self.arm == "base" else f" seed {self.seed}"
        what = "train" if self.kind == "train" else Path(self.benchmark).stem + (BLANK if self.blank_images else "")
        return f"{self.arm}{seed}: {what}"

    @property
    def output(self) -> Path:
        """Where an evaluation writes ``predictions`` and ``metrics``."""
        return self.folder / "blank-images" if self.blank_images else self.folder


def plan_stages(comparison: Comparison, output: Path) -> list[Stage]:
    """All stages, seed by seed, so that after each seed every arm is complete."""
    stages: list[Stage] = []
    for model in comparison.models:
        for seed in comparison.seeds:
            for arm in comparison.arms:
                stages += _stages_of(comparison, output, model=model, arm=arm, seed=seed)
    return stages


def _stages_of(comparison: Comparison, output: Path, *, model: str, arm: str, seed: int) -> list[Stage]:
    trained = ARMS[arm].recipe is not None
    if not trained and seed != comparison.seeds[0]:
        return []
    seed = seed if trained else 0
    place = Path(output) / Path(model).name / arm.replace(":", "-")
    folder = place / f"seed-{seed}" if trained else place
    common: dict[str, Any] = {"model": model, "arm": arm, "seed": seed, "folder": folder}
    stages = []
    if trained:
        recipe = {**comparison.recipe, **(ARMS[arm].recipe or {}), "seed": seed, "output_dir": str(folder)}
        stages.append(Stage(kind="train", recipe=recipe, **common))
    for benchmark in comparison.benchmarks:
        for blank in (False, True) if comparison.blank_images else (False,):
            stages.append(
                Stage(
                    kind="evaluate",
                    needs=(folder,) if trained else (),
                    benchmark=benchmark,
                    blank_images=blank,
                    **common,
                )
            )
    return stages


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
