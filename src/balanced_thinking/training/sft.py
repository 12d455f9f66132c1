"""SCALe-SFT as a drop-in for TRL's ``SFTTrainer``.

Same arguments and data; the loss is ``sum over tokens of weight * nll``, every weight known before the forward pass:

    loss="scale"       w_s(p) / |S[b, s]| / B       p = completed steps / total steps, B = responses of the whole step
    loss="token_mean"  1 / N                        N = response tokens of the whole step (plain SFT)

B and N are counted here over all micro-batches and ranks (``num_items_in_batch`` counts tokens, and is None for
Qwen2.5-VL and others), so both losses are exact under accumulation and data parallelism. What it leaves out: the run
folder and the command (``training.run``), packing, sequence parallelism.

Source: SCALe, Perek et al. 2026, arXiv:2603.18656; decisions of ours in docs/method.md.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import SFTConfig, SFTTrainer

from balanced_thinking.core.loss import token_weights
from balanced_thinking.data.batch import TARGET_KEYS
from balanced_thinking.data.collate import ScaleCollator
from balanced_thinking.data.datacheck import CheckReport, check_rows
from balanced_thinking.data.families import image_token_counter
from balanced_thinking.data.templates import tokenizer_of
from balanced_thinking.errors import ConfigError, DataError
from balanced_thinking.models.checkpoints import StrictResume, check_start
from balanced_thinking.models.modeling import Targets, add_weighted_head, load_processor, ready_base
from balanced_thinking.training.meter import SegmentMeter
from balanced_thinking.training.sampling import LengthGroupedBatches
from balanced_thinking.training.sft_config import ScaleSFTConfig


class ScaleSFTTrainer(StrictResume, SFTTrainer):
    """``trl.SFTTrainer`` with the SCALe loss, or with plain SFT (``loss="token_mean"``), exact under accumulation.

    Args:
        model: A folder, hub id, model or PEFT model, as for ``SFTTrainer``.
        args: ``ScaleSFTConfig``; an ``SFTConfig`` or ``TrainingArguments`` is taken over with our defaults.
        data_collator: Must deliver ``shift_labels`` and ``shift_segment_ids`` (docs/architecture.md); default: ours.
        train_dataset: Rows with ``messages``, or ``prompt`` + ``completion``, and ``image`` or ``images`` if any.
        eval_dataset: The same, or a mapping of several.
        processing_class: Processor with a chat template; default: the model's own.
        **kwargs: The other arguments of ``SFTTrainer`` (callbacks, optimizers, peft_config, quantization_config, ...).

    Raises:
        ConfigError: a setting that cannot be right with this loss.
        DataError: a row cannot be used (``scale_check="all"``: before the first step).
        CheckpointError: the model's folder lacks a tensor.

    Logged under ``scale/``: see ``training.meter``. The evaluation loss uses equal fixed weights for both losses, so
    that curves can be compared; ``eval_scale/nll_token`` is the token mean beside it.
    """

    loss_is_scaled_for_ga = True
    total_steps_remedy = "keep the number of steps, or allow it with scale_new_total_steps=True"
    _tag_names: ClassVar[list[str]] = ["trl", "sft", "scale"]

    def __init__(
        self,
        model: Any,
        args: ScaleSFTConfig | TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | dict[str, Any] | None = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        args = _as_scale_config(args, model)
        _refuse_arguments(kwargs)
        processing_class = processing_class or _processor_of(model, args)
        _set_pad_token(processing_class, args)
        own_collator = data_collator is None
        self.row_lengths: list[int] | None = None
        if own_collator:
            data_collator = make_collator(processing_class, args, generation_config=_generation_config(model))
            train_dataset, eval_dataset, self.row_lengths = _checked(train_dataset, eval_dataset, data_collator, args)
        check_start(model, args)
        # Everything is done in the collator, for text-only rows as well; this is TRL's public way to say so.
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if own_collator:
            data_collator.generation_config = self.model.generation_config
        _refuse_parallelism(self)
        base = ready_base(self.model, tower_frozen=args.freeze_vision_tower)
        base.config.get_text_config().pad_token_id = tokenizer_of(processing_class).pad_token_id
        add_weighted_head(base)
        self.segment_names = tuple(spec.name for spec in args.segments)
        self.schedule = args.schedule if args.loss == "scale" else None
        self.allow_new_total_steps = args.scale_new_total_steps
        self._meters = {mode: SegmentMeter(self.segment_names) for mode in ("train", "eval")}
        self._step_counts: list[int] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As ``Trainer``, but rows of like length are grouped by the lengths that the check counted."""
        if self.args.train_sampling_strategy == "group_by_length" and self.row_lengths is not None:
            rows = self.args.train_batch_size * self.args.gradient_accumulation_steps
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return LengthGroupedBatches(self.row_lengths, rows, seed=seed)
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As ``Trainer``; also counts the step's responses, response tokens and tokens by segment, on all ranks."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            counts = torch.stack([self._counts_of(batch) for batch in batches]).sum(dim=0)
            self._step_counts = self._sum_over_ranks(counts.to(device)).tolist()
        return batches, items

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted loss of one micro-batch; micro-batches and ranks of a step add up to the loss of the step."""
        inputs = dict(inputs)
        labels, segment_ids = (inputs.pop(key) for key in self._require_keys(inputs))
        if self.args.loss_type == "dft" and model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if return_outputs:
            raise ConfigError("logits are not built by this trainer; use `balanced evaluate` for generated answers")
        inputs.pop("labels", None)
        if not model.training:
            return self._evaluation_loss(model, inputs, labels, segment_ids)
        targets = self._targets(labels, segment_ids)
        output = model(**inputs, targets=targets)
        weights = targets.token_weights()
        self._meters["train"].add(
            output.nll, segment_ids, weights, weights=targets.weights, scored=(weights > 0) & (labels != -100)
        )
        # DDP and FSDP average gradients over ranks; the counts are those of all ranks, so the ranks must add up.
        return output.loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As ``SFTTrainer``, with the segment figures added."""
        mode = "train" if self.model.training else "eval"
        own = self._meters[mode].summary(self._sum_over_ranks)
        self._meters[mode].clear()
        logs.update({f"eval_{key}" if mode == "eval" else key: value for key, value in own.items()})
        super().log(logs, start_time)

    def _targets(self, labels: Tensor, segment_ids: Tensor) -> Targets:
        responses, tokens, *per_segment = (int(count) for count in self._step_counts)
        if self.schedule is None:
            return Targets(labels, segment_ids, None, tokens)
        weights = self.schedule.weights(self.state.global_step / max(self.state.max_steps, 1))
        pooled = dict(zip(self.segment_names, per_segment, strict=True))
        return Targets(
            labels, segment_ids, weights, responses, pooled if self.args.scale_reduction == "pooled" else None
        )

    def _evaluation_loss(self, model: nn.Module, inputs: Any, labels: Tensor, segment_ids: Tensor) -> Tensor:
        output = model(**inputs, targets=Targets(labels, segment_ids, None, 1))
        equal = {name: 1.0 / len(self.segment_names) for name in self.segment_names}
        weights = token_weights(segment_ids, equal, sequence_count=labels.size(0))
        self._meters["eval"].add(output.nll, segment_ids, weights, weights=None, scored=labels != -100)
        return (weights * output.nll).sum()

    def _counts_of(self, batch: Mapping[str, Any]) -> Tensor:
        labels, segment_ids = (batch[key] for key in self._require_keys(batch))
        per_segment = [(segment_ids == number).sum() for number in range(1, len(self.segment_names) + 1)]
        return torch.stack([torch.tensor(labels.size(0), device=labels.device), (labels != -100).sum(), *per_segment])

    def _require_keys(self, batch: Mapping[str, Any]) -> tuple[str, ...]:
        missing = [key for key in TARGET_KEYS if key not in batch]
        if missing:
            raise ConfigError(
                f"the data_collator delivers no {missing[0]}; it must give {' and '.join(TARGET_KEYS)}, integers of "
                "the shape of input_ids, position t telling of token t + 1 (see docs/architecture.md)"
            )
        return TARGET_KEYS

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, reduction="sum")


