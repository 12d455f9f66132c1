"""A recipe becomes a run folder: data in, training (resumed where it was), the final model and its story out.

The folder explains itself (docs/architecture.md): ``run.json``, ``metrics.jsonl``, ``clock.json``, ``checkpoint-N/``,
the final model at the top in plain Hugging Face layout, ``README.md``. What it leaves out: names of embedded models
(whoever reads a name from a user resolves it first) and evaluation.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback
from trl import ModelConfig, get_quantization_config

from balanced_thinking.core.segments import SegmentSpec, as_setting, parse_segments
from balanced_thinking.data.families import cut_into_crops, limit_pixels, sees_crops
from balanced_thinking.errors import BalancedThinkingError, CheckpointError, ConfigError, DataError
from balanced_thinking.evaluation.trained import prompting, trained_segments
from balanced_thinking.models.modeling import check_name, load_processor
from balanced_thinking.runinfo import content_hash, run_info, write_json
from balanced_thinking.training.attempts import (
    RUN_FILE,
    fixed,
    inputs_of,
    known_run,
    refuse_other_inputs,
    resume_point,
    settings_of,
)
from balanced_thinking.training.callbacks import CLOCK_FILE, Clock, Console, MetricsFile
from balanced_thinking.training.card import write_card
from balanced_thinking.training.dataset import DataArguments, check_present, load_data, remove_data
from balanced_thinking.training.grpo import (
    GRPOArguments,
    StrictGRPOConfig,
    StrictGRPOTrainer,
    check_prompts,
    pictures_in,
    prefilled_tag,
    prompts_of,
    with_opened_pictures,
)
from balanced_thinking.training.origins import Origins
from balanced_thinking.training.rewards import load_rewards, try_rewards
from balanced_thinking.training.sft import ScaleSFTTrainer
from balanced_thinking.training.sft_config import ScaleSFTConfig
from balanced_thinking.training.weights import adapter_config, base_of, merged_start, processor_source, save_final


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
    if data.system_prompt is None:
        prompt, _ = prompting(str(model.model_name_or_path), None, {}, say=print)
        data = dataclasses.replace(data, system_prompt=prompt)
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
    settings = settings_of(data, config, model, extra)
    try:
        known = known_run(folder, settings)
    except ConfigError:
        _check_inputs(data, settings["model_name_or_path"])  # a wrong name is to be mended before another folder
        raise
    if known.get("finished"):
        remove_data(folder)  # of an attempt that was killed behind its last line
        print(f"{folder} holds this run already, finished; nothing to do")
        return folder
    _check_inputs(data, settings["model_name_or_path"])
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        done = _trained(data, config, segments, settings, known, make)
    finally:
        remove_data(folder)
        with suppress(OSError):  # what is not empty stays
            for place in made:  # of a run that failed before it wrote anything
                place.rmdir()
    return done


def _check_inputs(data: DataArguments, name: str) -> None:
    """Whether data and model are there, before anything is read or made."""
    check_present(data)
    if base_of(name) is None:  # a bare adapter has no config.json
        check_name(name)


def _trained(
    data: DataArguments,
    config: Any,
    segments: tuple[SegmentSpec, ...],
    settings: dict[str, Any],
    known: dict[str, Any],
    make: Any,
) -> Path:
    folder = Path(config.output_dir)
    checkpoint, passed_over = resume_point(folder, config.resume_from_checkpoint)
    origins = Origins()
    train, evaluation = load_data(data, segments, folder, origins)
    inputs = inputs_of(origins, settings["model_name_or_path"])
    if checkpoint is not None:
        refuse_other_inputs(folder, known, inputs)
    with _named(data, origins, train, evaluation), _mendable(settings["model_name_or_path"]):
        trainer = make(train, evaluation)
    for line in passed_over:
        print(line)
    info = run_info(settings, device=str(trainer.args.device), seed=config.seed)
    info |= {"settings_hash": content_hash(fixed(settings)), "inputs": inputs}
    if trainer.is_world_process_zero():
        write_json(folder / RUN_FILE, {**info, "finished": False})
    with _named(data, origins, train, evaluation), _installed():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _refuse_untrained(trainer, folder)
    save_final(trainer, folder)
    if trainer.is_world_process_zero():
        clock = json.loads((folder / CLOCK_FILE).read_text(encoding="utf-8"))
        done = {**info, "stage": clock, "finished": True}
        write_card(folder, done, trainer.state.log_history)
        write_json(folder / RUN_FILE, done)
    return folder


def _refuse_untrained(trainer: Any, folder: Path) -> None:
    """A loop that finds no more batches ends early, and transformers takes it for done."""
    state = trainer.state
    if state.global_step < state.max_steps:
        raise ConfigError(
            f"{folder}: training stopped at step {state.global_step} of {state.max_steps}; if nobody asked it to, the "
            "data hold no whole batch: take more data or a smaller batch; else start the same command again"
        )


@contextmanager
def _named(data: DataArguments, origins: Origins, *sets: Any) -> Iterator[None]:
    """Faults of rows name the data set of the row; where that is not known, all data sets of the run."""
    try:
        yield
    except DataError as error:
        every = ", ".join([*data.names, *([data.eval_dataset] if data.eval_dataset else [])])
        raise error.at(file=origins.of(error.record, *sets) or every) from error


@contextmanager
def _mendable(name: str) -> Iterator[None]:
    """What trl, peft and transformers refuse while they make a trainer, as one line with a remedy."""
    try:
        with _installed():
            yield
    except BalancedThinkingError:
        raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot load the model {name}: {_line(error)}; give a whole model folder") from error
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"these settings give no trainer: {_line(error)}; change what it names") from error


@contextmanager
def _installed() -> Iterator[None]:
    """A package that a setting needs and that is not there; optimizers say so when training starts."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{_line(error)}; install it, or leave out the setting that needs it") from error


