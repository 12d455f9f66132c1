"""A comparison on paper: which arms, seeds, models and benchmarks, and the stages that these take.

A comparison is one YAML mapping; a stage is one process that trains or evaluates and leaves a folder that tells whether
it is done. A stage that several arms need (the SFT before GRPO) stands in the plan once. What it leaves out: running
them (``run``) and what came of it (``statistics``, ``report``). Torch-free.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.core.schedule import PRESETS
from balanced_thinking.errors import ConfigError
from balanced_thinking.evaluation.benchmarks import BENCHMARKS, file_name

BLANK = " (blank images)"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train.

    Attributes:
        description: What it is, in words.
        recipe: The fields of its SFT recipe that make it; None trains nothing.
        thinks: Whether its format has a think segment.
        after: The arm from whose SFT folder GRPO starts, where the arm is one with GRPO.
    """

    description: str
    recipe: Mapping[str, Any] | None
    thinks: bool = True
    after: str | None = None


_HALF = {"think": 0.5, "answer": 0.5}
ARMS: dict[str, Arm] = {
    "base": Arm("the model before any of our training", None, thinks=False),
    "answer-only": Arm("SFT on the answer alone", {"loss": "token_mean", "without_think": True}, thinks=False),
    "sft": Arm("plain SFT: the mean over all response tokens", {"loss": "token_mean"}),
    "scale": Arm("SCALe-SFT: segment means, cosine from think to answer", {"loss": "scale"}),
    "sft+grpo": Arm("plain SFT, then GRPO", {}, after="sft"),
    "scale+grpo": Arm("SCALe-SFT, then GRPO", {}, after="scale"),
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
        benchmarks: Benchmark names (``icons:val`` for another split than test) or data files.
        recipe: Fields of ``balanced sft`` that all arms share (data, steps, batch, learning rate, ...).
        grpo: Fields of ``balanced grpo`` that all arms with GRPO share; only they need it.
        limit: Questions per benchmark; None for all.
        max_new_tokens: Generation cap of all arms; None for the benchmark's own.
        blank_images: Also evaluate with grey pictures, which shows whether a model looks.
        jobs: Stages that run at once. With an arm that has GRPO, trainings run alone, since their seconds are compared.
        threads: Threads of each stage; None shares the cores among the jobs.
        launch: Arguments of ``accelerate launch`` for the training stages, such as ``[--num_processes, "8"]``.
    """

    name: str
    models: tuple[str, ...]
    arms: tuple[str, ...]
    benchmarks: tuple[str, ...]
    recipe: Mapping[str, Any]
    grpo: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    max_new_tokens: int | None = None
    blank_images: bool = False
    jobs: int = 1
    threads: int | None = None
    launch: tuple[str, ...] = ()

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
            if str(benchmark).split(":")[0] not in BENCHMARKS and not Path(benchmark).exists():
                raise ConfigError(
                    f"comparison: {benchmark!r} is neither a benchmark nor a file; {_nearest(benchmark, BENCHMARKS)}"
                )
        for name in ("limit", "max_new_tokens", "jobs", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"comparison: {name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(self.recipe, Mapping) or "dataset" not in self.recipe:
            raise ConfigError("comparison: recipe must be a mapping with at least a dataset")
        if not isinstance(self.grpo, Mapping) or (self.with_grpo and "dataset" not in self.grpo):
            raise ConfigError("comparison: grpo must be a mapping with at least a dataset when an arm has GRPO")
        if isinstance(self.launch, str) or not all(isinstance(part, str) for part in self.launch):
            raise ConfigError('comparison: launch must be a list of texts, such as ["--num_processes", "8"]')
        object.__setattr__(self, "launch", tuple(self.launch))

    @property
    def with_grpo(self) -> bool:
        """Whether an arm has GRPO; then the seconds of trainings are set against each other."""
        return any(ARMS[arm].after is not None for arm in self.arms)

    @property
    def timed(self) -> bool:
        """Whether each training ran alone, so that seconds can be compared."""
        return self.with_grpo or self.jobs == 1


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
        if item.default is item.default_factory is dataclasses.MISSING and name not in values:
            raise ConfigError(f"{source}: {name} is missing")
    return Comparison(**values)


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
        kind, recipe, start = "grpo", comparison.grpo, before[-1].folder
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


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
