"""Settings of ``ScaleSFTTrainer``: TRL's ``SFTConfig`` plus the fields that begin with ``scale_``.

Every value is checked here, since a YAML file or the command line can hand over anything. Device and precision are
chosen when the user does not: TRL turns bf16 on and then refuses a machine without an accelerator.
"""

import functools
import json
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl import SFTConfig

from balanced_thinking.core.schedule import PRESETS, SHAPES, SegmentSchedule
from balanced_thinking.core.segments import TAGS, SegmentSpec, as_setting, parse_segments
from balanced_thinking.errors import ConfigError
from balanced_thinking.models.devices import choose_device

LOSSES = ("scale", "token_mean")
CHOICES = {
    "loss": LOSSES,
    "scale_preset": tuple(PRESETS),
    "scale_shape": tuple(SHAPES),
    "scale_tags": TAGS,
    "scale_reduction": ("sample", "pooled"),
    "scale_on_malformed": ("error", "skip", "keep"),
    "scale_on_overflow": ("error", "skip"),
    "scale_check": ("all", "lazy"),
}


@dataclass
class ScaleSFTConfig(SFTConfig):
    """``trl.SFTConfig`` with the SCALe loss.

    Attributes:
        loss: ``scale`` (segment means under the schedule) or ``token_mean`` (plain SFT: the mean over all response
            tokens of the step, exact under accumulation).
        scale_preset: End points of the schedule by name; see docs/method.md.
        scale_shape: ``cosine``, ``linear``, ``constant`` (start throughout) or ``step``.
        scale_start: Weight of each segment at the start, such as ``{"think": 0.9, "answer": 0.1}``; overrides the
            preset. Give ``scale_end`` too.
        scale_end: Weight of each segment at the end.
        scale_segments: ``[[name, opening tag, closing tag or null], ...]`` or a name: ``think-answer`` (also None) or
            ``llava-cot``, whose four stages become segments. In a preset the last segment has the weight of the answer
            and those before it share the weight of the trace.
        scale_tags: Where tags count: ``own`` (in their segment), ``next`` (a closing tag in the segment it leads to, so
            that a trace is closed with the weight of the answer) or ``none`` (weight 0).
        scale_reduction: ``sample`` (a segment's mean within each response) or ``pooled`` (over the whole step).
        scale_on_malformed: A response that lacks a segment or has one unclosed, repeated or out of order: ``error``,
            ``skip`` (left out, counted and shown) or ``keep`` (trains the segments it has). For ``loss="scale"``.
        scale_on_overflow: A row longer than ``max_length``: ``error`` or ``skip``; it is never cut.
        scale_check: ``all`` checks the data before the first step; ``lazy`` checks each row in the collator (streams).
        scale_check_limit: Rows that ``scale_check="all"`` looks at at most; all of them where rows are to be skipped.
        scale_new_total_steps: Allow resuming with another number of total steps, which bends the schedule.
        freeze_vision_tower: Leave the image encoder as it is (in Qwen2.5-VL the merger is part of it).

    Raises:
        ConfigError: a value is unknown or contradicts another; the message names the field.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*SFTConfig._VALID_DICT_FIELDS, "scale_start", "scale_end"]

    loss: str = field(default="scale", metadata={"help": "scale or token_mean (plain SFT)", "choices": list(LOSSES)})
    scale_preset: str = field(default="complementary", metadata={"help": "End points of the schedule by name."})
    scale_shape: str = field(default="cosine", metadata={"help": "cosine, linear, constant or step."})
    scale_start: dict[str, float] | str | None = field(
        default=None, metadata={"help": 'Segment weights at the start as JSON, such as {"think": 0.9, "answer": 0.1}.'}
    )
    scale_end: dict[str, float] | str | None = field(
        default=None, metadata={"help": "Segment weights at the end, as JSON."}
    )
    scale_segments: list[Any] | str | None = field(
        default=None,
        metadata={"help": 'think-answer, llava-cot, or as JSON: [["think", "<think>", "</think>"], ...].'},
    )
    scale_tags: str = field(default="own", metadata={"help": "own, next (closing tags count in what follows) or none."})
    scale_reduction: str = field(default="sample", metadata={"help": "sample or pooled means."})
    scale_on_malformed: str = field(default="error", metadata={"help": "error, skip or keep."})
    scale_on_overflow: str = field(default="error", metadata={"help": "error or skip; rows are never cut."})
    scale_check: str = field(default="all", metadata={"help": "all (before the first step) or lazy (row by row)."})
    scale_check_limit: int = field(default=50_000, metadata={"help": "Rows that scale_check=all looks at at most."})
    scale_new_total_steps: bool = field(
        default=False, metadata={"help": "Allow resuming with another number of total steps."}
    )
    freeze_vision_tower: bool = field(default=False, metadata={"help": "Leave the image encoder as it is."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Trade compute for memory; unset: on with an accelerator, off on CPU."}
    )
    include_num_input_tokens_seen: bool | None = field(
        default=None, metadata={"help": "Log the tokens seen so far, without padding; unset: yes."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Always off: the collator takes the columns it knows by name."}
    )

    def __post_init__(self) -> None:
        choose_device(self)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}")
        if isinstance(self.scale_check_limit, bool) or not isinstance(self.scale_check_limit, int):
            raise ConfigError(f"scale_check_limit must be a whole number, not {self.scale_check_limit!r}")
        self.scale_start = decoded("scale_start", self.scale_start, dict)
        self.scale_end = decoded("scale_end", self.scale_end, dict)
        self.scale_segments = as_setting(parse_segments(self.scale_segments))
        if any(spec.name == "token" for spec in self.segments):
            raise ConfigError('a segment cannot be called "token": scale/nll_token is the mean over all tokens')
        self._check_schedule()
        self.remove_unused_columns = False
        if self.include_num_input_tokens_seen in (None, True):
            self.include_num_input_tokens_seen = "non_padding"  # type: ignore[assignment]
        super().__post_init__()
        self._refuse()

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """Names and tags, in segment order."""
        return parse_segments(self.scale_segments)

    @property
    def schedule(self) -> SegmentSchedule:
        """The schedule of the segment weights; its key order is the order of ``segments``."""
        if self.scale_start is None:
            names = tuple(spec.name for spec in self.segments)
            return SegmentSchedule.preset(self.scale_preset, shape=self.scale_shape, segments=names)
        start, end = dict(self.scale_start), dict(self.scale_end or {})  # type: ignore[arg-type]
        order = [spec.name for spec in self.segments if spec.name in start]
        order += [name for name in start if name not in order]
        return SegmentSchedule(self.scale_shape, {n: start[n] for n in order}, {n: end[n] for n in order if n in end})

    def _check_schedule(self) -> None:
        if self.scale_end is not None and self.scale_start is None:
            raise ConfigError("scale_end is set without scale_start; give both, or name a scale_preset")
        if self.scale_start is not None and self.scale_end is None:
            if self.scale_shape != "constant":
                raise ConfigError("scale_start is set without scale_end; give both, or name a scale_preset")
            self.scale_end = dict(self.scale_start)  # type: ignore[arg-type]
        if self.loss != "scale" and self.scale_start is None:
            return
        names, weighted = [spec.name for spec in self.segments], list(self.schedule.segments)
        if self.loss == "scale" and sorted(names) != sorted(weighted):
            raise ConfigError(
                f"the schedule weights {', '.join(weighted)} but the segments are {', '.join(names)}; "
                "give scale_start and scale_end a weight for each segment"
            )

    def _refuse(self) -> None:
        check_steps(self.max_steps)
        warn_of_warmup(self)
        if self.loss == "scale" and self.loss_type != "nll":
            raise ConfigError(
                f'loss="scale" with loss_type={self.loss_type!r}; loss_type="dft" needs loss="token_mean"'
            )
        if self.loss_type == "dft" and self.gradient_accumulation_steps > 1:
            raise ConfigError('loss_type="dft" is not exact under accumulation; set gradient_accumulation_steps=1')
        if self.label_smoothing_factor:
            raise ConfigError("label_smoothing_factor is not supported: the loss scores the target tokens only")
        if self.completion_only_loss is False:
            raise ConfigError("completion_only_loss=False is not supported: what is trained is the response, always")
        if self.assistant_only_loss:
            raise ConfigError("assistant_only_loss is not supported: the last assistant turn is trained, always")
        if self.packing or self.eval_packing or self.padding_free:
            raise ConfigError("packing and padding_free are not supported with pictures; leave them off")


def check_steps(max_steps: int) -> None:
    """Refuse numbers of steps that transformers takes for something else: with 0 it makes one step.

    Raises:
        ConfigError: neither -1 (as many as the epochs have) nor at least 1.
    """
    if max_steps != -1 and max_steps < 1:
        raise ConfigError(f"max_steps must be at least 1, not {max_steps}; leave it out to train whole epochs")


def warn_of_warmup(config: Any) -> None:
    """Say once that ``warmup_steps`` does nothing with a constant rate, since transformers says nothing."""
    if config.lr_scheduler_type == "constant" and config.warmup_steps and config.should_log:
        _warn_once(
            f"warmup_steps={config.warmup_steps:g} has no effect with lr_scheduler_type=constant, which has none; take "
            "constant_with_warmup, or leave warmup_steps out"
        )


@functools.cache
def _warn_once(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def decoded(name: str, value: Any, kind: type) -> Any:
    """The value of a structured field, which the command line hands over as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{name} is not valid JSON: {value!r}") from error
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{name} must be a {'mapping' if kind is dict else 'list'}, not {value!r}")
    return value