def _line(error: BaseException) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".;") if lines else type(error).__name__


def make_trainer(
    train: Any, evaluation: Any, config: ScaleSFTConfig, model: ModelConfig, *, data: DataArguments
) -> ScaleSFTTrainer:
    """The trainer of a run folder, with our files and bar instead of transformers' printed dictionaries."""
    folder = Path(config.output_dir)
    _prepare(config, model)
    assert model.model_name_or_path is not None
    name = model.model_name_or_path
    source, options = _hub(name, config, model)
    start = merged_start(name, folder, config.model_init_kwargs | {"trust_remote_code": config.trust_remote_code})
    trainer = ScaleSFTTrainer(
        start,
        config,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=_processor(source, data, **options),
        peft_config=_adapter(start, config, model, tower_frozen=config.freeze_vision_tower),
        quantization_config=get_quantization_config(model),
        callbacks=[MetricsFile(folder), Clock(folder)],
    )
    _show(trainer, folder.name)
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
    source, options = _hub(name, config, model)
    processor = _processor(source, data, padding_side="left", truncation_side="left", **options)
    if sees_crops(processor):
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
    try_rewards(rewards, with_opened_pictures(train)[0], segments)
    start = merged_start(name, folder, config.model_init_kwargs | {"trust_remote_code": config.trust_remote_code})
    trainer = StrictGRPOTrainer(
        start,
        rewards,
        config,
        tower_frozen=grpo.freeze_vision_tower,
        rollouts=grpo.rollouts,
        segments=segments,
        train_dataset=with_opened_pictures(train.remove_columns("completion")),
        eval_dataset=None if evaluation is None else with_opened_pictures(evaluation.remove_columns("completion")),
        processing_class=processor,
        peft_config=_adapter(start, config, model, tower_frozen=grpo.freeze_vision_tower),
        quantization_config=get_quantization_config(model),
        callbacks=[MetricsFile(folder), Clock(folder)],
    )
    _show(trainer, folder.name)
    return trainer


def _show(trainer: Any, title: str) -> None:
    """Our bar, which opens with what is trained on, instead of transformers' printed dictionaries."""
    for other in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(other)
    console = Console(title)
    if trainer.is_world_process_zero():
        console.opening = _opening(trainer)
    trainer.add_callback(console)


def _opening(trainer: Any) -> str:
    """Rows, pictures and longest row of a run, and when the rows that are held out are evaluated."""
    rows, held_out, args = trainer.train_dataset, trainer.eval_dataset, trainer.args
    pictured = sum(pictures_in(prompt) > 0 for prompt in prompts_of(rows))
    told = f"{len(rows)} rows, {pictured} with pictures"
    lengths = getattr(trainer, "row_lengths", None)
    told += f", the longest {max(lengths)} tokens" if lengths else ""
    if held_out is None:
        return told
    steps = f"every {args.eval_steps:g} steps" if args.eval_strategy == "steps" else "never"
    when = "once an epoch" if args.eval_strategy == "epoch" else steps
    return f"{told}; {len(held_out)} held out, evaluated {when} (eval_strategy: {args.eval_strategy.value})"


def _hub(name: str, config: Any, model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Where the processor comes from, and what the hub must be told for it."""
    source, revision = processor_source(name)
    return source, {"revision": model.model_revision, "trust_remote_code": config.trust_remote_code, **revision}


def _adapter(start: str, config: Any, model: ModelConfig, *, tower_frozen: bool) -> Any:
    return adapter_config(model, start, trust_remote_code=config.trust_remote_code, tower_frozen=tower_frozen)


def _processor(name: str, data: DataArguments, **options: Any) -> Any:
    processor = load_processor(name, **options)
    if data.max_pixels is not None:
        limit_pixels(processor, data.max_pixels)
    if data.pan_and_scan:
        cut_into_crops(processor)
    return processor


def _prepare(config: Any, model: ModelConfig) -> None:
    """The model's own options handed on."""
    options = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    options = {key: value for key, value in options.items() if value is not None}
    config.model_init_kwargs = {**options, **(config.model_init_kwargs or {})}