def make_collator(processor: Any, args: ScaleSFTConfig, *, generation_config: Any = None) -> ScaleCollator:
    """The collator that ``args`` describe."""
    return ScaleCollator(
        processor,
        segments=args.segments,
        tags=args.scale_tags,
        require_segments=args.loss == "scale" and args.scale_on_malformed != "keep",
        max_length=args.max_length,
        pad_to_multiple_of=args.pad_to_multiple_of if isinstance(args.pad_to_multiple_of, int) else None,
        generation_config=generation_config,
        with_labels=args.loss_type == "dft",
    )


def check_dataset(dataset: Any, collator: ScaleCollator, args: ScaleSFTConfig) -> CheckReport:
    """Look at every row before the first step, or at the first ``scale_check_limit``; see ``data.datacheck``.

    Where rows are to be left out the limit does not count: of a row that nobody looked at nobody knows that it is to
    be left out, and the first such batch would end the run.
    """
    count_image_tokens = image_token_counter(collator.processor)
    progress, limit = args.should_log and not args.disable_tqdm, args.scale_check_limit
    if (skipping := _skipping(args)) and len(dataset) > limit:
        limit = len(dataset)
        if progress:
            told = f"{skipping}: checking all {limit:,} rows, whatever scale_check_limit says"
            print(told, file=sys.stderr, flush=True)
    return check_rows(
        dataset,
        segments=args.segments,
        on_malformed=args.scale_on_malformed,
        on_overflow=args.scale_on_overflow,
        require_segments=args.loss == "scale",
        max_length=args.max_length,
        count_tokens=lambda row, sizes: collator.count_tokens(row, count_image_tokens(sizes)),
        limit=limit,
        progress=progress,
    )


