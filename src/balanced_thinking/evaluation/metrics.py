"""From per-question rows to rates, standard errors and paired differences with intervals.

What is measured, and when a difference counts as resolved, is ours (docs/method.md): an interval over questions and
seeds by a crossed hierarchical bootstrap, beside a t interval over seed means, since few seeds make the bootstrap too
narrow. Numpy only.

What it leaves out: reading answers (``core.answers``), tables and plots (``compare``).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from balanced_thinking.errors import EvaluationError

if TYPE_CHECKING:
    import numpy as np

_Vector = Any  # anything numpy reads as one dimension: a list of bools, a float array


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean of the paired differences over questions, its standard error, and its 95 % interval ``low`` to ``high``."""

    difference: float
    standard_error: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """A difference over questions and seeds.

    Attributes:
        difference: Mean over seeds of the mean over questions.
        questions: 95 % interval over questions and seeds (bootstrap); with one seed over questions alone.
        seeds: 95 % t interval over the seed means; None with one seed, which cannot show it.
        n: Questions per seed.
        seed_count: Seeds.
        resolved: Whether every interval that exists excludes zero.
        basis: What the intervals cover, in words for a table's foot.
    """

    difference: float
    questions: tuple[float, float]
    seeds: tuple[float, float] | None
    n: int
    seed_count: int
    resolved: bool
    basis: str


def summarise(rows: Sequence[Mapping[str, Any]], *, expects_think: bool = True) -> dict[str, Any]:
    """The rates of one evaluation, as a line of ``results.jsonl`` holds them.

    accuracy = sum(correct) / n, accuracy_se = sqrt(accuracy * (1 - accuracy) / n)

    Args:
        rows: One mapping per question, in question order: ``correct`` (bool), ``malformed`` (kind or None),
            ``truncated`` (bool), ``think_tokens`` and ``answer_tokens`` (int, or None where the response lacks it).
        expects_think: False for arms whose format has no think (``base``, ``answer-only``).

    Returns:
        n; accuracy, accuracy_se, malformed, truncated as fractions in [0, 1]; malformed_kinds as kind -> fraction of
        all questions (kinds that occur); correct as ``encode_bits`` writes it; think_tokens and answer_tokens as means
        over the responses that have the segment. malformed, malformed_kinds and think_tokens are None where
        ``expects_think`` is False; a mean over no response is None.

    Raises:
        EvaluationError: no rows.
    """
    n = len(rows)
    if not n:
        raise EvaluationError("there are no questions to summarise; check the benchmark and its limit")
    correct = [bool(row["correct"]) for row in rows]
    accuracy = sum(correct) / n
    kinds = Counter(row["malformed"] for row in rows if row["malformed"] is not None)
    return {
        "n": n,
        "accuracy": accuracy,
        "accuracy_se": math.sqrt(accuracy * (1.0 - accuracy) / n),
        "malformed": kinds.total() / n if expects_think else None,
        "malformed_kinds": {kind: kinds[kind] / n for kind in sorted(kinds)} if expects_think else None,
        "truncated": sum(bool(row["truncated"]) for row in rows) / n,
        "correct": encode_bits(correct),
        "think_tokens": _mean_present(rows, "think_tokens") if expects_think else None,
        "answer_tokens": _mean_present(rows, "answer_tokens"),
    } | ({"scores": scores} if (scores := mean_scores(rows)) else {})


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of a benchmark's own scores (``anls``, ``relaxed``, ..), by name; {} where it has none."""
    names = rows[0].get("scores", {}) if rows else {}
    return {name: sum(row["scores"][name] for row in rows) / len(rows) for name in names}


def encode_bits(bits: Sequence[bool]) -> str:
    """Bits as lower-case hexadecimal, in question order.

    Question i is bit 7 - i % 8 of byte i // 8 (the first question is the highest bit of the first byte); the last byte
    is filled up with zeros, so n bits give 2 * ceil(n / 8) digits. ``decode_bits`` is the inverse.

    Example:
        >>> encode_bits([True, False, False, False, False, False, False, True, True])
        '8180'
    """
    import numpy as np

    return np.packbits(np.asarray(bits, dtype=bool)).tobytes().hex()


def decode_bits(text: str, n: int) -> "np.ndarray":
    """The n bits that ``encode_bits`` wrote, as a bool array.

    Raises:
        EvaluationError: not hexadecimal, of another length than n needs, or with bits set beyond n.
    """
    import numpy as np

    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except ValueError as error:
        raise EvaluationError(f"the bit string {text[:20]!r} is not hexadecimal; evaluate again") from error
    bits = np.unpackbits(packed).astype(bool)
    if len(packed) != (n + 7) // 8 or bits[n:].any():
        raise EvaluationError(f"a bit string of {len(text)} digits does not fit {n} questions; evaluate again")
    return bits[:n]


