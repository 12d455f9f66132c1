"""What the rows of ``results.jsonl`` say: accuracy per arm, and its difference to plain SFT with intervals.

    difference = mean over seeds and questions of correct(arm) - correct(sft), both on the same questions

The paper's three claims are put the same way, each with our verdict. What it leaves out: the intervals themselves
(``evaluation.metrics``) and how they are shown (``report``). Torch-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from balanced_thinking.evaluation.metrics import SeedDifference, decode_bits, seed_difference

REFERENCE = "sft"


@dataclass(frozen=True, slots=True)
class Cell:
    """One arm on one benchmark, over its seeds.

    Attributes:
        accuracy: Mean over seeds and questions, in [0, 1].
        standard_error: Of that mean, over questions and, with several seeds, over seeds: sqrt(s2 / seeds + q2 / n),
            s2 the variance of the seed means, q2 that of a question's mean over seeds.
        n: Questions per seed.
        seeds: How many.
        malformed: Mean share of malformed responses; None where the arm's format has no think.
        kinds: Mean share of each kind of malformed response that occurs.
        truncated: Mean share that reached the cap.
        think_tokens: Mean tokens inside the think tags; None where there are none.
        answer_tokens: Mean tokens inside the answer tags.
        seconds: Mean training seconds (CPU seconds where ``clock`` says so); None for an arm that trains nothing.
        scores: Means of the benchmark's own scores, by name.
        difference: To the reference arm on the same seeds and questions; None for itself, or where that is missing.
    """

    accuracy: float
    standard_error: float
    n: int
    seeds: int
    malformed: float | None
    kinds: dict[str, float]
    truncated: float
    think_tokens: float | None
    answer_tokens: float | None
    seconds: float | None
    scores: dict[str, float]
    difference: SeedDifference | None

    @property
    def verdict(self) -> str:
        """The difference in points with its widest interval; that it rests on one seed, or is not resolved."""
        if self.difference is None:
            return ""
        low, high = widest(self.difference)
        text = f"{100 * self.difference.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        if self.difference.resolved:
            return text
        return f"{text} {'not resolved' if self.difference.seeds or low <= 0 <= high else 'on one seed'}"


def cells(rows: Sequence[dict[str, Any]], *, reference: str = REFERENCE) -> dict[tuple[str, str], dict[str, Cell]]:
    """(model, benchmark) -> arm -> ``Cell``, in the order of the rows."""
    grouped: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        arms = grouped.setdefault((row["model"], row["benchmark"]), {})
        arms.setdefault(row["arm"], []).append(row)
    clock = clock_of(rows) or "seconds"
    return {
        place: {
            arm: _cell(own, arms.get(reference, []) if arm != reference else [], clock) for arm, own in arms.items()
        }
        for place, arms in grouped.items()
    }


def widest(difference: SeedDifference) -> tuple[float, float]:
    """The interval that covers both: over questions and, with several seeds, over seed means."""
    intervals = [difference.questions] + ([difference.seeds] if difference.seeds else [])
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _cell(rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]], clock: str) -> Cell:
    count = len(rows)
    return Cell(
        accuracy=sum(row["accuracy"] for row in rows) / count,
        standard_error=_standard_error(rows),
        n=rows[0]["n"],
        seeds=count,
        malformed=_mean(rows, "malformed"),
        kinds=_kinds(rows),
        truncated=_mean(rows, "truncated") or 0.0,
        think_tokens=_mean(rows, "think_tokens"),
        answer_tokens=_mean(rows, "answer_tokens"),
        seconds=_time(rows, clock),
        scores=_scores(rows),
        difference=paired_over_seeds(rows, reference),
    )


def paired_over_seeds(rows: Sequence[dict[str, Any]], reference: Sequence[dict[str, Any]]) -> SeedDifference | None:
    """Rows of one arm minus rows of another on one benchmark, over the seeds that both have; None if they share none.

    An arm without training has one row, which is set against every seed of the other.
    """
    if _untrained(rows):
        pairs = [(rows[0], other) for other in reference]
    elif _untrained(reference):
        pairs = [(row, reference[0]) for row in rows]
    else:
        by_seed = {row["seed"]: row for row in reference}
        pairs = [(row, by_seed[row["seed"]]) for row in rows if row["seed"] in by_seed]
    pairs = [(a, b) for a, b in pairs if a["n"] == b["n"]]
    if not pairs:
        return None
    return _difference(tuple((a["correct"], b["correct"], a["n"]) for a, b in pairs))


@cache
def _difference(pairs: tuple[tuple[str, str, int], ...]) -> SeedDifference:
    """The difference of bit strings; kept, since a report asks for the same one in several places."""
    bits = [(decode_bits(a, n), decode_bits(b, n)) for a, b, n in pairs]
    return seed_difference([a for a, _ in bits], [b for _, b in bits])


def _untrained(rows: Sequence[dict[str, Any]]) -> bool:
    return len(rows) == 1 and not rows[0]["stages"]


def _standard_error(rows: Sequence[dict[str, Any]]) -> float:
    import numpy as np

    if len(rows) == 1 or len({row["n"] for row in rows}) > 1:
        return rows[0]["accuracy_se"]
    table = np.stack([decode_bits(row["correct"], row["n"]) for row in rows]).astype(float)
    seeds, n = table.shape
    over_seeds = table.mean(axis=1).var(ddof=1) / seeds
    over_questions = table.mean(axis=0).var(ddof=1) / n if n > 1 else 0.0
    return float((over_seeds + over_questions) ** 0.5)


def _scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of the benchmark's own scores that every row has."""
    names = [name for name in rows[0].get("scores") or {} if all(name in (row.get("scores") or {}) for row in rows)]
    return {name: sum(row["scores"][name] for row in rows) / len(rows) for name in names}


