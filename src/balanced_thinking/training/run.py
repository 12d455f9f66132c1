"""A recipe becomes a run folder: data in, training (resumed where it was), the final model and its story out.

The folder explains itself (docs/architecture.md): ``run.json``, ``metrics.jsonl``, ``clock.json``, ``checkpoint-N/``,
the final model at the top in plain Hugging Face layout, ``README.md``. What it leaves out: names of embedded models
(whoever reads a name from a user resolves it first) and evaluation.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PrinterCallback
from trl import ModelConfig, get_peft_config, get_quantization_config

from balanced_thinking.data.records import Example, load_examples, to_dataset
from balanced_thinking.errors import CheckpointError, ConfigError, DataError
from balanced_thinking.models.checkpoints import last_checkpoint
from balanced_thinking.runinfo import content_hash, run_info, write_json
from balanced_thinking.training.callbacks import CLOCK_FILE, Clock, Console, MetricsFile
from balanced_thinking.training.card import write_card
from balanced_thinking.training.sft import ScaleSFTTrainer
from balanced_thinking.training.sft_config import ScaleSFTConfig, decoded

RUN_FILE = "run.json"
# Fields that say where and how a run is shown, not what it computes; they may change between attempts.
_FREE = {
    "output_dir", "logging_dir", "report_to", "run_name", "disable_tqdm", "save_total_limit", "save_steps",
    "push_to_hub", "hub_token", "hub_model_id", "resume_from_checkpoint", "scale_new_total_steps", "log_level",
    "dataloader_num_workers", "logging_steps", "scale_check", "scale_check_limit", "project", "trackio_space_id",
}  # fmt: skip


@dataclass
class DataArguments:
    """Where a run takes its examples from.

    Attributes:
        dataset: A benchmark's name (its train split), or a file or folder in a known format.
        dataset_format: Name of the format; unset: found out, and said.
        image_root: Folder to which relative picture paths belong; unset: the data file's.
        answer_from: Where the answer stands when there is no answer tag: tag, boxed, after_think or field.
        on_missing: A row without reasoning: train, skip or error.
        columns: Our names to the file's as JSON, for renamed columns, such as ``{"completion": "response"}``.
        allow_outside: Whether picture paths may lead out of the data's folder.
        limit: Use only the first so many examples.
        eval_dataset: Data for the evaluation loss, like ``dataset`` (a benchmark's name: its val split).
        eval_fraction: Hold out this share of the pictures, with all their questions, for the evaluation loss.
        without_think: Train on ``<answer>..</answer>`` alone (the arm ``answer-only``).
        system_prompt: Put before every prompt; the same in training and evaluation.
    """

    dataset: str = field(default="", metadata={"help": "Benchmark name, file or folder to train on."})
    dataset_format: str | None = field(default=None, metadata={"help": "Data format; unset: found out."})
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative picture paths."})
    answer_from: str | None = field(default=None, metadata={"help": "tag, boxed, after_think or field."})
    on_missing: str = field(default="error", metadata={"help": "Rows without reasoning: train, skip or error."})
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": 'Our names to the file\'s as JSON: {"completion": "response"}.'}
    )
    allow_outside: bool = field(default=False, metadata={"help": "Allow pictures outside the data's folder."})
    limit: int | None = field(default=None, metadata={"help": "Use only the first so many examples."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Data for the evaluation loss."})
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the pictures held out for evaluation."})
    without_think: bool = field(default=False, metadata={"help": "Train on the answer alone."})
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt of training and evaluation."})

    def __post_init__(self) -> None:
        self.columns = decoded("columns", self.columns, dict)
        if not 0 <= self.eval_fraction < 1:
            raise ConfigError(f"eval_fraction must be at least 0 and below 1, not {self.eval_fraction}")
        if self.eval_fraction and self.eval_dataset:
            raise ConfigError("give eval_dataset or eval_fraction, not both")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, not {self.limit}")


def run_sft(data: DataArguments, config: ScaleSFTConfig, model: ModelConfig) -> Path:
    """Train one model; started again, it goes on from its last valid checkpoint.

    Returns:
        The run folder.

    Raises:
        ConfigError: settings that contradict each other, or a folder that holds a run of other settings.
        DataError: data that cannot be used.
    """
    folder = Path(config.output_dir)
    settings = _settings(data, config, model)
    known = _known_run(folder, settings)
    if known.get("finished"):
        print(f"{folder} holds this run already, finished; nothing to do")
        return folder
    train, evaluation = load_data(data)
    if data.without_think and config.loss == "scale":
        raise ConfigError('without_think leaves one segment to weigh; use loss="token_mean"')
    try:
        trainer = make_trainer(train, evaluation, config, model)
    except DataError as error:
        raise error.at(file=data.dataset) from error
    checkpoint, passed_over = last_checkpoint(folder)
    for line in passed_over:
        print(line)
    info = run_info(settings, device=str(trainer.args.device), seed=config.seed)
    if trainer.is_world_process_zero():
        write_json(folder / RUN_FILE, {**info, "settings_hash": content_hash(_fixed(settings)), "finished": False})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_final(trainer, folder)
    if trainer.is_world_process_zero():
        clock = json.loads((folder / CLOCK_FILE).read_text(encoding="utf-8"))
        done = {**info, "settings_hash": content_hash(_fixed(settings)), "stage": clock, "finished": True}
        write_card(folder, done, trainer.state.log_history)
        write_json(folder / RUN_FILE, done)
    return folder


def make_trainer(train: Any, evaluation: Any, config: ScaleSFTConfig, model: ModelConfig) -> ScaleSFTTrainer:
    """The trainer of a run folder, with our files and bar instead of transformers' printed dictionaries."""
    folder = Path(config.output_dir)
    config.disable_tqdm = True
    if config.model_init_kwargs is None:
        config.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
        }
        config.model_init_kwargs = {key: value for key, value in config.model_init_kwargs.items() if value is not None}
    assert model.model_name_or_path is not None
    trainer = ScaleSFTTrainer(
        model.model_name_or_path,
        config,
        train_dataset=train,
        eval_dataset=evaluation,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[MetricsFile(folder), Clock(folder), Console(folder.name)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def load_data(data: DataArguments) -> tuple[Any, Any]:
    """Training and evaluation data sets (the second may be None)."""
    if not data.dataset:
        raise ConfigError("no data set given; name one with --dataset (a benchmark, a file or a folder)")
    examples = list(_limited(read_examples(data.dataset, data, split="train"), data.limit))
    if not examples:
        raise DataError("the data set holds no example", file=data.dataset, remedy="give a file with records")
    held_out: Sequence[Example] = []
    if data.eval_dataset:
        held_out = list(read_examples(data.eval_dataset, data, split="val"))
    elif data.eval_fraction:
        examples, held_out = split_by_picture(examples, data.eval_fraction)
    return _dataset(examples, data), _dataset(held_out, data) if held_out else None


def read_examples(name: str, data: DataArguments, *, split: str) -> Iterator[Example]:
    """Examples of a benchmark's split, or of a file or folder."""
    from balanced_thinking.evaluation.benchmarks import BENCHMARKS

    if name in BENCHMARKS and not Path(name).exists():
        return iter(BENCHMARKS[name].load(split))
    return load_examples(
        name,
        data.dataset_format,
        data.image_root,
        answer_from=data.answer_from,
        on_missing="train" if data.without_think else data.on_missing,
        columns=data.columns,  # type: ignore[arg-type]
        allow_outside=data.allow_outside,
    )


def split_by_picture(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """(kept, held out): about ``fraction`` of the pictures go to the second, with all questions about them.

    The choice depends on the picture alone, so it stays the same when examples are added or reordered.
    """
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        share = int(hashlib.sha256(_picture_key(example)).hexdigest()[:8], 16) / 16**8
        parts[share < fraction].append(example)
    if not parts[0] or not parts[1]:
        raise DataError(
            f"eval_fraction {fraction} leaves {len(parts[0])} examples to train and {len(parts[1])} to evaluate on",
            remedy="change eval_fraction, or give eval_dataset",
        )
    return parts


def save_final(trainer: ScaleSFTTrainer, folder: Path) -> None:
    """The final model at the top of the folder; with LoRA the merged model there and the adapter beside it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "merge_and_unload"):
        trainer.save_model(str(folder))
        return
    trainer.save_model(str(folder / "adapter"))
    if trainer.is_world_process_zero():
        model.merge_and_unload().save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def _dataset(examples: Sequence[Example], data: DataArguments) -> Any:
    if data.without_think:
        examples = [dataclasses.replace(example, think=None) for example in examples]
    dataset = to_dataset(examples)
    if data.system_prompt:
        system = {"role": "system", "content": [{"type": "text", "text": data.system_prompt}]}
        dataset = dataset.map(lambda row: {"prompt": [system, *row["prompt"]]})
    return dataset


def _limited(examples: Iterable[Example], limit: int | None) -> Iterator[Example]:
    for number, example in enumerate(examples):
        if limit is not None and number >= limit:
            return
        yield example


def _picture_key(example: Example) -> bytes:
    if not example.images:
        return example.question.encode()
    first = example.images[0]
    if isinstance(first, bytes):
        return first
    return first.tobytes() if hasattr(first, "tobytes") else str(first).encode()


def _settings(data: DataArguments, config: ScaleSFTConfig, model: ModelConfig) -> dict[str, Any]:
    settings = {**dataclasses.asdict(data), **config.to_dict(), **dataclasses.asdict(model)}
    return json.loads(json.dumps(settings, default=str))


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _FREE}


def _known_run(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says of an earlier attempt; refuses one with other settings."""
    file = folder / RUN_FILE
    if not file.is_file():
        found, _ = last_checkpoint(folder)
        if found is not None:
            raise ConfigError(f"{folder} holds checkpoints of an unknown run ({found.name}); choose another output_dir")
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON; remove the folder, or choose another output_dir") from error
    before, now = _fixed(known.get("config", {})), _fixed(settings)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{folder} holds a run with other settings ({', '.join(changed[:5])}; {key}: {before.get(key)!r} there, "
            f"{now.get(key)!r} now); choose another output_dir, or remove the folder"
        )
    return known


def remove_checkpoints(folder: Path) -> None:
    """Delete ``checkpoint-N`` folders of a finished run, which its final model makes needless."""
    for path in Path(folder).glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
