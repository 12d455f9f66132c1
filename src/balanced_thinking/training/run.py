"""A recipe becomes a run folder: data in, training (resumed where it was), the final model and its story out.

The folder explains itself (docs/architecture.md): ``run.json``, ``metrics.jsonl``, ``clock.json``, ``checkpoint-N/``,
the final model at the top in plain Hugging Face layout, ``README.md``. What it leaves out: names of embedded models
(whoever reads a name from a user resolves it first) and evaluation.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PrinterCallback
from trl import ModelConfig, get_peft_config, get_quantization_config

from balanced_thinking.core.segments import SegmentSpec, as_setting, parse_segments
from balanced_thinking.data.families import cut_into_crops, limit_pixels
from balanced_thinking.errors import CheckpointError, ConfigError, DataError
from balanced_thinking.evaluation.evaluate import trained_segments
from balanced_thinking.models.checkpoints import last_checkpoint
from balanced_thinking.models.modeling import load_processor
from balanced_thinking.runinfo import build_once, content_hash, run_info, write_json
from balanced_thinking.training.callbacks import CLOCK_FILE, Clock, Console, MetricsFile
from balanced_thinking.training.card import write_card
from balanced_thinking.training.dataset import DataArguments, Origins, load_data, remove_data
from balanced_thinking.training.grpo import (
    GRPOArguments,
    StrictGRPOConfig,
    StrictGRPOTrainer,
    check_prompts,
    prefilled_tag,
)
from balanced_thinking.training.rewards import load_rewards, try_rewards
from balanced_thinking.training.sft import ScaleSFTTrainer
from balanced_thinking.training.sft_config import ScaleSFTConfig

RUN_FILE = "run.json"
# Fields that say where and how a run is shown, not what it computes; they may change between attempts.
_FREE = {
    "output_dir", "logging_dir", "report_to", "run_name", "disable_tqdm", "save_total_limit", "save_steps",
    "push_to_hub", "hub_token", "hub_model_id", "resume_from_checkpoint", "scale_new_total_steps", "log_level",
    "dataloader_num_workers", "logging_steps", "scale_check", "scale_check_limit", "project", "trackio_space_id",
}  # fmt: skip


def run_sft(data: DataArguments, config: ScaleSFTConfig, model: ModelConfig) -> Path:
    """Train one model by SFT; started again, it goes on from its last valid checkpoint.

    Returns:
        The run folder.

    Raises:
        ConfigError: settings that contradict each other, or a folder that holds a run of other settings.
        DataError: data that cannot be used.
    """
    if data.without_think and config.loss == "scale":
        raise ConfigError('without_think leaves one segment to weigh; use loss="token_mean"')
    return _run(
        data,
        config,
        model,
        {"method": "sft"},
        config.segments,
        lambda train, held_out: make_trainer(train, held_out, config, model, data=data),
    )


def run_grpo(data: DataArguments, grpo: GRPOArguments, config: StrictGRPOConfig, model: ModelConfig) -> Path:
    """Train one model by GRPO from any SFT folder or model; started again, it goes on.

    Returns:
        The run folder.

    Raises:
        ConfigError: as ``run_sft``; also a reward that cannot be found or fails its trial.
        DataError: data that cannot be used.
    """
    if data.on_missing == "error":  # prompts and answers are enough
        data = dataclasses.replace(data, on_missing="train")
    asked = grpo.scale_segments
    segments = trained_segments(str(model.model_name_or_path)) if asked is None else parse_segments(asked)
    grpo = dataclasses.replace(grpo, scale_segments=as_setting(segments))
    if config.sync_ref_model:
        warning = "sync_ref_model moves the reference model, which no checkpoint holds: a stopped run must start anew"
        print(f"warning: {warning}", file=sys.stderr)
    extra = {"method": "grpo", **dataclasses.asdict(grpo)}
    return _run(
        data,
        config,
        model,
        extra,
        segments,
        lambda train, held_out: make_grpo_trainer(train, held_out, grpo, config, model, data=data),
    )


def _run(
    data: DataArguments,
    config: Any,
    model: ModelConfig,
    extra: dict[str, Any],
    segments: tuple[SegmentSpec, ...],
    make: Any,
) -> Path:
    """The life of a run folder: known or new, trained, saved, described."""
    folder = Path(config.output_dir)
    settings = _settings(data, config, model, extra)
    known = _known_run(folder, settings)
    if known.get("finished"):
        remove_data(folder)  # of an attempt that was killed behind its last line
        print(f"{folder} holds this run already, finished; nothing to do")
        return folder
    try:
        done = _trained(data, config, segments, settings, make)
    finally:
        remove_data(folder)
    return done


def _trained(
    data: DataArguments, config: Any, segments: tuple[SegmentSpec, ...], settings: dict[str, Any], make: Any
) -> Path:
    folder = Path(config.output_dir)
    origins = Origins()
    train, evaluation = load_data(data, segments, folder, origins)
    with _named(data, origins, train, evaluation):
        trainer = make(train, evaluation)
    checkpoint, passed_over = last_checkpoint(folder)
    for line in passed_over:
        print(line)
    info = run_info(settings, device=str(trainer.args.device), seed=config.seed)
    if trainer.is_world_process_zero():
        write_json(folder / RUN_FILE, {**info, "settings_hash": content_hash(_fixed(settings)), "finished": False})
    with _named(data, origins, train, evaluation):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_final(trainer, folder)
    if trainer.is_world_process_zero():
        clock = json.loads((folder / CLOCK_FILE).read_text(encoding="utf-8"))
        done = {**info, "settings_hash": content_hash(_fixed(settings)), "stage": clock, "finished": True}
        write_card(folder, done, trainer.state.log_history)
        write_json(folder / RUN_FILE, done)
    return folder


@contextmanager
def _named(data: DataArguments, origins: Origins, *sets: Any) -> Iterator[None]:
    """Faults of rows name the data set of the row; where that is not known, all data sets of the run."""
    try:
        yield
    except DataError as error:
        every = ", ".join([*data.dataset, *([data.eval_dataset] if data.eval_dataset else [])])
        raise error.at(file=origins.of(error.record, *sets) or every) from error


def make_trainer(
    train: Any, evaluation: Any, config: ScaleSFTConfig, model: ModelConfig, *, data: DataArguments
) -> ScaleSFTTrainer:
    """The trainer of a run folder, with our files and bar instead of transformers' printed dictionaries."""
    folder = Path(config.output_dir)
    _prepare(config, model)
    assert model.model_name_or_path is not None
    options = {"revision": model.model_revision, "trust_remote_code": config.trust_remote_code}
    trainer = ScaleSFTTrainer(
        model.model_name_or_path,
        config,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=_processor(model.model_name_or_path, data, **options),
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[MetricsFile(folder), Clock(folder), Console(folder.name)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def make_grpo_trainer(
    train: Any,
    evaluation: Any,
    grpo: GRPOArguments,
    config: StrictGRPOConfig,
    model: ModelConfig,
    *,
    data: DataArguments,
) -> StrictGRPOTrainer:
    """As ``make_trainer`` for GRPO; the rewards are tried before the model loads."""
    folder = Path(config.output_dir)
    _prepare(config, model)
    assert model.model_name_or_path is not None
    name = model.model_name_or_path
    # GRPOTrainer pads prompts on the left and relies on the processor for it.
    sides = {"padding_side": "left", "truncation_side": "left"}
    options = {"revision": model.model_revision, "trust_remote_code": config.trust_remote_code, **sides}
    processor = _processor(processor_source(name), data, **options)
    if getattr(getattr(processor, "image_processor", None), "do_pan_and_scan", None):
        remedy = "leave pan_and_scan out" if data.pan_and_scan else "start from a model trained without"
        raise ConfigError(
            f"{name} sees pictures in crops (pan_and_scan), which TRL's GRPOTrainer cannot assign to their prompts; "
            f"{remedy}"
        )
    template = config.chat_template_kwargs or {}
    for rows in (train, evaluation):
        if rows is not None:
            check_prompts(processor, rows, **template)
    segments = parse_segments(grpo.scale_segments)
    rewards = load_rewards(
        grpo.reward_funcs,
        prefix=prefilled_tag(processor, train[0]["prompt"], segments, **template),
        max_completion_length=config.max_completion_length,
        overlong_cache=grpo.overlong_cache,
        segments=segments,
    )
    try_rewards(rewards, train[0], segments)
    start = merged_start(name, folder)
    trainer = StrictGRPOTrainer(
        start,
        rewards,
        config,
        tower_frozen=grpo.freeze_vision_tower,
        rollouts=grpo.rollouts,
        segments=segments,
        train_dataset=train.remove_columns("completion"),
        eval_dataset=evaluation.remove_columns("completion") if evaluation is not None else None,
        processing_class=processor,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[MetricsFile(folder), Clock(folder), Console(folder.name)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _processor(name: str, data: DataArguments, **options: Any) -> Any:
    processor = load_processor(name, **options)
    if data.max_pixels is not None:
        limit_pixels(processor, data.max_pixels)
    if data.pan_and_scan:
        cut_into_crops(processor)
    return processor


def processor_source(name: str) -> str:
    """Where the processor of a model comes from: a bare adapter (PEFT) without one takes that of its base."""
    if not _is_adapter(Path(name)) or any(Path(name).glob("*processor_config.json")):
        return name
    from peft import PeftConfig

    return str(PeftConfig.from_pretrained(name).base_model_name_or_path)


def merged_start(name: str, folder: Path) -> str:
    """``name``, or where it is a bare adapter (PEFT), a folder in which it is merged into its base.

    GRPO's reference model and the final folder need a whole model; SFT folders of this project hold one already.
    """
    place = Path(name)
    if not _is_adapter(place):
        return name

    def merge(target: Path) -> None:
        from peft import PeftConfig, PeftModel
        from transformers import AutoModelForImageTextToText, AutoProcessor

        base = PeftConfig.from_pretrained(place).base_model_name_or_path
        model: Any = AutoModelForImageTextToText.from_pretrained(base)
        PeftModel.from_pretrained(model, place).merge_and_unload().save_pretrained(target)
        AutoProcessor.from_pretrained(processor_source(name)).save_pretrained(target)

    digest = hashlib.sha256()
    for file in sorted(place.glob("adapter_*")):
        digest.update(file.name.encode() + file.read_bytes())
    return str(build_once(folder / f"start-{digest.hexdigest()[:12]}", merge))


def _is_adapter(place: Path) -> bool:
    return (place / "adapter_config.json").is_file() and not (place / "config.json").is_file()


def _prepare(config: Any, model: ModelConfig) -> None:
    """Our files and bar instead of transformers' printed dictionaries; the model's own options handed on."""
    config.disable_tqdm = True
    options = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    options = {key: value for key, value in options.items() if value is not None}
    config.model_init_kwargs = {**options, **(config.model_init_kwargs or {})}


def save_final(trainer: Any, folder: Path) -> None:
    """The final model at the top of the folder; with LoRA the merged model there and the adapter beside it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not hasattr(model, "merge_and_unload"):
        trainer.save_model(str(folder))
        return
    trainer.save_model(str(folder / "adapter"))
    if trainer.is_world_process_zero():
        model.merge_and_unload().save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)


def _settings(data: DataArguments, config: Any, model: ModelConfig, extra: dict[str, Any]) -> dict[str, Any]:
    settings = {**dataclasses.asdict(data), **config.to_dict(), **dataclasses.asdict(model), **extra}
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
    # A setting that the version which began the run did not know is off in it.
    before |= {key: value for key, value in now.items() if key not in before and not value}
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{folder} holds a run with other settings ({', '.join(changed[:5])}; {key}: {before.get(key)!r} there, "
            f"{now.get(key)!r} now); choose another output_dir, or remove the folder"
        )
    return known
