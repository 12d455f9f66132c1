"""What is compared, and how: the arms that there are, and one YAML mapping that chooses among them.

Every value is checked here, since YAML can hand over anything. What it leaves out: recipe fields, which belong to the
verbs that read them (``cli.compare`` has them checked), and the stages that follow (``plan``). Torch-free.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balanced_thinking.core.schedule import PRESETS
from balanced_thinking.errors import ConfigError, EvaluationError
from balanced_thinking.evaluation.benchmarks import check_reading, file_name, open_first
from balanced_thinking.evaluation.engine import check_running

# What a comparison gives each stage by itself.
_OWNED = ("model_name_or_path", "output_dir", "seed", "resume_from_checkpoint")
_TAKEN = ("", ".", "..", "examples", "plots")
# What all evaluations may share; the rest is a key of the comparison itself, or follows from the recipe.
_READING = ("dataset_format", "image_root", "answer_from", "columns", "allow_outside")
_EVALUATE = (*_READING, "backend", "backend_options", "dtype", "batch_size", "chat_template_kwargs")


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
    "tags-next": Arm("SCALe-SFT, closing tags counted in the next segment", {"loss": "scale", "scale_tags": "next"}),
    "tags-none": Arm("SCALe-SFT, tags with weight 0", {"loss": "scale", "scale_tags": "none"}),
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
        evaluate: Options of ``balanced evaluate`` that all evaluations share: how data files are read, backend, batch
            size, dtype.
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
    evaluate: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    max_new_tokens: int | None = None
    blank_images: bool = False
    jobs: int = 1
    threads: int | None = None
    launch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"comparison: name must be a text, not {self.name!r}")
        for name in ("models", "arms", "benchmarks"):
            self._check_list(name, lambda value: isinstance(value, str) and bool(value), "texts")
        self._check_list("seeds", lambda value: type(value) is int and value >= 0, "whole numbers")
        self._check_list("launch", lambda value: isinstance(value, str), 'texts, such as ["--num_processes", "8"]')
        for arm in self.arms:
            if arm not in ARMS:
                raise ConfigError(f"comparison: arm {arm!r} is unknown; {nearest(arm, ARMS)}")
        for name in ("limit", "max_new_tokens", "jobs", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"comparison: {name} must be a whole number of at least 1, not {value!r}")
        if type(self.blank_images) is not bool:
            raise ConfigError(f"comparison: blank_images must be true or false, not {self.blank_images!r}")
        self._check_recipe("recipe", needed=True)
        self._check_recipe("grpo", needed=self.with_grpo)
        self._check_evaluate()
        self._check_names()

    @property
    def with_grpo(self) -> bool:
        """Whether an arm has GRPO; then the seconds of trainings are set against each other."""
        return any(ARMS[arm].after is not None for arm in self.arms)

    def _check_list(self, name: str, fits: Callable[[Any], bool], what: str) -> None:
        values = getattr(self, name)
        if not isinstance(values, Sequence) or isinstance(values, str) or not all(map(fits, values)):
            raise ConfigError(f"comparison: {name} must be a list of {what}, not {values!r}")
        if not values and name != "launch":
            raise ConfigError(f"comparison: {name} must be a list with at least one entry")
        if len(set(values)) != len(values) and name != "launch":
            raise ConfigError(f"comparison: {name} names something twice: {', '.join(map(str, values))}")
        object.__setattr__(self, name, tuple(values))

    def _check_recipe(self, name: str, *, needed: bool) -> None:
        recipe = getattr(self, name)
        if not isinstance(recipe, Mapping) or (needed and "dataset" not in recipe):
            raise ConfigError(f"comparison: {name} must be a mapping with at least a dataset")
        for key in _OWNED:
            if key in recipe:
                raise ConfigError(f"comparison: {name} must not hold {key}, which each stage gets by itself")

    def _check_evaluate(self) -> None:
        if not isinstance(self.evaluate, Mapping):
            raise ConfigError(f"comparison: evaluate must be a mapping, not {self.evaluate!r}")
        for key in self.evaluate:
            if key not in _EVALUATE:
                beside = key in {item.name for item in dataclasses.fields(self)}
                way = "it stands beside evaluate, not in it" if beside else nearest(str(key), _EVALUATE)
                raise ConfigError(f"comparison: evaluate: unknown key {key!r}; {way}")
        for key in ("backend_options", "chat_template_kwargs"):
            if not isinstance(self.evaluate.get(key), Mapping | None):
                raise ConfigError(f"comparison: evaluate: {key} must be a mapping, not {self.evaluate[key]!r}")
        backend, dtype = self.evaluate.get("backend") or "transformers", self.evaluate.get("dtype") or "auto"
        try:
            check_running(backend, dtype, self.evaluate.get("backend_options") or {})
        except EvaluationError as error:
            raise ConfigError(f"comparison: evaluate: {error}") from error

    @property
    def reading(self) -> dict[str, Any]:
        """How benchmarks that are data files are read: options of ``load_examples``."""
        options = {name: self.evaluate[name] for name in _READING if name in self.evaluate}
        if "dataset_format" in options:
            options["format"] = options.pop("dataset_format")
        return {**options, "segments": self.recipe.get("scale_segments")}

    def _check_names(self) -> None:
        """Folders and files are named after models and benchmarks, so these names must differ."""
        for what, names in (
            ("models", [Path(model).name for model in self.models]),
            ("benchmarks", [file_name(benchmark) for benchmark in self.benchmarks]),
        ):
            for name in names:
                if names.count(name) > 1 or name in _TAKEN:
                    why = "stands for two of them" if names.count(name) > 1 else "cannot be used"
                    raise ConfigError(f"comparison: {what}: the folder or file name {name!r} {why}; rename one")


def read_comparison(values: Mapping[str, Any], *, source: str) -> Comparison:
    """A comparison from a YAML mapping.

    Raises:
        ConfigError: an unknown or missing key, or a value that does not fit; names the source and the nearest key.
    """
    fields = {item.name: item for item in dataclasses.fields(Comparison)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{source}: unknown key {key!r}; {nearest(str(key), fields)}")
    for name, item in fields.items():
        if item.default is item.default_factory is dataclasses.MISSING and values.get(name) is None:
            raise ConfigError(f"{source}: {name} is missing")
    return Comparison(**{key: value for key, value in values.items() if value is not None})


def check_benchmarks(comparison: Comparison) -> None:
    """Refuse benchmarks, splits and data files that do not exist or cannot be read, before hours of training.

    Raises:
        ConfigError: names the nearest that exists.
        DataError: of a data file, what is wrong with its first question.
    """
    try:
        check_reading(comparison.benchmarks, comparison.reading)
    except EvaluationError as error:
        raise ConfigError(f"comparison: evaluate: {error}") from error
    for benchmark in comparison.benchmarks:
        try:
            open_first(benchmark, comparison.reading)
        except EvaluationError as error:
            raise ConfigError(f"comparison: {error}") from error


def nearest(word: str, known: Any) -> str:
    """A hint: the known word that comes nearest, or all of them."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
