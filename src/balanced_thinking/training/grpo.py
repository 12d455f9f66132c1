"""GRPO on top of TRL's public ``GRPOTrainer``: named presets, rewards on our parser, strict and exact resume.

Everything of ``GRPOConfig`` is passed through (``use_vllm`` included). A preset is a set of values that the user's own
values override:

    preset      what it sets                                                                     source
    trl         nothing: TRL's defaults (loss dapo, epsilon 0.2, beta 0, groups of 8)            TRL 1.16
    vision-r1   loss grpo, epsilon 0.2, beta 0.01, groups of 16, the hard reward                 arXiv:2503.06749
    dapo        epsilon 0.2 / 0.28, truncated completions masked, soft overlong punishment;
                without DAPO's resampling of groups that have no spread                          arXiv:2503.14476
    dr_grpo     loss dr_grpo, rewards not divided by their deviation                             arXiv:2503.20783

What it leaves out: the run folder and the command (``training.run``), how completions are made (``rollouts``).
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, parse_segments, tags_of
from balanced_thinking.data.datacheck import stored_rows
from balanced_thinking.data.families import refuse_own_marks, refuse_sizes
from balanced_thinking.data.images import image_size, open_image
from balanced_thinking.data.templates import prefilled, render_prompt, tokenizer_of
from balanced_thinking.errors import CheckpointError, ConfigError
from balanced_thinking.models.checkpoints import StrictResume, check_start
from balanced_thinking.models.devices import choose_device
from balanced_thinking.models.modeling import ready_base
from balanced_thinking.training.rewards import OVERLONG
from balanced_thinking.training.rollouts import roll_out, serves
from balanced_thinking.training.sft_config import check_steps, warn_of_warmup

GRPO_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "trl": {},
    "vision-r1": {"loss_type": "grpo", "epsilon": 0.2, "beta": 0.01, "num_generations": 16, "reward_funcs": ["hard"]},
    "dapo": {
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "mask_truncated_completions": True,
        "reward_funcs": ["accuracy", OVERLONG],
    },
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
}

CHOICES: Mapping[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
}


@dataclass
class GRPOArguments:
    """What a GRPO run takes beside ``GRPOConfig``.

    Attributes:
        grpo_preset: Values that stand where the recipe says nothing: trl, vision-r1, dapo or dr_grpo.
        reward_funcs: ``accuracy``, ``format``, ``hard``, ``soft_overlong`` or ``package.module.function``.
        overlong_cache: Tokens before ``max_completion_length`` from which ``soft_overlong`` punishes; 0: a fifth of it.
        freeze_vision_tower: Leave the image encoder as it is.
        scale_segments: What a completion consists of, as for SFT; unset: what the model was trained to write.
        rollouts: ``auto``: our own where they can serve the run (``training.rollouts``), else TRL's; ``trl``: TRL's.
    """

    grpo_preset: str = field(default="trl", metadata={"help": f"One of {', '.join(GRPO_PRESETS)}."})
    reward_funcs: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={
            "help": "accuracy, format, hard, soft_overlong or package.module.function, which is called with prompts, "
            "completions, completion_ids, images, answer, kind, choices, id and source."
        },
    )
    overlong_cache: int = field(default=0, metadata={"help": "Tokens over which soft_overlong grows; 0: a fifth."})
    freeze_vision_tower: bool = field(default=False, metadata={"help": "Leave the image encoder as it is."})
    scale_segments: list[Any] | str | None = field(
        default=None, metadata={"help": "What a completion consists of; unset: what the model was trained to write."}
    )
    rollouts: str = field(default="auto", metadata={"help": "auto: our own where they serve, else TRL's; trl: TRL's."})

    def __post_init__(self) -> None:
        preset_fields(self.grpo_preset)
        self.reward_funcs = [self.reward_funcs] if isinstance(self.reward_funcs, str) else list(self.reward_funcs)
        if self.scale_segments is not None:
            parse_segments(self.scale_segments)
        if self.rollouts not in ("auto", "trl"):
            raise ConfigError(f"rollouts must be auto or trl, not {self.rollouts!r}")
        if self.overlong_cache < 0:
            raise ConfigError(f"overlong_cache must be 0 or more, not {self.overlong_cache}")


def preset_fields(name: str) -> Mapping[str, Any]:
    """What a preset sets.

    Raises:
        ConfigError: there is no such preset.
    """
    if not isinstance(name, str) or name not in GRPO_PRESETS:
        raise ConfigError(f"grpo_preset {name!r} is unknown; choose one of {', '.join(GRPO_PRESETS)}")
    return GRPO_PRESETS[name]


@dataclass
class StrictGRPOConfig(GRPOConfig):
    """``trl.GRPOConfig`` with device and precision chosen when the user does not, checkpoints where resume is exact.

    Completions are made for several steps at once (``steps_per_generation``, ``num_iterations``) and are not part of a
    checkpoint. A checkpoint between two generations could not be resumed exactly, so ``save_steps`` must end on one.
    (With ``use_vllm`` it is strict but not exact: the sampler's random state is in no checkpoint.)

    Raises:
        ConfigError: checkpoints would fall between two generations, or a choice is unknown to TRL, which would say so
            only in the first step.
    """

    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Trade compute for memory; unset: on with an accelerator, off on CPU."}
    )

    def __post_init__(self) -> None:
        choose_device(self)
        self.remove_unused_columns = False  # rewards read the other columns
        super().__post_init__()
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        check_steps(self.max_steps)
        warn_of_warmup(self)
        self._refuse_inexact_checkpoints()

    def _refuse_inexact_checkpoints(self) -> None:
        assert self.steps_per_generation is not None
        micro_steps = self.steps_per_generation * self.num_iterations
        accumulated = self.gradient_accumulation_steps
        if micro_steps % accumulated and accumulated % micro_steps:
            raise ConfigError(
                f"completions serve {micro_steps} micro-batches and a step takes {accumulated}: neither divides the "
                "other, so no checkpoint could be resumed exactly; make steps_per_generation a multiple of "
                "gradient_accumulation_steps"
            )
        period = max(1, micro_steps // accumulated)
        every = self.save_steps if self.save_steps >= 1 else math.ceil(self.save_steps * self.max_steps)
        saves_late = self.save_strategy == "steps" and 0 < self.max_steps <= every
        if period == 1 or self.save_strategy in ("no", "epoch") or saves_late:
            return
        if self.save_strategy != "steps" or every < 1 or every % period:
            raise ConfigError(
                f"completions serve {period} optimizer steps, so a run can be resumed exactly only after each {period} "
                f'of them; set save_strategy="steps" and save_steps to a multiple of {period}, not {self.save_steps}'
            )


class StrictGRPOTrainer(StrictResume, GRPOTrainer):
    """``trl.GRPOTrainer`` whose resume is strict and, at the ends of generations, exact.

    Arguments are those of ``GRPOTrainer``; ``tower_frozen`` leaves the image encoder as it is, ``rollouts`` as in
    ``GRPOArguments``.

    Raises:
        ConfigError: the tokenizer hides the tags from rewards, or there are too few prompts for one generation.
        CheckpointError: the model's folder lacks a tensor.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "grpo", "balanced-thinking"]

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: GRPOConfig | None = None,
        *,
        tower_frozen: bool = False,
        rollouts: str = "auto",
        segments: Sequence[SegmentSpec] = THINK_ANSWER,
        **kwargs: Any,
    ) -> None:
        if args is not None:
            refuse_few_prompts(kwargs.get("train_dataset"), args)
            check_start(model, args)
        super().__init__(model, reward_funcs, args, **kwargs)
        refuse_hidden_tags(self.processing_class, segments)
        ready_base(self.model, tower_frozen=tower_frozen)
        if rollouts == "auto" and kwargs.get("rollout_func") is None and serves(self):
            self.rollout_func: Any = roll_out
        elif _mixespictures_in(self.train_dataset):
            remedy = 'train on one kind, or leave rollouts at "auto" and use_vllm off'
            raise ConfigError(f"TRL's own generation cannot read rows with and without pictures together; {remedy}")
        self.add_callback(SpreadWarning())

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As ``Trainer.train``; refuses what a checkpoint does not hold."""
        if resume_from_checkpoint and self.args.sync_ref_model:
            raise CheckpointError(
                "sync_ref_model moves the reference model, which no checkpoint holds; such a run cannot be resumed"
            )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)


class SpreadWarning(TrainerCallback):
    """Says once when most groups teach nothing, and once when most completions are cut off, each with the remedy.

    Shares are means over the last groups, at least ``GROUPS`` of them: of a single one they say nothing. With
    ``scale_rewards="batch"`` TRL's figure is that of whole batches, which is later to warn.
    """

    GROUPS = 20
    REMEDIES: ClassVar[Mapping[str, str]] = {
        "frac_reward_zero_std": "of the groups have equal rewards and teach nothing; take harder or easier questions, "
        "a higher temperature, larger groups (num_generations), or another reward",
        "completions/clipped_ratio": "of the completions reach max_completion_length without an end; raise it, mask "
        "them (mask_truncated_completions), or start from a model that has learned to stop",
    }

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.seen: dict[str, list[tuple[float, float]]] = {key: [] for key in self.REMEDIES}  # groups, share
        self.step = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        steps, self.step = state.global_step - self.step, state.global_step
        generations = max(1.0, steps * args.gradient_accumulation_steps / args.steps_per_generation)
        groups = generations * args.generation_batch_size / args.num_generations
        for key in self.REMEDIES:
            if key in (logs or {}) and key not in self.said:
                self.seen[key].append((groups, logs[key]))
                self._judge(key, state)

    def _judge(self, key: str, state: Any) -> None:
        seen = self.seen[key]
        total = sum(groups for groups, _ in seen)
        while total - seen[0][0] >= self.GROUPS:
            total -= seen.pop(0)[0]
        share = sum(groups * share for groups, share in seen) / total
        if total >= self.GROUPS and share > 0.5 and state.is_world_process_zero:
            self.said.add(key)
            told = f"step {state.global_step}: {share:.0%} {self.REMEDIES[key]}"
            print(f"warning: {told}", file=sys.stderr, flush=True)


def refuse_few_prompts(dataset: Any, config: GRPOConfig) -> None:
    """TRL drops the prompts that do not fill a generation; of too few it would drop all and train nothing.

    Raises:
        ConfigError: the data set has fewer prompts than one generation takes.
    """
    assert config.generation_batch_size is not None
    needed = config.generation_batch_size // config.num_generations
    if isinstance(dataset, Sized) and len(dataset) < needed:
        raise ConfigError(
            f"{len(dataset)} prompts are fewer than the {needed} of one generation ({config.generation_batch_size} "
            f"completions, {config.num_generations} a prompt), so nothing would be trained; take more data, a smaller "
            "per_device_train_batch_size or steps_per_generation, or more num_generations"
        )


def refuse_hidden_tags(processor: Any, segments: Sequence[SegmentSpec] = THINK_ANSWER) -> None:
    """Rewards read decoded text without special tokens, so the tags must not be special tokens.

    Raises:
        ConfigError: one is.
    """
    tokenizer = tokenizer_of(processor)
    tags = tags_of(segments)
    ids = {tag: tokenizer(tag, add_special_tokens=False)["input_ids"] for tag in tags}
    hidden = [tag for tag in tags if tag not in tokenizer.decode(ids[tag], skip_special_tokens=True)]
    if hidden:
        raise ConfigError(
            f"{hidden[0]} is a special token of this tokenizer, which no reward would see; add it with special=False"
        )


def check_prompts(processor: Any, dataset: Any, **template: Any) -> None:
    """Whether each prompt holds the marks of its pictures alone, and the processor takes these, before the first
    completion; ``template`` as below.

    Raises:
        DataError: a prompt spells a picture's token itself, or the processor refuses a picture of that shape.
    """
    for row in stored_rows(dataset):
        record = row["id"]
        text = render_prompt(processor, row["prompt"], **template)
        refuse_own_marks(processor, text, pictures=pictures_in(row["prompt"]), record=record)
        sizes = [image_size(image, record=record) for image in row.get("images") or ()]
        refuse_sizes(processor, sizes, record=record)


def with_opened_pictures(dataset: Dataset) -> Dataset:
    """The rows, whose pictures are opened as SFT and evaluation open them (``data.images``)."""
    return dataset.with_transform(_opened)


def _opened(batch: dict[str, Any]) -> dict[str, Any]:
    if "images" not in batch:
        return batch
    named = batch.get("id") or ["?"] * len(batch["images"])
    pairs = zip(named, batch["images"], strict=True)
    return batch | {
        "images": [[open_image(image, record=record) for image in images or ()] for record, images in pairs]
    }


def _mixespictures_in(dataset: Any) -> bool:
    return isinstance(dataset, Dataset) and len({pictures_in(prompt) > 0 for prompt in prompts_of(dataset)}) > 1


def prompts_of(dataset: Dataset) -> Iterable[Any]:
    """The prompts alone: of rows whose pictures are opened when they are asked for, no picture is."""
    return dataset.with_format(None).select_columns(["prompt"])["prompt"]


def pictures_in(prompt: Any) -> int:
    """Pictures of a prompt in TRL's conversational form; a plain text tells nothing of its own."""
    parts = [part for turn in prompt for part in turn["content"]] if not isinstance(prompt, str) else []
    return sum(isinstance(part, dict) and part.get("type") == "image" for part in parts)


def prefilled_tag(
    processor: Any, prompt: list[dict[str, Any]], segments: Sequence[SegmentSpec] = THINK_ANSWER, **template: Any
) -> str:
    """What the chat template already writes of the response, such as ``<think>``, or ""; ``template``: its options."""
    text = render_prompt(processor, prompt, **template)
    return prefilled(processor, prompt, prompt=text, segments=segments, **template)
