"""balanced-thinking: SCALe training of vision-language models that reason.

Public names load on first use, so that ``import balanced_thinking`` costs no torch. What each is: docs/architecture.md.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "SegmentSpec": "core.segments",
    "Segment": "core.segments",
    "THINK_ANSWER": "core.segments",
    "find_segments": "core.segments",
    "SegmentSchedule": "core.schedule",
    "token_weights": "core.loss",
    "weighted_linear_cross_entropy": "core.loss",
    "scale_loss": "core.loss",
    "SegmentError": "errors",
    "BalancedThinkingError": "errors",
    "Example": "data.records",
    "load_examples": "data.records",
    "to_dataset": "data.records",
    "ScaleSFTTrainer": "training.sft",
    "ScaleSFTConfig": "training.sft_config",
    "accuracy_reward": "training.rewards",
    "format_reward": "training.rewards",
    "hard_reward": "training.rewards",
    "parse_response": "core.answers",
    "answers_match": "core.answers",
    "evaluate": "evaluation.evaluate",
}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from balanced_thinking.core.answers import answers_match, parse_response
    from balanced_thinking.core.loss import scale_loss, token_weights, weighted_linear_cross_entropy
    from balanced_thinking.core.schedule import SegmentSchedule
    from balanced_thinking.core.segments import THINK_ANSWER, Segment, SegmentSpec, find_segments
    from balanced_thinking.data.records import Example, load_examples, to_dataset
    from balanced_thinking.errors import BalancedThinkingError, SegmentError
    from balanced_thinking.evaluation.evaluate import evaluate
    from balanced_thinking.training.rewards import accuracy_reward, format_reward, hard_reward
    from balanced_thinking.training.sft import ScaleSFTTrainer
    from balanced_thinking.training.sft_config import ScaleSFTConfig


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
