"""Rewards of GRPO, on the one parser that evaluation and data checks use too.

    accuracy  1 if the answer taken from the completion matches the reference, else 0
    format    1 if the completion is exactly one think block, then one answer block, and nothing else, else 0
    hard      accuracy * format (Vision-R1's: a right answer in the wrong form earns nothing)

Each is a plain function in TRL's form, ``f(prompts=, completions=, **columns) -> list of float or None``; None leaves a
completion out. ``load_rewards`` finds them by name, users' own by dotted path, and TRL's soft overlong punishment
(DAPO, arXiv:2503.14476); all are tried on two canned completions before a model loads. What it leaves out: reward
models, which ``GRPOTrainer`` takes by itself.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from balanced_thinking.core.answers import answers_match, parse_response
from balanced_thinking.core.segments import THINK_ANSWER, SegmentSpec, scan_segments
from balanced_thinking.errors import ConfigError

Reward = Callable[..., Any]


def accuracy_reward(
    completions: Sequence[Any],
    answer: Sequence[str | None],
    kind: Sequence[str],
    choices: Sequence[Sequence[str] | None] | None = None,
    prefix: str = "",
    segments: Sequence[SegmentSpec] = THINK_ANSWER,
    **columns: Any,
) -> list[float | None]:
    """``1 if answers_match(parse_response(completion).answer, answer) else 0``, whatever the form.

    Args:
        completions: One per row, as text or as TRL's list of messages.
        answer: The reference of each row; None leaves the row out (the reward is None).
        kind: ``choice``, ``number`` or ``text`` for each row.
        choices: Texts of the choices of each row, or None.
        prefix: What the chat template already wrote of the completion, such as ``<think>``.
        segments: What a completion consists of.
        **columns: Whatever else TRL hands over; not used.

    Raises:
        EvaluationError: a reference that cannot be of its kind.
    """
    listed = choices if choices is not None else [None] * len(completions)
    rows = zip(completions, answer, kind, listed, strict=True)
    return [
        None
        if reference is None
        else float(answers_match(_parsed(completion, prefix, segments).answer, reference, kind=sort, choices=options))
        for completion, reference, sort, options in rows
    ]


def format_reward(
    completions: Sequence[Any], prefix: str = "", segments: Sequence[SegmentSpec] = THINK_ANSWER, **columns: Any
) -> list[float]:
    """``1 if the completion is one think block, then one answer block, else 0``: well-formed, with nothing outside.

    Line breaks inside the blocks and white space around them are fine; a repeated block, an empty answer, an unclosed
    tag, or words before, between or behind the blocks earn nothing (they would be a way to answer twice). ``prefix`` is
    what the chat template already wrote of the completion.
    """
    return [float(_in_form(prefix + _text(completion), segments)) for completion in completions]


def hard_reward(
    completions: Sequence[Any], prefix: str = "", segments: Sequence[SegmentSpec] = THINK_ANSWER, **columns: Any
) -> list[float | None]:
    """``accuracy_reward * format_reward``; columns as for ``accuracy_reward``.

    Source: Vision-R1, Huang et al. 2025, arXiv:2503.06749 ("hard formatting result reward").
    """
    right = accuracy_reward(completions, prefix=prefix, segments=segments, **columns)
    formed = format_reward(completions, prefix=prefix, segments=segments)
    return [None if one is None else one * other for one, other in zip(right, formed, strict=True)]


OWN: Mapping[str, Reward] = {"accuracy": accuracy_reward, "format": format_reward, "hard": hard_reward}
OVERLONG = "soft_overlong"


class CheckedReward:
    """A reward that answers for its result: one number or None per completion, never NaN.

    Calls ``function`` with ``extra`` added to TRL's arguments. Picklable when ``function`` is.
    """

    def __init__(self, name: str, function: Reward, **extra: Any) -> None:
        self.__name__, self.function, self.extra = name, function, extra

    def __call__(self, **arguments: Any) -> list[float | None]:
        return self._checked(self.function(**arguments, **self.extra), arguments)

    def _checked(self, values: Any, arguments: Mapping[str, Any]) -> list[float | None]:
        count = len(arguments["completions"])
        try:
            if isinstance(values, str | Mapping):
                raise TypeError(type(values).__name__)
            result = [None if value is None else float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"reward {self.__name__} must return a list of numbers or None, not {values!r}"
            ) from error
        if len(result) != count:
            raise ConfigError(f"reward {self.__name__} returned {len(result)} values for {count} completions")
        if any(value is not None and not math.isfinite(value) for value in result):
            raise ConfigError(f"reward {self.__name__} returned NaN or infinity; return None to leave a completion out")
        return result


class AsyncCheckedReward(CheckedReward):
    """The same for a coroutine function, which TRL runs beside the others."""

    async def __call__(self, **arguments: Any) -> list[float | None]:  # type: ignore[override]
        return self._checked(await self.function(**arguments, **self.extra), arguments)


def load_rewards(
    names: Sequence[str],
    *,
    prefix: str = "",
    max_completion_length: int | None = None,
    overlong_cache: int = 0,
    segments: Sequence[SegmentSpec] = THINK_ANSWER,
) -> list[CheckedReward]:
    """The rewards of these names, each of which checks what it returns.

    Args:
        names: ``accuracy``, ``format``, ``hard``, ``soft_overlong`` or ``package.module.function``.
        prefix: What the chat template pre-fills of a completion; handed to our own rewards.
        max_completion_length: Cap of ``soft_overlong``: at it the punishment is -1.
        overlong_cache: Tokens before the cap from which ``soft_overlong`` grows; 0 takes a fifth of the cap.
        segments: What a completion consists of; handed to our own rewards.

    Raises:
        ConfigError: no names, one twice, or one that cannot be found.
    """
    if not names:
        raise ConfigError(f"no reward given; name some with reward_funcs ({', '.join(OWN)} or package.module.function)")
    if len(set(names)) != len(names):
        raise ConfigError(f"reward_funcs names something twice: {', '.join(names)}")
    rewards = []
    for name in names:
        if name in OWN:
            rewards.append(CheckedReward(name, OWN[name], prefix=prefix, segments=segments))
        elif name == OVERLONG:
            rewards.append(CheckedReward(name, _overlong(max_completion_length, overlong_cache)))
        else:
            function = _by_path(name)
            sort = AsyncCheckedReward if inspect.iscoroutinefunction(function) else CheckedReward
            short = name.rsplit(".", 1)[1]
            rewards.append(sort(name if short in [reward.__name__ for reward in rewards] else short, function))
    return rewards


def try_rewards(
    rewards: Sequence[CheckedReward], row: Mapping[str, Any], segments: Sequence[SegmentSpec] = THINK_ANSWER
) -> None:
    """Run each reward on two canned completions of a data row: a right one in good form, and one without any tag.

    Raises:
        ConfigError: a reward fails, or returns the wrong length, NaN or no numbers; nothing has been loaded yet.
    """
    from transformers import TrainerState

    *trace, last = segments
    thought = "".join(f"{spec.open}first look,\nthen think{spec.close}" for spec in trace)
    texts = (f"{thought}{last.open}{row.get('answer')}{last.close or ''}", "no tag at all")
    columns = {name: [value, value] for name, value in row.items() if name not in ("prompt", "completion")}
    for reward in rewards:
        arguments: dict[str, Any] = {
            **columns,
            "prompts": [row["prompt"]] * 2,
            "completions": [[{"role": "assistant", "content": text}] for text in texts],
            "completion_ids": [[1, 2, 3], [4, 5]],
            "trainer_state": TrainerState(),
            "log_extra": lambda column, values: None,
            "log_metric": lambda name, value: None,
        }
        try:
            result = reward(**arguments)
            if inspect.iscoroutine(result):
                import asyncio

                asyncio.run(result)
        except ConfigError:
            raise
        except Exception as error:  # a user's function may raise anything
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"reward {reward.__name__} failed on a trial completion ({type(error).__name__}: {reason}); it is "
                f"called with prompts, completions, completion_ids and the columns {', '.join(columns)}"
            ) from error


def _parsed(completion: Any, prefix: str, segments: Sequence[SegmentSpec]) -> Any:
    return parse_response(_text(completion), prefix, segments)


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _in_form(text: str, segments: Sequence[SegmentSpec]) -> bool:
    scan = scan_segments(text, segments)
    ends = [0, *(segment.end for segment in scan.segments)]
    starts = [*(segment.start for segment in scan.segments), len(text)]
    outside = "".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    return scan.fault is None and not outside.strip()


def _overlong(cap: int | None, cache: int) -> Reward:
    from trl.rewards import get_soft_overlong_punishment

    if not cap or cap < 2:
        raise ConfigError(f"the reward {OVERLONG} needs max_completion_length, at least 2")
    if cache >= cap:
        remedy = f"make overlong_cache smaller than max_completion_length ({cap})"
        raise ConfigError(f"overlong_cache {cache} would punish every completion; {remedy}")
    return get_soft_overlong_punishment(cap, cache or max(1, cap // 5))


def _by_path(name: str) -> Reward:
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        known = ", ".join((*OWN, OVERLONG))
        raise ConfigError(f"reward {name!r} is unknown; use {known}, or package.module.function for one of your own")
    if (here := str(Path.cwd())) not in sys.path:  # a command has its own folder there, not the user's
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(f"reward {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ConfigError(f"reward {name!r} is not a function")
    return function
