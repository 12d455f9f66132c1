"""Segment weights as a function of training progress.

    w_s(p) = end_s + (start_s - end_s) * (1 + cos(pi * p)) / 2          p in [0, 1]

The cosine from think to answer is SCALe's (arXiv:2603.18656); its end points are not public, so the presets and the
other shapes are ours (docs/method.md). What it leaves out: how progress is counted (``training.sft``) and what a weight
does to a token (``core.loss``).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from balanced_thinking.errors import ConfigError

# Share of the start value that is left at progress p; 1 at p = 0.
SHAPES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "cosine": lambda p: (1.0 + math.cos(math.pi * p)) / 2.0,
        "linear": lambda p: 1.0 - p,
        "constant": lambda p: 1.0,
        "step": lambda p: 1.0 if p < 0.5 else 0.0,
    }
)

PRESETS: Mapping[str, Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "complementary": {"start": {"think": 0.9, "answer": 0.1}, "end": {"think": 0.1, "answer": 0.9}},
        "full": {"start": {"think": 1.0, "answer": 0.0}, "end": {"think": 0.0, "answer": 1.0}},
        "think-decay": {"start": {"think": 1.0, "answer": 1.0}, "end": {"think": 0.3, "answer": 1.0}},
        "dual-ramp": {"start": {"think": 1.0, "answer": 1.0}, "end": {"think": 0.3, "answer": 3.0}},
    }
)


def _default(side: str) -> Callable[[], dict[str, float]]:
    return lambda: dict(PRESETS["complementary"][side])


@dataclass(frozen=True)
class SegmentSchedule:
    """Weight of each segment at training progress p: ``end + (start - end) * share(p)``.

    ``share`` falls from 1 to 0: ``cosine`` (1 + cos(pi p)) / 2, ``linear`` 1 - p, ``constant`` 1 throughout,
    ``step`` 1 while p < 0.5, then 0.

    Attributes:
        shape: ``cosine``, ``linear``, ``constant`` or ``step``.
        start: Weight of each segment at p = 0; its key order is segment order 1, 2, ...
        end: Weight of each segment at p = 1, same names.

    Raises:
        ConfigError: unknown shape, different names in ``start`` and ``end``, a weight that is negative or not finite,
            or all weights 0 at one end for all segments.

    Example:
        >>> SegmentSchedule().weights(0.5)
        {'think': 0.5, 'answer': 0.5}
    """

    shape: str = "cosine"
    start: Mapping[str, float] = field(default_factory=_default("start"))
    end: Mapping[str, float] = field(default_factory=_default("end"))

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"schedule shape {self.shape!r} is unknown; choose one of {', '.join(SHAPES)}")
        start, end = _checked("start", self.start), _checked("end", self.end)
        if set(start) != set(end):
            raise ConfigError(
                f"schedule start names the segments {sorted(start)} and end {sorted(end)}; give both the same names"
            )
        for side, values in (("start", start), ("end", end)):
            if not any(values.values()) and not (side == "end" and self.shape == "constant"):
                raise ConfigError(f"schedule {side} gives every segment the weight 0; nothing would be trained there")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", {name: end[name] for name in start})

    @classmethod
    def preset(
        cls, name: str, *, shape: str = "cosine", segments: Sequence[str] = ("think", "answer")
    ) -> "SegmentSchedule":
        """The schedule called ``name`` in docs/method.md: complementary, full, think-decay or dual-ramp.

        The last of ``segments`` has the weight of the answer; those before it share the weight of the trace equally.

        Example:
            >>> SegmentSchedule.preset("think-decay", segments=("plan", "reason", "answer")).start
            {'plan': 0.5, 'reason': 0.5, 'answer': 1.0}
        """
        if name not in PRESETS:
            raise ConfigError(f"schedule preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        if isinstance(segments, str) or len(segments) < 2 or len(set(segments)) < len(segments):
            message = f"schedule preset {name!r} weighs a trace against an answer; give at least two segments"
            raise ConfigError(f"{message}, not {segments!r}")
        *trace, answer = segments
        sides = {
            side: {**dict.fromkeys(trace, weights["think"] / len(trace)), answer: weights["answer"]}
            for side, weights in PRESETS[name].items()
        }
        return cls(shape=shape, start=sides["start"], end=sides["end"])

    @property
    def segments(self) -> tuple[str, ...]:
        """Segment names in segment order."""
        return tuple(self.start)

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each segment at ``progress``, clamped to [0, 1]; key order is segment order.

        Raises:
            ConfigError: ``progress`` is not a number.
        """
        if isinstance(progress, bool) or not isinstance(progress, int | float) or math.isnan(progress):
            raise ConfigError(f"progress must be a number between 0 and 1, not {progress!r}")
        share = SHAPES[self.shape](min(max(float(progress), 0.0), 1.0))
        # start*share + end*(1-share) gives start and end themselves at the two ends, which end + (start-end)*share
        # does not in floating point.
        return {name: self.start[name] * share + self.end[name] * (1.0 - share) for name in self.start}


def _checked(side: str, weights: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(weights, Mapping) or not weights:
        raise ConfigError(f"schedule {side} must map segment names to weights, not {weights!r}")
    for name, value in weights.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ConfigError(f"schedule {side}: the weight of {name!r} must be a finite number >= 0, not {value!r}")
    return {str(name): float(value) for name, value in weights.items()}