def paired_difference(correct_a: _Vector, correct_b: _Vector) -> PairedDifference:
    """Mean of a - b over the same questions, with a t interval.

    d = a - b; difference = mean(d); standard_error = std(d, ddof=1) / sqrt(n);
    interval = difference -+ t(0.975, n - 1) * standard_error

    Args:
        correct_a: One value per question, bool or number.
        correct_b: The same questions in the same order.

    Returns:
        A ``PairedDifference``; with one question the standard error is infinite.

    Raises:
        EvaluationError: different lengths, or no question.
    """
    d = _vector(correct_a) - _same_length(correct_a, correct_b)
    n = len(d)
    mean = float(d.mean())
    error = float(d.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    reach = t_quantile(0.975, n - 1) * error if n > 1 else math.inf
    return PairedDifference(mean, error, mean - reach, mean + reach, n)


def t_interval(values: _Vector) -> tuple[float, float]:
    """95 % t interval of the mean of independent values, such as one per seed; infinite for one value."""
    x = _vector(values)
    if len(x) < 2:
        return (-math.inf, math.inf)
    reach = t_quantile(0.975, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return (float(x.mean()) - reach, float(x.mean()) + reach)


def hierarchical_bootstrap(
    differences: Sequence[_Vector], *, replicates: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a mean difference over seeds and questions, both drawn anew in each replicate.

    All seeds answer the same questions, so the two are crossed: a replicate draws seeds with replacement, and one draw
    of questions shared by them. Questions drawn apart for each seed would average away what they have in common.

    Args:
        differences: One vector per seed, all over the same questions in the same order.
        replicates: Draws.
        seed: Of the random draws; the same seed gives the same interval.

    Raises:
        EvaluationError: no seed, no question, or seeds with different numbers of questions.
    """
    import numpy as np

    table = _table(differences)
    seeds, n = table.shape
    rng = np.random.default_rng(seed)
    means = np.empty(replicates)
    for i in range(replicates):
        of_seed = table[:, rng.integers(n, size=n)].mean(axis=1)
        means[i] = of_seed[rng.integers(seeds, size=seeds)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def seed_difference(
    correct_a: Sequence[_Vector], correct_b: Sequence[_Vector], *, replicates: int = 4000, seed: int = 0
) -> SeedDifference:
    """Difference a - b of two arms over seeds and questions, and whether it is resolved.

    With two seeds or more: a bootstrap over questions and seeds, and a t interval over the seed means; resolved only if
    both exclude zero. With one seed: the paired interval over questions, never resolved, and ``basis`` says that seeds
    are not covered.

    Args:
        correct_a: One vector per seed; the i-th of both arms share the seed, and all share the questions.
        correct_b: As ``correct_a``.
        replicates: Draws of the bootstrap.
        seed: Of the bootstrap's random draws.

    Raises:
        EvaluationError: arms with different numbers of seeds or questions, or none.
    """
    if len(correct_a) != len(correct_b) or not correct_a:
        raise EvaluationError(f"{len(correct_a)} and {len(correct_b)} seeds cannot be paired; run the missing ones")
    table = _table([_vector(a) - _same_length(a, b) for a, b in zip(correct_a, correct_b, strict=True)])
    seeds, n = table.shape
    mean = float(table.mean())
    if seeds == 1:
        pair = paired_difference(correct_a[0], correct_b[0])
        basis = "95 % interval over questions only: one seed cannot show the spread over seeds"
        interval = (pair.low, pair.high)
        return SeedDifference(mean, interval, None, n, seeds, False, basis)
    questions = hierarchical_bootstrap(list(table), replicates=replicates, seed=seed)
    over_seeds = t_interval(table.mean(axis=1))
    basis = f"95 % bootstrap over questions and {seeds} seeds, and 95 % t interval over the {seeds} seed means"
    resolved = _excludes_zero(questions) and _excludes_zero(over_seeds)
    return SeedDifference(mean, questions, over_seeds, n, seeds, resolved, basis)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t, to 1e-8 or better: t with P(T <= t) = probability.

    Up to 100 degrees of freedom by bisection of the exact distribution (the finite trigonometric series for whole
    degrees), beyond by the expansion around the normal quantile.

    Source: Abramowitz and Stegun, 26.7.3, 26.7.4 and 26.7.5.
    """
    if not 0.0 < probability < 1.0 or degrees < 1:
        raise EvaluationError(f"no t quantile for probability {probability} and {degrees} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, degrees)
    if degrees > 100:
        return _t_expansion(NormalDist().inv_cdf(probability), degrees)
    low, high = 0.0, 1.0
    while 0.5 + 0.5 * _t_within(high, degrees) < probability:
        high *= 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if 0.5 + 0.5 * _t_within(middle, degrees) < probability else (low, middle)
    return 0.5 * (low + high)


def _t_within(t: float, degrees: int) -> float:
    """P(-t < T < t) for whole degrees of freedom."""
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term, total = (cosine, cosine if degrees > 1 else 0.0) if odd else (1.0, 1.0)
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2.0 / math.pi * (theta + sine * total) if odd else sine * total


def _t_expansion(z: float, degrees: int) -> float:
    terms = (
        (z**3 + z) / 4.0,
        (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0,
        (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0,
        (79.0 * z**9 + 776.0 * z**7 + 1482.0 * z**5 - 1920.0 * z**3 - 945.0 * z) / 92160.0,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def _excludes_zero(interval: tuple[float, float]) -> bool:
    return interval[0] > 0.0 or interval[1] < 0.0


def _mean_present(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None


def _vector(values: _Vector) -> "np.ndarray":
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise EvaluationError(f"one value per question is needed, got an array of shape {x.shape}")
    return x


def _same_length(a: _Vector, b: _Vector) -> "np.ndarray":
    if len(a) != len(b):
        raise EvaluationError(f"{len(a)} and {len(b)} questions cannot be paired; evaluate both arms on the same ones")
    return _vector(b)


def _table(differences: Sequence[_Vector]) -> "np.ndarray":
    import numpy as np

    if not len(differences):
        raise EvaluationError("at least one seed is needed")
    rows = [_vector(row) for row in differences]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise EvaluationError(f"the seeds have {lengths[0]} to {lengths[-1]} questions; all need the same ones")
    return np.stack(rows)