def _skipping(args: ScaleSFTConfig) -> str:
    """The setting by which rows are to be left out of these data, or ""."""
    if args.scale_on_overflow == "skip" and args.max_length is not None:
        return "scale_on_overflow: skip"
    return "scale_on_malformed: skip" if args.scale_on_malformed == "skip" and args.loss == "scale" else ""


def _checked(
    train: Any, evaluation: Any, collator: ScaleCollator, args: ScaleSFTConfig
) -> tuple[Any, Any, list[int] | None]:
    """The data sets without skipped rows, and the tokens of each training row where all were counted.

    Streams and ``lazy`` are checked row by row in the collator.
    """
    kept, lengths = _usable(train, collator, args, name="train")
    if isinstance(kept, Dataset) and len(kept):
        collator([kept[0]])
    if args.train_sampling_strategy == "group_by_length" and train is not None and lengths is None:
        remedy = 'keep scale_check="all", raise scale_check_limit to the number of rows, or leave it out'
        raise ConfigError(f"train_sampling_strategy=group_by_length needs the length of every row; {remedy}")
    if isinstance(evaluation, dict):
        evaluation = {name: _usable(data, collator, args, name=name)[0] for name, data in evaluation.items()}
    else:
        evaluation, _ = _usable(evaluation, collator, args, name=None)
    return kept, evaluation, lengths


def _usable(
    dataset: Any, collator: ScaleCollator, args: ScaleSFTConfig, *, name: str | None
) -> tuple[Any, list[int] | None]:
    """One data set without skipped rows, and the tokens of each row where all were counted."""
    if not isinstance(dataset, Dataset) or args.scale_check != "all":
        if dataset is not None and "skip" in (args.scale_on_malformed, args.scale_on_overflow):
            raise ConfigError('skipping rows needs scale_check="all" and a data set that is not a stream')
        return dataset, None
    report = check_dataset(dataset, collator, args)
    dataset = dataset if len(report.kept) == len(dataset) else dataset.select(report.kept)
    if not len(dataset):
        raise DataError("no row is left to train on", field=name, remedy="see the counts above")
    return dataset, report.row_lengths if len(report.row_lengths) == len(report.kept) else None


def _as_scale_config(args: Any, model: Any) -> ScaleSFTConfig:
    if isinstance(args, ScaleSFTConfig):
        return args
    if args is None:
        name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "") or "model"
        return ScaleSFTConfig(f"{Path(name).name}-SCALe-SFT")
    if isinstance(args, TrainingArguments):
        values = args.to_dict()
        values["hub_token"] = args.hub_token  # to_dict hides it
        if not isinstance(args, SFTConfig):
            values.pop("bf16", None)
        return ScaleSFTConfig(**values)
    raise ConfigError(f"args must be a ScaleSFTConfig, not {type(args).__name__}")


def _refuse_arguments(kwargs: dict[str, Any]) -> None:
    for name in ("compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics", "formatting_func"):
        if kwargs.get(name) is not None:
            raise ConfigError(f"{name} is not supported: this trainer has its own loss and builds no logits")
    config = kwargs.get("peft_config")
    if config is not None and getattr(config, "is_prompt_learning", False):
        raise ConfigError("prompt-learning adapters put tokens before the row and are not supported; use LoRA")


def _refuse_parallelism(trainer: Any) -> None:
    parallelism = trainer.accelerator.parallelism_config
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise ConfigError("sequence and context parallelism cut responses apart and are not supported")
    if trainer.aux_loss_enabled:
        raise ConfigError("the router's auxiliary loss is not supported; set router_aux_loss_coef=0")


def _processor_of(model: Any, args: ScaleSFTConfig) -> Any:
    name = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    if not name:
        raise ConfigError("the model does not say where it was loaded from; pass processing_class")
    revision = (args.model_init_kwargs or {}).get("revision") if isinstance(args.model_init_kwargs, dict) else None
    processor = load_processor(name, revision=revision, trust_remote_code=args.trust_remote_code)
    template = args.chat_template_path
    if template is not None and Path(template).is_file():
        processor.chat_template = Path(template).read_text(encoding="utf-8")
    return processor


def _set_pad_token(processor: Any, args: ScaleSFTConfig) -> None:
    tokenizer = tokenizer_of(processor)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigError(f"processing_class must be a processor or a tokenizer, not {type(processor).__name__}")
    if not tokenizer.is_fast:
        raise ConfigError("a fast tokenizer is needed: segments are found by its character offsets")
    tokenizer.pad_token = args.pad_token or tokenizer.pad_token or tokenizer.eos_token


def _generation_config(model: Any) -> Any:
    return None if isinstance(model, str) else getattr(model, "generation_config", None)