def _kinds(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    names = sorted({name for row in rows for name in row["malformed_kinds"] or {}})
    return {name: sum((row["malformed_kinds"] or {}).get(name, 0.0) for row in rows) / len(rows) for name in names}


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return sum(values) / len(values) if values else None


def _time(rows: Sequence[dict[str, Any]], clock: str) -> float | None:
    """Mean over rows of what their trainings took together, by ``seconds`` or ``cpu_seconds``."""
    sums = [sum(stage[clock] or 0.0 for stage in row["stages"]) for row in rows if row["stages"]]
    return sum(sums) / len(sums) if sums else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper's abstract, and what these results say of it.

    Attributes:
        sentence: The claim.
        verdict: ``holds``, ``does not hold`` or ``not resolved``; with one seed "on one seed" is added, since the
            spread over seeds is unknown.
        figures: The difference with its interval, or the ratio of times.
    """

    sentence: str
    verdict: str
    figures: str


def claims(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    """The claims that the arms in ``rows`` (one model, one benchmark) can speak to."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(row)
    found = []
    if (first := _compared(arms, "scale", "sft")) is not None:
        found.append(Claim("SCALe-SFT is more accurate than plain SFT", _sign(first), _points(first)))
    if (second := _compared(arms, "scale", "sft+grpo")) is not None:
        found.append(Claim("SCALe-SFT is at least level with SFT + GRPO", _sign(second), _points(second)))
        if (ratio := _time_ratio(rows)) is not None:
            sentence = "SCALe-SFT takes about a seventh of the training time of SFT + GRPO"
            # "About": a seventh to the next whole number.
            found.append(Claim(sentence, "holds" if ratio >= 6.5 else "does not hold", f"1 / {ratio:.1f}"))
    margins = {arm: margin for arm in arms if (margin := _compared(arms, "scale+grpo", arm)) and arm != "scale+grpo"}
    if len(margins) > 1:
        # The smallest margin is the one to the best of the others, on the seeds that both have.
        best = min(margins, key=lambda arm: margins[arm].difference)
        figures = f"{_points(margins[best])} to {best}, the best of the others"
        found.append(Claim("SCALe-SFT followed by GRPO is the most accurate of all", _sign(margins[best]), figures))
    return found


def _compared(arms: dict[str, list[dict[str, Any]]], arm: str, reference: str) -> SeedDifference | None:
    return paired_over_seeds(arms[arm], arms[reference]) if arm in arms and reference in arms else None


def _sign(difference: SeedDifference) -> str:
    low, high = widest(difference)
    if low <= 0 <= high:
        return "not resolved"
    verdict = "holds" if difference.difference > 0 else "does not hold"
    return verdict if difference.seeds else f"{verdict} on one seed"


def _points(difference: SeedDifference) -> str:
    low, high = widest(difference)
    return f"{100 * difference.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def seconds_compare(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether every training ran alone, all with the same threads, so that seconds can be set against each other."""
    stages = [stage for row in rows for stage in row["stages"]]
    return bool(stages) and all(s.get("alone") for s in stages) and len({s.get("threads") for s in stages}) == 1


def clock_of(rows: Sequence[dict[str, Any]]) -> str | None:
    """Which clock can be compared: ``seconds``; else, if all was trained on CPUs alike, ``cpu_seconds``; else None."""
    if seconds_compare(rows):
        return "seconds"
    stages = [stage for row in rows for stage in row["stages"]]
    # Rows of versions that did not write the device were made on CPUs.
    on_cpu = all(stage.get("device", "cpu") == "cpu" and stage.get("cpu_seconds") for stage in stages)
    return "cpu_seconds" if on_cpu and len({stage.get("threads") for stage in stages}) == 1 else None


def time_ratio(rows: Sequence[dict[str, Any]]) -> str | None:
    """One sentence: how much longer SFT + GRPO trained than SCALe-SFT, at which accuracies; None if not comparable."""
    ratio = _time_ratio(rows)
    if ratio is None:
        return None
    long, short = _shared_seeds(rows, "sft+grpo", "scale")
    clock = clock_of([*long, *short]) or "seconds"
    times = [_time(long, clock) or 0.0, _time(short, clock) or 0.0]
    accuracy = [100 * sum(row["accuracy"] for row in found) / len(found) for found in (long, short)]
    steps = {stage["name"]: stage["steps"] for stage in long[0]["stages"]}
    what, unit = ("time", "s") if clock == "seconds" else ("CPU time", "CPU s")
    return (
        f"{what}(sft+grpo) / {what}(scale) = {times[0]:.0f} {unit} / {times[1]:.0f} {unit} = {ratio:.2f}, at "
        f"{accuracy[0]:.1f} % and {accuracy[1]:.1f} %; {steps.get('grpo')} GRPO steps after {steps.get('sft')} SFT "
        "steps. The number of GRPO steps is a choice, and so is this ratio; the paper's is about 7."
    )


def _time_ratio(rows: Sequence[dict[str, Any]]) -> float | None:
    long, short = _shared_seeds(rows, "sft+grpo", "scale")
    clock = clock_of([*long, *short])
    times = (_time(long, clock), _time(short, clock)) if clock else (None, None)
    return times[0] / times[1] if times[0] and times[1] else None


def _shared_seeds(rows: Sequence[dict[str, Any]], *arms: str) -> list[list[dict[str, Any]]]:
    """The rows of each arm, of the seeds that all of them have."""
    seeds = set.intersection(*({row["seed"] for row in rows if row["arm"] == arm} for arm in arms))
    return [[row for row in rows if row["arm"] == arm and row["seed"] in seeds] for arm in arms]
